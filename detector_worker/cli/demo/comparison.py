"""Records against what really happened. Pure: times, boxes and values in, figures and explanations out."""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from detector_worker.core.entities import BoundingBox
from detector_worker.simulator.scenes.truth import Box, SceneTruth, VehicleTruth
from detector_worker.simulator.screen import SentPicture

__all__ = ["Comparison", "Finding", "PlayedFilm", "Record", "compare", "newest_sent"]

_TOLERANCE_S: Final = 0.05
"""A camera's picture may bear a time a little before the one at which it was sent."""
_LEAST_IOU: Final = 0.4
_GAP_FRAMES: Final = 2.5
_SHOWN_S: Final = 4.0
"""A vehicle that was never in sight for so long at a stretch while it stood, since the camera was out of order, is
nobody's to record: the next picture that can be decoded may be two seconds away, and it must be seen to stand."""


@dataclass(frozen=True, slots=True)
class Record:
    """One row, as far as it can be right or wrong."""

    record_id: str
    camera_id: str
    captured_s: float
    """Seconds since 1970, UTC."""
    xyxy: Box
    brand: str | None
    body: str | None
    plate: str | None


@dataclass(frozen=True, slots=True)
class PlayedFilm:
    """What a camera has shown: the film's truth, and when which second of it was sent, oldest first."""

    truth: SceneTruth
    sent: Sequence[SentPicture]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be, and where in the film it can be seen."""

    kind: Literal["missed", "extra", "reading"]
    camera_id: str
    film_s: float
    vehicle_id: str | None
    xyxy: Box | None
    """Of the record; None for a vehicle that has none."""
    text: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """How the records fit."""

    vehicles: int
    records: int
    missed: int
    duplicates: int
    """Records beyond the first of a vehicle, and records of no vehicle at all."""
    brand_correct: int
    body_correct: int
    plate_correct: int
    plate_readable: int
    wrong_plate_to_car: int
    """Records with the plate of another vehicle of the same film."""
    findings: tuple[Finding, ...]
    """Each miss, each record too many and each wrong reading."""

    @property
    def explanations(self) -> tuple[str, ...]:
        """A sentence for each finding."""
        return tuple(finding.text for finding in self.findings)


_Stay = tuple[str, int]
"""A vehicle's id, and in which round of the film."""


@dataclass(frozen=True, slots=True)
class _Sighting:
    """Where a record belongs; no vehicle: nowhere, and why."""

    record: Record
    vehicle: VehicleTruth | None
    turn: int
    film_s: float
    reason: str = ""

    def finding(self, kind: Literal["extra", "reading"], text: str) -> Finding:
        """Tell what is wrong with the record."""
        vehicle_id = self.vehicle.vehicle_id if self.vehicle else None
        return Finding(kind, self.record.camera_id, self.film_s, vehicle_id, self.record.xyxy, text)


def newest_sent(sent: Sequence[SentPicture], utc_s: float) -> SentPicture | None:
    """Return the newest picture that was sent at or before a time, give or take 50 ms; ``sent`` is in its order."""
    index = bisect_right(sent, utc_s + _TOLERANCE_S, key=lambda picture: picture.utc_s)
    return sent[index - 1] if index else None


def compare(films: Sequence[PlayedFilm], records: Sequence[Record]) -> Comparison:
    """Find each record's vehicle by where it was when the record's picture was taken, and count.

    Of a film that was shown more than once, each round has its own vehicles: all of the first round, of later ones
    those that have left, or have a record.
    """
    by_camera = {film.truth.camera_id: film for film in films}
    in_order = sorted(records, key=lambda record: record.captured_s)
    sightings = [_sighting(by_camera.get(record.camera_id), record) for record in in_order]
    first: dict[_Stay, _Sighting] = {}
    extra: list[Finding] = []
    for seen in sightings:
        name, stay = _name(seen.record), None if seen.vehicle is None else (seen.vehicle.vehicle_id, seen.turn)
        if stay is None:
            extra.append(seen.finding("extra", f"{name} belongs to no vehicle: {seen.reason}"))
        elif (before := first.setdefault(stay, seen)) is not seen:
            text = f"{name} is one more of {stay[0]}; its first is {_name(before.record)}"
            extra.append(seen.finding("extra", text))
    stays = {stay: vehicle for film in films for stay, vehicle in _stays(film, first)}
    missed = [_missed(vehicle) for stay, vehicle in stays.items() if stay not in first]
    correct, wrong = _readings(first.values())
    return Comparison(
        vehicles=len(stays),
        records=len(records),
        missed=len(missed),
        duplicates=len(extra),
        brand_correct=correct["brand"],
        body_correct=correct["body"],
        plate_correct=correct["plate"],
        plate_readable=sum(vehicle.plate_readable for vehicle in stays.values()),
        wrong_plate_to_car=sum(_bears_plate_of_another(by_camera, seen) for seen in sightings),
        findings=(*missed, *extra, *wrong),
    )


