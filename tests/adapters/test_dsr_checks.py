"""What `piagent doctor` says of a backend of `dsr` services, on a real kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from piagent.adapters import netns
from piagent.adapters.dsr_backend import DsrBackend
from piagent.adapters.dsr_checks import dsr
from piagent.adapters.local_addresses import LoopbackAddresses
from piagent.core.dsr import Accepted
from piagent.core.finding import Finding, Level
from piagent.core.forwarding import Encapsulation, Forwarding, Mode
from piagent.core.model import Backend, Config, ServicePort
from tests.adapters.two_hosts import run
from tests.core.things import config, service

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

HERE, VIP, VIP6 = "10.9.0.1", "10.9.0.200", "fd09::c8"
DSR = Forwarding(Mode.DSR)
PORT = ServicePort(name="http", port=80, target_port=80)


@pytest.fixture
def host() -> Iterator[netns.Host]:
    with netns.Network("pa-doctor") as network:
        yield network.add_host("a", f"{HERE}/24", "fd09::1/64")


def a_backend(address: str = HERE, how: Forwarding = DSR, vip: str = VIP) -> Config:
    backends = (Backend(address=address),)
    return config(service("web", vips=(vip,), ports=(PORT,), forwarding=how, backends=backends))


def found(host: netns.Host, of: Config) -> list[Finding]:
    with host.entered():
        return dsr(of)


def test_a_host_that_is_no_such_backend_hears_nothing_of_it(host: netns.Host) -> None:
    assert found(host, a_backend("10.9.0.2")) == []
    assert found(host, a_backend(how=Forwarding(Mode.NAT))) == []
    assert found(host, config()) == []


def test_all_that_is_missing_is_named_with_why_and_cure(host: netns.Host) -> None:
    findings = found(host, a_backend(how=Forwarding(Mode.DSR, Encapsulation.IPIP)))
    assert [finding.what for finding in findings] == [
        f"{VIP} is not on lo, and this host is a backend of it",
        "arp_ignore of eth0 is 0, and has to be 1",
        "arp_announce of eth0 is 0, and has to be 2",
        "there is no piagent4, where packets in IPv4 are unpacked",
    ]
    assert all(finding.level is Level.ERROR and finding.why for finding in findings)
    assert "sysctl -w net.ipv4.conf.eth0.arp_ignore=1" in findings[1].cure
    assert "modprobe ipip" in findings[3].cure


def test_what_the_agent_does_is_what_is_asked_for(host: netns.Host) -> None:
    with host.entered():
        addresses = LoopbackAddresses(dsr=DsrBackend())
        try:
            assert addresses.configure((), (), (Accepted(VIP),)) == {}
            (finding,) = dsr(a_backend())
            assert (finding.level, finding.what) == (Level.GOOD, f"a backend, ready for {VIP}")
        finally:
            addresses.remove_all()
            addresses.close()
    assert len(found(host, a_backend())) == 3


def test_the_cures_work(host: netns.Host) -> None:
    run(host, "ip", "address", "add", f"{VIP}/32", "dev", "lo")
    for finding in found(host, a_backend()):
        command = finding.cure.removeprefix("sudo ").partition(";")[0]
        run(host, *command.split())
    assert [finding.level for finding in found(host, a_backend())] == [Level.GOOD]


def test_an_ipv6_vip_needs_its_address_only(host: netns.Host) -> None:
    (finding,) = found(host, a_backend("fd09::1", vip=VIP6))
    assert finding.what.startswith(VIP6)


def test_what_forwards_to_nobody_here_is_nothing_to_check(host: netns.Host) -> None:
    of = a_backend()
    assigned = replace(of, services=(replace(of.services[0], vips=()),))
    assert found(host, assigned) == []
