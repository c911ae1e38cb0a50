"""A film as the simulated cameras send it: packetised once, shared by all of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import dropwhile
from pathlib import Path
from typing import Final, Self

import av
from av.bitstream import BitStreamFilterContext

from detector_worker.core.exceptions import ConfigurationError
from detector_worker.simulator.payloads import Codec, nal_kind, split_nal_units, split_picture
from detector_worker.simulator.rtp import CLOCK_HZ

__all__ = ["Clip", "Picture"]

_PARAMETER_SETS: Final = {Codec.H264: (7, 8), Codec.H265: (32, 33, 34), Codec.JPEG: ()}
_TIME_BASE: Final = Fraction(1, CLOCK_HZ)
_KEY_FRAME_EVERY: Final = 24
"""Pictures, where we encode ourselves: a client joins within a second or two."""
_X264: Final = {"preset": "veryfast", "tune": "zerolatency", "crf": "20"}
_JPEG_QUALITY: Final = {"huffman": "default", "flags": "+qscale", "global_quality": str(3 * 118)}
"""RTP carries no Huffman tables: the receiver takes the usual ones."""
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

    path: Path
    """The film itself, for those who want whole pictures."""
    begins_s: float
    """When the first picture is shown, on the film's own clock."""
    codec: Codec
    pictures: tuple[Picture, ...]
    duration_s: float
    parameter_sets: tuple[bytes, ...]
    """Of H.264 SPS and PPS, of H.265 VPS, SPS and PPS: NAL units without start codes. Motion JPEG has none."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a film whole. Blocks for as long as it takes.

        H.264 and H.265 are taken as they are; Motion JPEG is encoded once with the tables that RTP wants, and
        anything else is encoded once as H.264.

        Raises:
            ConfigurationError: It cannot be read, or holds no video.
        """
        try:
            with av.open(str(path.absolute()), options={"protocol_whitelist": "file"}) as container:
                if not container.streams.video:
                    raise ValueError("it holds no video")
                stream = container.streams.video[0]
                codec, read = _readers(stream)
                packets = list(dropwhile(lambda one: not one.is_keyframe, read(container, stream)))
                return cls._of(path.absolute(), codec, packets)
        except (av.FFmpegError, ValueError) as exc:
            what = f"The film cannot be shown: {getattr(exc, 'strerror', None) or exc}"
            raise ConfigurationError(what, where=path.name, mend="Name one that FFmpeg reads, such as an MP4.") from exc

    @classmethod
    def _of(cls, path: Path, codec: Codec, packets: Sequence["av.Packet[av.VideoStream]"]) -> Self:
        """Give each picture its moment: the n-th in the order of decoding leaves when the n-th is to be shown."""
        wanted = _PARAMETER_SETS[codec]
        first_units = split_nal_units(bytes(packets[0])) if packets and wanted else []
        parameter_sets = tuple(unit for unit in first_units if nal_kind(codec, unit) in wanted)
        if not packets or {nal_kind(codec, unit) for unit in parameter_sets} != set(wanted):
            raise ValueError("it has no key frame to start at")
        times = [int((packet.pts or 0) * packet.time_base * CLOCK_HZ) for packet in packets]
        shown = sorted(times)
        mean = (shown[-1] - shown[0]) / (len(shown) - 1) if len(shown) > 1 else CLOCK_HZ
        return cls(
            path=path,
            begins_s=shown[0] / CLOCK_HZ,
            codec=codec,
            pictures=tuple(
                Picture(
                    send_s=(due - shown[0]) / CLOCK_HZ,
                    timestamp=time - shown[0],
                    is_key=packet.is_keyframe,
                    payloads=split_picture(codec, bytes(packet)),
                )
                for packet, time, due in zip(packets, times, shown, strict=True)
            ),
            duration_s=(shown[-1] - shown[0] + mean) / CLOCK_HZ,
            parameter_sets=parameter_sets,
        )

    def key_at(self, time_s: float) -> int:
        """Return the index of the last key frame that has left ``time_s`` after the start."""
        return max(index for index, one in enumerate(self.pictures) if one.is_key and one.send_s <= max(0.0, time_s))


def _readers(
    stream: av.VideoStream,
) -> tuple[Codec, Callable[[av.container.InputContainer, av.VideoStream], _Packets]]:
    """Return as what a film is sent, and what makes the packets."""
    match stream.codec_context.name:
        case "h264" | "hevc" as name:
            return Codec(name), _taken
        case "mjpeg":
            return Codec.JPEG, lambda container, stream: _encoded(container, stream, _jpeg_encoder(stream))
        case _:
            return Codec.H264, lambda container, stream: _encoded(container, stream, _x264_encoder(stream))


def _taken(container: av.container.InputContainer, stream: av.VideoStream) -> _Packets:
    """Yield the packets with start codes, and with the parameter sets before each key frame."""
    to_annex_b = BitStreamFilterContext(f"{stream.codec_context.name}_mp4toannexb", stream)
    for packet in container.demux(stream):
        if packet.size and packet.pts is not None:
            yield from to_annex_b.filter(packet)


def _x264_encoder(stream: av.VideoStream) -> av.VideoCodecContext:
    """Make one that is as fast as it goes and does not reorder."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height = stream.codec_context.width & ~1, stream.codec_context.height & ~1
    encoder.pix_fmt, encoder.gop_size, encoder.options = "yuv420p", _KEY_FRAME_EVERY, _X264
    return encoder


def _jpeg_encoder(stream: av.VideoStream) -> av.VideoCodecContext:
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height = stream.codec_context.width & ~7, stream.codec_context.height & ~7
    encoder.pix_fmt, encoder.thread_count, encoder.options = "yuvj420p", 1, _JPEG_QUALITY
    return encoder


def _encoded(container: av.container.InputContainer, stream: av.VideoStream, encoder: av.VideoCodecContext) -> _Packets:
    encoder.time_base, encoder.framerate = _TIME_BASE, stream.average_rate or Fraction(25)
    for frame in container.decode(stream):
        if frame.pts is None or frame.time_base is None:
            continue
        picture = frame.reformat(format=encoder.pix_fmt, width=encoder.width, height=encoder.height)
        picture.pts, picture.time_base = int(frame.pts * frame.time_base * CLOCK_HZ), _TIME_BASE
        picture.pict_type = av.video.frame.PictureType.NONE  # else the source's own I and B would be repeated
        yield from encoder.encode(picture)
    yield from encoder.encode(None)
