"""The only connection to a camera is ours: FFmpeg speaks to a loopback port, and a relay carries the bytes.

Left alone, FFmpeg would resolve the host a second time, follow redirects to anywhere, send UDP to whom an answer
names, and hold its thread until its own deadline.
"""

import selectors
import socket
import ssl
import threading
from contextlib import suppress
from enum import StrEnum
from typing import Final

from detector_worker.streams.camera_dialer import DialedCamera
from detector_worker.streams.relay_loop import RelayLoop
from detector_worker.streams.rtsp_handshake import Handshake, NotRtspError, RedirectedError

__all__ = ["CameraLink", "CameraLinks", "LinkEnd"]

_FAREWELL_S: Final = 1.0
"""For FFmpeg's TEARDOWN to reach the camera: else it would keep a session for a viewer who has left."""
_TLS_RECORDS: Final = 8
"""Read in one go: TLS hands out 16 KB at a time."""
_READ: Final = selectors.EVENT_READ
_WRITE: Final = selectors.EVENT_WRITE
_KERNEL_BYTES: Final = 262_144
"""What the kernel keeps on each side of the relay, times two by its own count. Left alone it takes megabytes, and a
reader that is too slow sees pictures that are many seconds old. Enough for 40 Mbit/s from 50 ms away."""
_NOT_NOW: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class LinkEnd(StrEnum):
    """Why a link ended, where that was not FFmpeg's doing."""

    CAMERA = "camera"
    """The camera closed or reset the connection."""
    REDIRECT = "redirect"
    NOT_RTSP = "not-rtsp"
    SHUT = "shut"
    """By `CameraLink.shut`."""


