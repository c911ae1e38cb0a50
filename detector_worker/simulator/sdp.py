"""How a camera describes its stream (RFC 4566)."""

import base64
from typing import Final

from detector_worker.simulator.clip import Clip
from detector_worker.simulator.payloads import Codec

__all__ = ["AUDIO_HZ", "AUDIO_PAYLOAD_TYPE", "payload_type", "sdp_of_audio", "sdp_of_clip"]

AUDIO_HZ: Final = 8000
AUDIO_PAYLOAD_TYPE: Final = 0
"""PCMU, a byte a sample."""
_SESSION: Final = "v=0\no=- 0 1 IN IP4 0.0.0.0\ns={name}\nc=IN IP4 0.0.0.0\nt=0 0\na=control:*\n{tracks}"
_TRACK: Final = "m={kind} 0 RTP/AVP {payload_type}\na=rtpmap:{payload_type} {format}\n{more}a=control:trackID=0\n"
_RTP_NAMES: Final = {Codec.H264: "H264", Codec.H265: "H265", Codec.JPEG: "JPEG"}


def sdp_of_clip(name: str, clip: Clip) -> str:
    """Describe a video track."""
    parameters = _parameters(clip)
    more = f"a=fmtp:{payload_type(clip)} {parameters}\n" if parameters else ""
    return _sdp(name, "video", payload_type(clip), f"{_RTP_NAMES[clip.codec]}/90000", more)


def sdp_of_audio(name: str) -> str:
    """Describe a sound track alone."""
    return _sdp(name, "audio", AUDIO_PAYLOAD_TYPE, f"PCMU/{AUDIO_HZ}", "")


def payload_type(clip: Clip) -> int:
    """Return the number that a clip's packets bear: JPEG has one of its own."""
    return 26 if clip.codec is Codec.JPEG else 96


def _parameters(clip: Clip) -> str:
    sets = [base64.b64encode(one).decode() for one in clip.parameter_sets]
    match clip.codec:
        case Codec.H264:
            profile = clip.parameter_sets[0][1:4].hex()
            return f"packetization-mode=1;profile-level-id={profile};sprop-parameter-sets={','.join(sets)}"
        case Codec.H265:
            return ";".join(f"sprop-{kind}={one}" for kind, one in zip(("vps", "sps", "pps"), sets, strict=True))
        case Codec.JPEG:
            return ""


def _sdp(name: str, kind: str, payload_type: int, rtp_format: str, more: str) -> str:
    tracks = _TRACK.format(kind=kind, payload_type=payload_type, format=rtp_format, more=more)
    return _SESSION.format(name=name, tracks=tracks).replace("\n", "\r\n")
