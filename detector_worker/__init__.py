"""Detector Worker: watches cameras and writes one database record per real vehicle."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("detector-worker")
