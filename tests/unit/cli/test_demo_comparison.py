"""Hand-made truths and records: what is matched, missed, doubled, and of nobody."""

import pytest
from support.tiny_demo import scene, vehicle

from detector_worker.cli.demo.comparison import PlayedFilm, Record, compare, newest_sent
from detector_worker.simulator.scenes.truth import Box, SceneTruth
from detector_worker.simulator.screen import SentPicture

START_S = 1_700_000_000.0
LEFT: Box = (100, 100, 200, 180)
RIGHT: Box = (220, 100, 320, 180)


def played(truth: SceneTruth, *, until_s: float = 9.9) -> PlayedFilm:
    """A film at 10 pictures a second, sent in time."""
    pictures = (SentPicture(START_S + index / 10, index / 10) for index in range(round(until_s * 10) + 1))
    return PlayedFilm(truth, tuple(pictures))


def record(name: str, film_s: float, xyxy: Box = LEFT, *, camera_id: str = "cam-1", **read: str | None) -> Record:
    values: dict[str, str | None] = {"brand": "red", "body": "bright", "plate": "AB 123"}
    return Record(name, camera_id, START_S + film_s, xyxy, **values | read)


ONE = scene(vehicle("cam-1/1", [(1.0, *LEFT)], last_s=5.0))


def test_a_record_where_the_vehicle_stands_is_its_record() -> None:
    found = compare([played(ONE)], [record("a", 2.0, (105, 95, 205, 175))])

    assert (found.vehicles, found.records, found.missed, found.duplicates) == (1, 1, 0, 0)
    assert (found.brand_correct, found.body_correct) == (1, 1)
    assert found.explanations == ()


def test_a_vehicle_without_a_record_is_missed_and_described() -> None:
    truth = scene(vehicle("cam-1/1", [(1.0, *LEFT)], last_s=5.0, lookalike=True, in_rain=True))

    found = compare([played(truth)], [])

    assert found.missed == 1
    (why,) = found.explanations
    for part in ("cam-1/1", "second 1.0 to 5.0", "like the one before", "in rain"):
        assert part in why


def test_a_second_record_of_a_vehicle_is_one_too_many_and_names_the_first() -> None:
    found = compare([played(ONE)], [record("late", 4.0, brand="blue"), record("early", 2.0)])

    assert (found.missed, found.duplicates, found.brand_correct) == (0, 1, 1)
    (why,) = found.explanations
    assert why.startswith("record late")
    assert "early" in why


@pytest.mark.parametrize(
    ("ghost", "reason"),
    [
        (record("g", 7.0), "none was there"),  # it has left
        (record("g", 2.0, (170, 100, 270, 180)), "cam-1/1, IoU 0.18"),
        (record("g", -3.0), "nothing had been sent"),
        (record("g", 2.0, camera_id="cam-9"), "nothing had been sent"),
    ],
)
def test_a_record_of_nobody_is_one_too_many_and_says_why(ghost: Record, reason: str) -> None:
    found = compare([played(ONE)], [record("a", 2.0), ghost])

    assert (found.missed, found.duplicates) == (0, 1)
    assert reason in found.explanations[0]


def test_lookalikes_side_by_side_are_told_apart_by_their_places() -> None:
    truth = scene(
        vehicle("cam-1/1", [(1.0, *LEFT)], last_s=9.0), vehicle("cam-1/2", [(1.5, *RIGHT)], last_s=9.0, lookalike=True)
    )
    between = (165, 100, 265, 180)  # over both, more over the right one

    both = compare([played(truth)], [record("a", 2.0, LEFT), record("b", 2.1, RIGHT)])
    same = compare([played(truth)], [record("a", 2.0, RIGHT), record("b", 2.1, (215, 100, 315, 180))])
    neither = compare([played(truth)], [record("a", 2.0, between)])

    assert (both.missed, both.duplicates) == (0, 0)
    assert (same.missed, same.duplicates) == (1, 1)
    assert "cam-1/2" in same.explanations[1]
    assert "cam-1/2" in next(why for why in neither.explanations if "nobody" in why or "no vehicle" in why)


def test_a_moving_vehicle_is_where_it_was_when_the_picture_was_sent() -> None:
    rows = [(index / 10, 50.0 * index, 100.0, 50.0 * index + 100, 180.0) for index in range(10, 60)]
    truth = scene(vehicle("cam-1/1", rows, last_s=6.0))

    in_time = compare([played(truth)], [record("a", 2.0 - 0.04, (1000, 100, 1100, 180))])
    elsewhere = compare([played(truth)], [record("a", 2.0 - 0.06, (1000, 100, 1100, 180))])

    assert in_time.duplicates == 0
    assert elsewhere.duplicates == 1


