"""Each fault of an RTSP camera, as a client meets it over the wire."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Final

import av
import pytest
from support.rtsp_client import RtspClient, watch
from support.tiny_clip import write_noisy_clip, write_tiny_clip
from support.waiting import wait_until

from detector_worker.simulator.clip import Clip
from detector_worker.simulator.faults import Damage
from detector_worker.simulator.rtsp_server import Fault, RtspServer, same_film

SOON_S: Final = 3.0
"""For what takes some 50 ms."""
SILENCE_S: Final = 0.7
"""Pictures come every 50 ms."""
EVERYTHING: Final = 10**9


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return Clip.load(write_tiny_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", seconds=1, fps=20).path)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return Clip.load(write_noisy_clip(tmp_path_factory.mktemp("clip") / "noise.mp4"))


@pytest.fixture
async def server(clip: Clip) -> AsyncIterator[RtspServer]:
    async with RtspServer(same_film(clip, 2)) as running:
        yield running


@pytest.fixture
async def connect(server: RtspServer) -> AsyncIterator[Callable[[], "asyncio.Future[RtspClient]"]]:
    clients: list[RtspClient] = []

    async def connected() -> RtspClient:
        clients.append(await RtspClient.connect(server.urls["cam-1"]))
        return clients[-1]

    yield lambda: asyncio.ensure_future(connected())
    for client in clients:
        client.close()


Connect = Callable[[], "asyncio.Future[RtspClient]"]


async def playing(connect: Connect) -> RtspClient:
    client = await connect()
    await client.play()
    await client.read_packet()
    return client


async def is_silent(client: RtspClient) -> bool:
    """True if, past what is on its way, nothing comes any more, and the connection stays open."""
    for _ in range(10):
        try:
            async with asyncio.timeout(SILENCE_S):
                if not await client.reader.read(EVERYTHING):
                    return False
        except TimeoutError:
            return True
    return False


async def numbers(server: RtspServer, pictures: int) -> list[int]:
    return [one.number for one in await asyncio.to_thread(watch, server.urls["cam-1"], pictures)]


async def test_a_camera_that_hangs_on_connect_answers_nothing(server: RtspServer, connect: Connect) -> None:
    server.set_fault("cam-1", Fault.HANG_CONNECT)
    client = await connect()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SILENCE_S):
            await client.ask("OPTIONS")
    assert server.connected("cam-1") == 1


@pytest.mark.parametrize("fault", [Fault.HANG_CONNECT, Fault.HANG_PLAY])
async def test_a_camera_that_hangs_lets_its_viewers_wait(server: RtspServer, connect: Connect, fault: Fault) -> None:
    client = await playing(connect)

    server.set_fault("cam-1", fault)

    assert await is_silent(client)


async def test_a_camera_that_hangs_on_play_answers_it_and_sends_nothing(server: RtspServer, connect: Connect) -> None:
    server.set_fault("cam-1", Fault.HANG_PLAY)
    client = await connect()
    await client.play()

    assert await is_silent(client)
    assert (await client.ask("GET_PARAMETER"))[0] == 200


async def test_a_viewer_whose_camera_hung_gets_a_key_frame_first(server: RtspServer, connect: Connect) -> None:
    client = await playing(connect)
    server.set_fault("cam-1", Fault.HANG_PLAY)
    assert await is_silent(client)
    known = len(server.sent("cam-1"))

    server.set_fault("cam-1", None)
    await client.read_packet()

    assert server.sent("cam-1")[known].film_s % 0.5 == pytest.approx(0)  # a key frame every ten pictures


async def test_a_running_connection_drips(server: RtspServer, connect: Connect) -> None:
    client = await playing(connect)
    server.set_fault("cam-1", Fault.DRIP)
    await asyncio.sleep(0.1)
    await client.reader.read(EVERYTHING)

    began_s = time.monotonic()
    got = [await client.reader.read(EVERYTHING) for _ in range(4)]

    assert [len(one) for one in got] == [1, 1, 1, 1]
    assert time.monotonic() - began_s > 1.4


async def test_a_new_connection_drips_after_play(server: RtspServer, connect: Connect) -> None:
    server.set_fault("cam-1", Fault.DRIP)
    client = await connect()
    await client.play()

    async with asyncio.timeout(SOON_S):
        assert [await client.reader.read(EVERYTHING) for _ in range(3)] == [b"$", b"\x01", b"\x00"]


async def test_what_dripped_is_whole_once_the_fault_is_taken_back(server: RtspServer, connect: Connect) -> None:
    server.set_fault("cam-1", Fault.DRIP)
    client = await connect()
    await client.play()
    assert await client.reader.readexactly(1) == b"$"

    server.set_fault("cam-1", None)

    rest = await client.reader.readexactly(3)
    await client.reader.readexactly(int.from_bytes(rest[1:], "big"))
    async with asyncio.timeout(SOON_S):
        assert [(await client.read_packet())[0] for _ in range(3)] == [0, 0, 0]


async def test_a_running_connection_is_reset(server: RtspServer, connect: Connect) -> None:
    client = await playing(connect)
    server.set_fault("cam-1", Fault.RESET)

    async with asyncio.timeout(SOON_S):
        with pytest.raises(ConnectionResetError):
            await client.read_to_the_end()


async def test_a_new_connection_is_reset_a_second_after_play(server: RtspServer, connect: Connect) -> None:
    server.set_fault("cam-1", Fault.RESET)
    client = await playing(connect)
    began_s = time.monotonic()

    async with asyncio.timeout(SOON_S):
        with pytest.raises(ConnectionResetError):
            await client.read_to_the_end()
    assert time.monotonic() - began_s > 0.9


async def last_packets(client: RtspClient) -> list[tuple[int, bytes]]:
    """Read to an orderly end."""
    packets: list[tuple[int, bytes]] = []
    with suppress(asyncio.IncompleteReadError):
        while True:
            packets.append(await client.read_packet())
    return packets


async def test_a_running_stream_ends_with_bye_and_an_orderly_close(server: RtspServer, connect: Connect) -> None:
    client = await playing(connect)
    server.set_fault("cam-1", Fault.END)

    async with asyncio.timeout(SOON_S):
        *_, (channel, farewell) = await last_packets(client)
    assert (channel, farewell[-7]) == (1, 203)


async def test_a_new_stream_ends_a_second_after_play(server: RtspServer) -> None:
    server.set_fault("cam-1", Fault.END)

    seen = await numbers(server, EVERYTHING)

    assert seen[:15] == list(range(15))
    assert len(seen) < 30


async def test_an_unauthorized_viewer_gets_401_whatever_he_sends(server: RtspServer, connect: Connect) -> None:
    server.set_fault("cam-1", Fault.UNAUTHORIZED)
    client = await connect()

    for method in ("OPTIONS", "DESCRIBE", "PLAY"):
        status, head = await client.ask(method, Authorization="Basic bWU6aXQ=")
        assert status == 401
        assert "WWW-Authenticate: Digest" in head


async def test_ffmpeg_calls_it_unauthorized_with_a_password_too(server: RtspServer) -> None:
    server.set_fault("cam-1", Fault.UNAUTHORIZED)
    url = server.urls["cam-1"].replace("://", "://me:it@")

    with pytest.raises(av.HTTPUnauthorizedError):
        await asyncio.to_thread(watch, url, 1)


async def test_a_camera_that_is_not_found_gives_404(server: RtspServer, connect: Connect) -> None:
    server.set_fault("cam-1", Fault.NOT_FOUND)
    client = await connect()

    assert [(await client.ask(method))[0] for method in ("OPTIONS", "DESCRIBE", "SETUP")] == [404] * 3


def tracks(url: str) -> list[tuple[str, str]]:
    with av.open(url, options={"rtsp_transport": "tcp"}, timeout=(5, 5)) as container:
        packet = next(container.demux())
        assert packet.size == 160
        return [(stream.type, stream.codec_context.name) for stream in container.streams]


async def test_a_camera_with_sound_alone_sends_sound(server: RtspServer) -> None:
    server.set_fault("cam-1", Fault.AUDIO_ONLY)

    assert await asyncio.to_thread(tracks, server.urls["cam-1"]) == [("audio", "pcm_mulaw")]


async def rtp_packets(clip: Clip, fault: Fault | None, count: int) -> list[bytes]:
    """Return a camera's first packets of video, with a fault from the start."""
    async with RtspServer(same_film(clip)) as server:
        server.set_fault("cam-1", fault)
        client = await RtspClient.connect(server.urls["cam-1"])
        await client.play()
        packets: list[bytes] = []
        while len(packets) < count:
            channel, packet = await client.read_packet()
            if channel == 0:
                packets.append(packet)
        client.close()
    return packets


