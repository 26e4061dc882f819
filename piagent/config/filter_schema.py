"""The tables of a route's filters."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from piagent.config.filter_values import (
    AnswerStatus,
    BodySize,
    Compression,
    ContentType,
    CorsHeader,
    CorsMethod,
    FieldName,
    FieldValue,
    Origin,
    PageStatus,
    PageText,
    Percent,
    PeriodRate,
    QuestionTarget,
    RateKey,
    Realm,
    RedirectStatus,
    Requests,
    Scheme,
    TargetPath,
)
from piagent.config.kinds import List, Map, Table
from piagent.config.values import Duration, FileName, Flag, HostName, Name, Network, Port

Fields = Annotated[dict[str, str], Map(FieldValue, FieldName)]
Sources = Annotated[tuple[Network, ...], List(Network, at_least=1)]


class RateLimit(Struct, frozen=True, kw_only=True):
    """How often somebody may ask."""

    rate: PeriodRate
    burst: Requests | None = None
    key: RateKey = "source"


class BasicAuth(Struct, frozen=True, kw_only=True):
    """Who may ask."""

    users_file: FileName
    realm: Realm = "restricted"


class ForwardAuth(Struct, frozen=True, kw_only=True):
    """A service that says whether a request goes on."""

    service: Name
    port: Port | None = None
    path: QuestionTarget
    copy_headers: Annotated[tuple[FieldName, ...], List(FieldName)] = ()


class Mirror(Struct, frozen=True, kw_only=True):
    """A service that gets copies of requests."""

    service: Name
    port: Port | None = None
    percent: Percent = 100


class Cors(Struct, frozen=True, kw_only=True):
    """Whose pages may read what is answered."""

    allow_origins: Annotated[tuple[Origin, ...], List(Origin, at_least=1)]
    allow_methods: Annotated[tuple[CorsMethod, ...], List(CorsMethod)] = ()
    allow_headers: Annotated[tuple[CorsHeader, ...], List(CorsHeader)] = ()
    expose_headers: Annotated[tuple[CorsHeader, ...], List(CorsHeader)] = ()
    max_age: Duration = 5000
    allow_credentials: Flag = False


class Respond(Struct, frozen=True, kw_only=True):
    """An answer without a backend."""

    status: AnswerStatus = 503
    body: PageText = ""
    content_type: ContentType = "text/plain; charset=utf-8"


class Redirect(Struct, frozen=True, kw_only=True):
    """Another place to ask at."""

    scheme: Scheme | None = None
    host: HostName | None = None
    port: Port | None = None
    path_full: TargetPath | None = None
    path_prefix: TargetPath | None = None
    status: RedirectStatus = 302


class Rewrite(Struct, frozen=True, kw_only=True):
    """What a backend is asked for."""

    host: HostName | None = None
    path_full: TargetPath | None = None
    path_prefix: TargetPath | None = None


class HeaderEdits(Struct, frozen=True, kw_only=True):
    """What becomes of the header fields."""

    set: Fields = {}
    add: Fields = {}
    remove: Annotated[tuple[FieldName, ...], List(FieldName)] = ()


class BackendFilter(Struct, frozen=True, kw_only=True):
    """One filter of a backend of a route: one of these keys."""

    request_headers: Annotated[HeaderEdits, Table(HeaderEdits)] | None = None
    response_headers: Annotated[HeaderEdits, Table(HeaderEdits)] | None = None


class Filter(Struct, frozen=True, kw_only=True):
    """One filter: one of these keys."""

    allow_sources: Sources | None = None
    deny_sources: Sources | None = None
    in_flight: Requests | None = None
    rate_limit: Annotated[RateLimit, Table(RateLimit)] | None = None
    body_limit: BodySize | None = None
    basic_auth: Annotated[BasicAuth, Table(BasicAuth)] | None = None
    forward_auth: Annotated[ForwardAuth, Table(ForwardAuth)] | None = None
    cors: Annotated[Cors, Table(Cors)] | None = None
    respond: Annotated[Respond, Table(Respond)] | None = None
    redirect: Annotated[Redirect, Table(Redirect)] | None = None
    rewrite: Annotated[Rewrite, Table(Rewrite)] | None = None
    strip_prefix: TargetPath | None = None
    add_prefix: TargetPath | None = None
    request_headers: Annotated[HeaderEdits, Table(HeaderEdits)] | None = None
    response_headers: Annotated[HeaderEdits, Table(HeaderEdits)] | None = None
    mirror: Annotated[Mirror, Table(Mirror)] | None = None
    compress: Annotated[tuple[Compression, ...], List(Compression, at_least=1)] | None = None
    error_pages: Annotated[dict[str, str], Map(FileName, PageStatus)] | None = None
