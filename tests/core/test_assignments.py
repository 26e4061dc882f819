"""What the leader gives from what is wanted, and what it learns late."""

from __future__ import annotations

from msgspec.structs import replace

from piagent.core.allocation_types import AllocationReason
from piagent.core.assignments import (
    MAX_DELETED,
    Applied,
    Assignment,
    Assignments,
    Composed,
    compose,
    latest,
    reserved,
    with_late,
)
from piagent.core.model import (
    AddressRange,
    Backend,
    Families,
    Gateway,
    Pool,
    Service,
    ServicePort,
    ServiceType,
    TrafficPolicy,
)
from piagent.core.wants import Want, cluster_request, wants_of
from tests.core.things import INSIDE, LAN, gateway, service

NOTHING = Assignments(node="pi-1", epoch=5, number=3)


def composed(
    *services: Service,
    gateways: tuple[Gateway, ...] = (),
    before: dict[str, Assignment] | None = None,
    pools: tuple[Pool, ...] = (LAN, INSIDE),
) -> Composed:
    return compose(pools, wants_of(services, gateways), before or {})


def test_each_type_gets_what_it_is_to_have() -> None:
    given = composed(
        service("inside", ServiceType.CLUSTER),
        service("node", ServiceType.NODE_PORT),
        service("lan"),
        service("quiet", node_ports=False),
        service("headless", ServiceType.CLUSTER, headless=True),
        service("elsewhere", ServiceType.EXTERNAL, ports=(), backends=()),
        gateways=(gateway("front"),),
    ).given
    shape = {
        key: (len(one.vips), len(one.cluster_ips), len(one.node_ports))
        for key, one in given.items()
    }
    assert shape == {
        "gateway/front": (1, 0, 0),
        "service/inside": (0, 1, 0),
        "service/lan": (1, 1, 1),
        "service/node": (0, 1, 1),
        "service/quiet": (1, 1, 0),
    }


def test_without_a_cluster_pool_nobody_is_refused_a_cluster_address() -> None:
    given = composed(service("web"), service("in", ServiceType.CLUSTER), pools=(LAN,)).given
    assert given["service/web"].cluster_ips == ()
    assert given["service/web"].refused == ()
    assert "service/in" not in given


def test_who_asks_for_a_cluster_address_that_cannot_be_is_refused() -> None:
    asks = service("in", ServiceType.CLUSTER, cluster_ips=("10.97.0.1",))
    (refused,) = composed(asks).given["service/in"].refused
    assert (refused.what, refused.reason) == ("cluster", AllocationReason.OUTSIDE_POOLS)


def test_what_is_there_stays_and_what_is_not_wanted_goes() -> None:
    before = composed(service("a"), service("b")).given
    now = composed(service("b"), service("c"), before=before).given
    assert now["service/b"].vips == before["service/b"].vips
    assert now["service/b"].why is AllocationReason.ASSIGNED, "how it came by it, not what it did"
    assert now["service/c"].vips == ("10.0.0.1",)
    assert "service/a" not in now
    assert composed(service("b"), service("c"), before=now).given == now


def test_the_pool_and_key_of_a_load_balancer_are_about_its_vip() -> None:
    given = composed(service("web", pool="lan", sharing_key="k")).given["service/web"]
    assert given.cluster_ips == ("10.96.0.1",)
    assert given.pool == "lan"


def test_every_port_gets_a_node_port_or_the_reason_why_not() -> None:
    ports = (
        ServicePort(name="a", port=80, target_port=80, node_port=30080),
        ServicePort(name="b", port=81, target_port=81),
    )
    given = composed(service("x", ports=ports), service("y", ports=ports)).given
    assert given["service/x"].node_ports == {"a": 30080, "b": 30000}
    assert given["service/y"].node_ports == {"b": 30001}
    assert [(one.what, one.reason) for one in given["service/y"].refused] == [
        ("a", AllocationReason.IN_USE)
    ]


def test_both_ip_versions_of_a_cluster_address() -> None:
    dual = replace(
        INSIDE, addresses=(*INSIDE.addresses, AddressRange(first="fd00::1", last="fd00::9"))
    )
    wanted = service("in", ServiceType.CLUSTER, families=Families.REQUIRE_DUAL)
    given = composed(wanted, pools=(dual,)).given
    assert given["service/in"].cluster_ips == ("10.96.0.1", "fd00::1")


def test_what_is_reserved_is_kept_and_given_to_nobody_else() -> None:
    v6 = AddressRange(first="fd00::1", last="fd00::9")
    pools = (replace(LAN, addresses=(*LAN.addresses, v6)), INSIDE)
    ports = (ServicePort(name="http", port=80, target_port=80),)
    dual = service("away", families=Families.PREFER_DUAL, ports=ports)
    has = composed(dual, pools=pools).given["service/away"]
    wants = {**wants_of([service("new")], []), "service/away": reserved(has)}
    given = compose(pools, wants, {"service/away": has}).given
    assert given["service/away"] == has
    assert given["service/new"].vips == ("10.0.0.2",)
    assert given["service/new"].node_ports == {"http": 30001}
    again = compose(pools, wants_of([service("new"), dual], []), given).given
    assert again["service/away"] == has


def test_pools_are_counted() -> None:
    pools = composed(service("a"), service("b")).pools
    assert (pools["lan"][4].total, pools["lan"][4].used, pools["lan"][4].free) == (3, 2, 1)
    assert pools["inside"][4].used == 2