def _sighting(film: PlayedFilm | None, record: Record) -> _Sighting:
    """Find the vehicle that was where the record says."""
    picture = None if film is None else newest_sent(film.sent, record.captured_s)
    if film is None or picture is None:
        return _Sighting(record, None, 0, 0.0, "nothing had been sent by then")
    turn, film_s = divmod(picture.film_s, film.truth.duration_s)
    there = [
        (BoundingBox(*record.xyxy).iou(BoundingBox(*box)), one)
        for one in film.truth.vehicles
        if (box := one.box_at(film_s)) is not None
    ]
    iou, best = max(there, key=lambda candidate: candidate[0], default=(0.0, None))
    if best is not None and iou >= _LEAST_IOU:
        return _Sighting(record, best, int(turn), film_s)
    nearest = f"the nearest was {best.vehicle_id}, IoU {iou:.2f}" if best and iou else "none was there"
    return _Sighting(record, None, int(turn), film_s, f"at second {film_s:.1f} of the film {nearest}")


def _stays(film: PlayedFilm, recorded: dict[_Stay, _Sighting]) -> Iterator[tuple[_Stay, VehicleTruth]]:
    """Yield every vehicle that was to be recorded."""
    sent_s = [picture.film_s for picture in film.sent]
    end_s, duration_s = max(sent_s, default=0.0), film.truth.duration_s
    for turn in range(int(end_s // duration_s) + 1):
        for vehicle in film.truth.vehicles:
            stay, first_s = (vehicle.vehicle_id, turn), turn * duration_s
            is_over = turn == 0 or first_s + vehicle.leaves_s <= end_s
            if stay in recorded or (is_over and _was_shown(vehicle, first_s, sent_s, film.truth.fps)):
                yield stay, vehicle


def _was_shown(vehicle: VehicleTruth, first_s: float, sent_s: Sequence[float], fps: float) -> bool:
    """True unless the camera was out of order for about as long as the vehicle stood."""
    stop, start = (bisect_left(sent_s, first_s + moment) for moment in (vehicle.stops_s, vehicle.starts_s))
    longest_s = began_s = 0.0
    for index in range(stop, start):
        if index == stop or sent_s[index] - sent_s[index - 1] > _GAP_FRAMES / fps:
            began_s = sent_s[index]
        longest_s = max(longest_s, sent_s[index] - began_s + 1 / fps)
    return longest_s >= min(_SHOWN_S, (vehicle.starts_s - vehicle.stops_s) / 2)


def _readings(sightings: Iterable[_Sighting]) -> tuple[Counter[str], list[Finding]]:
    """Count what was read rightly, by its kind, and tell what was not."""
    correct: Counter[str] = Counter()
    wrong: list[Finding] = []
    for seen in sightings:
        if (vehicle := seen.vehicle) is None:
            continue
        readings = {"brand": (seen.record.brand, vehicle.brand), "body": (seen.record.body, vehicle.body)}
        if vehicle.plate_readable:
            readings["plate"] = (seen.record.plate, vehicle.plate)
        for kind, (read, true) in readings.items():
            correct[kind] += read == true
            if read != true:
                text = f"{vehicle.vehicle_id}: the {kind} is {true!r}, not {read!r}"
                wrong.append(seen.finding("reading", text))
    return correct, wrong


def _bears_plate_of_another(by_camera: Mapping[str, PlayedFilm], seen: _Sighting) -> bool:
    film, plate = by_camera.get(seen.record.camera_id), seen.record.plate
    if film is None or plate is None or (seen.vehicle and seen.vehicle.plate == plate):
        return False
    return any(plate == vehicle.plate for vehicle in film.truth.vehicles)


def _missed(vehicle: VehicleTruth) -> Finding:
    camera_id, when_s = vehicle.vehicle_id.partition("/")[0], (vehicle.stops_s + vehicle.starts_s) / 2
    return Finding("missed", camera_id, when_s, vehicle.vehicle_id, None, f"{_describe(vehicle)} has no record")


def _name(record: Record) -> str:
    return f"record {record.record_id} of {record.camera_id}"


def _describe(vehicle: VehicleTruth) -> str:
    difficulties = {
        "in a pair": vehicle.in_pair,
        "occluded": vehicle.occluded,
        "like the one before": vehicle.lookalike,
        "at night": vehicle.at_night,
        "in rain": vehicle.in_rain,
        "parked": vehicle.parked,
    }
    told = "".join(f", {name}" for name, is_so in difficulties.items() if is_so)
    stops = f"stood from second {vehicle.stops_s:.1f} to {vehicle.starts_s:.1f}"
    return f"{vehicle.vehicle_id} ({vehicle.brand} {vehicle.body}, {vehicle.plate}, {stops}{told})"
