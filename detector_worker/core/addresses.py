"""Addresses that people and archives hand us: what may be shown of them, and where they may lead.

An `Address` carries the password of a camera through the whole worker without ever printing it; a
`NetworkPolicy` says to which machines the worker may connect on behalf of whoever wrote the address.
"""

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Self
from urllib.parse import urlsplit

from detector_worker.core.exceptions import MessageProcessingError
from detector_worker.core.name_lookup import look_up, look_up_on_loop, read_numeric

__all__ = [
    "Address",
    "IPNetwork",
    "NetworkPolicy",
    "check_if_numeric",
    "resolve_and_check",
    "resolve_and_check_on_loop",
]

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_MAX_LENGTH: Final = 2048
_DEFAULT_PORTS: Final = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029]")  # also spoils logs and request headers
_HOST: Final = re.compile(r"[a-z0-9_]([a-z0-9._-]{0,251}[a-z0-9_.])?|[0-9a-f:.]*:[0-9a-f:.]*")
_SHOWN_QUERY: Final = re.compile(
    r"(channel|subtype|stream|streamtype|unicast|proto|profile|resolution|width|height|fps|codec)=[a-z0-9]{0,12}",
    re.IGNORECASE,
)
# Some cameras want their credentials in the path: /user=admin_password=secret_channel=1.sdp
_SECRET_IN_PATH: Final = re.compile(
    r"((?:user|usr|login|pass|pwd|psw|token|auth|secret|key|sig)[a-z_]*=).*", re.IGNORECASE
)
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_METADATA: Final = frozenset(
    ipaddress.ip_address(text)
    for text in (
        *("169.254.169.254", "fd00:ec2::254"),  # nearly every cloud
        *("169.254.170.2", "169.254.170.23", "fd00:ec2::23"),  # credentials of containers: ECS, EKS Pod Identity
        *("168.63.129.16", "100.100.100.200", "192.0.0.192"),  # Azure, Alibaba, Oracle
    )
)


class Address:
    """A URL whose text shows no user name, no password and no token; immutable, hashable, can be pickled.

    No dataclass on purpose: what serialises dataclasses by itself would print the secret.
    """

    __slots__ = ("_host", "_path", "_port", "_query", "_scheme", "_user_info", "_whole")

    def __init__(self, *, whole: str, scheme: str, user_info: bool, host: str, port: int | None, rest: str) -> None:
        """Use `parse`; ``rest`` is the path with the query."""
        self._whole, self._scheme, self._user_info, self._host, self._port = whole, scheme, user_info, host, port
        self._path, _, self._query = rest.partition("?")

    @classmethod
    def parse(cls, text: str, allowed_schemes: frozenset[str]) -> Self:
        """Understand a URL.

        Raises:
            MessageProcessingError: Of code ``url_refused`` where the scheme is not allowed, of code
                ``invalid_field`` where it is no URL that every part of the worker would read alike. The
                message does not quote the address, nor does it set ``field``.
        """
        text = text.strip()
        scheme, separator, tail = text.partition("://")
        scheme = scheme.lower()
        if len(text) > _MAX_LENGTH or _FORBIDDEN.search(text) or not separator or not re.fullmatch("[a-z]+", scheme):
            _refuse("This is no URL", f"Write it as {_listed(allowed_schemes)}://..., without spaces, percent-encoded.")
        if scheme not in allowed_schemes:
            _refuse(f"The scheme {scheme} is not allowed", f"Allowed: {_listed(allowed_schemes)}.", code="url_refused")
        if scheme == "file":
            return cls._parse_file(text, tail)
        return cls._parse_network(scheme, tail)

    @classmethod
    def _parse_file(cls, text: str, tail: str) -> Self:
        host, slash, path = tail.partition("/")
        if host not in {"", "localhost"} or not slash:
            _refuse("A file URL names a file of this machine", "Write it as file:///folder/name.")
        return cls(whole=text, scheme="file", user_info=False, host="", port=None, rest="/" + path)

    @classmethod
    def _parse_network(cls, scheme: str, tail: str) -> Self:
        authority = re.split("[/?#]", tail, maxsplit=1)[0]
        rest = tail[len(authority) :]
        # Readers disagree about these, and a raw / ? # in a password would put its rest where it is shown.
        if "@" in rest or "#" in rest or "\\" in tail:
            _refuse("An @, # or \\ stands where it is ambiguous", "Percent-encode it: @ %40, # %23, / %2F, ? %3F.")
        try:
            parts = urlsplit(f"{scheme}://{authority}")
            host, port = parts.hostname or "", parts.port
        except ValueError:
            _refuse("The host or port cannot be read", "Percent-encode the password; the port is a number.")
        if not _HOST.fullmatch(host) or (":" in host and not _is_ip(host)):
            _refuse("The host cannot be read", "Give a host name or an IP address; IPv6 in brackets.")
        whole = f"{scheme}://{authority}{rest}"
        return cls(whole=whole, scheme=scheme, user_info="@" in authority, host=host, port=port, rest=rest)

    @property
    def scheme(self) -> str:
        """Lower case."""
        return self._scheme

    @property
    def host(self) -> str:
        """Lower case, without brackets; empty for a file."""
        return self._host

    @property
    def port(self) -> int | None:
        """As written, else the scheme's own; None for a file."""
        return self._port if self._port is not None else _DEFAULT_PORTS.get(self._scheme)

    @property
    def path(self) -> str:
        """As written, without the query. It may hold a camera's credentials: to be used, not shown."""
        return self._path

    def secret(self) -> str:
        """Return the whole address, credentials included: for whoever connects, for nobody who prints."""
        return self._whole

    def __str__(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        port = "" if self._port is None else f":{self._port}"
        path = _SECRET_IN_PATH.sub(r"\1***", self._path)
        pairs = [pair if _SHOWN_QUERY.fullmatch(pair) else "***" for pair in self._query.split("&") if pair]
        query = "?" + "&".join(pairs) if pairs else ""
        return f"{self._scheme}://{'***@' if self._user_info else ''}{host}{port}{path}{query}"

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return self._whole == other._whole if isinstance(other, Address) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._whole)


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """To which addresses the worker may connect, and what it trusts there.

    Multicast, unspecified and cloud metadata addresses (with those of EKS Pod Identity, Azure, Alibaba and Oracle):
    never. Link-local ones: only inside an ``allowed``
    network that is itself link-local. Else whatever lies in ``allowed`` (empty: anywhere) and not in ``denied``.
    An IPv6 address that stands for an IPv4 one counts as both.
    """

    allowed: tuple[IPNetwork, ...] = ()
    denied: tuple[IPNetwork, ...] = ()
    verify_certificates: bool = True
    """Whether who speaks TLS must prove who it is."""

    def permits(self, ip: IPAddress) -> bool:
        """True if the worker may connect there."""
        return all(self._permits_one(one) for one in _meanings(ip))

    def _permits_one(self, ip: IPAddress) -> bool:
        if ip in _METADATA or ip.is_multicast or ip.is_unspecified or ip == ipaddress.ip_address("255.255.255.255"):
            return False
        if any(ip in network for network in self.denied):
            return False
        if ip.is_link_local:
            return any(ip in network and network.is_link_local for network in self.allowed)
        return not self.allowed or any(ip in network for network in self.allowed)


