"""The commands that make, sign and migrate archives, in-process; the models are real, only tiny."""

import json
import zipfile
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from support.tiny_models import (
    answering_model,
    tiny_classifier,
    tiny_detector,
    tiny_pipeline,
    tiny_text_reader,
    write_tiny_mpta,
    zip_bytes,
)
from typer.testing import CliRunner, Result

from detector_worker.cli.mpta import mpta
from detector_worker.core.exceptions import ConfigurationError


def call(*arguments: object) -> Result:
    return CliRunner().invoke(mpta, [str(argument) for argument in arguments])


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "cars v2.onnx").write_bytes(tiny_detector())
    (folder / "colour.onnx").write_bytes(tiny_classifier())
    (folder / "plate.onnx").write_bytes(tiny_text_reader())
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "gate"
    with zipfile.ZipFile(write_tiny_mpta(tmp_path / "tiny.mpta")) as archive:
        archive.extractall(folder)
    return folder


# new


def test_new_makes_a_folder_that_is_valid(tmp_path: Path, models: Path) -> None:
    asked = ["--detector", models / "cars v2.onnx", "--classifier", models / "colour.onnx"]

    result = call("new", tmp_path / "Gate 2", *asked)

    assert result.exit_code == 0, result.output
    pipeline = json.loads((tmp_path / "Gate 2" / "pipeline.json").read_text())["pipeline"]
    assert (pipeline["modelId"], pipeline["outputLayout"]) == ("cars_v2", "yolov8")
    assert pipeline["classes"] == pipeline["expectedClasses"] == ["red", "green", "blue"]
    assert [branch["output"] for branch in pipeline["branches"]] == ["hue", "tone"]
    assert set(pipeline["parallelActions"][0]["fields"]) <= set(pipeline["tables"]["gate_2_visits"])
    assert "valid; models" in result.stdout
    assert "warning" not in result.output
    assert (tmp_path / "Gate 2" / "pipeline.schema.json").is_file()


def test_new_gives_a_text_model_an_alphabet_of_its_size(tmp_path: Path, models: Path) -> None:
    result = call("new", tmp_path / "gate", "--detector", models / "cars v2.onnx", "--ocr", models / "plate.onnx")

    assert result.exit_code == 0, result.output
    branches = json.loads((tmp_path / "gate" / "pipeline.json").read_text())["pipeline"]["branches"]
    assert [branch["output"] for branch in branches] == ["text", "logits"]
    assert all(len(branch["alphabet"]) == 4 and branch["outputLayout"] == "textSlots" for branch in branches)
    assert branches[0]["alphabet"][0] == "<0>"
    assert "plate_text: 4 symbols (alphabet): made-up" in result.stdout
    assert "plate_text: sees the whole object (cropClass)" in result.stdout


def test_new_writes_down_and_tells_what_no_model_says(tmp_path: Path, models: Path) -> None:
    (models / "x.onnx").write_bytes(answering_model({"out": np.zeros((1, 84, 7))}))  # YOLOX of two classes

    result = call("new", tmp_path / "gate", "--detector", models / "x.onnx", "--classifier", models / "colour.onnx")

    assert result.exit_code == 0, result.output
    pipeline = json.loads((tmp_path / "gate" / "pipeline.json").read_text())["pipeline"]
    assert pipeline["input"] == {"color": "bgr", "scale": 1.0, "letterbox": "topLeft"}
    assert pipeline["branches"][0]["input"] == {"color": "rgb", "scale": 1 / 255, "letterbox": "none"}
    listed = result.stdout.split("Guessed, check before use:\n")[1].splitlines()
    guesses = [line.strip() for line in listed if line.startswith("  ")]
    assert guesses == [
        "x: pixels (input): BGR 0..255, letterboxed at the top left",
        "x: names of 2 of 2 classes (classes): class_0, class_1, ...",
        "colour_hue: pixels (input): RGB 0..1, stretched",
        "colour_hue: names of 3 of 3 classes (classes): class_0, class_1, ...",
        "colour_tone: pixels (input): RGB 0..1, stretched",
        "colour_tone: names of 2 of 2 classes (classes): class_0, class_1, ...",
    ]
    readme = (tmp_path / "gate" / "README.md").read_text()
    assert all(f"- {guess}\n" in readme for guess in guesses)
    assert "all results are alike" in readme