class CameraLinks:
    """The relay of a process: one thread for all of its cameras, started with the first link."""

    def __init__(self) -> None:
        """Begin without links."""
        self._lock = threading.Lock()
        self._loop: RelayLoop | None = None

    def open(self, camera: DialedCamera) -> "CameraLink":
        """Take over a connected camera and offer it to FFmpeg; the link must be closed.

        Raises:
            OSError: There is no socket to be had any more.
        """
        with self._lock:
            if self._loop is None:
                self._loop = RelayLoop("camera-links")
            return CameraLink(self._loop, camera)

    def close(self) -> None:
        """End all links and the thread; whoever waits in FFmpeg gets an error. A new link starts it again."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.stop()


class _Peer:
    """One end of a link."""

    __slots__ = ("is_closed", "sock", "unsent")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.is_closed = False
        self.unsent = b""
        """What it has not taken yet: at most one chunk, for nothing more is read from the other end meanwhile."""


class CameraLink:
    """One camera's connection to one FFmpeg. `shut`, `close` and what is known may be used in any thread."""

    def __init__(self, loop: RelayLoop, camera: DialedCamera) -> None:
        """Listen for FFmpeg; for `CameraLinks.open`."""
        self.end: LinkEnd | None = None
        self.redirect: str | None = None
        """Where the camera redirects to, as it says so; it may hold a password."""
        self._loop, self._handshake = loop, Handshake(camera.ip)
        camera.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _KERNEL_BYTES)
        self._camera = _Peer(camera.sock)
        self._client: _Peer | None = None
        self._is_parting = self._is_dropped = False
        # Of the camera's family, since FFmpeg opens its UDP sockets in the family of the address it is given.
        family, host = (socket.AF_INET6, "::1") if ":" in camera.ip else (socket.AF_INET, "127.0.0.1")
        try:
            self._listener = socket.create_server((host, 0), family=family, backlog=1)
        except OSError:
            camera.sock.close()
            raise
        self._listener.setblocking(False)
        port = self._listener.getsockname()[1]
        self.authority: Final = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        """Where FFmpeg must connect, once."""
        loop.post(self, self._begin)

    @property
    def status(self) -> int | None:
        """The status of the camera's last answer before the first picture; None before the first answer."""
        return self._handshake.status

    @property
    def is_playing(self) -> bool:
        """Whether the camera has agreed to send."""
        return self._handshake.is_over

    @property
    def lacks_track(self) -> bool:
        """Whether the camera offers nothing that FFmpeg asks for."""
        return self._handshake.lacks_track

    def shut(self) -> None:
        """Let FFmpeg see the end of the stream at once; it can still say goodbye to the camera."""
        self._loop.post(self, self._shut)

    def close(self) -> None:
        """End it, when FFmpeg has closed its side or never came: what it said last is still delivered."""
        self._loop.post(self, self._part)

    # What follows runs in the relay's thread.

    def ready(self, sock: socket.socket, events: int) -> None:
        """Go on where a socket can be read or written."""
        if sock is self._listener:
            self._accept()
            return
        peer = self._camera if self._client is None or sock is self._camera.sock else self._client
        if events & _READ:  # first: FFmpeg's goodbye is still there when nothing can be sent to it any more
            for _ in range(_TLS_RECORDS if isinstance(sock, ssl.SSLSocket) else 1):
                if peer.is_closed or self._other(peer).unsent or not self._read(peer):
                    break
        if events & _WRITE and not peer.is_closed:
            self._flush(peer)

    def drop(self) -> None:
        """Close all there is."""
        self._is_dropped = True
        self._close(self._listener)
        self._end_peer(self._camera)
        if self._client is not None:
            self._end_peer(self._client)
        self._loop.detach(self)

    def _begin(self) -> None:
        self._loop.attach(self)
        self._loop.watch(self._listener, _READ, self)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:  # it has gone again
            return
        self._close(self._listener)
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _KERNEL_BYTES)
        self._client = _Peer(client)
        self._watch()

    def _read(self, peer: _Peer) -> bool:
        """Take what has come from an end, its own end included; False: there was nothing."""
        try:
            size_bytes = peer.sock.recv_into(self._loop.chunk)
        except _NOT_NOW:
            return False
        except OSError:
            size_bytes = 0
        if not size_bytes:
            self._take_end(peer)
        elif not (peer is self._camera and self._is_parting):
            self._pass_on(peer, self._loop.chunk[:size_bytes])
        return True

    def _pass_on(self, peer: _Peer, data: bytes | memoryview) -> None:
        if not self._handshake.is_over:
            take = self._handshake.answers if peer is self._camera else self._handshake.requests
            try:
                data = take(bytes(data))
            except RedirectedError as exc:
                self.redirect = exc.location
                self._refuse(LinkEnd.REDIRECT)
                return
            except NotRtspError:
                self._refuse(LinkEnd.NOT_RTSP)
                return
            if self._handshake.is_over:
                self._loop.relax(self)
        self._send(self._other(peer), data)

    def _send(self, peer: _Peer, data: bytes | memoryview) -> None:
        try:
            sent_bytes = peer.sock.send(data) if data and not peer.is_closed else len(data)
        except _NOT_NOW:
            sent_bytes = 0
        except OSError:
            self._take_end(peer)
            return
        if sent_bytes < len(data):
            peer.unsent = bytes(data[sent_bytes:])
            self._watch()

    def _flush(self, peer: _Peer) -> None:
        data, peer.unsent = peer.unsent, b""
        self._send(peer, data)
        if not peer.unsent and not peer.is_closed:
            if self._other(peer).is_closed:
                _half_close(peer)
            self._watch()

    def _take_end(self, peer: _Peer) -> None:
        """Nothing more comes from an end; the other one still gets what is on its way."""
        other = self._other(peer)
        if peer is self._camera and not self._is_parting:
            self.end = LinkEnd.CAMERA
        self._end_peer(peer)
        if peer is self._client:
            self._is_parting = True
            self._loop.drop_after(self, _FAREWELL_S)
        if other.is_closed:
            self.drop()
            return
        if not other.unsent:
            _half_close(other)
        self._watch()

    def _refuse(self, end: LinkEnd) -> None:
        self.end = self.end or end  # before anybody can see its consequences
        self._end_peer(self._camera)
        self._end_for_client(end)

    def _shut(self) -> None:
        if self._client is None:
            self.end = self.end or LinkEnd.SHUT
            self.drop()
        elif not self._is_dropped:
            self._end_for_client(LinkEnd.SHUT)

    def _end_for_client(self, end: LinkEnd) -> None:
        self.end = self.end or end
        self._is_parting = True
        self._loop.drop_after(self, _FAREWELL_S)
        if self._client is not None:
            self._client.unsent = b""
            _half_close(self._client)
            self._watch()

    def _part(self) -> None:
        if self._client is None:
            self.drop()
        elif not self._is_dropped:
            self._loop.drop_after(self, _FAREWELL_S)

    def _other(self, peer: _Peer) -> _Peer:
        return self._client if peer is self._camera and self._client is not None else self._camera

    def _watch(self) -> None:
        if self._client is None:
            return
        for peer, other in ((self._camera, self._client), (self._client, self._camera)):
            events = 0 if peer.is_closed or other.unsent else _READ
            self._loop.watch(peer.sock, events | (_WRITE if peer.unsent else 0), self)

    def _end_peer(self, peer: _Peer) -> None:
        peer.is_closed = True
        peer.unsent = b""
        self._close(peer.sock)

    def _close(self, sock: socket.socket) -> None:
        self._loop.watch(sock, 0, self)
        sock.close()


def _half_close(peer: _Peer) -> None:
    with suppress(OSError):
        peer.sock.shutdown(socket.SHUT_WR)
