import asyncio
import hashlib
import json
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from support.descriptors import open_descriptors
from support.http_archives import ArchiveServer, new_source, serving, unpacked
from support.tiny_models import zip_bytes
from support.waiting import wait_until

from detector_worker.core.exceptions import ModelLoadError

ONE = zip_bytes({"pipeline.json": b"{}", "a.onnx": bytes(1000)})
TWO = zip_bytes({"pipeline.json": b"{ }", "a.onnx": bytes(1000)})


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest_asyncio.fixture
async def server() -> AsyncIterator[ArchiveServer]:
    async with serving() as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


async def test_an_archive_is_fetched_and_unpacked_under_its_hash(server: ArchiveServer, cache: Path) -> None:
    server.put("/a.mpta", ONE)

    with await new_source(cache).fetch(server.url("/a.mpta?token=canary")) as fetched:
        assert fetched.folder == cache / fetched.sha256
        assert fetched.sha256 == sha256(ONE)
        assert (fetched.folder / "pipeline.json").read_bytes() == b"{}"
        assert (fetched.warnings, fetched.where) == ((), "archive 'a.mpta'")
    assert unpacked(cache) == {fetched.sha256}
    assert "canary" not in everything_below(cache)


def everything_below(folder: Path) -> str:
    """The names and contents of all files."""
    return " ".join(f"{path} {path.read_bytes()!r}" for path in folder.rglob("*") if path.is_file())


# Many at once


async def test_fifty_at_once_make_one_request(server: ArchiveServer, cache: Path) -> None:
    server.put("/a.mpta", ONE).delay_s = 0.2
    source, url = new_source(cache), server.url("/a.mpta")

    fetched = await asyncio.gather(*(source.fetch(url) for _ in range(50)))

    assert server.asked("/a.mpta") == 1
    assert {one.sha256 for one in fetched} == {sha256(ONE)}
    for one in fetched:
        assert [name for name in open_descriptors() if name.startswith(str(cache))]
        one.close()
        one.close()
    assert not [name for name in open_descriptors() if name.startswith(str(cache))]


async def test_a_failure_is_told_to_all_and_not_kept(server: ArchiveServer, cache: Path) -> None:
    server.put("/a.mpta", ONE).status = 404
    server.files["/a.mpta"].delay_s = 0.1
    source, url = new_source(cache), server.url("/a.mpta")

    told = await asyncio.gather(*(source.fetch(url) for _ in range(5)), return_exceptions=True)

    assert all(isinstance(one, ModelLoadError) for one in told)
    assert server.asked("/a.mpta") == 1
    server.files["/a.mpta"].status = 200
    (await source.fetch(url)).close()


@pytest.mark.parametrize("cancelled", [0, 1])
async def test_who_is_cancelled_takes_no_other_along(server: ArchiveServer, cache: Path, cancelled: int) -> None:
    server.put("/a.mpta", ONE).delay_s = 0.3
    source, url = new_source(cache), server.url("/a.mpta")
    waiters = [asyncio.create_task(source.fetch(url)) for _ in range(3)]
    await wait_until(lambda: server.requests)

    waiters[cancelled].cancel()

    told = await asyncio.gather(*waiters, return_exceptions=True)
    assert isinstance(told.pop(cancelled), asyncio.CancelledError)
    for one in told:
        assert not isinstance(one, BaseException)
        one.close()
    assert server.asked("/a.mpta") == 1


async def test_when_nobody_waits_any_more_the_download_ends(server: ArchiveServer, cache: Path) -> None:
    server.put("/a.mpta", b"").endless = bytes(1000)
    server.files["/a.mpta"].pause_s = 0.01
    waiter = asyncio.create_task(new_source(cache, download_timeout_s=60).fetch(server.url("/a.mpta")))
    await wait_until(lambda: server.sent_bytes)

    waiter.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert unpacked(cache) == set()
    await wait_until(lambda: len(asyncio.all_tasks()) == 1)


# What was fetched before


