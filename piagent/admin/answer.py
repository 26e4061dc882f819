"""What the admin API sends back."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import Struct

from piagent.admin.status import ApiError

T = TypeVar("T")

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"


class Answer(Struct, frozen=True):
    """A response before it becomes bytes."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    """More of them, as `Allow` of a 405."""


class Refused(Exception):
    """Ends a request that cannot be done with the answer that says why."""

    def __init__(self, status: int, error: str, detail: str) -> None:
        """Take the parts of an ApiError."""
        super().__init__(detail)
        self.answer = problem(status, error, detail)


def not_allowed(method: str, *allowed: str) -> Answer:
    """A 405."""
    refusal = problem(405, "method not allowed", f"{method[:20]!r}: use {' or '.join(allowed)}")
    return with_header(refusal, "Allow", ", ".join(allowed))


def with_header(reply: Answer, name: str, value: str) -> Answer:
    """The same answer with one header more."""
    return msgspec.structs.replace(reply, headers=(*reply.headers, (name, value)))


def problem(status: int, error: str, detail: str) -> Answer:
    """An error in the API's form: {error, detail}."""
    return json_answer(ApiError(error, detail), status)


def json_answer(value: object, status: int = 200) -> Answer:
    """A value in JSON."""
    return Answer(status, JSON, msgspec.json.encode(value) + b"\n")


def decoded(body: bytes, kind: type[T]) -> T:
    """Read a request's body; raises Refused."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        names = ", ".join(getattr(kind, "__struct_fields__", ()))
        what = f"the body is not {{{names}}}: {error}"[:300]
        raise Refused(400, "bad request", what) from None