def test_new_tells_no_guess_where_the_exporter_says_all(tmp_path: Path, models: Path) -> None:
    noted = {"author": "Ultralytics", "names": "{0: 'car', 1: 'van'}"}
    (models / "x.onnx").write_bytes(answering_model({"out": np.zeros((1, 6, 84))}, metadata=noted))

    result = call("new", tmp_path / "gate", "--detector", models / "x.onnx")

    assert result.exit_code == 0, result.output
    assert "Guessed" not in result.stdout + (tmp_path / "gate" / "README.md").read_text()


def test_new_makes_up_no_classes_where_not_even_their_number_is_known(tmp_path: Path, models: Path) -> None:
    (models / "ssd.onnx").write_bytes(answering_model({"out": np.zeros((1, 1, 200, 7))}))

    result = call("new", tmp_path / "gate", "--detector", models / "ssd.onnx")

    assert result.exit_code == 0, result.output
    pipeline = json.loads((tmp_path / "gate" / "pipeline.json").read_text())["pipeline"]
    assert not {"classes", "expectedClasses"} & set(pipeline)
    assert "ssd: classes: the model does not say how many it has" in result.stdout


def test_new_leaves_an_alphabet_of_unknown_size_to_whoever_knows_it(tmp_path: Path, models: Path) -> None:
    (models / "lpr.onnx").write_bytes(answering_model({"ids": np.full((1, 88), -1)}))

    result = call("new", tmp_path / "gate", "--detector", models / "cars v2.onnx", "--ocr", models / "lpr.onnx")

    assert result.exit_code == 0, result.output
    assert "lpr: alphabet is MISSING" in result.stdout
    refused = call("validate", tmp_path / "gate")
    assert refused.exit_code == 2
    assert "the archive has no alphabet" in refused.stderr


def test_new_lets_a_text_model_see_the_plates_that_are_found(tmp_path: Path, models: Path) -> None:
    noted = {"names": "{0: 'car', 1: 'License Plate'}"}
    (models / "x.onnx").write_bytes(answering_model({"out": np.zeros((1, 6, 84))}, metadata=noted))

    result = call("new", tmp_path / "gate", "--detector", models / "x.onnx", "--ocr", models / "plate.onnx")

    assert result.exit_code == 0, result.output
    branches = json.loads((tmp_path / "gate" / "pipeline.json").read_text())["pipeline"]["branches"]
    assert all((branch["crop"], branch["cropClass"]) == (True, "License Plate") for branch in branches)
    assert "cropClass" not in result.stdout


def test_new_without_models_is_a_template_with_its_explanation(tmp_path: Path) -> None:
    assert call("new", tmp_path / "gate").exit_code == 0

    told = call("validate", tmp_path / "gate").stderr
    assert "holds no file 'detector.onnx'" in told
    assert "not known" not in told
    assert "Put the detector here" in (tmp_path / "gate" / "README.md").read_text()


def test_new_never_overwrites(tmp_path: Path, folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}

    assert call("new", folder).exit_code == 2
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_new_refuses_a_model_that_cannot_be_read_and_makes_nothing(tmp_path: Path, models: Path) -> None:
    result = call("new", tmp_path / "gate", "--detector", models / "colour.onnx")

    assert result.exit_code == 2
    assert "cannot be read as detection" in result.stderr
    assert not (tmp_path / "gate").exists()


def test_new_begins_with_a_detector(tmp_path: Path, models: Path) -> None:
    assert call("new", tmp_path / "gate", "--classifier", models / "colour.onnx").exit_code == 2


# pack, sign, verify


def test_pack_makes_the_same_archive_each_time(tmp_path: Path, folder: Path) -> None:
    first, second = (call("pack", folder, "--output", tmp_path / name) for name in ("a.mpta", "b.mpta"))

    assert first.exit_code == second.exit_code == 0, first.output
    content = (tmp_path / "a.mpta").read_bytes()
    assert content == (tmp_path / "b.mpta").read_bytes()
    assert sha256(content).hexdigest() in first.stdout


def test_pack_tells_what_it_leaves_out(tmp_path: Path, folder: Path) -> None:
    (folder / ".env").write_text("TOKEN=canary")
    (folder / "notes\x1b[31m.txt").write_text("canary")

    result = call("pack", folder)

    assert result.exit_code == 0, result.output
    assert "left out: .env, notes\N{REPLACEMENT CHARACTER}[31m.txt\n" in result.stderr
    assert b"canary" not in (tmp_path / "gate.mpta").read_bytes()


