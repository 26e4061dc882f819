"""Whole streams of messages through the pure parts: head, body, trailers, next message."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest

probe = pytest.importorskip("fastpath.http._probe", reason="built without PIAGENT_PROBE=1")


@dataclass
class Outcome:
    """What became of a stream."""

    messages: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Of each complete message: the head as forwarded, the decoded body."""
    refused: str = ""
    status: int = 0
    pending: bool = False
    """The stream ends within a message."""


def pieces(data: bytes, cuts: tuple[int, ...]) -> list[bytes]:
    """Cut a stream at the given places."""
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(data)}), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


class Reader:
    """Reads messages off a stream as a connection does: a byte is looked at when it has arrived."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.left = b""
        self.outcome = Outcome()
        self._begin()

    def _begin(self) -> None:
        self.scan: Any = probe.Scan(self.kind)
        self.head = b""
        self.body_kind = ""
        self.length = 0
        self.body = b""
        self.chunks: Any = None
        self.trailers: Any = None
        self.fresh = True

    def feed(self, more: bytes) -> None:
        """Take more of the stream; nothing after a refusal."""
        if self.outcome.refused:
            return
        self.left += more
        try:
            while self.left and self._step():
                pass
        except probe.Refused as refused:
            self.outcome.refused, self.outcome.status = refused.args

    def end(self) -> Outcome:
        """The stream has ended."""
        if self.body_kind == "until-close":
            self._done()
        self.outcome.pending = not self.fresh and not self.outcome.refused
        return self.outcome

    def _step(self) -> bool:
        if not self.head:
            return self._head()
        if self.trailers is not None:
            return self._field_section()
        if self.chunks is not None:
            return self._chunk()
        taken = self.left if self.body_kind == "until-close" else self.left[: self.length]
        self.left = self.left[len(taken) :]
        self.body += taken
        self.length -= len(taken)
        if self.body_kind == "length" and self.length == 0:
            self._done()
        return True

    def _head(self) -> bool:
        before = self.scan.pos
        given, self.left = self.left, b""
        complete = self.scan.feed(given)
        # Empty lines before a request are no message yet.
        self.fresh = self.fresh and not given.strip(b"\r\n")
        if not complete:
            return False
        self.left = given[self.scan.pos - before :]
        if self.kind == "request":
            _, _, _, self.body_kind, self.length, self.head, _ = self.scan.request()
        else:
            _, self.body_kind, self.length, self.head = self.scan.response()
        if self.body_kind == "chunked":
            self.chunks = probe.Chunks()
        elif self.body_kind == "none":
            self._done()
        return True

    def _chunk(self) -> bool:
        decoded, used, ended = self.chunks.feed(self.left)
        self.body += decoded
        self.left = self.left[used:]
        if ended:
            self.trailers = probe.Scan("trailers")
        return True

    def _field_section(self) -> bool:
        before = self.trailers.pos
        given, self.left = self.left, b""
        if self.trailers.feed(given):
            self.left = given[self.trailers.pos - before :]
            self._done()
        return True

    def _done(self) -> None:
        self.outcome.messages.append((self.head, self.body))
        self._begin()


def read(data: bytes, kind: str = "request", cuts: tuple[int, ...] = ()) -> Outcome:
    """Read a whole stream that arrives in the given pieces."""
    reader = Reader(kind)
    for piece in pieces(data, cuts):
        reader.feed(piece)
    return reader.end()
