"""What a demo with a known number of vehicles has shown, for programs and for people."""

from dataclasses import asdict, dataclass

import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from detector_worker.cli.demo.comparison import Comparison
from detector_worker.cli.demo.stores import PICTURES

__all__ = ["Report"]


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome."""

    comparison: Comparison
    images_stored: int
    """Pictures of the records that are there and can be decoded."""
    latencies_ms: tuple[float, ...]
    """From the sending of a picture to the arrival of its result, for each result that was told."""

    @property
    def failures(self) -> list[str]:
        """What must not happen and did; a wrong reading is none."""
        found = self.comparison
        lost = len(PICTURES) * found.records - self.images_stored
        counts = {"vehicles missed": found.missed, "records too many": found.duplicates, "pictures lost": lost}
        return [f"{what}: {count}" for what, count in counts.items() if count]

    def to_json(self) -> str:
        """Return the figures as one line, always in the same order."""
        figures = asdict(self.comparison)
        del figures["findings"], figures["wrong_plate_to_car"]
        p50, p95 = self._percentiles_ms()
        figures |= {"images_stored": self.images_stored, "latency_ms": {"p50": p50, "p95": p95}}
        return orjson.dumps(figures).decode()

    def print(self, console: Console) -> None:
        """Print a table, and what is to be said of what went wrong."""
        found = self.comparison
        table = Table("", "of", "", title=f"{found.vehicles} vehicles, {found.records} records")
        for name, count, of in (
            ("vehicles recorded", found.vehicles - found.missed, found.vehicles),
            ("records too many: of a vehicle that had one, or of none", found.duplicates, found.records),
            ("brand right", found.brand_correct, found.vehicles),
            ("body type right", found.body_correct, found.vehicles),
            ("number plate right, where it could be read", found.plate_correct, found.plate_readable),
            ("pictures stored", self.images_stored, len(PICTURES) * found.records),
        ):
            table.add_row(str(count), str(of), name)
        console.print(table)
        p50, p95 = self._percentiles_ms()
        console.print(f"From picture to result: {p50} ms (median), {p95} ms (95th percentile)", highlight=False)
        for explanation in found.explanations:
            console.print(f"- {explanation}", markup=False, highlight=False)

    def _percentiles_ms(self) -> tuple[float | None, float | None]:
        if not self.latencies_ms:
            return None, None
        p50, p95 = np.percentile(self.latencies_ms, (50, 95)).round(1).tolist()
        return p50, p95