@pytest.mark.parametrize("fault", ["key", "output"])
def test_pack_hands_on_no_key_and_packs_nothing_into_itself(tmp_path: Path, folder: Path, fault: str) -> None:
    target = folder / "gate.mpta" if fault == "output" else tmp_path / "gate.mpta"
    if fault == "key":
        call("sign", tmp_path / "tiny.mpta", "--key", folder / "site.key", "--new-key")

    result = call("pack", folder, "--output", target)

    assert result.exit_code == 2
    assert {"key": "private key: 'site.key'", "output": "in the folder that is packed"}[fault] in result.stderr
    assert not target.exists()


def test_pack_writes_nothing_where_the_folder_is_broken(tmp_path: Path, folder: Path) -> None:
    (folder / "pipeline.json").write_text(json.dumps(tiny_pipeline(minConfidense=1)))

    result = call("pack", folder)

    assert result.exit_code == 2
    assert "did you mean 'minConfidence'?" in result.stderr
    assert not (tmp_path / "gate.mpta").exists()


def test_what_was_signed_is_verified_and_what_was_changed_is_not(tmp_path: Path, folder: Path) -> None:
    archive = tmp_path / "gate.mpta"
    assert call("pack", folder).exit_code == 0

    signed = call("sign", archive, "--key", tmp_path / "site.key", "--new-key")

    assert signed.exit_code == 0, signed.output
    public = signed.stdout.split()[-1]
    assert call("verify", archive, "--trust", public).exit_code == 0
    archive.write_bytes(archive.read_bytes() + b"x")
    changed = call("verify", archive, "--trust", public)
    assert changed.exit_code == 2
    assert "changed after it was signed" in changed.stderr
    assert "mpta sign" not in changed.stderr


def test_pack_signs_too(tmp_path: Path, folder: Path) -> None:
    call("sign", tmp_path / "tiny.mpta", "--key", tmp_path / "site.key", "--new-key")

    result = call("pack", folder, "--sign", tmp_path / "site.key")

    assert result.exit_code == 0, result.output
    assert call("verify", tmp_path / "gate.mpta", "--trust", result.stdout.split()[-1]).exit_code == 0


@pytest.mark.parametrize("make", ["absent", "text", "twice"])
def test_a_key_that_is_none_is_exit_2(tmp_path: Path, make: str) -> None:
    archive, key = write_tiny_mpta(tmp_path / "a.mpta"), tmp_path / "site.key"
    if make != "absent":
        key.write_text("no key")

    result = call("sign", archive, "--key", key, *(["--new-key"] if make == "twice" else []))

    assert result.exit_code == 2
    assert "key" in result.stderr
    assert make == "absent" or key.read_text() == "no key"


def test_an_archive_without_a_signature_is_not_verified(tmp_path: Path) -> None:
    archive = write_tiny_mpta(tmp_path / "a.mpta")

    result = call("verify", archive, "--trust", "A" * 43 + "=")

    assert result.exit_code == 2
    assert "no signature 'a.mpta.sig'" in result.stderr


def test_a_public_key_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    result = call("verify", write_tiny_mpta(tmp_path / "a.mpta"), "--trust", "secret")

    assert result.exit_code == 2
    assert "no public key" in result.stderr


