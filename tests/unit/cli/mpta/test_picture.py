"""The picture and the tree: everything is in them, and hostile names stay names."""

import io
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from detector_worker.cli.mpta.description import ActionView, BranchView, ModelView, PipelineView, shown
from detector_worker.cli.mpta.drawing import text_width, wrap
from detector_worker.cli.mpta.picture import pipeline_svg
from detector_worker.cli.mpta.tree import pipeline_tree

HOSTILE = "</text><script>alert(1)</script>&\"'\x00\x1b[31m\u202e\n" + "x" * 500
SVG = "{http://www.w3.org/2000/svg}"


def model(model_id: str = "cars", **keys: Any) -> ModelView:
    plain: dict[str, Any] = {
        "model_type": "detection",
        "file": "cars.onnx",
        "file_bytes": 3 << 20,
        "layout": "yolov8",
        "input_wh": (640, 384),
        "is_open_size": True,
        "pixels": "rgb 0..1",
        "fitting": "letterbox center",
        "outputs": {"output0": (1, 7, 100)},
        "read_outputs": ("output0",),
        "classes": ("car", None, "plate"),
        "min_confidence": 0.25,
    }
    return ModelView(model_id, **(plain | keys))


def branch(name: str, *inner: BranchView) -> BranchView:
    image = ActionView("redis_save_image", f"{name}_image", f"key:{name}", {"kept": "60 s"})
    return BranchView(model(name), f"{name}.kind", "a crop of car", {"runs": "in its turn"}, (image,), inner)


def view(**keys: Any) -> PipelineView:
    create = ActionView("postgresql_create_record", "postgresql_create_record", "visits", {}, {"id": "{record_id}"})
    publish = ActionView("publish_message", "gate", "open:{camera_id}", {"dropped": "after 30 s"}, {"event": "in"})
    plain: dict[str, Any] = {
        "archive": "gate.mpta",
        "sha256": "ab" * 32,
        "detector": model(),
        "visit": {"stable after": "4 frames"},
        "actions": (create, publish),
        "branches": (branch("brand", branch("year")), branch("body")),
        "parallel_actions": (replace(create, type="postgresql_update"),),
        "tables": {"visits": {"id": "uuid primary key"}},
        "warnings": ("something is odd",),
    }
    return PipelineView(**(plain | keys))


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 - of our own writing


def texts(svg: str) -> list[ET.Element]:
    return list(parsed(svg).iter(f"{SVG}text"))


def tree_text(of: PipelineView) -> str:
    console = Console(width=200, file=io.StringIO())
    with console.capture() as captured:
        console.print(pipeline_tree(of))
    return captured.get()


def test_every_part_is_drawn() -> None:
    told = " ".join(element.text or "" for element in texts(pipeline_svg(view())))

    for word in ("cars", "yolov8", "3.0 MiB", "640 × 384", "car, plate", "stable visit", "visits", "{record_id}"):
        assert word in told
    for word in ("brand", "year", "body", "{brand.kind}", "key:year", "open:{camera_id}", "actions, in this order"):
        assert word in told


def test_the_tree_tells_the_same() -> None:
    told = tree_text(view())

    for word in (
        "cars",
        "output0 [1, 7, 100]",
        "brand.kind",
        "year",
        "key:body",
        "uuid primary key",
        "something is odd",
    ):
        assert word in told


def hostile_view() -> PipelineView:
    action = ActionView(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE})
    evil = model(HOSTILE, file=HOSTILE, outputs={HOSTILE: (1, 2)}, read_outputs=(HOSTILE,), classes=(HOSTILE,) * 2000)
    inner = BranchView(evil, HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, (action,) * 20, ())
    for _ in range(10):
        inner = replace(inner, branches=(inner,))
    return view(
        archive=HOSTILE,
        detector=evil,
        visit={HOSTILE: HOSTILE},
        actions=(action,) * 100,
        branches=(inner,),
        tables={HOSTILE: {HOSTILE: HOSTILE}},
        warnings=(HOSTILE,),
    )


def test_hostile_names_stay_names_in_the_picture() -> None:
    svg = pipeline_svg(hostile_view())

    tags = {element.tag.removeprefix(SVG) for element in parsed(svg).iter()}
    assert tags == {"svg", "title", "style", "rect", "text", "polyline", "polygon"}
    assert svg.replace("\n", "").isprintable()
    assert len(svg) < 3_000_000


def test_hostile_names_stay_names_in_the_terminal() -> None:
    told = tree_text(hostile_view())

    assert "\x1b" not in told
    assert "[31m" in told
    assert told.replace("\n", "").isprintable()


def test_markup_of_the_terminal_is_shown_not_obeyed() -> None:
    assert "[bold red]car[/]" in tree_text(view(archive="[bold red]car[/]"))


@pytest.mark.parametrize("text", ["word " * 60, "x" * 300, "gate:{display_id}:{record_id}:" * 8, "车" * 80])
def test_a_wrapped_text_keeps_to_its_width(text: str) -> None:
    lines = wrap(text, 200, 12, lines=3)

    assert len(lines) == 3
    assert lines[-1].endswith("…")
    # One unbreakable part may stand alone on a line, and is bounded.
    assert all(text_width(line, 12) <= max(200, 26 * 12) for line in lines)


def test_a_short_text_is_left_alone() -> None:
    assert wrap("gate:{record_id}", 300, 12, lines=1) == ["gate:{record_id}"]
    assert wrap("", 300, 12, lines=1) == [""]


def test_what_is_shown_is_of_one_line_and_of_bounded_length() -> None:
    assert shown("a\nb\x07") == "a\ufffdb\ufffd"
    assert len(shown("x" * 1000, 10)) == 10


def test_cards_lie_within_the_page() -> None:
    root = parsed(pipeline_svg(view()))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])

    for box in root.iter(f"{SVG}rect"):
        x, y = float(box.get("x", "0")), float(box.get("y", "0"))
        assert 0 <= x <= x + float(box.attrib["width"]) <= width
        assert 0 <= y <= y + float(box.attrib["height"]) <= height


def test_the_picture_refers_to_nothing_outside() -> None:
    svg = pipeline_svg(view())

    assert re.findall(r"https?://[^\"]+", svg) == ["http://www.w3.org/2000/svg"]
    assert "href" not in svg
