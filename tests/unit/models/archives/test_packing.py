import hashlib
import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from support.http_archives import new_source

from detector_worker.core.exceptions import ModelLoadError
from detector_worker.models.archives.packing import pack_archive
from detector_worker.models.archives.signatures import new_private_key
from detector_worker.models.archives.unpacking import ArchiveLimits

FILES = {"pipeline.json": b"{}", "models/b.onnx": bytes(5000), "models/a.onnx": b"a", "samples/1.jpg": b"\xff\xd8"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pipeline"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


async def test_what_is_packed_can_be_fetched(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.mpta"

    sha256 = pack_archive(folder, target).sha256

    assert sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    with await new_source(tmp_path / "cache").fetch_path(target) as fetched:
        found = [path for path in fetched.folder.rglob("*") if path.is_file()]
        assert {path.relative_to(fetched.folder).as_posix(): path.read_bytes() for path in found} == FILES


def test_the_same_files_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    first = pack_archive(folder, tmp_path / "1.mpta")
    other = tmp_path / "elsewhere"
    for name in reversed(FILES):
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, other / name)
        os.utime(other / name, (0, 0))
        (other / name).chmod(0o755)
    (other / "empty").mkdir()

    assert pack_archive(other, tmp_path / "2.mpta") == first
    assert zipfile.ZipFile(tmp_path / "2.mpta").namelist() == sorted(FILES)


def test_an_independent_program_finds_nothing_wrong(folder: Path, tmp_path: Path) -> None:
    pack_archive(folder, tmp_path / "a.mpta")
    if (program := shutil.which("unzip")) is None:
        pytest.skip("no unzip program here")
    subprocess.run([program, "-tqq", str(tmp_path / "a.mpta")], check=True)


def test_a_target_inside_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    for target in (folder / "a.mpta", folder / "models" / "a.mpta", tmp_path / "link" / "a.mpta"):
        with pytest.raises(ModelLoadError, match="in the folder that is packed") as caught:
            pack_archive(folder, target)
        assert "--output" in str(caught.value.mend)
        assert not target.exists()


def test_what_does_not_belong_is_left_out_and_told(folder: Path, tmp_path: Path) -> None:
    others = {".env", ".git/", "models/.cache.onnx", "models/train.py", "old.mpta", "old.mpta.sig", "pictures/2.jpg"}
    others |= {"samples/notes.txt", "dump.sql"}
    for name in others:
        path = folder / name / "config.xml" if name.endswith("/") else folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"secret")
    belonging = {"README.md", "pipeline.schema.json", "models/c.xml", "models/c.bin", "d.pt", "samples/2.PNG"}
    for name in belonging:
        (folder / name).write_bytes(b"public")

    made = pack_archive(folder, tmp_path / "a.mpta")

    assert made.left_out == tuple(sorted(others))
    assert zipfile.ZipFile(tmp_path / "a.mpta").namelist() == sorted({*FILES, *belonging})


@pytest.mark.parametrize("name", ["site.key", "README.md", "models/c.bin", "pipeline.json"])
def test_a_folder_with_a_private_key_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    new_private_key(tmp_path / "site.key")
    (folder / name).write_bytes(b"# a key\n" + (tmp_path / "site.key").read_bytes())

    with pytest.raises(ModelLoadError, match=f"private key: '{name}'") as caught:
        pack_archive(folder, tmp_path / "a.mpta")

    assert (caught.value.where, bool(caught.value.mend)) == ("folder 'pipeline'", True)
    assert not (tmp_path / "a.mpta").exists()


@pytest.mark.parametrize("fault", ["link", "link to a folder", "pipe", "name", "case", "device name", "deep", "empty"])
def test_what_unpacking_would_refuse_is_refused(folder: Path, tmp_path: Path, fault: str) -> None:
    target = tmp_path / "a.mpta"
    target.write_bytes(b"before")
    if fault == "link":
        (folder / "x").symlink_to("/etc/passwd")
    elif fault == "link to a folder":
        (folder / "x").symlink_to("/etc", target_is_directory=True)
    elif fault == "pipe":
        os.mkfifo(folder / "x")
    elif fault == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    else:
        names = {"name": "a\nb.pt", "case": "PIPELINE.json", "device name": "nul.xml", "deep": "1/2/3/4/5/6/7/8/9.pt"}
        (folder / names[fault]).parent.mkdir(parents=True, exist_ok=True)
        (folder / names[fault]).write_bytes(b"x")

    with pytest.raises(ModelLoadError) as caught:
        pack_archive(folder, target)

    assert caught.value.mend
    assert target.read_bytes() == b"before"
    assert {path.name for path in tmp_path.iterdir()} == {"pipeline", "a.mpta"}


def test_limits_and_places_that_are_not_there_are_clear_errors(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="larger than 0 MiB"):
        pack_archive(folder, tmp_path / "a.mpta", ArchiveLimits(archive_bytes=1000))
    with pytest.raises(ModelLoadError, match="4 entries"):
        pack_archive(folder, tmp_path / "a.mpta", ArchiveLimits(entries=3))
    with pytest.raises(ModelLoadError, match="cannot be packed"):
        pack_archive(folder, tmp_path / "absent" / "a.mpta")
    with pytest.raises(ModelLoadError, match="cannot be packed"):
        pack_archive(tmp_path / "absent", tmp_path / "a.mpta")


def test_a_name_that_is_no_text_is_a_clear_error(folder: Path, tmp_path: Path) -> None:
    (folder / os.fsdecode(b"\xff\xfe.pt")).touch()

    with pytest.raises(ModelLoadError, match="no text"):
        pack_archive(folder, tmp_path / "a.mpta")