async def test_an_unchanged_archive_is_not_sent_again(server: ArchiveServer, cache: Path) -> None:
    server.put("/a.mpta", ONE, etag='"one"')
    for _ in range(3):
        with await new_source(cache).fetch(server.url("/a.mpta")) as fetched:
            assert fetched.sha256 == sha256(ONE)

    assert server.answers == [200, 304, 304]
    assert server.sent_bytes == len(ONE)


async def test_a_changed_archive_is_taken_and_the_old_one_stays_as_long_as_it_is_held(
    server: ArchiveServer, cache: Path
) -> None:
    source, url = new_source(cache, cache_budget_bytes=1), server.url("/a.mpta")
    server.put("/a.mpta", ONE, etag='"one"')
    first = await source.fetch(url)
    server.put("/a.mpta", TWO, etag='"two"')

    second = await source.fetch(url)

    assert (first.sha256, second.sha256) == (sha256(ONE), sha256(TWO))
    assert unpacked(cache) == {first.sha256, second.sha256}
    first.close()
    second.close()


async def test_weak_tags_are_given_back_as_they_are(server: ArchiveServer, cache: Path) -> None:
    server.put("/a.mpta", ONE, etag='W/"one"')
    for _ in range(2):
        (await new_source(cache).fetch(server.url("/a.mpta"))).close()

    assert server.answers == [200, 304]
    assert server.requests[1].headers["If-None-Match"] == 'W/"one"'


async def test_a_server_that_knows_dates_alone_is_asked_by_date(server: ArchiveServer, cache: Path) -> None:
    server.put("/a.mpta", ONE).modified_at = 1_700_000_000
    for _ in range(2):
        (await new_source(cache).fetch(server.url("/a.mpta"))).close()
    server.files["/a.mpta"].modified_at = 1_700_000_100
    server.files["/a.mpta"].content = TWO

    with await new_source(cache).fetch(server.url("/a.mpta")) as fetched:
        assert fetched.sha256 == sha256(TWO)
    assert server.answers == [200, 304, 200]


async def test_a_server_that_tells_neither_is_compared_by_downloading(server: ArchiveServer, cache: Path) -> None:
    server.put("/a.mpta", ONE)
    source, url = new_source(cache), server.url("/a.mpta")
    (await source.fetch(url)).close()
    marker = cache / sha256(ONE) / "marker"
    marker.touch()

    (await source.fetch(url)).close()

    assert server.answers == [200, 200]
    assert marker.exists()  # found there, not unpacked again


async def test_an_unasked_for_not_modified_is_an_error(server: ArchiveServer, cache: Path) -> None:
    server.put("/a.mpta", ONE).status = 304

    with pytest.raises(ModelLoadError, match="answered 304"):
        await new_source(cache).fetch(server.url("/a.mpta"))


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"sha256": "../../x"}', '{"sha256": 5}', '{"etag": "a\\r\\nX: y"}', "\0" * 100]
)
async def test_a_damaged_note_is_as_good_as_none(server: ArchiveServer, cache: Path, damage: str) -> None:
    server.put("/a.mpta", ONE, etag='"one"')
    (await new_source(cache).fetch(server.url("/a.mpta"))).close()
    [note] = (cache / "sources").glob("*.json")
    note.write_text(json.dumps(json.loads(note.read_text()) | json.loads(damage)) if damage[:2] == '{"' else damage)

    (await new_source(cache).fetch(server.url("/a.mpta"))).close()

    assert server.answers == [200, 200]


async def test_an_odd_tag_is_not_kept(server: ArchiveServer, cache: Path) -> None:
    server.put("/a.mpta", ONE, etag='"' + "x" * 2000 + '"')
    for _ in range(2):
        (await new_source(cache).fetch(server.url("/a.mpta"))).close()

    assert server.answers == [200, 200]


async def test_a_removed_folder_is_downloaded_anew(server: ArchiveServer, cache: Path) -> None:
    server.put("/a.mpta", ONE, etag='"one"')
    (await new_source(cache).fetch(server.url("/a.mpta"))).close()
    (cache / sha256(ONE)).rename(cache.parent / "elsewhere")

    with await new_source(cache).fetch(server.url("/a.mpta")) as fetched:
        assert (fetched.folder / "pipeline.json").is_file()
    assert server.answers == [200, 200]


