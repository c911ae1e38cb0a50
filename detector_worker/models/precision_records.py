"""What is known of the precisions of models on this machine, kept so that each is checked once."""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson
from pydantic import TypeAdapter, ValidationError

from detector_worker.models.kept_files import write_atomically
from detector_worker.models.runtimes.runtime import Precision
from detector_worker.models.shared_model import LoadedModel

__all__ = ["PrecisionRecord", "PrecisionRecords"]

_SUFFIX: Final = ".json"


@dataclass(frozen=True, slots=True)
class PrecisionRecord:
    """The outcome of one check."""

    model_id: str
    model_file: str
    runtime: str
    """`InferenceRuntime.identity` of the machine that checked."""
    precision: Precision
    """The one that was tried against f32."""
    is_taken: bool
    reason: str
    """Of how many pictures and boxes, and what differed."""
    checked_at: str
    """RFC 3339."""
    made_file: str | None = None
    """Of int8: the quantised network."""


_RECORD: Final = TypeAdapter(PrecisionRecord)


class PrecisionRecords:
    """One small file for each model, use and runtime. Groups may share the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def use_of(self, model: LoadedModel, wanted: frozenset[str], runtime: str, precision: Precision) -> str:
        """Name the use of a model: whatever changes what it finds, or what is asked of it, makes another one."""
        settings, reading = model.settings, model.reading
        asked = settings.min_confidence, settings.nms, sorted(wanted)
        use = (model.content_sha256, reading, asked, runtime, precision)
        return hashlib.sha256(repr(use).encode()).hexdigest()

    def get(self, use: str) -> PrecisionRecord | None:
        """Return what is known; None where that was never checked, or what was made of it is gone."""
        record = _read(self._folder / (use + _SUFFIX))
        is_whole = record is not None and (record.made_file is None or Path(record.made_file).is_file())
        return record if is_whole else None

    def put(self, use: str, record: PrecisionRecord) -> None:
        """Keep an outcome. OSError: it cannot be written."""
        write_atomically(self._folder / (use + _SUFFIX), orjson.dumps(asdict(record)))

    def all(self) -> Iterator[PrecisionRecord]:
        """Yield everything that is known; what cannot be read is passed over."""
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            if (record := _read(path)) is not None:
                yield record


def _read(path: Path) -> PrecisionRecord | None:
    try:
        return _RECORD.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
