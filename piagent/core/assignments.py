"""What the leader has given out: one message with everything, from the wants of all nodes.

`compose` is the leader's whole decision: what was given before, what is wanted now -> what is given
from now on. It keeps whatever may stay, so that who leads makes no difference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from piagent.core.allocation import allocate
from piagent.core.allocation_types import Allocation, AllocationReason, Count, Request
from piagent.core.model import Families, Pool, PoolType
from piagent.core.node_ports import allocate_node_ports
from piagent.core.wants import Want, WantedPort, cluster_request, port_requests, vip_request

Stamp = tuple[int, int]
"""Epoch of a leadership, number within it: rises with each change."""
NEVER: Stamp = (0, 0)
MAX_DELETED = 200
"""Deleted names that are remembered."""


class Applied(Struct, frozen=True, omit_defaults=True):
    """What was applied under a name, and is in force."""

    version: int
    """1, 2, …: rises with each change of it."""
    digest: str
    """Of its table: `records.digest`."""
    since: Stamp


class Refused(Struct, frozen=True):
    """Why something that is wanted is not given."""

    what: str
    """"vip", "cluster", or the name of a port."""
    reason: AllocationReason
    detail: str


class Assignment(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={"cluster_ips": "cluster", "node_ports": "ports"},
):
    """What one service or gateway has."""

    vips: tuple[str, ...] = ()
    cluster_ips: tuple[str, ...] = ()
    node_ports: dict[str, int] = {}
    """Port name -> number."""
    pool: str | None = None
    """Where its VIPs (its cluster addresses, when it has none) are from."""
    why: AllocationReason | None = None
    """How it came by them."""
    refused: tuple[Refused, ...] = ()
    applied: Applied | None = None
    """None: it is in a node's file."""


class Assignments(
    Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={"node": "n", "epoch": "e", "number": "q"},
):
    """`assigned/services`, retained: all that is in force."""

    node: str
    """The leader."""
    epoch: int
    number: int
    given: dict[str, Assignment] = {}
    """"service/web" -> what it has."""
    routes: dict[str, Applied] = {}
    """Applied routes, which need nothing but to be in force."""
    deleted: dict[str, Stamp] = {}
    """What was applied and then deleted lately: older news of it is void."""
    known: Stamp = NEVER
    """Of a `prepare` (number 0): the stamp of what it repeats."""

    @property
    def told(self) -> Stamp:
        """The stamp under which its content was said first."""
        return self.stamp if self.number else self.known

    @property
    def stamp(self) -> Stamp:
        """Later assignments have a larger one."""
        return self.epoch, self.number

    def applied(self) -> Iterator[tuple[str, Applied]]:
        """What was applied, by key."""
        for key, one in self.given.items():
            if one.applied is not None:
                yield key, one.applied
        yield from self.routes.items()


class Composed(Struct, frozen=True):
    """What is given from now on, and what the pools have left."""

    given: dict[str, Assignment]
    pools: Mapping[str, Mapping[int, Count]]


