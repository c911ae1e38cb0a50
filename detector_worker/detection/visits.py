"""From detections to visits: one real object's stay before one camera is one visit."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from detector_worker.core.entities import BoundingBox, Detections, Visit, VisitEnded, VisitEvent, VisitStarted
from detector_worker.core.frame import Frame
from detector_worker.core.outbox import SavedVisit
from detector_worker.detection.best_shots import add_shot, quality_of, trim_shots
from detector_worker.detection.departures import Departures, find_returned
from detector_worker.detection.followed import Followed
from detector_worker.detection.ground import Ground
from detector_worker.detection.grouping import GroupRules, PartClasses
from detector_worker.detection.recognition import Pace, doubt, doubt_beside, has_gone, look_at_best_shot
from detector_worker.detection.sights import Sight, sights_in
from detector_worker.detection.stability_validator import StabilityValidator
from detector_worker.detection.tracking_manager import TrackingManager
from detector_worker.models.pipeline_config import StabilityConfig, TrackingConfig

__all__ = ["VisitTracker"]

_GROWING_PER_S: Final = 0.25  # an object cut by the picture's edge whose box grows faster is still driving in
_LONGEST_WAIT_FOR_DETAIL_S: Final = 3.0
_AWAITED_S: Final = 10.0  # for so long after an object went out of sight every frame is worth a look
_SETTLING_S: Final = 5.0  # how long the end of a visit is held back for a track that may yet turn out to be its object


class VisitTracker:
    """Follows the objects of one lane and tells when a visit begins and ends. Pure: times come with the frames.

    A visit begins once: when its track is stable, its group has the wanted classes, the frame has a trigger class and
    shows it clearly, and the object has driven in completely, or at least its box has stopped growing. A stable track
    that is lost before that begins its visit late, with its best picture, unless it comes back. A visit ends when its
    object could have been seen for the re-entry time, and was not.

    Detections of at least ``min_confidence`` begin objects, less confident ones only continue them; of the classes,
    none named means that any will do; ``region`` (x1, y1, x2, y2) is where objects are looked for.
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
        self._camera_id, self._new_record_id = camera_id, new_record_id
        self._min_confidence, self._region = min_confidence, region
        self._reentry_s = stability.reentry_seconds
        self._rules = GroupRules(expected=expected_classes, required=required_classes, trigger=trigger_classes)
        self._tracks = TrackingManager(
            max_lost_seconds=tracking.max_lost_seconds, high_confidence=min_confidence, class_aware=tracking.class_aware
        )
        self._stability = StabilityValidator(
            min_frames=stability.min_frames, min_seconds=stability.min_seconds, min_iou=stability.min_iou
        )
        self._part_classes = PartClasses()
        self._followed: dict[int, Followed] = {}
        self._ground = Ground()
        self._departed = Departures(reentry_s=stability.reentry_seconds)
        self._frame: Frame | None = None
        self._pace = Pace(longest_blink_s=tracking.max_lost_seconds)
        self.tracked = Detections.empty()
        """The newest frame's detections with their ``track_id``."""

    def live_visits(self) -> list[Visit]:
        """Return copies of the visits that have begun and not ended, those out of sight too; without pictures."""
        every = (*self._followed.values(), *self._departed)
        return [replace(followed.visit) for followed in every if followed.visit is not None]

    def interrupted_visits(self) -> set[str]:
        """Return the record ids of those whose pipeline a restart has interrupted, and whose object is not back yet."""
        return {one.visit.record_id for one in self._departed if one.visit is not None and one.is_interrupted}

    def at_rest(self) -> bool:
        """Return whether nothing would change if nobody looked, as long as the picture stays the same.

        Every object was in the newest frame and stands there, with its visit or without a claim to one, and none is
        waited for that went out of sight a moment ago.
        """
        now_s = self._tracks.now_s
        awaited = any(now_s - one.waited_for_since_s <= _AWAITED_S and not one.is_leaving for one in self._departed)
        return self._frame is not None and not awaited and all(map(self._is_settled, self._followed.values()))

    def restore(self, saved: Sequence[SavedVisit], *, now_s: float, now_utc_s: float) -> None:
        """Take over the visits of before a restart: each waits for its object as if it had just gone out of sight.

        The re-entry time runs from the first frame on, since nobody looked before, unless that was for half an hour.
        ``now_s`` (the lane's clock) and ``now_utc_s`` (seconds since 1970) are the same moment.
        """
        self._departed.take_over(saved, now_s=now_s, now_utc_s=now_utc_s)

    def update(self, detections: Detections, frame: Frame) -> list[VisitEvent]:
        """Take one analysed frame; returns what has begun and what has ended."""
        unseen_s = self._pace.gap_s(frame.time_s)
        self._frame, bounds = frame, self._bounds_in(frame)
        self.tracked = self._tracks.update_tracks(detections, frame.frame_id, time_s=frame.time_s, bounds=bounds)
        # What went out of sight comes first: it may go on at once in what is in sight.
        events = self._part_with_lost()
        if unseen_s:
            self._departed.resume(self._tracks.now_s)
            doubt(self._followed.values(), unseen_s)
        for followed in self._seen_clearly(self._look(frame, bounds)):
            if followed.visit is None:
                self._take_picture(followed, frame, bounds)
                arriving = followed.growth_per_s > _GROWING_PER_S and followed.cut
                if not arriving and self._is_due(followed) and not self._waits_for_detail(followed, frame):
                    events += self._begin(followed, frame)
        trim_shots([followed.shots for followed in (*self._followed.values(), *self._departed)])
        return [*events, *self._end_expired()]

    def pass_over(self, time_s: float) -> None:
        """Take a frame that shows what the last analysed one showed, and is therefore not analysed."""
        self._pace.gap_s(time_s)
        self._tracks.pass_over(time_s)

    def finish(self) -> list[VisitEvent]:
        """End everything, as at the end of a file; what was stable but still waiting has its visit even so."""
        self._tracks.lost = dict.fromkeys(self._followed, True)
        events = [*self._part_with_lost(), *self._begin_owed(self._departed)]
        events += [VisitEnded(visit) for visit in self.live_visits()]
        self._departed.clear()
        return events

    def _bounds_in(self, frame: Frame) -> BoundingBox:
        width, height = frame.wh
        x1, y1, x2, y2 = self._region or (0, 0, width, height)
        return BoundingBox(max(0, x1), max(0, y1), min(width, x2), min(height, y2))

    def _look(self, frame: Frame, bounds: BoundingBox) -> list[Followed]:
        """Note what a frame says of each object and of its parts; returns the objects that are in it."""
        tracked, outlook, now_s, in_sight = self.tracked, self._tracks.outlook(), self._tracks.now_s, []
        assert tracked.track_id is not None
        classes = (tracked.class_names[class_id] for class_id in tracked.class_id.tolist())
        with_visit = {followed.track_id for followed in self._followed.values() if followed.visit is not None}
        can_be_part = [
            track_id not in with_visit and self._part_classes.may_be_part(class_name)
            for track_id, class_name in zip(tracked.track_id.tolist(), classes, strict=True)
        ]
        for sight in sights_in(
            tracked,
            can_be_part=np.array(can_be_part, np.bool_),
            least_confidence=self._min_confidence,
            bounds=bounds,
            captured_at=frame.captured_at,
        ):
            followed = self._whose(sight, frame)
            followed.note(sight, now_s)
            if followed.visit is None:
                expected, _ = outlook[sight.track_id]
                self._stability.add_detection(sight.track_id, sight.seen.bounding_box, time_s=now_s, predicted=expected)
            in_sight.append(followed)
        for followed in self._followed.values():
            followed.expected, followed.growth_per_s = outlook[followed.track_id]
        self._departed.note_hidden(in_sight, now_s, shows_something=lambda place: self._ground.is_changed(frame, place))
        self._ground.look(frame, self._occupied())
        return in_sight

    def _occupied(self) -> Iterator[BoundingBox]:
        """Yield where objects are, or may be."""
        for followed in self._followed.values():
            yield followed.detection.bounding_box
            yield followed.expected
        yield from (old.place for old in self._departed)

    def _whose(self, sight: Sight, frame: Frame) -> Followed:
        """Return whose track it is: from now on another's, where it shows that the object with the visit has gone."""
        followed = self._followed.get(sight.track_id)
        is_visitor = followed is not None and followed.visit is not None
        if followed is not None and is_visitor and has_gone(followed, sight, frame, self._tracks.now_s):
            followed.was_parted = True
            self._departed.add(followed)
            followed = None
        if followed is None:
            doubt_beside(sight.seen, self._followed.values())
            followed = Followed(sight.track_id, self._tracks.now_s, sight.seen.bounding_box)
            self._followed[sight.track_id] = followed
        return followed

    def _seen_clearly(self, in_sight: list[Followed]) -> list[Followed]:
        """Return the objects that may begin visits on this frame: none without a trigger class."""
        sure = self.tracked.class_id[self.tracked.confidence >= self._min_confidence]
        if not self._rules.is_triggered(self.tracked.class_names[class_id] for class_id in set(sure.tolist())):
            return []
        return [followed for followed in in_sight if followed.detection.confidence >= self._min_confidence]

    def _take_picture(self, followed: Followed, frame: Frame, bounds: BoundingBox) -> None:
        followed.triggered = True
        seen = followed.detection
        complete = self._rules.is_complete((followed.class_name, *(part.class_name for part in followed.parts)))
        detailed, clear = frame.shows_detail, not followed.is_hidden
        box, sure = seen.bounding_box, seen.confidence
        quality = quality_of(box, sure, bounds, complete=complete, detailed=detailed, clear=clear)
        add_shot(followed.shots, followed.moment(frame, quality, is_clear=clear))

    def _is_due(self, followed: Followed) -> bool:
        """True if this is an object in its own right, stable, with the wanted classes, and without a visit so far."""
        return (
            followed.visit is None
            and not followed.is_part
            and self._stability.is_detection_stable(followed.track_id)
            and self._rules.is_wanted({followed.class_name, *followed.part_classes})
        )

    def _is_settled(self, followed: Followed) -> bool:
        """True if another look at the same picture would tell no more of an object; parts go with their whole."""
        is_stable = self._stability.is_detection_stable(followed.track_id)
        is_decided = followed.visit is not None or (is_stable and not self._is_due(followed))
        return followed.is_part or (is_decided and followed.last_s == self._tracks.now_s and followed.stands)

    def _waits_for_detail(self, followed: Followed, frame: Frame) -> bool:
        """True while the camera's large stream is still being opened: its pictures are what is kept of a visit."""
        if frame.shows_detail:
            return False
        if followed.due_s is None:
            followed.due_s = self._tracks.now_s
        return self._tracks.now_s - followed.due_s < _LONGEST_WAIT_FOR_DETAIL_S

    def _begin(self, followed: Followed, frame: Frame, *, late: bool = False) -> list[VisitEvent]:
        """Begin a visit now, or late at its best moment, or go on with the one whose object has come back.

        One whose pipeline was interrupted begins once more, under its old number: its record is completed.
        """
        self._stability.forget(followed.track_id)
        self._part_classes.note_own(followed.class_name)
        look_at_best_shot(followed, self._tracks.now_s)
        is_continued = self._go_on(followed)
        shots = tuple(followed.shots) or (followed.moment(frame),)
        followed.shots.clear()
        if is_continued and not followed.is_interrupted:
            return []
        moment = shots[0] if late else followed.moment(frame)
        visit = followed.visit or followed.begin_visit(moment, self._new_record_id(), self._camera_id)
        followed.is_interrupted = False
        # The pictures go with the event alone: a visit may last for days, its pictures need not.
        return [VisitStarted(replace(visit, shots=shots), moment.frame)]

    def _go_on(self, followed: Followed) -> bool:
        """Give an object the visit it continues, if there is one, of an object that went out of sight before."""
        others = [other for other in self._followed.values() if other.visit is not None]
        returned = find_returned((*others, *self._departed), followed, reentry_s=self._reentry_s)
        if returned is None:
            return False
        if returned in self._departed:
            self._departed.remove(returned)
        else:  # still looked for, but under its new number from now on
            del self._followed[returned.track_id]
        if returned.visit is None:
            followed.continues(returned)
            return False
        followed.go_on_with(returned.visit)
        followed.is_interrupted = returned.is_interrupted
        return True

    def _part_with_lost(self) -> list[VisitEvent]:
        """Let go of lost tracks, which are waited for, but for those that have driven out without a visit."""
        events: list[VisitEvent] = []
        gone = [self._followed.pop(track_id) for track_id in self._tracks.lost if track_id in self._followed]
        # Those with visits first: one without may be one of them, come back.
        for followed in sorted(gone, key=lambda followed: followed.visit is None):
            followed.left = self._tracks.lost[followed.track_id]
            followed.is_owed = followed.triggered and self._is_due(followed)
            if followed.is_owed and followed.is_leaving:
                events += self._begin_owed([followed])
            if followed.is_owed and followed.visit is None:
                look_at_best_shot(followed, self._tracks.now_s)
            if followed.is_owed or followed.visit is not None:
                self._departed.add(followed)
            elif followed.is_part and self._stability.is_detection_stable(followed.track_id):
                self._part_classes.note_part(followed.class_name)
            self._stability.forget(followed.track_id)
        return events

    def _begin_owed(self, lost: Iterable[Followed]) -> list[VisitEvent]:
        """Begin the visits of objects that were lost before they had driven in."""
        if self._frame is None:
            return []
        owed = [followed for followed in lost if followed.is_owed and followed.visit is None]
        return [event for followed in owed for event in self._begin(followed, self._frame, late=True)]

    def _end_expired(self) -> list[VisitEvent]:
        """End the visits whose object stayed away, unless one that is not stable yet may be it."""
        now_s = self._tracks.now_s
        young = [new for new in self._followed.values() if new.visit is None and now_s - new.first_s <= _SETTLING_S]
        expired = self._departed.let_go(now_s, young)
        return self._begin_owed(expired) + [VisitEnded(old.visit) for old in expired if old.visit is not None]
