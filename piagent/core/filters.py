"""What a route does to requests and responses on their way (docs/reference/http.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping


class Users:
    """Names, and the hashes of their passwords; shown and written down it is their number."""

    __slots__ = ("hashes",)

    def __init__(self, hashes: Mapping[str, str]) -> None:
        """Take the hashes by name."""
        self.hashes = dict(hashes)

    def __eq__(self, other: object) -> bool:
        """Whether they are the same."""
        return isinstance(other, Users) and other.hashes == self.hashes

    def __hash__(self) -> int:
        """As __eq__ wants it."""
        return hash(frozenset(self.hashes.items()))

    def __len__(self) -> int:
        """How many there are."""
        return len(self.hashes)

    def __repr__(self) -> str:
        """How many there are."""
        return f"<{len(self)} users>"


class BasicAuth(Struct, frozen=True, kw_only=True):
    """Who may ask: with a name and its password (RFC 7617)."""

    realm: str
    """What browsers show to whom they ask."""
    users: Users


class Respond(Struct, frozen=True, kw_only=True):
    """An answer without a backend."""

    status: int
    body: str
    content_type: str


class Redirect(Struct, frozen=True, kw_only=True):
    """Where a client is sent instead."""

    scheme: str = ""
    """"": the request's."""
    host: str = ""
    """"": the request's."""
    port: int = 0
    """0: the scheme's, if there is one, else the listener's."""
    path: str | None = None
    """Canonical; None: the request's."""
    by_prefix: bool = False
    """`path` stands for the route's prefix; else it is all of the new path."""
    status: int = 302


class Rewrite(Struct, frozen=True, kw_only=True):
    """What a backend is asked for instead."""

    host: str = ""
    """Lower case; "": the request's."""
    path: str | None = None
    """Canonical; None: the request's."""
    by_prefix: bool = False
    """As a redirect's."""


class RateLimit(Struct, frozen=True, kw_only=True):
    """How often somebody may ask, of one node."""

    requests: int
    period_ms: int
    burst: int
    """How many may come at once after a quiet time."""
    header: str = ""
    """Who sends the same value of it is one; without it, and for "", one client address is."""


class Asked(Struct, frozen=True, kw_only=True):
    """Another service that requests of a route go to as well."""

    service: str
    """In a plan a PlannedService's name; "": one that is not there."""
    port: int | None = None
    """None: its first TCP port."""


class ForwardAuth(Asked, frozen=True, kw_only=True):
    """A service that says whether a request goes on."""

    path: str
    """Canonical, with a query if there is one."""
    copy_headers: tuple[str, ...] = ()
    """What the request gets from its answer and from nobody else."""


class Mirror(Asked, frozen=True, kw_only=True):
    """A service that gets copies of requests, whose answers nobody gets."""

    percent: int = 100
    """Of the requests, by chance."""


class Cors(Struct, frozen=True, kw_only=True):
    """Whose pages may read what is answered (Fetch standard); "*" in a list: all."""

    origins: tuple[str, ...]
    """In lower case; `*.` at the beginning of a host stands for any labels, one at least."""
    methods: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    exposed: tuple[str, ...] = ()
    max_age_ms: int = 0
    """Whole seconds: how long a browser may go by what it was told."""
    credentials: bool = False
    """Whether a page may ask in the name of who looks at it."""


class ErrorPage(Struct, frozen=True, kw_only=True):
    """The body of the gateway's own answers that have a status from `first` to `last`."""

    first: int
    last: int
    body: bytes
    content_type: str


class HeaderEdits(Struct, frozen=True, kw_only=True):
    """What becomes of the fields of a head: first `set`, then `add`, then `remove`."""

    set: tuple[tuple[str, str], ...] = ()
    """Names and values, in place of what was there."""
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


class Filters(Struct, frozen=True, kw_only=True):
    """The filters of a route, each at most once: they have an order of their own."""

    allowed: tuple[str, ...] = ()
    """CIDR prefixes of the clients that may ask; none: every one."""
    denied: tuple[str, ...] = ()
    in_flight: int = 0
    """Exchanges under way at a time, on this node; 0: no limit."""
    rate_limit: RateLimit | None = None
    body_limit: int = 0
    """Bytes of a request's body; 0: no limit."""
    basic_auth: BasicAuth | None = None
    forward_auth: ForwardAuth | None = None
    cors: Cors | None = None
    respond: Respond | None = None
    redirect: Redirect | None = None
    rewrite: Rewrite | None = None
    strip_prefix: str = ""
    """Taken off paths that have it, by elements; canonical."""
    add_prefix: str = ""
    request_headers: HeaderEdits = HeaderEdits()
    response_headers: HeaderEdits = HeaderEdits()
    mirror: Mirror | None = None
    compress: tuple[str, ...] = ()
    """Content codings that responses may have, the best one first."""
    error_pages: tuple[ErrorPage, ...] = ()
    """Of those that have a status the one that has the fewest others counts."""

    @property
    def status(self) -> int:
        """What is answered without a backend; 0: nothing is."""
        answer = self.respond or self.redirect
        return answer.status if answer else 0

    @property
    def asked(self) -> tuple[Asked, ...]:
        """The services that requests go to beside the backends of the route."""
        both: tuple[Asked | None, ...] = (self.forward_auth, self.mirror)
        return tuple(one for one in both if one is not None)

    @property
    def rewrites(self) -> bool:
        """Whether the request that goes on has another host or path."""
        return self.rewrite is not None or bool(self.strip_prefix or self.add_prefix)

    def rewritten(self, path: str, prefix: str) -> str:
        """The canonical path that goes on, for one that a route with this path has matched."""
        if self.rewrite is not None and self.rewrite.path is not None:
            rest = path[len(prefix.rstrip("/")) :] if self.rewrite.by_prefix else ""
            new = self.rewrite.path.rstrip("/") if self.rewrite.by_prefix else self.rewrite.path
            path = new + rest or "/"
        stripped = self.strip_prefix.rstrip("/")
        if stripped and (path == stripped or path.startswith(stripped + "/")):
            path = path[len(stripped) :] or "/"
        return self.add_prefix.rstrip("/") + path
