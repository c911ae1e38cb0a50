"""What the tracking benchmark says of made-up sequences, and of files that are not what they should be."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from trackeval import Evaluator
from trackeval.datasets import MotChallenge2DBox
from trackeval.metrics import CLEAR, HOTA, Identity

from benchmarks.tracking.mot_files import NumberedBoxes, read_sequences
from benchmarks.tracking.scoring import Scores, score
from detector_worker.core.exceptions import ConfigurationError

INFO = "[Sequence]\nname=A\nframeRate=10\nseqLength=10\nimWidth=640\nimHeight=480\n"
FRAMES = 10


def numbered(*who: tuple[int, float]) -> NumberedBoxes:
    """People 40 x 100 pixels, by their numbers and x."""
    return NumberedBoxes(
        np.array([number for number, _ in who], np.int64),
        np.array([(x, 50, x + 40, 150) for _, x in who], np.float32).reshape(-1, 4),
    )


TRUTH = [numbered((7, 10 * step), (9, 300 + 10 * step)) for step in range(FRAMES)]
SWAPPED = [numbered((1, 10 * step), (2, 300 + 10 * step)) for step in range(5)] + [
    numbered((2, 10 * step), (1, 300 + 10 * step)) for step in range(5, FRAMES)
]


def test_the_truth_is_perfect() -> None:
    assert score(TRUTH, TRUTH) == Scores(hota=100, mota=100, idf1=100, id_switches=0)


def test_nothing_said_is_nothing_reached() -> None:
    assert score(TRUTH, [numbered()] * FRAMES) == Scores(hota=0, mota=0, idf1=0, id_switches=0)


def test_two_who_swap_their_numbers_halfway() -> None:
    """By hand: every box is found, and half of each life has the number that it is known by.

    AssA is 5 / (10 + 10 - 5), HOTA its square root as DetA is 1; IDF1 is 10 right of 20; MOTA loses 2 of 20.
    """
    scores = score(TRUTH, SWAPPED)

    assert scores.hota == pytest.approx(100 * (1 / 3) ** 0.5)
    assert scores.idf1 == pytest.approx(50)
    assert scores.mota == pytest.approx(90)
    assert scores.id_switches == 2


def write_boxes(path: Path, frames: Sequence[NumberedBoxes], *, then: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(
            f"{frame},{number},{x1},{y1},{x2 - x1},{y2 - y1},{then}\n"
            for frame, boxes in enumerate(frames, 1)
            for number, (x1, y1, x2, y2) in zip(boxes.track_id.tolist(), boxes.xyxy.tolist(), strict=True)
        )
    )


def write_sequence(folder: Path, *, detections: str = "1,-1,0,0,9,9,2.5,-1,-1,-1\n", truth: str | None = None) -> None:
    folder.mkdir(parents=True)
    (folder / "seqinfo.ini").write_text(INFO)
    (folder / "det.txt").write_text(detections)
    write_boxes(folder / "gt.txt", TRUTH, then="1,-1,-1,-1")
    if truth is not None:
        (folder / "gt.txt").write_text(truth)


def test_trackeval_says_the_same_of_the_same_files(tmp_path: Path) -> None:
    """Its whole way for MOT15, from files, with someone in the truth who is not asked for."""
    late = [numbered((2 + step // 6, 12 * step), (1, 303 + 10 * step), (5, 500)) for step in range(FRAMES)]
    clumsy = [numbered(), *late[1:]]
    truth = tmp_path / "gt" / "A" / "gt" / "gt.txt"
    write_boxes(truth, TRUTH, then="1,-1,-1,-1")
    truth.write_text(truth.read_text() + "".join(f"{frame},3,500,50,40,100,0,-1,-1,-1\n" for frame in range(1, 11)))
    (truth.parents[1] / "seqinfo.ini").write_text(INFO)
    write_boxes(tmp_path / "trackers" / "ours" / "data" / "A.txt", clumsy, then="1,-1,-1,-1")
    quiet = {"PRINT_CONFIG": False, "THRESHOLD": 0.5}
    evaluator = Evaluator(
        {
            **Evaluator.get_default_eval_config(),
            **dict.fromkeys(("PRINT_CONFIG", "PRINT_RESULTS", "TIME_PROGRESS", "PLOT_CURVES"), False),
            **dict.fromkeys(("OUTPUT_SUMMARY", "OUTPUT_DETAILED"), False),
            "BREAK_ON_ERROR": True,
        }
    )
    dataset = MotChallenge2DBox(
        {
            **MotChallenge2DBox.get_default_dataset_config(),
            "GT_FOLDER": str(tmp_path / "gt"),
            "TRACKERS_FOLDER": str(tmp_path / "trackers"),
            "BENCHMARK": "MOT15",
            "SKIP_SPLIT_FOL": True,
            "SEQ_INFO": {"A": FRAMES},
            "PRINT_CONFIG": False,
        }
    )
    results, _ = evaluator.evaluate([dataset], [HOTA(), CLEAR(quiet), Identity(quiet)])
    theirs = results["MotChallenge2DBox"]["ours"]["A"]["pedestrian"]

    own_way = tmp_path / "own" / "A"
    write_sequence(own_way, truth=truth.read_text())
    (sequence,) = read_sequences(own_way.parent)
    ours = score(sequence.truth, clumsy)

    assert ours.hota == pytest.approx(100 * theirs["HOTA"]["HOTA"].mean())
    assert ours.mota == pytest.approx(100 * theirs["CLEAR"]["MOTA"])
    assert ours.idf1 == pytest.approx(100 * theirs["Identity"]["IDF1"])
    assert ours.id_switches == theirs["CLEAR"]["IDSW"] > 0
    assert 0 < ours.hota < 100


def test_a_sequence_is_read_frame_by_frame(tmp_path: Path) -> None:
    write_sequence(tmp_path / "A", detections="3,-1,10,20,30,40,2.5,-1,-1,-1\n\n1,-1,1.5,2,3,4,-7,-1\n")

    (sequence,) = read_sequences(tmp_path)

    assert (sequence.name, sequence.frame_rate, sequence.picture.x2) == ("A", 10, 640)
    assert [len(frame.confidence) for frame in sequence.found] == [1, 0, 1] + [0] * 7
    assert sequence.found[2].xyxy.tolist() == [[10, 20, 40, 60]]
    assert sequence.found[0].confidence.tolist() == [-7]
    assert [frame.track_id.tolist() for frame in sequence.truth] == [[7, 9]] * FRAMES


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1,-1,10,20,30,40", "6 columns"),
        ("1,-1,10,20,wide,40,1", "wide"),
        ("1,-1,10,20,nan,40,1", "not finite"),
        ("11,-1,10,20,30,40,1", "frame 11 is not one of 1 to 10"),
        ("1.5,-1,10,20,30,40,1", "frame 1.5"),
        ("1,-1,10,20,0,40,1", "no area"),
        ("1,0.5,10,20,30,40,1", "no whole number"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    write_sequence(tmp_path / "A", detections=f"1,-1,10,20,30,40,1\n{line}\n")

    with pytest.raises(ConfigurationError, match=reason) as caught:
        read_sequences(tmp_path)

    assert caught.value.where == f"{tmp_path / 'A' / 'det.txt'}, line 2"


def test_an_object_with_two_boxes_in_a_frame_is_refused(tmp_path: Path) -> None:
    write_sequence(tmp_path / "A", truth="2,5,10,20,30,40,1\n2,5,90,20,30,40,1\n")

    with pytest.raises(ConfigurationError, match="Id 5 is twice in frame 2"):
        read_sequences(tmp_path)


@pytest.mark.parametrize("name", ["seqinfo.ini", "det.txt", "gt.txt"])
def test_a_file_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    write_sequence(tmp_path / "A")
    (tmp_path / "A" / name).unlink()

    with pytest.raises(ConfigurationError, match="No such file") as caught:
        read_sequences(tmp_path)

    assert caught.value.where.endswith(name)


@pytest.mark.parametrize("info", ["", "[Sequence]\nframeRate=x\n", INFO.replace("=10\n", "=0\n"), "no ini at all"])
def test_a_description_without_its_numbers_is_refused(tmp_path: Path, info: str) -> None:
    write_sequence(tmp_path / "A")
    (tmp_path / "A" / "seqinfo.ini").write_text(info)

    with pytest.raises(ConfigurationError) as caught:
        read_sequences(tmp_path)

    assert caught.value.where.endswith("seqinfo.ini")


def test_a_folder_without_sequences_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No sequence"):
        read_sequences(tmp_path)
    with pytest.raises(ConfigurationError, match="No such folder"):
        read_sequences(tmp_path / "absent")
