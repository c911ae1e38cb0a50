"""A film as the simulated cameras send it: packetised once, shared by all of them."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import dropwhile
from pathlib import Path
from typing import Final, Self

import av
from av.bitstream import BitStreamFilterContext

from detector_worker.core.exceptions import ConfigurationError
from detector_worker.simulator.rtp import CLOCK_HZ, split_nal_units, split_payloads

__all__ = ["Clip", "Picture"]

_SPS, _PPS = 7, 8
_TIME_BASE: Final = Fraction(1, CLOCK_HZ)
_KEY_FRAME_EVERY: Final = 24
"""Pictures, where we encode ourselves: a client joins within a second or two."""
_Packets = Iterable["av.Packet[av.VideoStream]"]


@dataclass(frozen=True, slots=True)
class Picture:
    """One coded picture, in the order of decoding."""

    send_s: float
    """When it leaves, seconds from the clip's start."""
    timestamp: int
    """When it is shown, 1/90000 s from the clip's start."""
    is_key: bool
    """A client can start here: the parameter sets come first."""
    payloads: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Clip:
    """The pictures of one film, from its first key frame on."""

    pictures: tuple[Picture, ...]
    duration_s: float
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
                return cls._of(list(dropwhile(lambda one: not one.is_keyframe, _packets(container))))
        except (av.FFmpegError, ValueError) as exc:
            what = f"The film cannot be shown: {getattr(exc, 'strerror', None) or exc}"
            raise ConfigurationError(what, where=path.name, mend="Name one that FFmpeg reads, such as an MP4.") from exc

    @classmethod
    def _of(cls, packets: Sequence["av.Packet[av.VideoStream]"]) -> Self:
        """Give each picture its moment: the n-th in the order of decoding leaves when the n-th is to be shown."""
        first_units = split_nal_units(bytes(packets[0])) if packets else []
        parameter_sets = tuple(unit for unit in first_units if unit[0] & 0x1F in (_SPS, _PPS))
        if not parameter_sets:
            raise ValueError("it has no key frame to start at")
        times = [int((packet.pts or 0) * packet.time_base * CLOCK_HZ) for packet in packets]
        shown = sorted(times)
        mean = (shown[-1] - shown[0]) / (len(shown) - 1) if len(shown) > 1 else CLOCK_HZ
        return cls(
            pictures=tuple(
                Picture(
                    send_s=(due - shown[0]) / CLOCK_HZ,
                    timestamp=time - shown[0],
                    is_key=packet.is_keyframe,
                    payloads=split_payloads(split_nal_units(bytes(packet))),
                )
                for packet, time, due in zip(packets, times, shown, strict=True)
            ),
            duration_s=(shown[-1] - shown[0] + mean) / CLOCK_HZ,
            parameter_sets=parameter_sets,
        )

    def key_at(self, time_s: float) -> int:
        """Return the index of the last key frame that has left ``time_s`` after the start."""
        return max(index for index, one in enumerate(self.pictures) if one.is_key and one.send_s <= max(0.0, time_s))

    def sdp_format(self) -> str:
        """Return the format parameters of the SDP's video line."""
        sets = ",".join(base64.b64encode(one).decode() for one in self.parameter_sets)
        profile = self.parameter_sets[0][1:4].hex()
        return f"packetization-mode=1;profile-level-id={profile};sprop-parameter-sets={sets}"


def _packets(container: av.container.InputContainer) -> _Packets:
    if not container.streams.video:
        raise ValueError("it holds no video")
    stream = container.streams.video[0]
    return (_taken if stream.codec_context.name == "h264" else _encoded)(container, stream)


def _taken(container: av.container.InputContainer, stream: av.VideoStream) -> _Packets:
    """Yield the packets with start codes, and with the parameter sets before each key frame."""
    to_annex_b = BitStreamFilterContext("h264_mp4toannexb", stream)
    for packet in container.demux(stream):
        if packet.size and packet.pts is not None:
            yield from to_annex_b.filter(packet)


def _encoded(container: av.container.InputContainer, stream: av.VideoStream) -> _Packets:
    """Encode with x264, as fast as it goes and without reordering."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height = stream.codec_context.width & ~1, stream.codec_context.height & ~1
    encoder.pix_fmt, encoder.time_base = "yuv420p", _TIME_BASE
    encoder.framerate = stream.average_rate or Fraction(25)
    encoder.gop_size = _KEY_FRAME_EVERY
    encoder.options = {"preset": "veryfast", "tune": "zerolatency", "crf": "20"}
    for frame in container.decode(stream):
        if frame.pts is None or frame.time_base is None:
            continue
        picture = frame.reformat(format="yuv420p", width=encoder.width, height=encoder.height)
        picture.pts, picture.time_base = int(frame.pts * frame.time_base * CLOCK_HZ), _TIME_BASE
        picture.pict_type = av.video.frame.PictureType.NONE  # else the source's own I and B would be repeated
        yield from encoder.encode(picture)
    yield from encoder.encode(None)
