"""ClientHellos in plain Python: what tests send, and what they make of what is sent to them."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

SERVER_NAME, ALPN, KEY_SHARE, PADDING = 0, 16, 51, 21
TLS_1_0, TLS_1_2 = 0x0301, 0x0303
SIZE_MAX = 16384

_LABEL = r"[a-z0-9_-]{1,63}"
_HOST = re.compile(rf"(?:{_LABEL}\.)*(?!\d+\Z){_LABEL}")


class Asked(NamedTuple):
    """What a whole ClientHello asks for."""

    name: bytes
    alpn: bytes


def vector(data: bytes, size_bytes: int) -> bytes:
    """Behind its length."""
    return len(data).to_bytes(size_bytes) + data


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(data, 2)


def server_name(name: bytes, kind: int = 0) -> bytes:
    """RFC 6066 section 3."""
    return extension(SERVER_NAME, vector(bytes([kind]) + vector(name, 2), 2))


def alpn(*names: bytes) -> bytes:
    """RFC 7301 section 3.1."""
    return extension(ALPN, vector(b"".join(vector(name, 1) for name in names), 2))


def message(
    extensions: Iterable[bytes] | None = (),
    *,
    session_id: bytes = bytes(32),
    ciphers: bytes = bytes.fromhex("130113021303"),
    compression: bytes = b"\0",
    version: int = TLS_1_2,
    kind: int = 1,
    more: bytes = b"",
) -> bytes:
    """A ClientHello (RFC 8446 section 4.1.2), right or wrong; None: one that ends before them."""
    body = struct.pack("!H", version) + bytes(range(32))
    body += vector(session_id, 1) + vector(ciphers, 2) + vector(compression, 1)
    if extensions is not None:
        body += vector(b"".join(extensions), 2)
    return bytes([kind]) + vector(body + more, 3)


def records(handshake: bytes, sizes: Sequence[int] = (), version: int = TLS_1_0) -> bytes:
    """Cut into records of these sizes and one for the rest (RFC 8446 section 5.1)."""
    cut = b""
    for size in (*sizes, SIZE_MAX):
        part, handshake = handshake[:size], handshake[size:]
        if part:
            cut += struct.pack("!BH", 22, version) + vector(part, 2)
    return cut


def hello(name: bytes, *protocols: bytes) -> bytes:
    """An ordinary one: what a connection with TLS begins with."""
    parts = [server_name(name), extension(KEY_SHARE, bytes(40))]
    return records(message([*parts, alpn(*protocols)] if protocols else parts))


class _WrongError(Exception):
    pass


class _Reader:
    """Bytes of which some are read and some are left."""

    def __init__(self, data: bytes) -> None:
        self.left = data

    def take(self, size: int) -> bytes:
        if size > len(self.left):
            raise _WrongError
        taken, self.left = self.left[:size], self.left[size:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size_bytes: int) -> _Reader:
        return _Reader(self.take(self.number(size_bytes)))

    def end(self) -> None:
        if self.left:
            raise _WrongError


def read(data: bytes) -> Asked | None:
    """What the ClientHello that `data` begins with asks for; None: there is none, or not all."""
    try:
        return _read(data[:SIZE_MAX])
    except _WrongError:
        return None


def _read(data: bytes) -> Asked:
    body = _Reader(_handshake(_Reader(data)))
    if body.number(2) >> 8 != 3:
        raise _WrongError
    body.take(32)
    session_id, ciphers, compression = body.vector(1), body.vector(2), body.vector(1)
    if len(session_id.left) > 32 or len(ciphers.left) % 2 or not ciphers.left:
        raise _WrongError
    if not compression.left:
        raise _WrongError
    found: dict[int, bytes] = {}
    if body.left:
        extensions = body.vector(2)
        body.end()
        while extensions.left:
            kind, value = extensions.number(2), extensions.vector(2).left
            if kind in found and kind in {SERVER_NAME, ALPN}:
                raise _WrongError
            found[kind] = value
    name = _name(_Reader(found[SERVER_NAME])) if SERVER_NAME in found else b""
    protocols = _protocols(_Reader(found[ALPN])) if ALPN in found else b""
    return Asked(name, protocols)


def _handshake(data: _Reader) -> bytes:
    """The body of the message, whatever records it is cut into."""
    joined = b""
    while len(joined) < 4 or len(joined) < 4 + int.from_bytes(joined[1:4]):
        if data.number(1) != 22 or data.number(2) >> 8 != 3:
            raise _WrongError
        size = data.number(2)
        if not 1 <= size <= SIZE_MAX:
            raise _WrongError
        joined += data.left[:size]  # what follows the message does not matter
        data.left = data.left[size:]
    if joined[0] != 1:
        raise _WrongError
    return joined[4 : 4 + int.from_bytes(joined[1:4])]


def _name(value: _Reader) -> bytes:
    names = value.vector(2)
    value.end()
    kind, name = names.number(1), names.vector(2).left.lower()
    names.end()
    if kind != 0 or len(name) > 253 or not _HOST.fullmatch(name.decode("latin-1")):
        raise _WrongError
    return name


def _protocols(value: _Reader) -> bytes:
    names = value.vector(2)
    value.end()
    whole = names.left
    if not whole:
        raise _WrongError
    if len(whole) > 255:
        return b""
    while names.left:
        if not names.vector(1).left:
            raise _WrongError
    return whole
