"""What this process asks of other machines: connections, datagrams and names to look up, by any library."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_listeners: list[list[str]] = []


def _is_here(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host in (None, "", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(str(host))
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if not _listeners:
        return
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None  # a path of this machine's otherwise
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    if not _is_here(host):
        for calls in _listeners:
            calls.append(f"{event} {host!r}")


sys.addaudithook(_hook)  # there is no taking it away: it listens only while somebody watches


@contextmanager
def watched() -> Iterator[list[str]]:
    """The calls that look beyond this machine, as they come."""
    calls: list[str] = []
    _listeners.append(calls)
    try:
        yield calls
    finally:
        _listeners.remove(calls)
