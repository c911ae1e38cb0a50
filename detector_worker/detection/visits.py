"""From detections to visits: one real object's stay before one camera is one visit."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector_worker.core.entities import BoundingBox, Detections, Shot, Visit, VisitEnded, VisitEvent, VisitStarted
from detector_worker.core.frame import Frame
from detector_worker.core.outbox import SavedVisit
from detector_worker.detection.appearance import describe
from detector_worker.detection.best_shots import BestShots, is_cut, quality_of
from detector_worker.detection.grouping import GroupRules, PartHabits
from detector_worker.detection.reentry import Departed, find_returned
from detector_worker.detection.sightings import Followed, Sighting, sightings_of
from detector_worker.detection.stability_validator import StabilityValidator
from detector_worker.detection.tracking_manager import LostTrack, TrackingManager
from detector_worker.models.pipeline_config import StabilityConfig, TrackingConfig

__all__ = ["VisitTracker"]

_ARRIVING_GROWTH_PER_S: Final = 0.25
"""An object cut by the picture's edge whose box grows faster than this is still driving in."""
_SETTLING_S: Final = 5.0
"""How long the end of a visit is held back for a track that may yet turn out to be its object."""


class VisitTracker:
    """Follows the objects of one lane and tells when a visit begins and ends. Pure: times come with the frames.

    A visit begins once: when its track is stable, its group has the wanted classes, the frame has a trigger class and
    shows it clearly, and the object has driven in completely, or at least its box has stopped growing. A stable track
    that is lost before that begins its visit then, with its best picture: a late record is better than none. A visit
    ends when its object has been out of sight for longer than the re-entry time.
    """

    def __init__(
        self,
        *,
        camera_id: str,
        stability: StabilityConfig,
        tracking: TrackingConfig,
        new_record_id: Callable[[], str],
        min_confidence: float = 0.5,
        expected_classes: Collection[str] = (),
        required_classes: Collection[str] = (),
        trigger_classes: Collection[str] = (),
        region: tuple[int, int, int, int] | None = None,
    ) -> None:
        """Begin without visits.

        Args:
            camera_id: Which camera; carried by the visits.
            stability: When a track is a visit, and how long an object may be away.
            tracking: How detections become tracks.
            new_record_id: Makes a UUIDv7, as text.
            min_confidence: Detections from here on begin objects; less confident ones only continue them.
            expected_classes: A group needs at least one of them; none named: any class will do.
            required_classes: A group needs all of them.
            trigger_classes: A visit begins only on frames with at least one of them; none named: on any.
            region: x1, y1, x2, y2, pixels: only there is looked for objects; None: everywhere.
        """
        self._camera_id, self._new_record_id = camera_id, new_record_id
        self._min_confidence = min_confidence
        self._region = region
        self._reentry_s = stability.reentry_seconds
        self._rules = GroupRules(expected=expected_classes, required=required_classes, trigger=trigger_classes)
        self._tracks = TrackingManager(max_lost_seconds=tracking.max_lost_seconds, high_confidence=min_confidence)
        self._stability = StabilityValidator(
            min_frames=stability.min_frames, min_seconds=stability.min_seconds, min_iou=stability.min_iou
        )
        self._shots = BestShots()
        self._habits = PartHabits()
        self._followed: dict[int, Followed] = {}
        self._departed: dict[str, Departed] = {}
        self._now_s = 0.0
        self._last_time_s: float | None = None
        self._tracked = Detections.empty()
        self._frame: Frame | None = None

    @property
    def tracked(self) -> Detections:
        """The newest frame's detections with their ``track_id``."""
        return self._tracked

    def live_visits(self) -> list[Visit]:
        """Return copies of the visits that have begun and not ended, those out of sight too; without pictures."""
        in_sight = [replace(followed.visit) for followed in self._followed.values() if followed.visit is not None]
        return in_sight + [replace(entry.visit) for entry in self._departed.values()]

    def restore(self, saved: Sequence[SavedVisit], *, now_s: float, now_utc_s: float) -> None:
        """Take over the visits of before a restart: each waits for its object as if it had just gone out of sight.

        Args:
            saved: Of this lane's subscription.
            now_s: Now on the lane's clock.
            now_utc_s: The same moment, seconds since 1970.
        """
        for entry in saved:
            last_s = now_s - max(0.0, now_utc_s - entry.last_seen_at)
            first_s = last_s - (entry.visit.last_s - entry.visit.first_s)
            visit = replace(entry.visit, first_s=first_s, last_s=last_s, shots=())
            self._departed[visit.record_id] = Departed(visit, visit.bounding_box, appearance=None)

    def update(self, detections: Detections, frame: Frame) -> list[VisitEvent]:
        """Take one analysed frame; returns what has begun and what has ended."""
        self._advance(frame.time_s)
        self._frame = frame
        bounds = self._bounds_in(frame)
        self._tracked = self._tracks.update_tracks(detections, frame.frame_id, time_s=self._now_s, bounds=bounds)
        sightings = sightings_of(
            self._tracked,
            self._tracks,
            can_be_part=self._can_be_part,
            min_confidence=self._min_confidence,
            timestamp=frame.captured_at,
        )
        sure = set(detections.class_id[detections.confidence >= self._min_confidence].tolist())
        triggered = self._rules.is_triggered(detections.class_names[class_id] for class_id in sure)
        in_sight = [self._note(sighting, frame, triggered=triggered) for sighting in sightings]
        events: list[VisitEvent] = []
        # What went out of sight comes first, visits before the rest: each may go on at once in what follows.
        for lost in sorted(self._tracks.lost, key=self._has_no_visit):
            events += self._part_with(lost)
        for followed in in_sight:
            sighting = followed.sighting
            clearly = triggered and sighting.confidence >= self._min_confidence
            if clearly and self._is_due(followed) and not _is_arriving(sighting, bounds):
                events += self._begin(followed, followed.moment(frame))
        self._shots.trim()
        return events + self._end_expired()

    def finish(self, time_s: float) -> list[VisitEvent]:
        """End everything, as at the end of a file; what was stable but still waiting has its visit even so."""
        self._advance(time_s)
        events: list[VisitEvent] = []
        for followed in list(self._followed.values()):
            events += self._begin_late(followed)
        events += [VisitEnded(visit) for visit in self.live_visits()]
        for track_id in self._followed:
            self._stability.forget(track_id)
            self._shots.forget(track_id)
        self._followed.clear()
        self._departed.clear()
        return events

    def _advance(self, time_s: float) -> None:
        """Move on to a frame's time; where it runs backwards no time has passed, and it counts on from there."""
        self._now_s = time_s if self._last_time_s is None else self._now_s + max(0.0, time_s - self._last_time_s)
        self._last_time_s = time_s

    def _bounds_in(self, frame: Frame) -> BoundingBox:
        width, height = frame.wh
        x1, y1, x2, y2 = self._region or (0, 0, width, height)
        return BoundingBox(max(0, x1), max(0, y1), min(width, x2), min(height, y2))

    def _has_no_visit(self, lost: LostTrack) -> bool:
        return lost.track_id not in self._followed or self._followed[lost.track_id].visit is None

    def _can_be_part(self, track_id: int, class_name: str) -> bool:
        """False for an object with a visit of its own, and for classes that are seen on their own mostly."""
        followed = self._followed.get(track_id)
        return (followed is None or followed.visit is None) and self._habits.may_be_part(class_name)

    def _note(self, sighting: Sighting, frame: Frame, *, triggered: bool) -> Followed:
        """Note what a frame says of one object."""
        followed = self._followed.get(sighting.track_id)
        if followed is None:
            followed = Followed(self._now_s, sighting.box, sighting, self._now_s)
            self._followed[sighting.track_id] = followed
        followed.note(sighting, self._now_s)
        if followed.visit is not None:
            return followed
        self._stability.add_detection(sighting.track_id, sighting.box, time_s=self._now_s, predicted=sighting.predicted)
        if triggered and sighting.confidence >= self._min_confidence:
            followed.triggered = True
            complete = self._rules.is_complete(sighting.classes)
            quality = quality_of(sighting.box, sighting.confidence, self._bounds_in(frame), complete=complete)
            self._shots.offer(sighting.track_id, frame, quality, lambda: sighting.group(frame.captured_at))
        return followed

    def _is_due(self, followed: Followed) -> bool:
        """True if this is an object in its own right, stable, with the wanted classes, and without a visit so far."""
        return (
            followed.visit is None
            and not followed.is_part
            and self._rules.is_wanted(followed.part_classes | {followed.sighting.class_name.casefold()})
            and self._stability.is_detection_stable(followed.sighting.track_id)
        )

    def _begin(self, followed: Followed, moment: Shot) -> list[VisitEvent]:
        """Begin a visit at a moment, or go on with the one whose object has come back."""
        track_id = followed.sighting.track_id
        shots = self._shots.of(track_id) or (moment,)
        self._shots.forget(track_id)
        self._stability.forget(track_id)
        self._habits.note_object(followed.sighting.class_name, inside=False)
        followed.appearance = _appearance_of(shots[0])
        if self._go_on(followed):
            return []
        whole, *parts = moment.detections
        followed.visit = Visit(
            record_id=self._new_record_id(),
            camera_id=self._camera_id,
            track_id=track_id,
            class_name=followed.sighting.class_name,
            confidence=whole.confidence,
            bounding_box=whole.bounding_box,
            first_s=followed.first_s,
            last_s=followed.last_s,
            captured_at=moment.frame.captured_at,
            frame_id=moment.frame.frame_id,
            parts=tuple(parts),
        )
        # The pictures go with the event alone: a visit may last for days, its pictures need not.
        return [VisitStarted(replace(followed.visit, shots=shots), moment.frame)]

    def _begin_late(self, followed: Followed) -> list[VisitEvent]:
        """Begin the visit of an object that is lost before it had driven in, at its best moment."""
        if self._frame is None or not followed.triggered or not self._is_due(followed):
            return []
        shots = self._shots.of(followed.sighting.track_id)
        return self._begin(followed, shots[0] if shots else followed.moment(self._frame))

    def _go_on(self, followed: Followed) -> bool:
        """Give an object the visit it continues, if there is one, of an object that went out of sight before."""
        missing = (
            Departed(other.visit, self._tracks.track(track_id).predict(), other.appearance)
            for track_id, other in self._followed.items()
            if other.visit is not None and other.last_s < self._now_s
        )
        returned = find_returned(
            (*self._departed.values(), *missing),
            class_name=followed.sighting.class_name,
            first_box=followed.first_box,
            first_s=followed.first_s,
            reentry_s=self._reentry_s,
            appearance=followed.appearance,
        )
        if returned is None:
            return False
        visit = followed.visit = returned.visit
        if self._departed.pop(visit.record_id, None) is None:
            del self._followed[visit.track_id]  # still looked for, but under its new number from now on
        visit.track_id = followed.sighting.track_id
        visit.bounding_box, visit.last_s = followed.sighting.box, followed.last_s
        return True

    def _part_with(self, lost: LostTrack) -> list[VisitEvent]:
        """Let go of a track; its visit, if it has one, waits for the object to come back."""
        followed = self._followed.pop(lost.track_id, None)
        if followed is None:
            return []
        events = self._begin_late(followed)
        if followed.visit is not None:
            visit = followed.visit
            self._departed[visit.record_id] = Departed(visit, lost.predicted, followed.appearance, left=lost.left)
        elif followed.is_part and self._stability.is_detection_stable(lost.track_id):
            self._habits.note_object(followed.sighting.class_name, inside=True)
        self._shots.forget(lost.track_id)
        self._stability.forget(lost.track_id)
        return events

    def _end_expired(self) -> list[VisitEvent]:
        """End the visits whose object stayed away, unless one that is not stable yet may be it."""
        expired = [
            entry.visit
            for entry in self._departed.values()
            if self._now_s - entry.visit.last_s > self._reentry_s and not self._may_be_back(entry)
        ]
        for visit in expired:
            del self._departed[visit.record_id]
        return [VisitEnded(visit) for visit in expired]

    def _may_be_back(self, entry: Departed) -> bool:
        return any(
            find_returned(
                (entry,),
                class_name=followed.sighting.class_name,
                first_box=followed.first_box,
                first_s=followed.first_s,
                reentry_s=self._reentry_s,
                appearance=None,
            )
            for followed in self._followed.values()
            if followed.visit is None and self._now_s - followed.first_s <= _SETTLING_S
        )


def _is_arriving(sighting: Sighting, bounds: BoundingBox) -> bool:
    """True while an object is driving into the picture."""
    return is_cut(sighting.box, bounds) and sighting.growth_per_s > _ARRIVING_GROWTH_PER_S


def _appearance_of(shot: Shot) -> NDArray[np.float32] | None:
    box = shot.detections[0].bounding_box
    return describe(shot.frame.crop((int(box.x1), int(box.y1), int(box.x2), int(box.y2))))