def numbered(packets: list[bytes]) -> dict[int, bytes]:
    """Return what packets carry, by their number in the stream."""
    first = int.from_bytes(packets[0][2:4], "big")
    return {(int.from_bytes(packet[2:4], "big") - first) % 2**16: packet[12:] for packet in packets}


async def test_a_corrupting_camera_overwrites_bytes_in_the_same_packets_each_time(noise: Clip) -> None:
    sound, hit, again = [
        numbered(await rtp_packets(noise, fault, 2000)) for fault in (None, Fault.CORRUPT, Fault.CORRUPT)
    ]

    assert hit == again
    assert list(hit) == list(sound)
    differing = [number for number in sound if sound[number] != hit[number]]
    assert 4 <= len(differing) <= 20  # ten of 2000
    for number in differing:
        assert len(hit[number]) == len(sound[number])
        places = [at for at, (is_, was) in enumerate(zip(hit[number], sound[number], strict=True)) if is_ != was]
        assert max(places) - min(places) < 16


async def test_a_losing_camera_leaves_gaps_in_the_numbers(noise: Clip) -> None:
    sound, left = [numbered(await rtp_packets(noise, fault, 2000)) for fault in (None, Fault.LOSS)]

    lost = sound.keys() - left.keys()
    assert 4 <= len(lost) <= 20
    assert all(sound[number] == left[number] for number in sound.keys() & left.keys())


