"""Real decoders of content codings, and what comes out of a gateway that compresses."""

from __future__ import annotations

import contextlib
import functools
import random
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

import brotli
import zstandard

from fastpath.engine import Backend, Engine
from fastpath.filters import Filters
from tests.fastpath.http.gateways import Client, serving, to

ALL = ("zstd", "br", "gzip")
TEXT = b"Content-Type: text/plain"


class Decoder(Protocol):
    """Decodes a stream as it comes."""

    def feed(self, data: bytes) -> bytes:
        """What can be told by now."""

    def ended(self) -> bool:
        """Whether the stream has its end, and nothing behind it."""


class _Gzip:
    def __init__(self) -> None:
        self._stream = zlib.decompressobj(16 + zlib.MAX_WBITS)

    def feed(self, data: bytes) -> bytes:
        return self._stream.decompress(data)

    def ended(self) -> bool:
        return self._stream.eof and not self._stream.unused_data


class _Br:
    def __init__(self) -> None:
        self._stream = brotli.Decompressor()

    def feed(self, data: bytes) -> bytes:
        out = self._stream.process(data)
        while more := self._stream.process(b""):  # it keeps what its buffer has no room for
            out += more
        return bytes(out)

    def ended(self) -> bool:
        return bool(self._stream.is_finished())


class _Zstd:
    def __init__(self) -> None:
        self._stream = zstandard.ZstdDecompressor().decompressobj()

    def feed(self, data: bytes) -> bytes:
        return self._stream.decompress(data)

    def ended(self) -> bool:
        return bool(self._stream.eof) and not self._stream.unused_data


DECODERS: dict[str, Callable[[], Decoder]] = {"gzip": _Gzip, "br": _Br, "zstd": _Zstd}


def decoded(name: str, data: bytes) -> bytes:
    """A whole stream, decoded."""
    decoder = DECODERS[name]()
    body = decoder.feed(data)
    assert decoder.ended(), f"{len(data)} bytes of {name} are not a whole stream"
    return body


@functools.cache
def _words() -> bytes:
    found = random.Random(1)
    known = [found.randbytes(found.randint(1, 5)).hex() for _ in range(2000)]
    return " ".join(found.choices(known, k=40_000)).encode()


def words(size: int) -> bytes:
    """Text that is worth compressing."""
    text = _words()
    return (text * (size // len(text) + 1))[:size]


@contextlib.contextmanager
def compressing(
    *backends: Backend, encodings: tuple[str, ...] = ALL, **filters: object
) -> Iterator[tuple[Engine, int]]:
    """A gateway whose only route compresses."""
    more = {key: filters.pop(key) for key in ("options", "body_idle_timeout_ms") if key in filters}
    route = to(filters=Filters(compress=encodings, **filters))  # type: ignore[arg-type]
    with serving(*backends, routes=(route,), **more) as found:
        yield found


def chunks_of(client: Client) -> Iterator[bytes]:
    """Chunks of a response as they come; the last one is empty, and trailers are left out."""
    buffered = b""

    def more() -> bytes:
        data = client.socket.recv(1 << 16)
        assert data, "the end before the last chunk"
        return data

    while b"\r\n\r\n" not in buffered:
        buffered += more()
    head, _, buffered = buffered.partition(b"\r\n\r\n")
    assert b"\r\nTransfer-Encoding: chunked" in head
    size = 1
    while size:
        while b"\r\n" not in buffered:
            buffered += more()
        line, _, buffered = buffered.partition(b"\r\n")
        size = int(line, 16)
        while len(buffered) < size + 2:
            buffered += more()
        yield buffered[:size]
        buffered = buffered[size + 2 :]
