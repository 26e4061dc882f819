"""What the addresses of a file must be to each other: pools, services, gateways.

A check skips blank values: they have been reported when they were read.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from piagent.config.problems import did_you_mean, elements, key_path, unique
from piagent.core.model import Families, PoolType, ServiceType, TrafficPolicy
from piagent.core.plan import is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator

    from piagent.config.lines import KeyPath
    from piagent.config.problems import Report
    from piagent.config.schema import File, Gateway, Pool, Service

LOAD_BALANCER: Final = PoolType.LOAD_BALANCER


def check_addresses(file: File, report: Report) -> None:
    """Check all of them."""
    _check_pools(file, report)
    for path, address, of in _addresses(file):
        _check_address(path, address, of, file, report)
    for kind, i, table in _owners(file):
        _check_request(table, (kind, i), file, report)
        _check_source(table, (kind, i), file, report)
    _check_sharing(file, report)


def vips(file: File) -> Iterator[tuple[KeyPath, str]]:
    """Yield each address of our own, with its place."""
    return ((path, address) for path, address, of in _addresses(file) if of is LOAD_BALANCER)


def _addresses(file: File) -> Iterator[tuple[KeyPath, str, PoolType]]:
    """Yield each address that the file asks for, with its place and the type of its pool."""
    for kind, i, table in _owners(file):
        for j, address in enumerate(table.address):
            if address:
                path = (kind, i, "address") if len(table.address) == 1 else (kind, i, "address", j)
                yield path, address, pool_type(table)


def _owners(file: File) -> Iterator[tuple[str, int, Service | Gateway]]:
    """Yield each table that may have addresses: of a readable type, and not external."""
    none = {"", ServiceType.EXTERNAL}
    yield from (("service", i, one) for i, one in enumerate(file.service) if one.type not in none)
    yield from (("gateway", i, table) for i, table in enumerate(file.gateway))


def pool_type(table: Service | Gateway) -> PoolType:
    """Of which pools its own address is."""
    on_nodes = getattr(table, "type", ServiceType.LOAD_BALANCER) is not ServiceType.LOAD_BALANCER
    return PoolType.CLUSTER if on_nodes else LOAD_BALANCER


def _check_pools(file: File, report: Report) -> None:
    for i, pool in enumerate(file.pool):
        unique(report, elements(("pool", i, "interfaces"), pool.interfaces), "once is enough")
    ranges = [
        (ip_address(one.first).version, int(ip_address(one.first)), int(ip_address(one.last)), path)
        for i, pool in enumerate(file.pool)
        for j, one in enumerate(pool.addresses)
        if one is not None
        for path in [("pool", i, "addresses", j)]
    ]
    ranges.sort()
    reaching: tuple[int, int, KeyPath] | None = None
    for version, first, last, path in ranges:
        if reaching is not None and reaching[0] == version and first <= reaching[1]:
            later, earlier = max(path, reaching[2]), min(path, reaching[2])
            report.error(later, f"overlaps {key_path(earlier)}", "an address is in one pool only")
        if reaching is None or (version, last) > reaching[:2]:
            reaching = (version, last, path)


def _check_address(path: KeyPath, address: str, of: PoolType, file: File, report: Report) -> None:
    if is_loopback(address) or any(None in pool.addresses for pool in file.pool):
        return
    holding = [p for p in file.pool if any(one and one.holds(address) for one in p.addresses)]
    if holding and holding[0].type and holding[0].type is not of:
        what = f'{address} is in pool "{holding[0].name}", whose type is "{holding[0].type}"'
        report.error(path, what, f'an address of a pool with type = "{of}"')
    elif not holding and any(pool.type in {"", of} for pool in file.pool):
        report.error(path, f"{address} is in no pool", "add it to the addresses of one")
    elif not holding:
        kind = "" if of is LOAD_BALANCER else f', type = "{of}"'
        cure = f'write [[pool]] with a name{kind} and addresses = ["{address}"]'
        report.error(path, f"{address} is in no pool: the file has none", cure)


def _check_request(table: Service | Gateway, path: KeyPath, file: File, report: Report) -> None:
    """Check what a service or gateway asks for: addresses, a pool, IP versions."""
    of = pool_type(table)
    unique(report, elements((*path, "ip_families"), table.ip_families), "once is enough")
    if all(table.address):
        _check_versions(table, path, report)
    pools = {pool.name: pool for pool in file.pool if pool.type in {"", of}}
    if table.pool and table.pool not in pools and "" not in pools:
        what = f'there is no pool "{table.pool}" with type = "{of}"'
        report.error((*path, "pool"), what, did_you_mean(table.pool, pools))
    for address in filter(None, table.address if table.pool in pools else ()):
        elsewhere = is_loopback(address) or any(_holds(one, address) for one in pools.values())
        if elsewhere and not _holds(pools[table.pool or ""], address):
            what = f'{address} is not in pool "{table.pool}"'
            report.error((*path, "pool"), what, "leave one of the two out, or make them agree")
    if table.pool is None and len(table.address) == 2 and all(table.address):
        one, other = ({p for p in pools if _holds(pools[p], ip)} for ip in table.address)
        if one and other and not one & other:
            what = f"{' and '.join(table.address)} are of two pools"
            report.error((*path, "address"), what, "both addresses of one pool")


def _check_versions(table: Service | Gateway, path: KeyPath, report: Report) -> None:
    """Check that the addresses are as many and of the IP versions as are asked for."""
    versions = [f"ipv{ip_address(one).version}" for one in table.address]
    policy, first = table.ip_family_policy, (*table.ip_families, "")[0]
    if len(versions) > len(set(versions)):
        what = "two addresses of one IP version"
        report.error((*path, "address"), what, "one, or one IPv4 and one IPv6 address")
    elif len(versions) == 2 and policy is Families.SINGLE:
        what = "two addresses, and a service has one unless it says so"
        report.error((*path, "address"), what, 'write ip_family_policy = "require-dual"')
    elif len(versions) == 1 and policy is Families.REQUIRE_DUAL:
        what = f"one address, and {key_path((*path, 'ip_family_policy'))} requires two"
        cure = "name one of the other IP version as well, or none: a pool gives both"
        report.error((*path, "address"), what, cure)
    elif len(versions) == 1 and policy is Families.SINGLE and first not in {"", versions[0]}:
        what = f'"{first}" first, and the address is {versions[0]}'
        report.error((*path, "ip_families"), what, "leave it out: the address says it")


def _check_source(table: Service | Gateway, path: KeyPath, file: File, report: Report) -> None:
    """Check that there is somewhere a VIP could come from."""
    if table.address or table.pool or pool_type(table) is not LOAD_BALANCER:
        return
    if not any(pool.type in {"", LOAD_BALANCER} and pool.auto_assign for pool in file.pool):
        what = "has no address, and no pool gives one by itself"
        report.error((*path, "address"), what, "write one, or a [[pool]] with auto_assign = true")


def _check_sharing(file: File, report: Report) -> None:
    """Check that who shares an address has the same key."""
    first: dict[str, tuple[KeyPath, Service | Gateway]] = {}
    for kind, i, table in _owners(file):
        for address in filter(None, table.address):
            path: KeyPath = (kind, i, "sharing_key")
            other, with_it = first.setdefault(address, (path, table))
            if with_it is table:
                continue
            keys = (table.sharing_key, with_it.sharing_key)
            if "" in keys:
                continue
            if None in keys or keys[0] != keys[1]:
                what = f"{address} is also {key_path(other[:-1])}'s"
                key = with_it.sharing_key or with_it.name
                report.error(path, what, f'write sharing_key = "{key}" in both')
            elif _policy(table) is not _policy(with_it):
                what = f"{address} is also {key_path(other[:-1])}'s, with another traffic_policy"
                report.error(path, what, "the same one for both")
            elif _local(table) != _local(with_it):
                what = f"{address} is also {key_path(other[:-1])}'s, which has other backends"
                cure = 'with traffic_policy = "local" the same ones for both: they say who owns it'
                report.error(path, what, cure)


def _policy(table: Service | Gateway) -> TrafficPolicy:
    """Where its traffic goes; a gateway's to the backends of all nodes."""
    return getattr(table, "traffic_policy", TrafficPolicy.CLUSTER)


def _local(table: Service | Gateway) -> set[str]:
    """The backends that decide who may own its VIP."""
    if _policy(table) is not TrafficPolicy.LOCAL:
        return set()
    return {backend.address for backend in getattr(table, "backends", ())}


def _holds(pool: Pool, address: str) -> bool:
    return any(one is None or one.holds(address) for one in pool.addresses)
