import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector_worker.streams.rtsp_handshake import Handshake, NotRtspError, RedirectedError

_OPTIONS = b"OPTIONS rtsp://127.0.0.1/x RTSP/1.0\r\nCSeq: 1\r\n\r\n"
_SETUP = b"SETUP rtsp://127.0.0.1/x/0 RTSP/1.0\r\nCSeq: 2\r\n\r\n"
_PLAY = b"PLAY rtsp://127.0.0.1/x RTSP/1.0\r\nCSeq: 3\r\n\r\n"
_OK = b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n"


def _asked(*requests: bytes) -> Handshake:
    handshake = Handshake("10.0.0.5")
    for request in requests:
        assert handshake.requests(request) == request
    return handshake


def test_an_answer_passes_with_its_fields_and_its_body() -> None:
    handshake = _asked(_OPTIONS)
    answer = _OK + b"Content-Type: application/sdp\r\nContent-Length: 5\r\n\r\nv=0\r\n"

    assert handshake.answers(answer) == answer
    assert handshake.status == 200


def test_a_request_passes_only_as_a_whole() -> None:
    handshake = Handshake("10.0.0.5")

    assert handshake.requests(_OPTIONS[:9]) == b""
    assert handshake.requests(_OPTIONS[9:]) == _OPTIONS


@given(st.data())
def test_it_makes_no_difference_where_what_comes_is_cut(data: st.DataObject) -> None:
    packet, described, media = b"$\0\0\x03a\n\n", _OK + b"Content-Length: 4\r\n\r\n\r\n\r\n", b"$\0\0\x01bRTSP/1.0 302"
    whole = packet + b"\r\n" + described + _OK + b"\r\n" + media
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)))))
    handshake = _asked(_OPTIONS, _PLAY)
    parts = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]

    passed = b"".join(handshake.answers(part) for part in parts)
    assert passed == packet + described + _OK + b"\r\n" + media


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r\r\n"])
@pytest.mark.parametrize("status", [300, 301, 302, 303, 305, 399])
def test_a_redirect_is_never_passed_however_its_lines_end(status: int, end: bytes) -> None:
    handshake = _asked(_OPTIONS)
    lines = [f"RTSP/1.0 {status} Moved".encode(), b"lOcAtIoN :  rtsp://elsewhere/x ", b"", b""]
    with pytest.raises(RedirectedError) as caught:
        handshake.answers(end.join(lines))

    assert caught.value.location == "rtsp://elsewhere/x"


def test_a_redirect_in_single_bytes_is_never_passed() -> None:
    *before, last = b"RTSP/1.0 301 Moved\r\nLocation: rtsp://elsewhere/x\r\n\r\n"
    handshake = _asked(_OPTIONS)

    assert [handshake.answers(bytes([byte])) for byte in before] == [b""] * len(before)
    with pytest.raises(RedirectedError):
        handshake.answers(bytes([last]))


def test_an_answer_that_nobody_asked_for_is_dropped() -> None:
    handshake = _asked(_OPTIONS)
    first = handshake.answers(_OK + b"\r\n" + b"RTSP/1.0 302 Moved\r\nLocation: rtsp://elsewhere/\r\n\r\n")

    assert first == _OK + b"\r\n"
    handshake.requests(_PLAY)
    with pytest.raises(RedirectedError):
        handshake.answers(b"RTSP/1.0 302 Moved\r\n\r\n")


def test_the_camera_s_own_requests_are_dropped() -> None:
    handshake = _asked(_OPTIONS)

    assert handshake.answers(b"REDIRECT rtsp://x/ RTSP/1.0\r\nLocation: rtsp://elsewhere/\r\n\r\n" + _OK + b"\r\n") == (
        _OK + b"\r\n"
    )


def test_location_is_not_passed_in_any_answer() -> None:
    assert b"elsewhere" not in _asked(_OPTIONS).answers(_OK + b"Location: rtsp://elsewhere/\r\n\r\n")


@pytest.mark.parametrize(
    "transport",
    [
        "RTP/AVP;unicast;client_port=5000-5001;source=10.0.0.9;server_port=6000-6001",
        "RTP/AVP; source=10.0.0.9 ;unicast;client_port=5000-5001;server_port=6000-6001;ssrc=1",
        "RTP/AVP;unicast;client_port=5000-5001;server_port=6000-6001",
        "RTP/AVP;multicast;destination=239.0.0.1;unicast;client_port=5000-5001;server_port=6000-6001",
        "RTP/AVP;unicast;client_port=5000-5001;server_port=6000-6001,RTP/AVP;source=10.0.0.9",
        "RTP/AVP;\x00source=10.0.0.9;unicast;client_port=5000-5001;server_port=6000-6001",
    ],
)
def test_udp_comes_from_the_camera_itself(transport: str) -> None:
    passed = _asked(_SETUP).answers(_OK + f"TRANSPORT: {transport}\r\n\r\n".encode())

    expected = b"RTP/AVP;source=10.0.0.5;unicast;client_port=5000-5001;server_port=6000-6001"
    assert passed == _OK + b"TRANSPORT: " + expected + b"\r\n\r\n"


def test_after_play_everything_passes_unchanged() -> None:
    handshake = _asked(_SETUP, _PLAY)
    handshake.answers(_OK + b"\r\n" + _OK + b"\r\n")

    assert handshake.is_over
    assert handshake.answers(b"anything") == b"anything"
    assert handshake.requests(b"GET_PARAM") == b"GET_PARAM"


def test_a_play_that_is_refused_does_not_end_the_handshake() -> None:
    handshake = _asked(_PLAY)
    handshake.answers(b"RTSP/1.0 454 Session Not Found\r\n\r\n")

    assert not handshake.is_over
    assert handshake.status == 454


def test_play_without_a_track_is_noticed() -> None:
    assert _asked(_OPTIONS, _PLAY).lacks_track
    assert not _asked(_OPTIONS, _SETUP, _PLAY).lacks_track


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"RTSP/1.0 abc\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: 999999\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nTransport: $$$\r\n\r\n",
        b"x" * 40_000,
        b"RTSP/1.0 200 OK\r\n" + b"A: b\r\n" * 10_000,
    ],
)
def test_what_is_no_rtsp_or_too_long_is_an_error(answer: bytes) -> None:
    handshake = _asked(_OPTIONS)
    with pytest.raises(NotRtspError):
        handshake.answers(answer)


@given(st.binary(max_size=300))
def test_no_bytes_of_a_camera_break_it(data: bytes) -> None:
    handshake = _asked(_OPTIONS, _SETUP)
    try:
        handshake.answers(b"RTSP/1.0 200 OK\r\n" + data)
        handshake.answers(data)
    except (NotRtspError, RedirectedError):
        pass


def test_a_client_that_is_not_ffmpeg_is_an_error() -> None:
    with pytest.raises(NotRtspError):
        Handshake("10.0.0.5").requests(b"x" * 40_000)
