"""Every error that the worker raises on purpose.

::

    DetectorWorkerError
    ├── ConfigurationError
    ├── StreamError
    │   ├── ConnectionError        (the package's own; never shadow the builtin elsewhere)
    │   └── StreamTimeoutError
    ├── ModelError
    │   ├── ModelLoadError
    │   │   └── ArchiveDownloadError
    │   └── ModelCacheError
    ├── PipelineError
    │   ├── ActionExecutionError
    │   └── BranchExecutionError
    ├── DatabaseError
    ├── RedisError
    ├── ServiceError               (an embedded server or a process of ours)
    └── MessageProcessingError

A driver's exception never leaves its folder: it is translated into one of these where it is caught.
Addresses go through `core.addresses.Address` first, so that no message carries a password.
"""

from functools import partial
from typing import Self

__all__ = [
    "ActionExecutionError",
    "ArchiveDownloadError",
    "BranchExecutionError",
    "ConfigurationError",
    "ConnectionError",
    "DatabaseError",
    "DetectorWorkerError",
    "MessageProcessingError",
    "ModelCacheError",
    "ModelError",
    "ModelLoadError",
    "PipelineError",
    "RedisError",
    "ServiceError",
    "StreamError",
    "StreamTimeoutError",
]


class DetectorWorkerError(Exception):
    """What happened, where, and how to mend it."""

    def __init__(self, what: str, *, where: str, mend: str) -> None:
        super().__init__(f"{what} [{where}]. {mend}")
        self.what, self.where, self.mend = what, where, mend

    def __reduce__(self) -> tuple[partial[Self], tuple[()]]:
        """Cross the border of a process in spite of the keyword-only arguments."""
        return partial(type(self), **self.__dict__), ()


class ConfigurationError(DetectorWorkerError):
    """A setting, a command line or an installation that cannot work."""


class StreamError(DetectorWorkerError):
    """A camera could not be read. ``error_class`` is the word of the protocol's streamStatus."""

    def __init__(self, what: str, *, where: str, mend: str, error_class: str = "unreachable") -> None:
        super().__init__(what, where=where, mend=mend)
        self.error_class = error_class


class ConnectionError(StreamError):  # noqa: A001 - the contract's name
    """A camera refused, was not found, or wanted other credentials."""


class StreamTimeoutError(StreamError):
    """A camera did not answer, or stopped sending, within its time."""


class ModelError(DetectorWorkerError):
    """A model could not be used."""


class ModelLoadError(ModelError):
    """A model or its archive could not be read, understood or compiled."""


class ArchiveDownloadError(ModelLoadError):
    """An archive cannot be had from its address; nothing is known of the archive itself."""


class ModelCacheError(ModelError):
    """A model does not fit into the memory that models may use."""


class PipelineError(DetectorWorkerError):
    """A pipeline could not be carried out."""


class ActionExecutionError(PipelineError):
    """One action of a pipeline failed."""


class BranchExecutionError(PipelineError):
    """One classification branch failed."""


class DatabaseError(DetectorWorkerError):
    """PostgreSQL refused, or could not be reached."""


class RedisError(DetectorWorkerError):
    """Redis refused, or could not be reached."""


class ServiceError(DetectorWorkerError):
    """An embedded server or a child process could not be started or kept."""


class MessageProcessingError(DetectorWorkerError):
    """A client's message was refused. ``code`` and ``field`` are the protocol's."""

    def __init__(self, what: str, *, where: str, mend: str, code: str, field: str | None = None) -> None:
        super().__init__(what, where=where, mend=mend)
        self.code, self.field = code, field