def test_who_is_never_content_does_not_keep_the_leader_busy() -> None:
    wants = {"service/web": Want(vip=True, pool=""), "service/b": Want(vip=True, pool="lan")}
    given = compose((LAN, INSIDE), wants, {}).given
    assert given["service/b"].vips == ("10.0.0.1",)
    assert compose((LAN, INSIDE), wants, given).given["service/b"].vips == ("10.0.0.1",)


# ---- learnt late -------------------------------------------------------------------------------


def applied(epoch: int, number: int, version: int = 1) -> Assignment:
    return Assignment(vips=("10.0.0.1",), applied=Applied(version, "d", (epoch, number)))


def test_what_was_applied_later_than_known_is_taken_over() -> None:
    late = replace(NOTHING, epoch=4, given={"service/web": applied(4, 9)})
    now = with_late(NOTHING, late)
    assert now.given == late.given
    assert now.stamp == (5, 4)


def test_nothing_new_gives_the_same_object() -> None:
    known = replace(NOTHING, given={"service/web": applied(4, 9, 2)}, deleted={"service/x": (4, 8)})
    late = replace(
        NOTHING,
        epoch=4,
        given={"service/web": applied(3, 1), "service/x": applied(4, 7), "service/f": Assignment()},
    )
    assert with_late(known, late) is known


def test_what_was_deleted_later_than_known_goes() -> None:
    known = replace(
        NOTHING, given={"service/web": applied(4, 9)}, routes={"route/r": Applied(1, "d", (4, 1))}
    )
    late = replace(NOTHING, epoch=4, deleted={"service/web": (4, 10), "route/r": (4, 2)})
    now = with_late(known, late)
    assert (now.given, now.routes, now.deleted) == ({}, {}, late.deleted)


def test_a_late_route_is_a_route() -> None:
    late = replace(NOTHING, epoch=4, routes={"route/r": Applied(3, "d", (4, 1))})
    assert with_late(NOTHING, late).routes == late.routes


def test_what_fell_out_of_a_full_memory_of_deletions_is_no_news() -> None:
    many = {f"service/s{i}": (4, i) for i in range(MAX_DELETED + 1)}
    full = replace(NOTHING, deleted=dict(list(many.items())[1:]))
    assert with_late(full, replace(NOTHING, deleted=many)) is full
    late = replace(NOTHING, deleted={"service/x": (4, 500)})
    now = with_late(full, late).deleted
    assert len(now) == MAX_DELETED
    assert "service/x" in now
    assert "service/s1" not in now


def test_what_may_have_been_deleted_and_forgotten_does_not_come_back() -> None:
    full = replace(NOTHING, deleted={f"service/s{i}": (4, 10 + i) for i in range(MAX_DELETED)})
    assert with_late(full, replace(NOTHING, given={"service/web": applied(4, 10)})) is full
    newer = replace(NOTHING, given={"service/web": applied(4, 11)})
    assert with_late(full, newer).given == newer.given


def test_what_was_applied_again_is_deleted_no_more() -> None:
    known = replace(NOTHING, deleted={"service/web": (4, 8), "service/x": (4, 7)})
    late = replace(NOTHING, given={"service/web": applied(4, 9)})
    now = with_late(known, late)
    assert (now.given, now.deleted) == (late.given, {"service/x": (4, 7)})


def test_the_deletions_that_are_remembered_are_the_latest_whatever_their_names() -> None:
    deleted = {f"service/s{i:03}": (4, 1000 - i) for i in range(MAX_DELETED + 2)}
    kept = latest(deleted)
    assert set(deleted) - set(kept) == {"service/s200", "service/s201"}
    same = {f"service/s{i:03}": (4, 1) for i in reversed(range(MAX_DELETED + 1))}
    assert set(same) - set(latest(same)) == {"service/s000"}, "at every node the same"


def test_what_was_applied_and_asks_for_nothing_stays_applied() -> None:
    elsewhere = service("elsewhere", ServiceType.EXTERNAL, ports=(), backends=())
    before = {"service/elsewhere": Assignment(applied=Applied(3, "d", (4, 1)))}
    assert composed(elsewhere, before=before).given == before


# ---- wants -------------------------------------------------------------------------------------


def want(one: Service) -> Want:
    (found,) = wants_of([one], []).values()
    return found


def test_backends_in_another_order_are_the_same_want() -> None:
    backends = tuple(Backend(address=f"192.0.2.{i}") for i in (2, 1))
    one, other = (
        service("web", traffic_policy=TrafficPolicy.LOCAL, backends=each)
        for each in (backends, backends[::-1])
    )
    assert want(one) == want(other)
    assert want(one).local == ("192.0.2.1", "192.0.2.2")


def test_node_ports_may_be_spared_by_who_has_a_vip() -> None:
    for type_, node_ports, opens in (
        (ServiceType.LOAD_BALANCER, True, True),
        (ServiceType.LOAD_BALANCER, False, False),
        (ServiceType.NODE_PORT, False, True),
        (ServiceType.CLUSTER, True, False),
    ):
        assert want(service("web", type_, node_ports=node_ports)).opens is opens


def test_what_is_said_of_a_vip_is_not_asked_of_cluster_pools() -> None:
    local = service("web", traffic_policy=TrafficPolicy.LOCAL, sharing_key="k", pool="lan")
    asked = cluster_request("service/web", want(local), (LAN, INSIDE))
    assert asked is not None
    assert (asked.local, asked.sharing_key, asked.pool) == (None, None, None)
    by_name = replace(INSIDE, auto_assign=False)
    assert cluster_request("service/web", want(local), (LAN, by_name)) is None
    inner = service("web", ServiceType.CLUSTER, pool="inside")
    found = cluster_request("service/web", want(inner), (LAN, by_name))
    assert found is not None
    assert found.pool == "inside"
