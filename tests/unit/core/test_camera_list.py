import re
from functools import partial
from pathlib import Path

import pytest
import yaml

from detector_worker.communication.requests import subscription_spec
from detector_worker.core.addresses import NetworkPolicy
from detector_worker.core.camera_list import CameraList, read_camera_list, write_camera_list
from detector_worker.core.camera_message import CAMERA_KEYS
from detector_worker.engine.engine import SubscriptionSpec

ROOT = Path(__file__).parents[3]
SPEC_OF = partial(subscription_spec, camera_policy=NetworkPolicy(), archive_policy=NetworkPolicy())
VARIABLES = {"GATE_PASSWORD": "p"}
GOOD = """
archive: gate.mpta
targetFps: 5
cameras:
  gate-1:
    rtspUrl: rtsp://user:password@10.0.0.11/stream1
    snapshotUrl: http://10.0.0.11/snap.jpg
    archive: other/other.mpta
    minSize: 40
    ignoreMasks: [[0, 0, 640, 80]]
    crop: [0, 100, 1280, 720]
    targetFps: 2
    transport: udp
  gate-2:
    rtspUrl: rtsp://10.0.0.12/stream1
    modelId: 7
    targetFps: null
  "3":
    snapshotUrl: http://10.0.0.13/snap.jpg
    snapshotInterval: 2000
    archive: https://u:p@archives.example/a.mpta
"""


def read(text: str | bytes, **variables: str) -> CameraList[SubscriptionSpec]:
    content = text.encode() if isinstance(text, str) else text
    return read_camera_list(content, folder=Path("/site"), make_order=SPEC_OF, variables=variables)


def specs(text: str | bytes, **variables: str) -> dict[str, SubscriptionSpec]:
    found = read(text, **variables)
    assert found.problems == ()
    return {camera.camera_id: camera.order for camera in found.cameras}


def of_gate(keys: str) -> str:
    """A list with one camera, these keys on line 4 and after."""
    lines = "".join(f"    {line}\n" for line in keys.splitlines())
    return f"archive: a.mpta\ncameras:\n  gate:\n{lines}"


def test_a_camera_becomes_what_the_same_subscribe_message_would() -> None:
    gate = specs(GOOD)["gate-1"]

    assert (gate.subscription_id, gate.display_id, gate.camera_id) == ("site;gate-1", "site", "gate-1")
    assert gate.rtsp_url == "rtsp://user:password@10.0.0.11/stream1"
    assert gate.snapshot_url == "http://10.0.0.11/snap.jpg"
    assert gate.model_url == "/site/other/other.mpta"
    assert (gate.target_fps, gate.crop) == (2, (0, 100, 1280, 720))
    assert (gate.options.min_size_px, gate.options.transport) == (40, "udp")
    assert gate.options.ignore_masks == ((0, 0, 640, 80),)


def test_what_stands_at_the_top_holds_for_every_camera_that_says_nothing_else() -> None:
    cameras = specs(GOOD)

    assert [cameras[name].target_fps for name in ("gate-1", "gate-2", "3")] == [2, None, 5]
    assert cameras["gate-2"].model_url == "/site/gate.mpta"
    assert cameras["3"].model_url == "https://u:p@archives.example/a.mpta"


def test_the_list_may_be_json_and_have_a_byte_order_mark() -> None:
    text = '\ufeff{"cameras": {"gate": {"rtspUrl": "rtsp://10.0.0.7/", "archive": "/a.mpta", "minSize": 3}}}'

    assert specs(text)["gate"].options.min_size_px == 3


def test_a_name_is_a_text_whatever_yaml_might_take_it_for() -> None:
    names = ["7", "on", "2026-01-31", "null", "Tor Süd", "yard/1", "🚗"]
    camera = "{rtspUrl: 'rtsp://10.0.0.7/', archive: /a.mpta}"

    assert list(specs("cameras:\n" + "".join(f"  {name}: {camera}\n" for name in names))) == names


