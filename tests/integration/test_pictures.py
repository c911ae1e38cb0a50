"""``run`` on still pictures, and the real archives that ``tools/pack_real_assets.py`` makes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from support.assets import assets_dir
from support.command_line import call_here
from support.folders import open_folder
from support.tiny_models import squares_image, write_tiny_mpta

COMMAND = (sys.executable, "-P", "-m", "detector_worker")
PACKER = Path(__file__).parents[2] / "tools" / "pack_real_assets.py"


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


def call(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def visits(source: str, archive: str, *, cwd: Path) -> dict[str, dict[str, Any]]:
    """What ``run`` tells of each picture."""
    result = call(*COMMAND, "run", source, "--mpta", archive, "--json", cwd=cwd)
    assert result.returncode == 0, result.stderr
    outcome = json.loads(result.stdout)
    assert len({visit["picture"] for visit in outcome["visits"]}) == len(outcome["visits"])
    return {visit["picture"]: visit for visit in outcome["visits"]}


def test_each_picture_of_a_folder_that_shows_something_is_a_visit(folder: Path) -> None:
    pictures = folder / "pictures"
    pictures.mkdir()
    for name, squares in (("a.png", {(100, 60): "red"}), ("b.JPG", {(300, 200): "blue"}), ("c.jpg", {})):
        cv2.imwrite(str(pictures / name), squares_image(squares))
    (pictures / "broken.jpg").write_bytes(b"no picture")
    (pictures / "notes.txt").write_text("no picture either")
    write_tiny_mpta(folder / "tiny.mpta")

    result = call(*COMMAND, "run", "pictures", "--mpta", "tiny.mpta", "--json", cwd=folder)

    assert result.returncode == 0, result.stderr
    outcome = json.loads(result.stdout)
    red, blue = outcome["visits"]
    assert (red["picture"], red["class_name"], red["fields"]["hue"]) == ("a.png", "red", "red")
    assert (blue["picture"], blue["class_name"], blue["fields"]["hue"]) == ("b.JPG", "blue", "blue")
    assert (red["status"], red["fields"]["display_id"]) == ("completed", "a")
    assert red["xyxy"] == pytest.approx([100, 60, 164, 124], abs=4)
    assert outcome["frames"] == outcome["analysed"] == 3
    assert "broken.jpg cannot be read as a picture" in result.stderr
    assert "notes.txt" not in result.stderr
    shown = call(*COMMAND, "run", "pictures/a.png", "--mpta", "tiny.mpta", cwd=folder).stdout
    assert {"a.png", "red", "1 visits"} <= {text.strip() for line in shown.splitlines() for text in line.split("│")}


def test_names_of_classes_and_pictures_do_nothing_to_the_terminal(folder: Path) -> None:
    picture = "a{x}[red]\x1b[31m.png"
    (folder / picture).write_bytes(cv2.imencode(".png", squares_image({(100, 60): "red"}))[1].tobytes())
    names = ["red[/x]", "green", "blue"]
    write_tiny_mpta(folder / "tiny.mpta", classes=names, triggerClasses=[], expectedClasses=names)

    result = call(*COMMAND, "run", picture, "--mpta", "tiny.mpta", cwd=folder)

    assert result.returncode == 0, result.stderr
    assert "red[/x]" in result.stdout
    assert "a{x}[red]\\x1b" in result.stdout
    assert "a{x}[red]\\x1b" in result.stderr
    assert "\x1b" not in result.stdout + result.stderr


def test_a_picture_that_is_none_is_said(folder: Path) -> None:
    (folder / "broken.jpg").write_bytes(b"no picture")
    write_tiny_mpta(folder / "tiny.mpta")

    result = call(*COMMAND, "run", "broken.jpg", "--mpta", "tiny.mpta", "--json", cwd=folder)

    assert result.returncode == 1
    assert "detector-worker: There is no picture that can be read [broken.jpg]" in result.stderr
    assert "Traceback" not in result.stderr


def test_pictures_are_not_annotated(folder: Path) -> None:
    (folder / "a.jpg").touch()

    result = call_here("run", "a.jpg", "--annotate", "seen.mp4", "--mpta", "tiny.mpta", "--json", cwd=folder)

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("detector-worker: Pictures are not annotated [--annotate]")


def test_the_real_plate_archive_reads_pictures_as_a_person_does(folder: Path) -> None:
    """Truth by eye: a black car with MD71 on what is left of its plate; two dark cars; the black car again, cut out.

    The plates of the second picture are none that this reader was made for, and someone has drawn words over them.
    """
    images = assets_dir() / "image"
    packed = call(sys.executable, str(PACKER), "--json", "--output", str(folder / "real-traffic.mpta"), cwd=folder)
    assert packed.returncode == 0, packed.stderr
    archives = json.loads(packed.stdout)["archives"]
    assert {Path(name).name for name in archives} == {"real-traffic.mpta", "real-plates.mpta"}

    told = visits(os.fspath(images), "real-plates.mpta", cwd=folder)

    barrier = told["omz_barrier-0106.jpeg"]
    assert "MD71" in barrier["fields"]["plate"]
    assert barrier["xyxy"] == pytest.approx([235, 122, 508, 464], abs=15)
    assert {(one["status"], one["class_name"]) for one in told.values()} == {("completed", "vehicle")}
    assert {name: one["fields"]["body_type"] for name, one in told.items()} == dict.fromkeys(told, "car")
    assert barrier["fields"]["color"] == told["omz_vehicle-attributes-0039-1.png"]["fields"]["color"] == "black"
    assert told["omz_vehicle-attributes-0039-1.png"]["fields"]["plate"] is None
    assert len(told) == 3
