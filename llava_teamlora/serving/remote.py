"""Pictures from the network, where a server is told to fetch them: from public addresses alone.

Whoever names an address makes this machine ask it, from inside its network (server-side request forgery). So a name is
looked up here, all that it stands for must be public, and the connection goes to the very address that was looked at; a
redirect is a new address like any other.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from urllib.parse import SplitResult, urljoin, urlsplit

from llava_teamlora.errors import UserError
from llava_teamlora.serving.pictures import PictureLimits

TIMEOUT_S = 15.0
_REDIRECTS = 3
_MOVED = (301, 302, 303, 307, 308)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # an IPv4 address in other clothes


def fetch(address: str, limits: PictureLimits) -> bytes:
    """The bytes at a public ``http`` or ``https`` address.

    Args:
        address: as a client named it.
        limits: no more bytes than these are read.

    Raises:
        UserError: not public, not there, too large or too slow.
    """
    end = time.monotonic() + TIMEOUT_S
    for _ in range(_REDIRECTS + 1):
        try:
            found = _ask(address, limits, end)
        except (OSError, http.client.HTTPException, ValueError) as error:
            said = " ".join(str(error).split())[:100] or type(error).__name__
            raise UserError(f"cannot be fetched ({said})") from error
        if isinstance(found, bytes):
            return found
        address = found
    raise UserError(f"is redirected more than {_REDIRECTS} times")


def _ask(address: str, limits: PictureLimits, end: float) -> bytes | str:
    """The content, or the address that it is redirected to."""
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise UserError("must be http(s)://host/path")
    connection = _connect(parts, end)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"Accept": "image/*", "User-Agent": "llava-teamlora"})
        response = connection.getresponse()
        moved = response.getheader("Location")
        if response.status in _MOVED and moved:
            return urljoin(address, moved)
        if response.status != 200:
            raise UserError(f"answers with status {response.status}")
        return _read(response, limits, end)
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse, limits: PictureLimits, end: float) -> bytes:
    content = bytearray()
    while part := response.read1(2**16):
        content += part
        if len(content) > limits.max_bytes:
            raise UserError(f"has more than the {limits.max_bytes} bytes that are taken")
        if time.monotonic() > end:  # a time-out of the socket alone would allow a byte now and then
            raise TimeoutError(f"not within {TIMEOUT_S:g} s")
    return bytes(content)


def _connect(parts: SplitResult, end: float) -> http.client.HTTPConnection:
    """A connection to the address that was found public, whatever the name stands for a moment later."""
    assert parts.hostname is not None
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    place = public_address(parts.hostname, port)
    left = max(end - time.monotonic(), 0.1)
    connection = http.client.HTTPConnection(parts.hostname, port, timeout=left)
    sock = socket.create_connection((place, port), timeout=left)
    try:
        connection.sock = (
            ssl.create_default_context().wrap_socket(sock, server_hostname=parts.hostname) if secure else sock
        )
    except BaseException:
        sock.close()
        raise
    return connection


def public_address(host: str, port: int) -> str:
    """One of the addresses that a name stands for, if all of them are public.

    Raises:
        UserError: one is not.
        OSError: the name is unknown.
    """
    found = [str(place[4][0]) for place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not all(map(_is_public, found)):
        raise UserError("is not a public address")
    return found[0]


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return _is_public(str(address.ipv4_mapped))
        if address.sixtofour is not None or address.teredo is not None or address in _NAT64:
            return False
    return address.is_global and not address.is_multicast