def test_a_variable_is_filled_in_as_a_password_whatever_it_holds() -> None:
    text = of_gate("rtspUrl: rtsp://u:${GATE_1}@10.0.0.7/s?token=${T}").replace("a.mpta", "https://u:${T}@h/a.mpta")
    gate = specs(text, GATE_1="p@ss/#?$", T="x y")["gate"]

    assert gate.rtsp_url == "rtsp://u:p%40ss%2F%23%3F%24@10.0.0.7/s?token=x%20y"
    assert gate.model_url == "https://u:x%20y@h/a.mpta"


def test_elsewhere_a_dollar_is_a_dollar() -> None:
    text = of_gate("rtspUrl: rtsp://u:a$b@10.0.0.7/\nmodelName: ${X}\narchive: ${X}.mpta")
    gate = specs(text)["gate"]

    assert (gate.rtsp_url, gate.model_name, gate.model_url) == ("rtsp://u:a$b@10.0.0.7/", "${X}", "/site/${X}.mpta")


RTSP = "rtspUrl: rtsp://10.0.0.7/"
BAD: tuple[tuple[str, list[tuple[int | None, str, str]]], ...] = (
    ("", [(None, "", "empty")]),
    ("- gate", [(1, "", "empty, or no mapping")]),
    ("just words", [(1, "", "no mapping")]),
    ("archive: a.mpta", [(None, "cameras", "No cameras")]),
    ("cameras: []", [(1, "cameras", "No cameras")]),
    ("cameras:", [(1, "cameras", "No cameras")]),
    ("cameras:\n  gate: rtsp://10.0.0.7/", [(2, "cameras.gate", "no camera")]),
    ("cameras:\n  gate:", [(2, "cameras.gate", "no camera")]),
    (
        "cameras:\n  gate: {}\n  gate: {}",
        [
            (2, "cameras.gate.archive", "missing"),
            (2, "cameras.gate.rtspUrl", "No camera address"),
            (3, "cameras.gate", "twice, first on line 2"),
        ],
    ),
    (of_gate(f"{RTSP}\n{RTSP}"), [(5, "cameras.gate.rtspUrl", "twice")]),
    (f"cameras:\n  gate:\n    {RTSP}", [(2, "cameras.gate.archive", "missing")]),
    (of_gate(f"{RTSP}\narchive: ''"), [(5, "cameras.gate.archive", "at least 1")]),
    (of_gate("minSize: 4"), [(3, "cameras.gate.rtspUrl", "No camera address")]),
    (of_gate("rtspUrl: ftp://10.0.0.7/"), [(4, "cameras.gate.rtspUrl", "Allowed: rtsp, rtsps")]),
    (of_gate("rtspUrl: file:///etc/passwd"), [(4, "cameras.gate.rtspUrl", "file is not allowed")]),
    (of_gate("rtspUrl: 10.0.0.7"), [(4, "cameras.gate.rtspUrl", "no URL")]),
    (of_gate("rtspUrl: 7"), [(4, "cameras.gate.rtspUrl", "in quotes")]),
    (of_gate("rtspUrl: rtsp://u:p/w@10.0.0.7/"), [(4, "cameras.gate.rtspUrl", "Percent-encode")]),
    (of_gate('rtspUrl: "rtsp://10.0.0.7/\\n"'), [(4, "cameras.gate.rtspUrl", "control character")]),
    (of_gate("snapshotUrl: http://169.254.169.254/x"), [(4, "cameras.gate.snapshotUrl", "must not connect")]),
    (of_gate("rtspUrl: rtsp://u:${NOT_SET}@h/"), [(4, "cameras.gate.rtspUrl", "no NOT_SET")]),
    (of_gate("rtspUrl: rtsp://u:${EMPTY}@h/"), [(4, "cameras.gate.rtspUrl", "no EMPTY")]),
    (of_gate("rtspUrl: rtsp://u:${a-b}@h/"), [(4, "cameras.gate.rtspUrl", "cannot be read")]),
    (of_gate(f"{RTSP}\nminSize: big"), [(5, "cameras.gate.minSize", "number")]),
    (of_gate(f"{RTSP}\nminSize: -1"), [(5, "cameras.gate.minSize", "greater than or equal to 0")]),
    (of_gate(f"{RTSP}\nminSize: 1e999"), [(5, "cameras.gate.minSize", "10000")]),
    (of_gate(f"{RTSP}\ntransport: upd"), [(5, "cameras.gate.transport", "'tcp' or 'udp'")]),
    (of_gate(f"{RTSP}\ncrop: [1, 2, 3]"), [(5, "cameras.gate.crop", "no region")]),
    (of_gate(f"{RTSP}\ncrop: 5"), [(5, "cameras.gate.crop", "no region")]),
    (of_gate(f"{RTSP}\ncrop: [9, 0, 9, 9]"), [(5, "cameras.gate.crop", "empty")]),
    (of_gate(f"{RTSP}\ncrop: [0, 0, wide, 9]"), [(5, "cameras.gate.crop", "number")]),
    (
        of_gate(f"{RTSP}\nignoreMasks:\n  - [0, 0, 9, 9]\n  - [0, 0, 9, x]"),
        [
            (7, "cameras.gate.ignoreMasks.1.3", "number"),
        ],
    ),
    (of_gate(f"{RTSP}\nignoreMasks: {[[0, 0, 1, 1]] * 65}"), [(5, "cameras.gate.ignoreMasks", "at most 64")]),
    (of_gate(f"{RTSP}\nrtsp_url: x"), [(5, "cameras.gate.rtsp_url", "Did you mean rtspUrl?")]),
    (of_gate(f"{RTSP}\nMINSIZE: 3"), [(5, "cameras.gate.MINSIZE", "Known here: archive, rtspUrl")]),
    (of_gate(f"{RTSP}\nmodelUrl: x"), [(5, "cameras.gate.modelUrl", "Did you mean archive?")]),
    (of_gate(f"{RTSP}\ncropX1: 4"), [(5, "cameras.gate.cropX1", "Did you mean crop?")]),
    (of_gate(f"{RTSP}\nliveDetections: true"), [(5, "cameras.gate.liveDetections", "no such key")]),
    (of_gate(f"{RTSP}\noptions: {{minSize: 3}}"), [(5, "cameras.gate.options", "no such key")]),
    (of_gate(RTSP) + RTSP, [(5, "rtspUrl", "no such key")]),
    (of_gate(RTSP) + "camera: {}", [(5, "camera", "Did you mean cameras?")]),
    (of_gate(RTSP) + "  yard:\n    rtspUrl: rtsp://h/\ntargetFps: 0", [(7, "targetFps", "greater than 0")]),
    (of_gate(RTSP).replace("gate:", "'a;b':"), [(3, "cameras.(hidden)", "a camera's name")]),
    (of_gate(RTSP).replace("gate:", "'':"), [(3, "cameras.(hidden)", "a camera's name")]),
    (of_gate(RTSP).replace("gate:", f"{'x' * 400}:"), [(3, "cameras.(hidden)", "a camera's name")]),
    ("cameras: {" + ", ".join(f"c{n}: {{}}" for n in range(1001)) + "}", [(1, "cameras", "More than 1000")]),
    ("# " + "x" * 2**20, [(None, "", "too large")]),
    ("cameras: *x", [(1, "cameras", "aliases")]),
    ("cameras:\n\t- x", [(2, "", "no YAML")]),
)