def test_each_round_of_a_film_has_its_own_vehicles_once_they_have_left() -> None:
    records = [record("a", 2.0), record("b", 12.0)]

    one_round = compare([played(ONE)], records[:1])
    two_rounds = compare([played(ONE, until_s=19.9)], records)
    second_missed = compare([played(ONE, until_s=19.9)], records[:1])
    second_under_way = compare([played(ONE, until_s=13.0)], records[:1])

    assert (one_round.vehicles, one_round.missed) == (1, 0)
    assert (two_rounds.vehicles, two_rounds.missed, two_rounds.duplicates) == (2, 0, 0)
    assert (second_missed.vehicles, second_missed.missed) == (2, 1)
    assert (second_under_way.vehicles, second_under_way.missed) == (1, 0)


def test_a_vehicle_that_came_and_went_while_the_camera_was_away_is_nobodys_to_record() -> None:
    at_1_s_and_from_5_s_on = [one for one in played(ONE).sent if not 1.3 < one.film_s < 5.0]
    from_2_s_on = [one for one in played(ONE).sent if one.film_s > 2.0]

    assert compare([PlayedFilm(ONE, at_1_s_and_from_5_s_on)], []).vehicles == 0
    assert compare([PlayedFilm(ONE, at_1_s_and_from_5_s_on)], [record("a", 1.2)]).vehicles == 1
    assert compare([PlayedFilm(ONE, from_2_s_on)], []).missed == 1


def test_the_plate_of_the_neighbour_is_told_apart_from_a_wrong_reading() -> None:
    truth = scene(
        vehicle("cam-1/1", [(1.0, *LEFT)], last_s=5.0, plate="AA 111", plate_readable=True),
        vehicle("cam-1/2", [(1.0, *RIGHT)], last_s=5.0, plate="BB 222", plate_readable=True),
    )

    misread = compare([played(truth)], [record("a", 2.0, plate="AA 117"), record("b", 2.0, RIGHT, plate="BB 222")])
    swapped = compare([played(truth)], [record("a", 2.0, plate="BB 222"), record("b", 2.0, RIGHT, plate="AA 111")])

    assert (misread.plate_correct, misread.wrong_plate_to_car) == (1, 0)
    assert (swapped.plate_correct, swapped.wrong_plate_to_car) == (0, 2)


def test_a_finding_says_where_it_can_be_seen() -> None:
    (missed,) = compare([played(ONE)], []).findings
    (extra,) = compare([played(ONE)], [record("a", 2.0), record("b", 4.0)]).findings

    assert (missed.kind, missed.camera_id, missed.film_s, missed.xyxy) == ("missed", "cam-1", 3.0, None)
    assert (extra.kind, extra.vehicle_id, extra.xyxy) == ("extra", "cam-1/1", LEFT)
    assert extra.film_s == pytest.approx(4.0)


def test_each_camera_has_its_own_vehicles() -> None:
    other = scene(vehicle("cam-2/1", [(1.0, *LEFT)], last_s=5.0), camera_id="cam-2")

    found = compare([played(ONE), played(other)], [record("a", 2.0), record("b", 3.0)])

    assert (found.vehicles, found.missed, found.duplicates) == (2, 1, 1)


def test_plates_count_where_they_can_be_read_and_wrong_readings_are_told() -> None:
    truth = scene(
        vehicle("cam-1/1", [(1.0, *LEFT)], last_s=5.0, plate_readable=True),
        vehicle("cam-1/2", [(1.0, *RIGHT)], last_s=5.0, plate="unreadable"),
        vehicle("cam-1/3", [(6.0, *RIGHT)], last_s=9.0, plate_readable=True),
    )

    found = compare(
        [played(truth)],
        [record("a", 2.0), record("b", 2.0, RIGHT, brand="blue"), record("c", 7.0, RIGHT, plate=None)],
    )

    assert (found.plate_correct, found.plate_readable, found.brand_correct) == (1, 2, 2)
    assert found.explanations == (
        "cam-1/2: the brand is 'red', not 'blue'",
        "cam-1/3: the plate is 'AB 123', not None",
    )


def test_the_newest_picture_is_found_with_a_little_tolerance() -> None:
    sent = (SentPicture(10.0, 0.0), SentPicture(10.1, 0.1), SentPicture(10.2, 0.2))

    assert newest_sent(sent, 9.9) is None
    assert newest_sent(sent, 9.96) == sent[0]
    assert newest_sent(sent, 10.14) == sent[1]
    assert newest_sent(sent, 99.0) == sent[2]
