"""The forwarder where links carry less, or more, than 1500 bytes."""

from __future__ import annotations

import contextlib
import random
import socket
import threading

import pytest

from piagent.adapters import netns
from tests.adapters.two_hosts import run
from tests.fastpath.forwarding_lab import PORT, VIPS, Lab, backend_address, serving

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
NARROW = 1400
NEAR, FAR = "near0", "far0"
ROUTER = {4: "10.9.0.50", 6: "fd09::50"}
BEHIND = {4: ("10.8.0.1", "10.8.0.2", "10.8.0.0/24"), 6: ("fd08::1", "fd08::2", "fd08::/64")}
"""The router, who is behind it, and their network."""
LONG = random.Random(6).randbytes(400_000)
NODAD = {4: (), 6: ("nodad",)}
FORWARDING = {4: "net.ipv4.ip_forward=1", 6: "net.ipv6.conf.all.forwarding=1"}
versions = pytest.mark.parametrize("version", [4, 6])


def behind_a_narrow_hop(network: netns.Network, lab: Lab) -> netns.Host:
    """A host that has 1500 bytes itself, behind a router whose link to it carries 1400."""
    router = network.add_host("r", f"{ROUTER[4]}/24", f"{ROUTER[6]}/64")
    far = network.add_host("f")
    run(router, "ip", "link", "add", NEAR, "type", "veth", "peer", "name", FAR, "netns", far.name)
    run(router, "ip", "link", "set", NEAR, "mtu", str(NARROW), "up")
    run(far, "ip", "link", "set", FAR, "up")
    for version in VIPS:
        near, its, network_there = BEHIND[version]
        length = network_there.partition("/")[2]
        run(router, "ip", "addr", "add", f"{near}/{length}", "dev", NEAR, *NODAD[version])
        run(far, "ip", "addr", "add", f"{its}/{length}", "dev", FAR, *NODAD[version])
        run(far, "ip", f"-{version}", "route", "add", "default", "via", near)
        run(router, "sysctl", "-q", "-w", FORWARDING[version])
        for host in (lab.node, *lab.backends):
            via = ROUTER[version]
            run(host, "ip", f"-{version}", "route", "add", network_there, "via", via)
    return far


def served(lab: Lab, stack: contextlib.ExitStack, version: int, *, vip: bool) -> None:
    """One backend sends a lot to whoever says a word."""
    if vip:
        lab.accept_vip(1)
    address = VIPS[version] if vip else backend_address(1, version)
    stack.enter_context(serving(lab.backends[0], address, says=lambda _word: LONG))


def download(host: netns.Host, version: int) -> bytes:
    with host.entered():
        stream = socket.create_connection((VIPS[version], PORT), timeout=20)
    with stream:
        stream.sendall(b"go")
        said = b""
        while len(said) < len(LONG):
            part = stream.recv(1 << 16)
            assert part, f"ended after {len(said)} bytes"
            said += part
    return said


@versions
@pytest.mark.parametrize("how", ["nat", "dsr"])
def test_a_backend_hears_that_the_way_to_its_client_is_narrow(how: str, version: int) -> None:
    with netns.Network("pa-forward") as network, Lab(network) as lab:
        far = behind_a_narrow_hop(network, lab)
        lab.publish(lab.forward(how, version=version, targets=[lab.target(1, version)]))
        with contextlib.ExitStack() as stack:
            served(lab, stack, version, vip=how == "dsr")
            assert download(far, version) == LONG
        # To the VIP the router told it, which sent what was too long.
        assert lab.forwarder.stats()["frames"]["icmp-error"] > 0


@versions
@pytest.mark.parametrize("mtu", [1280, 9000])
@pytest.mark.parametrize("how", ["nat", "dsr"])
def test_links_may_carry_less_or_more(how: str, mtu: int, version: int) -> None:
    with netns.Network("pa-forward") as network, Lab(network, mtu=mtu) as lab:
        lab.publish(lab.forward(how, version=version, targets=[lab.target(1, version)]))
        with contextlib.ExitStack() as stack:
            served(lab, stack, version, vip=how == "dsr")
            assert download(lab.client, version) == LONG


@pytest.mark.parametrize("how", ["nat", "dsr"])
def test_what_is_too_long_behind_the_node_is_said_to_the_client(how: str) -> None:
    with netns.Network("pa-forward") as network, Lab(network, mtu=9000) as lab:
        lab.publish(lab.forward(how, targets=[lab.target(1, mtu=1500)]))
        with contextlib.ExitStack() as stack:
            if how == "dsr":
                lab.accept_vip(1)
            address = VIPS[4] if how == "dsr" else backend_address(1)
            stack.enter_context(serving(lab.backends[0], address, says=bytes))
            with lab.client.entered():
                stream = stack.enter_context(socket.create_connection((VIPS[4], PORT), timeout=20))
            threading.Thread(target=stream.sendall, args=(LONG,), daemon=True).start()
            said = b""
            while len(said) < len(LONG):
                said += stream.recv(1 << 16)
            assert said == LONG
        assert lab.stats()["too-big"] > 0