@pytest.mark.parametrize(("text", "problems"), BAD, ids=[re.sub(r"\W+", " ", text)[-40:] for text, _ in BAD])
def test_a_bad_list_says_where_what_and_how(text: str, problems: list[tuple[int | None, str, str]]) -> None:
    found = read(text, EMPTY="")

    assert [(one.line, one.path) for one in found.problems] == [(line, path) for line, path, _ in problems]
    for told, (_, _, says) in zip(found.problems, problems, strict=True):
        assert says in str(told)
        assert told.mend


def test_no_utf8_is_a_problem() -> None:
    assert "UTF-8" in str(read(b"cameras: {\xff: 1}").problems[0])


def test_everything_that_is_wrong_is_told_at_once() -> None:
    text = (
        of_gate(
            "rtspUrl: ftp://10.0.0.7/\nsnapshotUrl: rtsp://10.0.0.7/\narchive: gopher://x/\nminSize: big\n"
            "crop: [9, 9, 0, 0]\ntransport: upd\nmin_size: 3"
        )
        + "  yard:\n    rtspUrl: rtsp://u:${NOT_SET}@h/\n    targetFps: 0\n"
    )

    assert [one.line for one in read(text).problems] == [4, 5, 6, 7, 8, 9, 10, 12, 13]


def test_cameras_in_which_nothing_is_wrong_are_there_although_others_are_bad() -> None:
    found = read(of_gate("rtspUrl: ftp://h/") + "  yard:\n    rtspUrl: rtsp://h/\n")

    assert [camera.camera_id for camera in found.cameras] == ["yard"]