def test_damage_of_another_seed_hits_elsewhere() -> None:
    payloads = [bytes(100)] * 2000

    assert list(Damage("cam-1").corrupt(payloads)) != list(Damage("cam-2").corrupt(payloads))


async def test_a_frozen_camera_repeats_its_key_frame_as_time_goes_on(server: RtspServer) -> None:
    watching = asyncio.create_task(asyncio.to_thread(watch, server.urls["cam-1"], 40))
    await wait_until(lambda: len(server.sent("cam-1")) >= 15)
    server.set_fault("cam-1", Fault.FREEZE)
    await wait_until(lambda: len(server.sent("cam-1")) >= 32)
    server.set_fault("cam-1", None)
    seen = await watching

    shown = [picture.number for picture in seen]
    begin = next(index for index, (before, after) in enumerate(pairwise(shown), 1) if after == 10 != before + 1)
    end = next(index for index in range(begin, len(shown)) if shown[index] != 10)
    assert end - begin >= 15
    assert shown[end] in {0, 11}  # a key frame of the film; where it is 10 itself, it is not told apart
    assert shown[end:] == [(shown[end] + index) % 20 for index in range(len(shown) - end)]
    stamps = [picture.pts for picture in seen if picture.pts is not None]
    assert stamps == sorted(stamps)
    assert {after - before for before, after in pairwise(stamps[: end - 1])} == {4500}
    assert not any(picture.is_corrupt for picture in seen)


async def test_the_log_of_a_frozen_camera_tells_the_frozen_moment(server: RtspServer, connect: Connect) -> None:
    server.set_fault("cam-1", Fault.FREEZE)
    await playing(connect)
    await wait_until(lambda: len(server.sent("cam-1")) >= 5)

    assert {picture.film_s for picture in server.sent("cam-1")} == {0.0}


