"""Which VIPs a backend's host has to have, and in what their packets come."""

from __future__ import annotations

from msgspec.structs import replace

from piagent.core.dsr import Accepted, accepted
from piagent.core.forwarding import Encapsulation, Forwarding, Mode
from piagent.core.model import Backend, Service
from piagent.core.proxying import Proxying
from tests.core.things import config, service

VIP4, VIP6 = "10.0.0.1", "fd00::1"
HERE4, HERE6, ELSEWHERE = "192.0.2.1", "fd09::1", "192.0.2.2"
OWN = frozenset({HERE4, HERE6, "127.0.0.1"})
DSR = Forwarding(Mode.DSR)
IPIP = Forwarding(Mode.DSR, Encapsulation.IPIP)


def web(how: Forwarding, *addresses: str, vips: tuple[str, ...] = (VIP4,)) -> Service:
    backends = tuple(Backend(address=address) for address in addresses)
    return service("web", forwarding=how, vips=vips, backends=backends)


def test_a_backend_of_this_host_has_the_vips_of_its_services() -> None:
    assert accepted(config(web(DSR, ELSEWHERE, HERE4)), OWN) == {Accepted(VIP4): 600_000}
    assert accepted(config(web(DSR, ELSEWHERE)), OWN) == {}


def test_only_dsr_needs_it() -> None:
    for how in (Forwarding(), Forwarding(Mode.NAT)):
        assert accepted(config(web(how, HERE4)), OWN) == {}


def test_a_vip_comes_in_the_header_of_the_backends_version() -> None:
    assert list(accepted(config(web(IPIP, HERE4)), OWN)) == [Accepted(VIP4, 4)]
    assert list(accepted(config(web(IPIP, HERE6)), OWN)) == [Accepted(VIP4, 6)]
    both = accepted(config(web(IPIP, HERE4, HERE6, vips=(VIP4, VIP6))), OWN)
    assert set(both) == {Accepted(VIP4, 4), Accepted(VIP4, 6), Accepted(VIP6, 6)}


def test_without_a_header_a_vip_comes_to_backends_of_its_version() -> None:
    both = accepted(config(web(DSR, HERE4, HERE6, vips=(VIP4, VIP6))), OWN)
    assert set(both) == {Accepted(VIP4), Accepted(VIP6)}
    assert accepted(config(web(DSR, HERE4, vips=(VIP6,))), OWN) == {}


def test_the_address_says_where_a_backend_is_and_not_its_node() -> None:
    of = web(DSR, ELSEWHERE)
    in_a_container = replace(of, backends=(Backend(address=ELSEWHERE, node="pi-1"),))
    assert accepted(config(in_a_container), OWN) == {}


def test_a_backend_without_a_share_may_have_connections_still() -> None:
    of = replace(web(DSR, HERE4), backends=(Backend(address=HERE4, weight=0),))
    assert list(accepted(config(of), OWN)) == [Accepted(VIP4)]


def test_a_vip_of_two_services_is_there_once_and_as_long_as_the_longer_drains() -> None:
    other = replace(web(DSR, HERE4), name="other", proxying=Proxying(drain_ms=900_000))
    assert accepted(config(web(DSR, HERE4), other), OWN) == {Accepted(VIP4): 900_000}