def test_an_unsigned_folder_can_be_packed_where_only_signed_archives_load(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTOR_WORKER_PIPELINES__TRUSTED_KEYS", "A" * 43 + "=")

    assert call("pack", folder).exit_code == 0
    assert "sign" in call("validate", tmp_path / "gate.mpta").stderr


# migrate, schema, inspect


def old_archive(path: Path, **keys: object) -> Path:
    document = tiny_pipeline(**keys)
    del document["schemaVersion"]
    contents = {"pipeline.json": json.dumps(document).encode(), "tiny_detector.onnx": tiny_detector()}
    path.write_bytes(zip_bytes(contents | {"tiny_classifier.onnx": tiny_classifier()}))
    return path


def test_migrate_tells_every_change_and_the_result_is_valid(tmp_path: Path) -> None:
    result = call("migrate", old_archive(tmp_path / "old.mpta", minConfidense=0.7, redis={"url": "canary"}))

    assert result.exit_code == 0, result.output
    for change in ("schemaVersion: set to 1", "pipeline.redis: dropped", "pipeline.minConfidense"):
        assert change in result.stdout
    assert "canary" not in result.output
    assert call("validate", tmp_path / "old.v1.mpta").exit_code == 0


def test_migrate_tells_what_is_left_to_be_done(tmp_path: Path) -> None:
    result = call("migrate", old_archive(tmp_path / "old.mpta", targetFps="five", modelFile="cars.pt"))

    assert result.exit_code == 2
    assert "mpta convert cars.pt" in result.stdout
    assert "pipeline.targetFps" in result.stderr
    assert (tmp_path / "old.v1.mpta").is_file()


def test_migrate_takes_a_folder_and_leaves_it_as_it_is(tmp_path: Path, folder: Path) -> None:
    document = tiny_pipeline()
    del document["schemaVersion"]
    (folder / "pipeline.json").write_text(json.dumps(document))

    assert call("migrate", folder, "--output", tmp_path / "new.mpta").exit_code == 0
    assert json.loads((folder / "pipeline.json").read_text()) == document


def test_migrate_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "old.v1.mpta").write_text("mine")

    assert call("migrate", old_archive(tmp_path / "old.mpta")).exit_code == 2
    assert (tmp_path / "old.v1.mpta").read_text() == "mine"


# convert


def test_an_onnx_file_becomes_an_ir_that_archives_take(tmp_path: Path, models: Path, folder: Path) -> None:
    result = call("convert", models / "cars v2.onnx", "--output", folder / "cars.xml")

    assert result.exit_code == 0, result.output
    (folder / "pipeline.json").write_text(json.dumps(tiny_pipeline(modelFile="cars.xml")))
    assert call("validate", folder).exit_code == 0
    again = call("convert", models / "cars v2.onnx", "--output", folder / "cars.xml")
    assert (again.exit_code, "is there already" in again.stderr) == (2, True)


@pytest.mark.parametrize(
    ("name", "options", "what"),
    [
        ("cars.pt", [], "add --allow-pickle"),
        ("cars.txt", [], "is not converted"),
        ("cars.onnx", ["--to", "onnx"], "is not converted"),
        ("cars.onnx", ["--output", "cars.bin"], "end in .xml"),
    ],
)
def test_what_cannot_be_converted_is_a_usage_error(tmp_path: Path, name: str, options: list[str], what: str) -> None:
    (tmp_path / name).write_bytes(b"x")

    result = call("convert", tmp_path / name, *options)

    assert result.exit_code == 2
    assert what in " ".join(result.stderr.split())


@pytest.mark.skipif(find_spec("ultralytics") is not None, reason="the extra is installed")
def test_a_pickle_needs_the_extra(tmp_path: Path) -> None:
    (tmp_path / "cars.pt").write_bytes(b"x")

    result = call("convert", tmp_path / "cars.pt", "--allow-pickle")

    assert isinstance(result.exception, ConfigurationError)
    assert "extra `ultralytics`" in str(result.exception)


def test_an_onnx_file_that_is_none_is_exit_2(tmp_path: Path) -> None:
    (tmp_path / "cars.onnx").write_bytes(b"x")

    assert call("convert", tmp_path / "cars.onnx").exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["cars.onnx"]


def test_schema_is_json() -> None:
    assert json.loads(call("schema").stdout)["title"] == "pipeline.json"


def test_inspect_as_json_is_one_object(tmp_path: Path) -> None:
    result = call("inspect", write_tiny_mpta(tmp_path / "a.mpta"), "--json")

    told = json.loads(result.stdout)
    assert told["detector"]["layout"] == "yolov8"
    assert [one["result"] for one in told["branches"]] == ["tiny_hue_v1.hue", "tiny_tone_v1.tone"]
    assert told["actions"][0]["fields"]["record_id"] == "{record_id}"


def test_a_picture_that_cannot_be_written_is_no_fault_of_the_archive(tmp_path: Path) -> None:
    result = call("inspect", write_tiny_mpta(tmp_path / "a.mpta"), "--svg", tmp_path / "absent" / "a.svg")

    assert isinstance(result.exception, ConfigurationError)


@pytest.mark.parametrize(
    "command", [command.callback.__name__ for command in mpta.registered_commands if command.callback]
)
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    told = " ".join(call(command, "--help").stdout.split())

    assert f"Example: detector-worker mpta {command}" in told
