"""The values that may stand in filters; see `values`."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta

from piagent.config.values import CONNECTIONS_MAX, RATE_MAX, Leaf, UnfitError, method
from piagent.core.routing import BadRequestError, canonical_path

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE_SIZE_MAX: Final = 16384
"""Bytes of a body that a node answers with by itself."""
PATH_LENGTH_MAX: Final = 1024
TYPE_LENGTH_MAX: Final = 200
REDIRECTS: Final = (301, 302, 303, 307, 308)

NAME_LENGTH_MAX: Final = 63
REALM_LENGTH_MAX: Final = 100
OF_THE_GATEWAY: Final = (
    ({"host"}, "is what requests are routed by", 'write rewrite = { host = "www.example.com" }'),
    ({"content-length", "transfer-encoding", "trailer", "expect", "te"},
     "says where a message ends or how it is sent, so only the gateway may write it",
     "leave it out"),
    ({"connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization",
      "upgrade"},
     "is about one connection and never passed on", "leave it out"),
    ({"x-request-id"}, "is what the gateway calls the request by", "leave it out"),
    ({"forwarded", "x-real-ip", "x-forwarded-"},
     "says where a request comes from, and backends trust the gateway for that", "leave it out"),
)  # fmt: skip
"""Header fields that filters leave alone: names, why, what to do."""

_FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
ORIGIN_LENGTH_MAX: Final = 254
ANY: Final = "*"
_ORIGIN: Final = re.compile(
    r"([a-z][a-z0-9+.-]*)://((\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(:[0-9]{1,5})?"
)
_USUAL_PORTS: Final = {("http", ":80"), ("https", ":443")}
SOURCE: Final = "source"
_RATE: Final = re.compile(r"([0-9]{1,9})/([smh])")
_PERIODS_MS: Final = {"s": 1000, "m": 60_000, "h": 3_600_000}
_SIZE: Final = re.compile(r"([0-9]{1,9})(B|KiB|MiB|GiB)")
_UNITS: Final = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_TYPE: Final = re.compile(r"[!#-'*+.^_`|~0-9A-Za-z-]+/[ -~]+")


def size(text: str) -> int:
    """Read "512B", "64KiB", "10MiB" or "1GiB" as bytes."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise UnfitError(f'"{text}" is not a number and a unit (B, KiB, MiB, GiB)')
    if not int(found[1]):
        raise UnfitError(f'"{text}" is nothing at all')
    return int(found[1]) * _UNITS[found[2]]


def target_path(text: str) -> str:
    """Read a path that requests or clients get in place of theirs, in its canonical form."""
    if set(text) & set("?#"):
        raise UnfitError(f'"{text}" is more than a path', "the query is the request's own")
    if len(text) > PATH_LENGTH_MAX:
        raise UnfitError(f"{len(text)} characters, {PATH_LENGTH_MAX} at most")
    try:
        canonical = canonical_path(text)
    except BadRequestError as bad:
        raise UnfitError(f'"{text}": {bad}') from None
    if canonical != text:
        raise UnfitError(f'"{text}" is not canonical', f'write "{canonical}"')
    return text


def question_target(text: str) -> str:
    """Read what a service is asked by: a path in its canonical form, with a query or without."""
    path, mark, query = text.partition("?")
    target_path(path)
    if len(text) > PATH_LENGTH_MAX:
        raise UnfitError(f"{len(text)} characters, {PATH_LENGTH_MAX} at most")
    if mark and re.fullmatch(r"[!\"$-~]+", query) is None:
        raise UnfitError(
            f'"{text}": a query has visible ASCII characters, and no #',
            "write others as %XX of their bytes",
        )
    return text


def redirect_status(code: int) -> int:
    """Read a status that sends a client elsewhere."""
    if code not in REDIRECTS:
        raise UnfitError(f"{code} does not send a client elsewhere")
    return code


def page_text(text: str) -> str:
    """Read a body of ours."""
    if len(text.encode()) > PAGE_SIZE_MAX:
        raise UnfitError(f"{len(text.encode())} bytes, {PAGE_SIZE_MAX} at most")
    return text


def page_status(text: str) -> str:
    """Read the statuses that a page is for: "503", or "5xx" for all of a class."""
    if re.fullmatch(r"[45]([0-9][0-9]|xx)", text) is None:
        raise UnfitError(f'"{text}" is neither a status from 400 to 599 nor "4xx" or "5xx"')
    return text


def content_type(text: str) -> str:
    """Read a media type: it becomes a header field as it is."""
    if _TYPE.fullmatch(text) is None or len(text) > TYPE_LENGTH_MAX:
        raise UnfitError(f'"{text}" is not a media type')
    return text


def plain_name(text: str) -> str:
    """The form in which names of fields are the same."""
    return text.lower().replace("_", "-")


def field_name(text: str) -> str:
    """Read the name of a header field that a filter may write or take out."""
    if _FIELD_NAME.fullmatch(text) is None or len(text) > NAME_LENGTH_MAX:
        raise UnfitError(f'"{text}" is not the name of a header')
    plain = plain_name(text)
    for names, why, cure in OF_THE_GATEWAY:
        if plain in names or (plain.startswith("x-forwarded-") and "x-forwarded-" in names):
            raise UnfitError(f'"{text}" {why}', cure)
    return text


def field_value(text: str) -> str:
    """Read the value of a header field."""
    if re.fullmatch(r"[ -~]*", text) is None:
        raise UnfitError("a header holds printable ASCII characters only", "leave the others out")
    if text != text.strip():
        raise UnfitError("white space around a value is not part of it", "leave it out")
    return text


