"""The server over a plain socket; what FFmpeg makes of it is tested in tests/integration/streams."""

import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest
from support.cameras import wait_until
from support.rtsp_client import RtspClient
from support.tiny_clip import write_noisy_clip, write_tiny_clip

from detector_worker.core.exceptions import ServiceError
from detector_worker.simulator.clip import Clip
from detector_worker.simulator.rtsp_server import Fault, RtspServer, SentPicture, same_film


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return Clip.load(write_tiny_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", seconds=1, fps=20).path)


@pytest.fixture
async def server(clip: Clip) -> AsyncIterator[RtspServer]:
    async with RtspServer(same_film(clip, 2)) as running:
        yield running


@pytest.fixture
async def client(server: RtspServer) -> AsyncIterator[RtspClient]:
    connected = await RtspClient.connect(server.urls["cam-1"])
    yield connected
    connected.close()


async def test_udp_is_refused_with_461(client: RtspClient) -> None:
    status, _ = await client.ask("SETUP", "/trackID=0", Transport="RTP/AVP;unicast;client_port=5000-5001")

    assert status == 461


async def test_a_camera_that_does_not_exist_is_404(server: RtspServer) -> None:
    client = await RtspClient.connect(server.urls["cam-1"].replace("cam-1", "cam-9"))

    assert (await client.ask("DESCRIBE"))[0] == 404
    client.close()


async def test_a_sender_report_comes_before_the_first_picture(client: RtspClient) -> None:
    await client.play()
    (channel, report), (next_channel, _) = await client.read_packet(), await client.read_packet()

    assert (channel, report[1], next_channel) == (1, 200, 0)


async def test_reports_of_the_client_are_skipped(client: RtspClient) -> None:
    client.writer.write(b"$\x01\x00\x08" + bytes(8))

    assert (await client.ask("OPTIONS"))[0] == 200


async def test_keep_alive_is_answered(client: RtspClient) -> None:
    assert (await client.ask("GET_PARAMETER"))[0] == 200


async def test_play_without_setup_is_refused(client: RtspClient) -> None:
    assert (await client.ask("PLAY"))[0] == 454


@pytest.mark.parametrize(
    "hostile", [b"\0\r\n\r\n", b"x" * 200_000, b"GET\r\n\r\n", b"A B C\r\nContent-Length: x\r\n\r\n"]
)
async def test_who_does_not_speak_rtsp_is_dropped(client: RtspClient, hostile: bytes) -> None:
    client.writer.write(hostile)

    with pytest.raises((EOFError, ConnectionError)):
        await client.reader.readexactly(1)


async def test_pictures_follow_each_other_over_the_end_of_the_clip(client: RtspClient) -> None:
    await client.play()
    stamps: list[int] = []
    sequence: list[int] = []
    while len(stamps) < 30:  # the clip has 20
        channel, packet = await client.read_packet()
        if channel == 0:
            sequence.append(int.from_bytes(packet[2:4], "big"))
            if packet[1] & 0x80:
                stamps.append(int.from_bytes(packet[4:8], "big"))

    assert {(after - before) % 2**32 for before, after in pairwise(stamps)} == {4500}
    assert {(after - before) % 2**16 for before, after in pairwise(sequence)} == {1}


async def test_a_refusing_camera_resets_its_clients_and_leaves_the_others_alone(
    server: RtspServer, client: RtspClient
) -> None:
    other = await RtspClient.connect(server.urls["cam-2"])
    await client.play()
    await other.play()

    server.set_fault("cam-1", Fault.REFUSE)

    with pytest.raises((EOFError, ConnectionError)):
        await client.read_to_the_end()
    again = await RtspClient.connect(server.urls["cam-1"])
    with pytest.raises((EOFError, ConnectionError)):
        await again.ask("DESCRIBE")
    await other.read_packet()
    assert (server.connected("cam-1"), server.connected("cam-2")) == (0, 1)
    other.close()
    again.close()


async def test_a_camera_answers_again_when_the_fault_is_cleared(server: RtspServer) -> None:
    server.set_fault("cam-1", Fault.REFUSE)
    server.set_fault("cam-1", None)
    client = await RtspClient.connect(server.urls["cam-1"])

    assert (await client.ask("DESCRIBE"))[0] == 200
    client.close()


async def test_what_was_sent_is_told_and_counts_on_through_the_rounds(server: RtspServer, client: RtspClient) -> None:
    before_s = time.time()
    await client.play()
    await wait_until(lambda: len(server.sent("cam-1")) >= 25, timeout_s=5)  # the clip has 20
    sent = server.sent("cam-1")

    assert server.sent("cam-2") == ()
    assert [picture.film_s for picture in sent] == pytest.approx([number / 20 for number in range(len(sent))])
    lags_s = [picture.utc_s - before_s - picture.film_s for picture in sent]
    assert all(0 <= lag_s < 0.5 for lag_s in lags_s)


async def test_who_joins_in_a_later_round_is_sent_that_round(server: RtspServer, client: RtspClient) -> None:
    await client.play()
    await wait_until(lambda: len(server.sent("cam-1")) >= 22, timeout_s=5)
    client.close()
    await wait_until(lambda: server.connected("cam-1") == 0, timeout_s=5)
    left_at_s = server.sent("cam-1")[-1].film_s
    known = len(server.sent("cam-1"))

    late = await RtspClient.connect(server.urls["cam-1"])
    await late.play()
    await wait_until(lambda: len(server.sent("cam-1")) > known, timeout_s=5)

    joined_at_s = server.sent("cam-1")[known].film_s
    assert joined_at_s == pytest.approx(1.0)  # the key frame of the second round
    assert joined_at_s <= left_at_s
    late.close()


async def test_only_the_newest_pictures_are_remembered(server: RtspServer) -> None:
    for second in range(7000):
        server.screen("cam-1").note_sent(SentPicture(float(second), float(second)))

    assert [picture.film_s for picture in server.sent("cam-1")] == [float(second) for second in range(1000, 7000)]


async def test_a_camera_can_be_added_while_the_server_runs(server: RtspServer, tmp_path: Path) -> None:
    clip = Clip.load(write_tiny_clip(tmp_path / "other.mp4", seconds=1, fps=5).path)
    url = server.add_camera("north-gate", clip)
    client = await RtspClient.connect(url)
    await client.play()
    await client.read_packet()

    assert server.connected("north-gate") == 1
    client.close()


async def test_a_camera_cannot_be_added_twice(server: RtspServer, clip: Clip) -> None:
    with pytest.raises(ValueError, match="cam-1"):
        server.add_camera("cam-1", clip)


async def test_each_camera_shows_its_own_film(clip: Clip, tmp_path: Path) -> None:
    other = Clip.load(write_tiny_clip(tmp_path / "other.mp4", seconds=1, fps=5).path)
    async with RtspServer({"fast": clip, "slow": other}) as server:
        clients = [await RtspClient.connect(server.urls[camera_id]) for camera_id in ("fast", "slow")]
        for client in clients:
            await client.play()
        await wait_until(lambda: len(server.sent("slow")) >= 3, timeout_s=5)

        gaps_s = [server.sent(one)[1].film_s - server.sent(one)[0].film_s for one in ("fast", "slow")]
        assert gaps_s == pytest.approx([0.05, 0.2])
        for client in clients:
            client.close()


async def test_a_busy_port_is_told(clip: Clip, server: RtspServer) -> None:
    with pytest.raises(ServiceError, match=str(server.port)):
        async with RtspServer(same_film(clip), port=server.port):
            pass


async def test_a_client_that_does_not_read_is_dropped(tmp_path: Path) -> None:
    # A film of noise, 2 MB and more: the kernel's buffers fill within seconds.
    clip = Clip.load(write_noisy_clip(tmp_path / "noise.mp4"))
    async with RtspServer(same_film(clip)) as server:
        client = await RtspClient.connect(server.urls["cam-1"])
        await client.play()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]

        await wait_until(lambda: server.connected("cam-1") == 0, timeout_s=10)
        client.close()
