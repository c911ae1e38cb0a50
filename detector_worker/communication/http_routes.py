"""The HTTP side: a camera's newest picture, and how the worker is."""

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Path, Request, Response
from fastapi.responses import ORJSONResponse

from detector_worker.communication.access import AccessPolicy
from detector_worker.communication.reports import StateReporter
from detector_worker.core.exceptions import MessageProcessingError, StreamError
from detector_worker.engine.engine import Engine

__all__ = ["http_router"]

_DOWN = frozenset({"starting", "failed"})