def test_a_list_of_a_stranger_may_not_name_variables() -> None:
    text = of_gate("rtspUrl: rtsp://u:${HOME}@h/").encode()
    found = read_camera_list(text, folder=Path("/site"), make_order=SPEC_OF)

    assert ["--cameras" in str(problem) for problem in found.problems] == [True]
    assert found.cameras == ()


CANARY = "Kanarienvogel"


@pytest.mark.parametrize(
    "keys",
    [
        f"rtspUrl: rtsp://u:{CANARY}@169.254.169.254/",
        f"rtspUrl: rtsp://u:{CANARY}/@h/",
        f"rtspUrl: 'rtsp://u:{CANARY}@h/\n",
        f"rtspUrl: [rtsp://u:{CANARY}@h/]",
        f"rtspUrl: *{CANARY}",
        f"rtspUrl: !{CANARY} x",
        f"rtspUrl: ${{X}}{CANARY}",
        f"rtspUrl: {CANARY}: {CANARY}",
        f"rtsp://u:{CANARY}@h/: x",
        f"rtspUrl: rtsp://h/\nminSize: {CANARY}\ntransport: {CANARY}\ncrop: {CANARY}\nignoreMasks: {CANARY}",
        f"archive: ftp://u:{CANARY}@h/",
        f"rtspURL: rtsp://u:{CANARY}@h/",
    ],
)
def test_no_problem_quotes_what_was_written(keys: str) -> None:
    found = read(of_gate(keys))

    assert found.problems
    assert CANARY not in f"{found!r} {' '.join(map(str, found.problems))}"


def test_no_text_of_a_camera_shows_its_password() -> None:
    assert CANARY not in repr(read(of_gate(f"rtspUrl: rtsp://u:{CANARY}@h/")))


def test_what_is_written_is_read_again() -> None:
    text = GOOD + "  'on': {rtspUrl: rtsp://h/, modelName: '1e5', modelId: 'null'}\n  🚗: {rtspUrl: rtsp://h/}\n"
    before = read(text).cameras
    written = write_camera_list({camera.camera_id: camera.written for camera in before})
    after = read_camera_list(written, folder=Path("/elsewhere"), make_order=SPEC_OF)

    assert after.problems == ()
    assert [(one.camera_id, one.order) for one in after.cameras] == [(one.camera_id, one.order) for one in before]


def test_the_example_is_right() -> None:
    cameras = specs((ROOT / "cameras.example.yaml").read_bytes(), **VARIABLES)

    assert len(cameras) == 3


def test_every_key_is_documented_and_the_documented_example_is_right() -> None:
    page = (ROOT / "docs" / "cameras-file.md").read_text()
    example = page.partition("```yaml\n")[2].partition("```")[0]

    assert [key for key in CAMERA_KEYS if f"`{key}`" not in page] == []
    assert list(specs(example, **VARIABLES)) == list(yaml.safe_load(example)["cameras"])