def compose(
    pools: Sequence[Pool], wants: Mapping[str, Want], before: Mapping[str, Assignment]
) -> Composed:
    """Give everybody what it wants as far as it can be; what it has it keeps if it may.

    What is not wanted any more is gone. `applied` marks stay as they were. Who has nothing, asks
    for nothing and was not applied is not in the result.
    """
    held = {key: before.get(key, Assignment()) for key in sorted(wants)}
    vips = _allocate(pools, {key: vip_request(key, want) for key, want in wants.items()},
                     {key: one.vips for key, one in held.items()})  # fmt: skip
    inside = _allocate(
        pools,
        {key: cluster_request(key, want, pools) for key, want in wants.items()},
        {key: one.cluster_ips for key, one in held.items()},
    )
    ports = allocate_node_ports(
        [request for key in sorted(wants) for request in port_requests(key, wants[key])],
        {(key, name): port for key, one in held.items() for name, port in one.node_ports.items()},
    )
    open_ports: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for (key, name), grant in ports.given.items():
        open_ports[key][name] = grant.number
    refused_ports: defaultdict[str, list[Refused]] = defaultdict(list)
    for (key, name), refusal in ports.refused.items():
        refused_ports[key].append(Refused(name, refusal.reason, refusal.detail))
    given: dict[str, Assignment] = {}
    for key, had in held.items():
        grants = [found.given[key] for found in (vips, inside) if key in found.given]
        refused = [
            Refused(what, found.refused[key].reason, found.refused[key].detail)
            for what, found in (("vip", vips), ("cluster", inside))
            if key in found.refused
        ]
        if not (grants or refused or open_ports[key] or refused_ports[key] or had.applied):
            continue
        given[key] = Assignment(
            vips=vips.given[key].addresses if key in vips.given else (),
            cluster_ips=inside.given[key].addresses if key in inside.given else (),
            node_ports=open_ports[key],
            pool=grants[0].pool if grants else None,
            why=_why(had.why, grants[0].reason) if grants else None,
            refused=(*refused, *refused_ports[key]),
            applied=had.applied,
        )
    counts = {pool.name: pool.type for pool in pools}
    return Composed(
        given,
        {
            name: (vips if of is PoolType.LOAD_BALANCER else inside).pools[name]
            for name, of in counts.items()
        },
    )


def reserved(has: Assignment) -> Want:
    """What keeps what somebody has for it: its file may be away, and with it what it asks for."""
    dual = max(len(has.vips), len(has.cluster_ips)) > 1
    return Want(
        vip=bool(has.vips),
        inside=bool(has.cluster_ips),
        opens=bool(has.node_ports),
        vips=has.vips,
        cluster_ips=has.cluster_ips,
        families=Families.PREFER_DUAL if dual else Families.SINGLE,
        ports=tuple(WantedPort(name, 0, node_port=n) for name, n in has.node_ports.items()),
    )


def _why(before: AllocationReason | None, now: AllocationReason) -> AllocationReason:
    """How it came by what it has, which is not changed by keeping it."""
    return before if before is not None and now is AllocationReason.KEPT else now


def with_late(current: Assignments, late: Assignments) -> Assignments:
    """Add what was applied, or deleted, later than what is known under its name.

    What is older than all deletions that are remembered may have been deleted, too: it is void.
    The same object comes back when there is nothing to add.
    """
    full = len(current.deleted) >= MAX_DELETED
    forgotten = min(current.deleted.values()) if full else NEVER
    given, routes, deleted = dict(current.given), dict(current.routes), dict(current.deleted)

    def known(key: str) -> Stamp:
        applied = routes.get(key) or (given[key].applied if key in given else None)
        return max(applied.since if applied else NEVER, deleted.get(key, forgotten))

    news = False
    for key, applied in late.applied():
        if applied.since > known(key):
            news = True
            deleted.pop(key, None)
            if key in late.routes:
                routes[key] = applied
            else:
                given[key] = late.given[key]
    for key, stamp in late.deleted.items():
        if stamp > known(key):
            news = True
            deleted[key] = stamp
            routes.pop(key, None)
            given.pop(key, None)
    if not news:
        return current
    number = current.number + 1
    return replace(current, number=number, given=given, routes=routes, deleted=latest(deleted))


def latest(deleted: Mapping[str, Stamp]) -> dict[str, Stamp]:
    """The deletions that are remembered, at every node the same."""
    return dict(sorted(deleted.items(), key=lambda item: (item[1], item[0]))[-MAX_DELETED:])


def _allocate(
    pools: Sequence[Pool],
    requests: Mapping[str, Request | None],
    held: Mapping[str, tuple[str, ...]],
) -> Allocation:
    asking = [request for _, request in sorted(requests.items()) if request is not None]
    names = {request.name for request in asking}
    return allocate(pools, asking, {k: has for k, has in held.items() if has and k in names})