def origin(text: str) -> str:
    """Read what browsers say of a page: "https://www.example.com", "https://*.example.com", "*"."""
    found = _ORIGIN.fullmatch(text.lower())
    if text == ANY:
        return text
    if found is None or len(text) > ORIGIN_LENGTH_MAX:
        cure = 'write scheme, host and port: "https://www.example.com", "https://*.a.example:8443"'
        raise UnfitError(f'"{text}" is not an origin', cure)
    if (found[1], found[5]) in _USUAL_PORTS:
        what = f'browsers leave out the port that "{found[1]}" has anyway'
        raise UnfitError(what, f'write "{found[1]}://{found[2]}"')
    return text.lower()


def cors_method(text: str) -> str:
    """Read a method, or "*" for all."""
    return text if text == ANY else method(text)


def cors_header(text: str) -> str:
    """Read the name of a header, or "*" for all."""
    if _FIELD_NAME.fullmatch(text) is None or len(text) > NAME_LENGTH_MAX:
        raise UnfitError(f'"{text}" is not the name of a header')
    return text


def period_rate(text: str) -> tuple[int, int]:
    """Read "10/s", "30/m" or "100/h": requests, and the period in milliseconds."""
    found = _RATE.fullmatch(text)
    if found is None:
        raise UnfitError(f'"{text}" is not a number, "/" and s, m or h')
    if not 1 <= int(found[1]) <= RATE_MAX:
        raise UnfitError(f'"{text}" is not between 1 and {RATE_MAX}')
    return int(found[1]), _PERIODS_MS[found[2]]


def rate_key(text: str) -> str:
    """Read whose requests are counted together: "source", or "header:x-api-key"."""
    kind, colon, name = text.partition(":")
    if text == SOURCE:
        return text
    if kind != "header" or not colon:
        raise UnfitError(f'"{text}" is neither "source" nor "header:" and a name')
    if _FIELD_NAME.fullmatch(name) is None or len(name) > NAME_LENGTH_MAX:
        raise UnfitError(f'"{name}" is not the name of a header')
    return f"header:{name.lower()}"


def realm(text: str) -> str:
    """Read what browsers show when they ask for a password."""
    if not text.isascii() or not text.isprintable():
        raise UnfitError(f'"{text}" has characters that are no printable ASCII')
    if len(text) > REALM_LENGTH_MAX:
        raise UnfitError(f"{len(text)} characters, {REALM_LENGTH_MAX} at most")
    return text


class SchemeName(StrEnum):
    """What a client may be sent to."""

    HTTP = "http"
    HTTPS = "https"


class Encoding(StrEnum):
    """How the body of a response may be compressed (RFC 9110 section 8.4)."""

    ZSTD = "zstd"
    BR = "br"
    GZIP = "gzip"


def _text(wants: str, example: str, read: Callable[[str], object], blank: object = "") -> Leaf:
    return Leaf(source=str, wants=wants, example=f'"{example}"', read=read, blank=blank)


Scheme = Annotated[
    SchemeName, Leaf(source=SchemeName, wants="one of http, https", example='"https"')
]
BodySize = Annotated[int, _text("a size", "10MiB", size, 0)]
Requests = Annotated[
    int,
    Leaf(
        source=Annotated[int, Meta(ge=1, le=CONNECTIONS_MAX)],
        wants=f"a number of requests, 1 to {CONNECTIONS_MAX}",
        example="100",
        blank=0,
    ),
]
Percent = Annotated[
    int,
    Leaf(
        source=Annotated[int, Meta(ge=1, le=100)],
        wants="whole percents, 1 to 100",
        example="10",
        blank=0,
    ),
]
TargetPath = Annotated[str, _text("a path", "/v2", target_path)]
QuestionTarget = Annotated[str, _text("a path", "/auth", question_target)]
AnswerStatus = Annotated[
    int,
    Leaf(
        source=Annotated[int, Meta(ge=200, le=599)],
        wants="a status code, 200 to 599",
        example="503",
        blank=0,
    ),
]
RedirectStatus = Annotated[
    int,
    Leaf(
        source=int,
        wants="301, 302, 303, 307 or 308",
        example="308",
        read=redirect_status,
        blank=0,
    ),
]
Realm = Annotated[str, _text("a text", "Family only", realm)]
PageText = Annotated[str, _text("a text", "Back at noon", page_text)]
PageStatus = Annotated[str, _text("a status or a class", "5xx", page_status)]
ContentType = Annotated[str, _text("a media type", "text/html", content_type)]
FieldName = Annotated[str, _text("the name of a header", "x-from", field_name)]
FieldValue = Annotated[str, _text("the value of a header", "piagent", field_value)]
Origin = Annotated[str, _text("an origin", "https://www.example.com", origin)]
Compression = Annotated[
    Encoding, Leaf(source=Encoding, wants="one of zstd, br, gzip", example='"gzip"')
]
CorsMethod = Annotated[str, _text("a method", "PUT", cors_method)]
CorsHeader = Annotated[str, _text("the name of a header", "authorization", cors_header)]
PeriodRate = Annotated[
    tuple[int, int] | None, _text("a rate by the second, minute or hour", "10/s", period_rate, None)
]
RateKey = Annotated[
    str, _text('"source" or "header:" and a name', "header:x-api-key", rate_key, "")
]