# Servers that cannot answer


@pytest.mark.parametrize("fault", ["503", "429", "slow", "cut"])
async def test_a_server_that_cannot_answer_leaves_what_it_gave_before(
    server: ArchiveServer, cache: Path, fault: str
) -> None:
    source, url = new_source(cache, download_timeout_s=0.5), server.url("/a.mpta?token=canary")
    server.put("/a.mpta", ONE, etag='"one"')
    (await source.fetch(url)).close()
    served = server.put("/a.mpta", TWO, etag='"two"')
    if fault == "slow":
        served.delay_s = 2
    elif fault == "cut":
        served.claimed_bytes = len(TWO) + 1000
    else:
        served.status = int(fault)

    with await source.fetch(url) as fetched:
        assert fetched.sha256 == sha256(ONE)
    [warning] = fetched.warnings
    assert "the copy of 20" in warning
    assert "canary" not in warning
    with pytest.raises(ModelLoadError):  # from exactly this address only
        await source.fetch(server.url("/a.mpta?token=other"))


async def test_a_server_that_is_gone_leaves_what_it_gave_before(cache: Path) -> None:
    source = new_source(cache)
    async with serving() as server:
        server.put("/a.mpta", ONE)
        url = server.url("/a.mpta")
        (await source.fetch(url)).close()

    with await source.fetch(url) as fetched:
        assert "cannot be downloaded" in fetched.warnings[0]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_a_server_that_says_no_is_believed(server: ArchiveServer, cache: Path, status: int) -> None:
    source, url = new_source(cache), server.url("/a.mpta")
    server.put("/a.mpta", ONE, etag='"one"')
    (await source.fetch(url)).close()
    server.files["/a.mpta"].status = status

    with pytest.raises(ModelLoadError, match=f"answered {status}"):
        await source.fetch(url)


async def test_a_broken_new_archive_is_an_error_and_the_note_stays(server: ArchiveServer, cache: Path) -> None:
    source, url = new_source(cache), server.url("/a.mpta")
    server.put("/a.mpta", ONE, etag='"one"')
    (await source.fetch(url)).close()
    server.put("/a.mpta", ONE[:-5], etag='"two"')

    with pytest.raises(ModelLoadError, match="no ZIP"):
        await source.fetch(url)
    server.put("/a.mpta", ONE, etag='"one"')
    (await source.fetch(url)).close()
    assert server.answers == [200, 200, 304]


# Several processes

CHILD = """
    import asyncio, sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[3])
    from support.http_archives import new_source

    async def main():
        source = new_source(Path(sys.argv[2]), download_timeout_s=20)
        sys.stdin.readline()
        with await source.fetch(sys.argv[1]) as fetched:
            print(fetched.sha256, flush=True)
            await asyncio.to_thread(sys.stdin.readline)

    asyncio.run(main())
"""


def _child(url: str, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(CHILD), url, str(cache), str(Path(__file__).parents[3])]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


async def test_processes_share_one_download_and_none_prunes_what_another_holds(
    server: ArchiveServer, cache: Path
) -> None:
    server.put("/a.mpta", ONE, etag='"one"').delay_s = 0.3
    children = [_child(server.url("/a.mpta"), cache) for _ in range(2)]
    try:
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        told = [await asyncio.to_thread(child.stdout.readline) for child in children if child.stdout]
        assert [line.strip() for line in told] == [sha256(ONE)] * 2
        assert sorted(server.answers) == [200, 304]

        server.put("/b.mpta", TWO)
        mine = new_source(cache, cache_budget_bytes=1)
        (await mine.fetch(server.url("/b.mpta"))).close()
        assert unpacked(cache) == {sha256(ONE), sha256(TWO)}
    finally:
        for child in children:
            child.kill()
            child.communicate()
    server.put("/c.mpta", zip_bytes({"c": b""}))
    with await mine.fetch(server.url("/c.mpta")) as fetched:  # the system gave back what the killed ones held
        assert unpacked(cache) == {fetched.sha256}
