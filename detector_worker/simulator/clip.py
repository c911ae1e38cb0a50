"""A film as the simulated cameras send it: packetised once, shared by all of them."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import dropwhile
from pathlib import Path
from typing import Final, Self

import av

from detector_worker.core.exceptions import ConfigurationError
from detector_worker.simulator.rtp import CLOCK_HZ, split_nal_units, split_payloads

__all__ = ["Clip", "Picture"]

_SPS, _PPS = 7, 8
_RTP_TIME_BASE: Final = Fraction(1, CLOCK_HZ)
_KEY_FRAME_EVERY: Final = 24
"""Pictures, where we encode ourselves: a client joins within a second or two."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One coded picture, in the order of decoding.

    Attributes:
        send_s: When it leaves, seconds from the clip's start.
        timestamp: When it is shown, 1/90000 s from the clip's start.
        is_key: A client can start here.
        payloads: RTP payloads; the parameter sets come before each key frame.
    """

    send_s: float
    timestamp: int
    is_key: bool
    payloads: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _Coded:
    """One picture out of a file or an encoder, times in 1/90000 s."""

    pts: int
    duration: int
    is_key: bool
    nal_units: list[bytes]


@dataclass(frozen=True, slots=True)
class Clip:
    """The pictures of one film, from its first key frame on, and what an SDP says about them."""

    pictures: tuple[Picture, ...]
    duration_s: float
    wh: tuple[int, int]
    parameter_sets: tuple[bytes, ...]
    """SPS and PPS, NAL units without start codes."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a film whole; H.264 is taken as it is, anything else is encoded once. Blocks for as long as it takes.

        Raises:
            ConfigurationError: It cannot be read, or holds no video.
        """
        try:
            with av.open(str(path.absolute()), options={"protocol_whitelist": "file"}) as container:
                if not container.streams.video:
                    raise ConfigurationError(
                        "The file holds no video", where=path.name, mend="Name a film, such as an MP4 file."
                    )
                stream = container.streams.video[0]
                wh = stream.codec_context.width, stream.codec_context.height
                is_h264 = stream.codec_context.name == "h264"
                coded, sets = _take_h264(container, stream) if is_h264 else _transcode(container, stream)
        except av.FFmpegError as exc:
            raise ConfigurationError(
                f"The film cannot be read: {exc.strerror}", where=path.name, mend="Name a film that FFmpeg can read."
            ) from exc
        if not coded or not sets:
            raise ConfigurationError(
                "The film has no key frame to start at", where=path.name, mend="Encode it again, or name another."
            )
        return cls(_timed(coded, sets), _duration_s(coded), wh, tuple(sets))

    def key_at(self, time_s: float) -> int:
        """Return the index of the last key frame that has left ``time_s`` after the start."""
        return max(index for index, one in enumerate(self.pictures) if one.is_key and one.send_s <= max(0.0, time_s))

    def sdp_format(self) -> str:
        """Return the format parameters of the SDP's video line."""
        sets = ",".join(base64.b64encode(one).decode() for one in self.parameter_sets)
        profile = self.parameter_sets[0][1:4].hex()
        return f"packetization-mode=1;profile-level-id={profile};sprop-parameter-sets={sets}"


def _take_h264(container: av.container.InputContainer, stream: av.VideoStream) -> tuple[list[_Coded], list[bytes]]:
    extradata = stream.codec_context.extradata or b""
    length_bytes, sets = _read_avcc(extradata) if extradata[:1] == b"\x01" else (None, split_nal_units(extradata, None))
    packets = [packet for packet in container.demux(stream) if packet.size and packet.pts is not None]
    return _coded(packets, length_bytes, sets)


def _transcode(container: av.container.InputContainer, stream: av.VideoStream) -> tuple[list[_Coded], list[bytes]]:
    """Encode with x264, as fast as it goes and without reordering."""
    try:
        encoder = av.CodecContext.create("libx264", "w")
    except av.codec.codec.UnknownCodecError as exc:
        raise ConfigurationError(
            "This build of FFmpeg has no libx264", where="simulator", mend="Name a film that is H.264 already."
        ) from exc
    encoder.width, encoder.height = stream.codec_context.width & ~1, stream.codec_context.height & ~1
    encoder.pix_fmt, encoder.time_base = "yuv420p", _RTP_TIME_BASE
    encoder.framerate = stream.average_rate or Fraction(25)
    encoder.gop_size = _KEY_FRAME_EVERY
    encoder.options = {"preset": "veryfast", "tune": "zerolatency", "crf": "20"}
    packets = []
    for frame in container.decode(stream):
        if frame.pts is None or frame.time_base is None:
            continue
        picture = frame.reformat(format="yuv420p", width=encoder.width, height=encoder.height)
        picture.pts, picture.time_base = int(frame.pts * frame.time_base * CLOCK_HZ), _RTP_TIME_BASE
        picture.pict_type = av.video.frame.PictureType.NONE  # else the source's own I and B would be repeated
        packets += encoder.encode(picture)
    packets += encoder.encode(None)
    return _coded(packets, None, [])


def _coded(
    packets: "Iterable[av.Packet[av.VideoStream]]", length_bytes: int | None, sets: Sequence[bytes]
) -> tuple[list[_Coded], list[bytes]]:
    """Start at the first key frame; parameter sets are taken from the packets where the header had none."""
    coded, found = [], list(sets)
    for packet in dropwhile(lambda one: not one.is_keyframe, packets):
        units = split_nal_units(bytes(packet), length_bytes)
        found = found or [unit for unit in units if unit[0] & 0x1F in (_SPS, _PPS)]
        scale = packet.time_base / _RTP_TIME_BASE
        duration = int((packet.duration or 0) * scale)
        coded.append(_Coded(int((packet.pts or 0) * scale), duration, packet.is_keyframe, units))
    return coded, found


def _read_avcc(extradata: bytes) -> tuple[int, list[bytes]]:
    """Read an MP4's decoder configuration (ISO/IEC 14496-15): the length of the prefixes, SPS and PPS."""
    sets, at = [], 6
    for count_at_mask in (0x1F, 0xFF):
        count = extradata[at - 1] & count_at_mask
        for _ in range(count):
            length = int.from_bytes(extradata[at : at + 2], "big")
            sets.append(extradata[at + 2 : at + 2 + length])
            at += 2 + length
        at += 1
    return (extradata[4] & 3) + 1, sets


def _timed(coded: Sequence[_Coded], sets: Sequence[bytes]) -> tuple[Picture, ...]:
    """Give each picture its moment: the n-th in the order of decoding leaves when the n-th is to be shown."""
    shown = sorted(one.pts for one in coded)
    return tuple(
        Picture(
            (due - shown[0]) / CLOCK_HZ,
            one.pts - shown[0],
            one.is_key,
            split_payloads(_with_sets(one, sets)),
        )
        for due, one in zip(shown, coded, strict=True)
    )


def _with_sets(one: _Coded, sets: Sequence[bytes]) -> list[bytes]:
    has_sets = any(unit[0] & 0x1F == _SPS for unit in one.nal_units)
    return [*sets, *one.nal_units] if one.is_key and not has_sets else one.nal_units


def _duration_s(coded: Sequence[_Coded]) -> float:
    """Return from the first picture to the end of the last; a lone picture lasts a second."""
    shown = sorted(coded, key=lambda one: one.pts)
    mean = (shown[-1].pts - shown[0].pts) // (len(shown) - 1) if len(shown) > 1 else CLOCK_HZ
    return (shown[-1].pts - shown[0].pts + (shown[-1].duration or mean)) / CLOCK_HZ