def resolve_and_check(address: Address, policy: NetworkPolicy, *, timeout_s: float = 5.0) -> tuple[str, ...]:
    """Look a host up once and return its IP addresses, all of which are permitted. Blocks: not for the event loop.

    Connect to one of the returned addresses; a second look-up could give others.

    Raises:
        MessageProcessingError: Of code ``url_refused``: one of its addresses is not permitted.
        OSError: The name cannot be resolved in time (`socket.gaierror`); what that means, the caller knows.
    """
    return _permitted(look_up(address.host, address.port, timeout_s=timeout_s), address, policy)


async def resolve_and_check_on_loop(
    address: Address, policy: NetworkPolicy, *, timeout_s: float = 5.0
) -> tuple[str, ...]:
    """As `resolve_and_check`, for the event loop."""
    return _permitted(await look_up_on_loop(address.host, address.port, timeout_s=timeout_s), address, policy)


def check_if_numeric(address: Address, policy: NetworkPolicy) -> None:
    """Refuse at once what needs no look-up to be refused: an IP address, in whatever notation. Does not block.

    Raises:
        MessageProcessingError: Of code ``url_refused``.
    """
    try:
        texts = read_numeric(address.host, address.port)
    except OSError:
        return  # a name: whoever connects will look it up and check it
    _permitted(texts, address, policy)


def _permitted(texts: tuple[str, ...], address: Address, policy: NetworkPolicy) -> tuple[str, ...]:
    for text in texts:
        if not policy.permits(ipaddress.ip_address(text)):
            _refuse(
                f"The address leads to {text}, where this worker must not connect",
                "Use another address, or let the configuration's allowed_networks include it.",
                where=str(address),
                code="url_refused",
            )
    return texts


def _meanings(ip: IPAddress) -> Iterator[IPAddress]:
    """Yield an address, and the IPv4 addresses that a router or the kernel may take it for."""
    if isinstance(ip, ipaddress.IPv6Address):
        embedded: Any = (ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ()))
        yield from (one for one in embedded if one is not None)
        if ip in _NAT64:
            yield ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if ip.ipv4_mapped is not None:
            return
    yield ip


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _listed(words: frozenset[str]) -> str:
    return ", ".join(sorted(words))


def _refuse(what: str, mend: str, *, where: str = "address", code: str = "invalid_field") -> NoReturn:
    # "from None": urlsplit's own error may quote what it could not read.
    raise MessageProcessingError(what, where=where, mend=mend, code=code) from None
