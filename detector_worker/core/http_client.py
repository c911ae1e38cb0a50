"""HTTP on behalf of whoever wrote an address: only to where the policy lets us, and never more than was asked for."""

import socket
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from detector_worker.core.addresses import Address, NetworkPolicy, resolve_and_check_on_loop

__all__ = ["CheckedResolver", "new_session"]

_SCHEMES: Final = frozenset({"http"})  # of an address that is only looked up


class CheckedResolver(AbstractResolver):
    """Looks a host up once for each connection and answers with what was checked: no second look-up can differ.

    aiohttp does not ask it about a host that is an IP address already: whoever makes a request calls
    `check_if_numeric` before.
    """

    def __init__(self, policy: NetworkPolicy) -> None:
        self._policy = policy

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_UNSPEC) -> list[ResolveResult]:
        """Return the addresses of a host, all of which are permitted.

        Raises:
            MessageProcessingError: Of code ``url_refused``.
            OSError: There is no such host.
        """
        name = f"[{host}]" if ":" in host else host
        found = await resolve_and_check_on_loop(Address.parse(f"http://{name}:{port}", _SCHEMES), self._policy)
        return [
            ResolveResult(
                hostname=host,
                host=ip,
                port=port,
                family=socket.AF_INET6 if ":" in ip else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for ip in found
        ]

    async def close(self) -> None:
        """Nothing is held."""


def new_session(policy: NetworkPolicy, *, keepalive_s: float = 15.0) -> aiohttp.ClientSession:
    """Return a session with one connection at a time and without surprises; the caller closes it.

    It inflates nothing, keeps no cookies, knows no proxies, and has no deadline: the caller's own bounds the
    whole of what it does.
    """
    connector = aiohttp.TCPConnector(
        resolver=CheckedResolver(policy),
        use_dns_cache=False,
        limit=1,
        keepalive_timeout=keepalive_s,
        ssl=policy.verify_certificates,
    )
    return aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        trust_env=False,
    )