async def test_time_runs_backwards_again_and_again_while_pictures_go_on(server: RtspServer) -> None:
    server.set_fault("cam-1", Fault.BACKWARDS)
    seen = await asyncio.to_thread(watch, server.urls["cam-1"], 90)

    assert [picture.number for picture in seen] == [index % 20 for index in range(90)]
    steps = [after.pts - before.pts for before, after in pairwise(seen) if before.pts is not None and after.pts]
    assert [step for step in steps if step != 4500] == [4500 - 900_000] * 2


def report_clock(report: bytes) -> float:
    return int.from_bytes(report[8:12], "big") + int.from_bytes(report[12:16], "big") / 2**32 - 2_208_988_800


async def next_report(client: RtspClient) -> float:
    """Return by how much the camera's clock is ahead."""
    async with asyncio.timeout(SOON_S):
        while True:
            channel, packet = await client.read_packet()
            if channel == 1:
                return report_clock(packet) - time.time()


async def test_the_clock_of_a_playing_camera_jumps_by_an_hour(server: RtspServer, connect: Connect) -> None:
    client = await connect()
    await client.play()
    before_s = await next_report(client)
    server.set_fault("cam-1", Fault.CLOCK_JUMP)
    after_s = await next_report(client)

    assert before_s == pytest.approx(0, abs=0.5)
    assert after_s == pytest.approx(3600, abs=0.5)
    assert (await client.read_packet())[0] == 0


async def test_a_camera_may_have_a_wrong_clock(server: RtspServer, connect: Connect) -> None:
    server.set_clock_offset("cam-1", -90.0)
    client = await connect()
    await client.play()

    assert await next_report(client) == pytest.approx(-90, abs=0.5)


@pytest.mark.parametrize("fault", list(Fault))
async def test_a_camera_is_sound_at_once_when_its_fault_is_taken_back(
    server: RtspServer, connect: Connect, fault: Fault
) -> None:
    running = await playing(connect)
    server.set_fault("cam-1", fault)
    await asyncio.sleep(0.2)
    server.set_fault("cam-1", None)
    seen = await numbers(server, 15)

    assert seen == [(seen[0] + index) % 20 for index in range(15)]
    running.close()


@pytest.mark.parametrize("fault", list(Fault))
async def test_the_fault_of_a_camera_leaves_another_alone(server: RtspServer, connect: Connect, fault: Fault) -> None:
    server.set_fault("cam-1", fault)
    await connect()
    seen = await asyncio.to_thread(watch, server.urls["cam-2"], 15)

    assert [picture.number for picture in seen] == list(range(15))


async def test_a_running_connection_goes_over_to_another_clip_at_its_first_key_frame(
    server: RtspServer, tmp_path: Path
) -> None:
    other = Clip.load(write_tiny_clip(tmp_path / "other.mp4", seconds=1, fps=20, wh=(480, 320)).path)
    watching = asyncio.create_task(asyncio.to_thread(watch, server.urls["cam-1"], 40))
    await wait_until(lambda: len(server.sent("cam-1")) >= 15)
    server.switch_clip("cam-1", other)
    seen = await watching

    sizes = [picture.wh for picture in seen]
    first = sizes.index((480, 320))
    assert 14 <= first <= 18
    assert set(sizes[:first]) == {(640, 384)}
    assert [picture.number for picture in seen[first:]] == [index % 20 for index in range(40 - first)]
    stamps = [picture.pts for picture in seen if picture.pts is not None]
    assert all(0 < after - before <= 9000 for before, after in pairwise(stamps))
    moments = [picture.film_s for picture in server.sent("cam-1")]
    assert moments == sorted(moments)


async def test_a_clip_of_another_codec_cannot_take_over(server: RtspServer, tmp_path: Path) -> None:
    other = Clip.load(write_tiny_clip(tmp_path / "other.mp4", seconds=1, codec="libx265").path)

    with pytest.raises(ValueError, match="hevc"):
        server.switch_clip("cam-1", other)
