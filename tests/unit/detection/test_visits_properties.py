"""What holds of visits whatever is seen, and whenever."""

import random
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.tracks import GREY, RED, WHITE, Colour, Lane, Row, box

from detector_worker.core.entities import VisitEnded, VisitStarted

few = settings(max_examples=20, deadline=None)


@dataclass(frozen=True)
class Passer:
    """Something that is seen from one frame on for some frames, and moves steadily."""

    first: int
    frames: int
    at: tuple[float, float]
    step: tuple[float, float]
    wh: tuple[float, float]
    name: str
    confidence: float
    blinks: int
    """In every so manieth frame it is not detected; 1: never."""

    def row_in(self, number: int) -> Row | None:
        """Its detection in a frame of this number; None where there is none."""
        age = number - self.first
        if not 0 <= age < self.frames or (self.blinks > 1 and age % self.blinks == 1):
            return None
        x, y = (start + age * step for start, step in zip(self.at, self.step, strict=True))
        row = box(x, y, w=self.wh[0], h=self.wh[1], name=self.name, p=self.confidence)
        return row if row[2] - row[0] > 2 and row[3] - row[1] > 2 else None


speeds = st.sampled_from([0.0, 0.0, 0.0, 3.0, -9.0, 25.0, -40.0])
passers = st.builds(
    Passer,
    first=st.integers(0, 12),
    frames=st.sampled_from([40, 20, 8, 5, 1]),
    at=st.tuples(st.integers(-60, 600).map(float), st.integers(-40, 320).map(float)),
    step=st.tuples(speeds, speeds),
    wh=st.sampled_from([(120.0, 60.0), (130.0, 70.0), (300.0, 200.0), (40.0, 12.0)]),
    name=st.sampled_from(["car", "car", "car", "truck", "frontal"]),
    confidence=st.sampled_from([0.9, 0.9, 0.9, 0.6, 0.3]),
    blinks=st.sampled_from([1, 1, 2, 3]),
)
moments = st.tuples(
    st.sampled_from([*[0.25] * 16, 0.0, 1.0, 3.0, 40.0, 3000.0, -100.0]), st.sampled_from([GREY, GREY, RED, WHITE])
)
Scene = list[tuple[float, Colour, list[Row]]]
"""Of each frame its time, what colour objects have in it, and its detections, no two the same."""


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Draw a few objects that come and go in up to 32 frames, at times that stand, run back and jump too."""
    present = draw(st.lists(passers, min_size=2, max_size=5))
    frames = draw(st.lists(moments, min_size=15, max_size=32))
    times = accumulate(elapsed_s for elapsed_s, _ in frames)
    seen = ([one.row_in(number) for one in present] for number in range(len(frames)))
    distinct = (list(dict.fromkeys(row for row in rows if row is not None)) for rows in seen)
    return [(time_s, colour, rows) for time_s, (_, colour), rows in zip(times, frames, distinct, strict=True)]


expectations = st.sampled_from([("car", "truck"), ("car", "frontal"), ()])
"""The classes that an archive wants; none named: any."""


def check_what_is_live(lane: Lane) -> None:
    """Check that each visit has one object, each track at most one visit, and that none holds pictures."""
    tracker = lane.tracker
    live = [visit.record_id for visit in tracker.live_visits()]
    assert max(Counter(live).values(), default=1) == 1, "two objects of one visit"
    assert set(live) == {visit.record_id for visit in lane.started} - set(lane.ended)
    assert all(followed.track_id == number for number, followed in tracker._followed.items())
    assert {one.visit.track_id for one in tracker._followed.values() if one.visit} <= set(tracker._followed)
    for one in (*tracker._followed.values(), *tracker._departed):
        assert one.visit is None or not one.shots, "a visit that has begun holds pictures"
        assert len(one.shots) <= 3
        assert len(one.looks) <= 3
    assert set(tracker._stability._histories) <= set(tracker._followed), "a track that is gone is remembered"


@given(scenes(), expectations)
@few
def test_every_visit_begins_once_and_ends_once(scene: Scene, expected: tuple[str, ...]) -> None:
    lane = Lane(expected=expected)
    for time_s, colour, rows in scene:
        lane.see(time_s, *rows, colour=colour)
        check_what_is_live(lane)

    lane.finish()

    records = [visit.record_id for visit in lane.started]
    assert len(records) == len(set(records))
    assert sorted(lane.ended) == sorted(records)
    began = {event.visit.record_id: place for place, event in enumerate(lane.events) if isinstance(event, VisitStarted)}
    for place, event in enumerate(lane.events):
        if isinstance(event, VisitEnded):
            assert began[event.visit.record_id] < place
            assert event.visit.first_s <= event.visit.last_s
    assert lane.tracker.live_visits() == []


@given(scenes(), expectations)
@few
def test_after_all_have_left_nothing_is_held(scene: Scene, expected: tuple[str, ...]) -> None:
    lane = Lane(expected=expected)
    for time_s, colour, rows in scene:
        lane.see(time_s, *rows, colour=colour)
    last_s = scene[-1][0]
    # A minute's absence, and whatever was hidden for longer than anybody is waited for.
    for second in (1, 2, 3, 4, *range(5, 150, 5)):
        lane.see(last_s + second)

    tracker = lane.tracker
    assert sorted(lane.ended) == sorted(visit.record_id for visit in lane.started)
    assert (tracker._followed, list(tracker._departed), tracker._stability._histories) == ({}, [], {})
    assert tracker.live_visits() == []
    assert tracker.at_rest()


def told(lane: Lane) -> list[tuple[Any, ...]]:
    """What is told of the visits, whatever number each has got."""
    visits = [(type(event).__name__, event.visit) for event in lane.events]
    return sorted(
        (
            what,
            visit.class_name,
            visit.first_s,
            visit.last_s,
            visit.frame_id,
            repr(visit.bounding_box),
            sorted((part.class_name, repr(part.bounding_box)) for part in visit.parts),
            sorted(shot.frame.frame_id for shot in visit.shots),
        )
        for what, visit in visits
    )


@given(scenes(), expectations, st.integers(0, 2**32))
@few
def test_the_order_of_the_detections_changes_no_visit(scene: Scene, expected: tuple[str, ...], seed: int) -> None:
    plain, shuffled, shuffler = Lane(expected=expected), Lane(expected=expected), random.Random(seed)
    for time_s, colour, rows in scene:
        plain.see(time_s, *rows, over=[(row, colour) for row in rows])
        shuffled.see(time_s, *shuffler.sample(rows, len(rows)), over=[(row, colour) for row in rows])
    plain.finish()
    shuffled.finish()

    assert told(shuffled) == told(plain)
