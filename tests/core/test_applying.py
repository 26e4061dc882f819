"""Orders: all or nothing, versions, and why not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest
from msgspec.structs import replace

from piagent.config.applied import read_record
from piagent.core.applying import Change, Decided, Order, Outcome, Result, Standing, decide
from piagent.core.assignments import Assignment, Assignments
from piagent.core.catalog import Thing
from piagent.core.model import AddressRange, Announce, Pool
from piagent.core.records import Kind
from piagent.core.wants import Want, wants_of
from tests.core.things import INSIDE, LAN, change, deletion, gateway, service

EMPTY = Assignments(node="pi-1", epoch=7, number=1)


def standing(pools: Iterable[Pool] = (LAN, INSIDE), **in_files: Want) -> Standing:
    files = {key.replace("_", "/"): want for key, want in in_files.items()}
    return Standing(assignments=EMPTY, records={}, things={}, in_files=files, pools=tuple(pools))


def after(before: Standing, *changes: Change) -> Standing:
    """What is there when an order has been done."""
    decided = decide(Order(changes=changes), before, read_record)
    assert decided.assignments is not None, decided.verdict
    things: dict[str, Thing] = {}
    for key, record in decided.records.items():
        thing = read_record(record)
        assert not isinstance(thing, str), thing
        things[key] = thing
    return replace(before, assignments=decided.assignments, records=decided.records, things=things)


def order(before: Standing, *changes: Change, dry_run: bool = False) -> Decided:
    return decide(Order(changes=changes, dry_run=dry_run), before, read_record)


def only(decided: Decided) -> Outcome:
    (outcome,) = decided.verdict.outcomes
    return outcome


def results(decided: Decided) -> list[Result]:
    return [one.result for one in decided.verdict.outcomes]


def test_a_new_service_gets_what_it_asks_for_in_the_same_step() -> None:
    decided = order(standing(), change("web"))
    outcome = only(decided)
    assert (outcome.result, outcome.version) == (Result.CREATED, 1)
    assert outcome.vips == ("10.0.0.1",)
    assert outcome.cluster_ips == ("10.96.0.1",)
    assert outcome.node_ports == {"80": 30000}
    assert decided.assignments is not None
    assert decided.assignments.stamp == (7, 2)
    assert decided.assignments.given["service/web"].vips == ("10.0.0.1",)


def test_a_change_raises_the_version_and_moves_nothing() -> None:
    before = after(standing(), change("web"), change("other"))
    outcome = only(order(before, change("web", backends=["192.0.2.9"])))
    assert (outcome.result, outcome.version) == (Result.CHANGED, 2)
    assert outcome.vips == before.assignments.given["service/web"].vips
    assert outcome.diff == ('-backends = ["192.0.2.1"]', '+backends = ["192.0.2.9"]')


def test_the_same_again_is_no_change_whatever_version_it_names() -> None:
    before = after(standing(), change("web"))
    for version in (None, 1, 7):
        decided = order(before, change("web", version=version))
        assert only(decided).result is Result.UNCHANGED
        assert decided.assignments is None
        assert decided.verdict.done


@pytest.mark.parametrize(("version", "result"), [(1, Result.CHANGED), (2, Result.CONFLICT)])
def test_a_version_that_is_named_must_be_the_one_that_is_there(
    version: int, result: Result
) -> None:
    before = after(standing(), change("web"))
    decided = order(before, change("web", version=version, backends=["192.0.2.9"]))
    assert only(decided).result is result
    if result is Result.CONFLICT:
        assert only(decided).detail == "it has version 1, not 2"
        assert '+backends = ["192.0.2.9"]' in only(decided).diff
        assert decided.assignments is None


def test_version_0_is_for_what_is_not_there() -> None:
    assert only(order(standing(), change("web", version=0))).result is Result.CREATED
    before = after(standing(), change("web"))
    again = order(before, change("web", version=0, backends=[]))
    assert only(again).result is Result.CONFLICT
    missing = order(standing(), change("web", version=3))
    assert only(missing).detail == "it is not there, not 3"


def test_an_order_is_done_as_a_whole_or_not_at_all() -> None:
    before = after(standing(), change("web"))
    decided = order(before, change("a"), change("web", version=9, backends=[]), change("b"))
    assert results(decided) == [Result.CREATED, Result.CONFLICT, Result.CREATED]
    assert not decided.verdict.done
    assert decided.assignments is None
    assert decided.records == before.records


def test_a_dry_run_says_what_would_be_and_does_nothing() -> None:
    decided = order(standing(), change("web"), dry_run=True)
    assert only(decided).vips == ("10.0.0.1",)
    assert not decided.verdict.done
    assert decided.assignments is None


def test_who_gets_no_address_is_refused_with_the_reason() -> None:
    before = after(standing(), change("a"), change("b"), change("c"))
    outcome = only(order(before, change("d")))
    assert (outcome.result, outcome.version) == (Result.REFUSED, 0)
    assert outcome.detail.startswith("vip: exhausted: ")
    outside = only(order(standing(), change("web", address="192.0.2.200")))
    assert outside.detail.startswith("vip: outside-pools: ")


def test_an_address_is_shared_by_one_key_only() -> None:
    before = after(standing(), change("a", address="10.0.0.2", sharing_key="k"))
    other = change("b", address="10.0.0.2", sharing_key="other", ports=[{"port": 81}])
    assert only(order(before, other)).detail.startswith("vip: in-use: ")
    same = change("b", address="10.0.0.2", sharing_key="k", ports=[{"port": 81}])
    assert only(order(before, same)).vips == ("10.0.0.2",)


def test_there_are_at_most_a_hundred_vips() -> None:
    many = replace(LAN, addresses=(AddressRange(first="10.0.0.1", last="10.0.0.200"),))
    changes = [change(f"s{i}", node_ports=False) for i in range(101)]
    before = standing(pools=(many,))
    assert not order(before, *changes).verdict.done
    full = after(before, *changes[:100])
    refused = only(order(full, change("one-more")))
    assert refused.detail == "a cluster has at most 100 VIPs"
    by_bgp = replace(many, announce=Announce.BGP)
    assert order(standing(pools=(by_bgp,)), *changes).verdict.done, "no node owns them"


def test_a_deleted_service_is_gone_and_its_address_free() -> None:
    before = after(standing(), change("a"), change("b"))
    gone = after(before, deletion("a"))
    assert "service/a" not in gone.assignments.given
    assert gone.assignments.deleted == {"service/a": gone.assignments.stamp}
    assert only(order(gone, change("c"))).vips == ("10.0.0.1",)
    assert "service/a" not in after(gone, change("a")).assignments.deleted


def test_what_is_not_applied_cannot_be_deleted() -> None:
    in_file = wants_of([service("web")], [])["service/web"]
    there = standing(service_web=in_file)
    assert only(order(there, deletion("web"))).detail == "it is in a node's file"
    assert only(order(standing(), deletion("web"))).result is Result.NOT_FOUND
    before = after(standing(), change("web"))
    assert only(order(before, deletion("web", version=4))).result is Result.CONFLICT


def test_a_name_in_a_file_is_taken() -> None:
    in_file = wants_of([service("web", headless=True)], [])["service/web"]
    outcome = only(order(standing(service_web=in_file), change("web")))
    assert outcome.result is Result.REFUSED
    assert outcome.detail == "a node's file has one of that name: choose another"


def test_what_left_a_file_keeps_its_place_until_it_is_applied() -> None:
    left = wants_of([service("web", vips=("10.0.0.1",))], [])
    there = replace(standing(), lingering=left)
    assert only(order(there, change("other"))).vips == ("10.0.0.2",)
    assert only(order(there, change("web"))).result is Result.CREATED


def test_default_backends_lead_to_what_is_there_afterwards() -> None:
    front = change("front", Kind.GATEWAY, default_backend={"service": "web"})
    refused = only(order(standing(), front))
    assert refused.detail == "gateway front leads to service/web, which is not there"
    before = after(standing(), change("web"), front)
    refused = only(order(before, deletion("web")))
    assert refused.detail == "gateway front leads to service/web, which is not there"


def test_routes_lead_to_what_is_there_afterwards() -> None:
    alone = order(standing(), change("r", Kind.ROUTE))
    assert only(alone).detail == "route r leads to gateway/front, which is not there"
    whole = (change("web"), change("front", Kind.GATEWAY), change("r", Kind.ROUTE))
    before = after(standing(), *whole)
    assert before.assignments.routes["route/r"].version == 1
    refused = only(order(before, deletion("web")))
    assert refused.detail == "route r leads to service/web, which is not there"


def test_a_service_that_a_route_asks_is_one_it_leads_to() -> None:
    filters = [{"forward_auth": {"service": "auth", "path": "/"}}]
    asks = change("r", Kind.ROUTE, filters=filters)
    first = (change("web"), change("front", Kind.GATEWAY))
    refused = order(standing(), *first, asks)
    what = "route r leads to service/auth, which is not there"
    assert refused.verdict.outcomes[-1].detail == what
    before = after(standing(), *first, change("auth"), asks)
    refused_once = only(order(before, deletion("auth")))
    assert refused_once.detail == what
    assert results(order(before, deletion("web"), deletion("r", Kind.ROUTE))) == [
        Result.DELETED,
        Result.DELETED,
    ]


def test_a_route_may_lead_to_what_is_in_a_file() -> None:
    files = wants_of([service("web")], [gateway("front")])
    there = replace(standing(), in_files=files)
    assert only(order(there, change("r", Kind.ROUTE))).result is Result.CREATED


def test_what_cannot_be_read_is_refused_and_said() -> None:
    outcome = only(order(standing(), change("web", colour="red")))
    assert outcome.result is Result.REFUSED
    assert "service[0].colour: unknown key" in outcome.detail


def test_a_name_is_in_an_order_once() -> None:
    decided = order(standing(), change("web"), change("web", backends=[]))
    assert only(decided).detail == "it is in the order twice"


def test_deleted_names_are_not_remembered_for_ever() -> None:
    now = standing(pools=(INSIDE,))
    for i in range(300):
        table = {"type": "cluster", "ports": [{"port": 80}], "backends": ["192.0.2.1"]}
        name = f"s{i}"
        made = Change(kind=Kind.SERVICE, name=name, table={"name": name, **table})
        now = after(after(now, made), deletion(name))
    assert len(now.assignments.deleted) == 200
    assert "service/s299" in now.assignments.deleted


def test_the_want_of_a_file_counts_before_an_applied_one_and_that_before_a_former_one() -> None:
    now = after(standing(pools=(LAN,)), change("web"))
    wish = {
        "service/web": replace(wants_of([service("web")], [])["service/web"], vips=("10.0.0.3",))
    }

    def vips(before: Standing) -> tuple[str, ...]:
        return given(after(before, change("other")))["service/web"].vips

    assert vips(replace(now, in_files=wish)) == ("10.0.0.3",)
    assert vips(replace(now, lingering=wish)) == ("10.0.0.1",)


def given(now: Standing) -> Mapping[str, Assignment]:
    return now.assignments.given


def test_what_was_applied_may_be_changed_and_deleted_though_a_file_has_the_name_now() -> None:
    now = after(standing(), change("web"))
    now = replace(now, in_files=wants_of([service("web")], []))
    assert only(order(now, change("web", backends=[]))).result is Result.CHANGED
    assert only(order(now, deletion("web"))).result is Result.DELETED


def test_who_is_refused_is_told_of_no_addresses() -> None:
    now = after(standing(), change("web"))
    refused = only(order(now, change("web", address="192.0.2.200")))
    assert (refused.result, refused.vips, refused.node_ports) == (Result.REFUSED, (), {})
