"""A way that is too narrow for an outer header: a router says so to us, and we to the client."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from piagent.adapters import netns
from tests.adapters.asker import mac_of
from tests.fastpath.forwarding_lab import OWN, PORT, VIPS, Lab, backend_address
from tests.fastpath.packet import frames
from tests.waiting import wait_until

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
ETH_P_ALL = 3
NARROW = 1400
versions = pytest.mark.parametrize(("version", "outer_size"), [(4, 20), (6, 40)])


@pytest.fixture
def lab() -> Iterator[Lab]:
    with netns.Network("pa-tunnel") as network, Lab(network, 1) as built:
        yield built


@contextlib.contextmanager
def wire(host: netns.Host) -> Iterator[socket.socket]:
    """Every frame that comes to a host."""
    with host.entered():
        heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        heard.bind((netns.INTERFACE, ETH_P_ALL))
    with heard:
        heard.settimeout(10)
        yield heard


def wrapped(heard: socket.socket, version: int) -> bytes:
    """The next packet in an outer header that comes."""
    protocol_at = 23 if version == 4 else 20
    while True:
        frame = heard.recv(65536)
        if frame[protocol_at] in {4, 41}:
            return frame[14:]


def too_big(lab: Lab, version: int, quote: bytes, mtu: int) -> bytes:
    """What a router says to the node of a packet that goes no further."""
    if version == 4:
        packet = frames.error(backend_address(1), OWN[4], quote[:68], kind=3, code=4, rest=mtu)
    else:
        packet = frames.error(backend_address(1, 6), OWN[6], quote[:1200], kind=2, code=0, rest=mtu)
    return mac_of(lab.node) + frames.ether(packet)[6:]


@versions
def test_the_client_hears_of_the_narrow_way_when_it_sends_too_long_a_packet_again(
    lab: Lab, version: int, outer_size: int
) -> None:
    lab.publish(lab.forward("ipip", version=version, udp=True))
    name = f"web-{version}-True"
    with lab.client.entered():
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        asking = socket.socket(family, socket.SOCK_DGRAM)
    discover = (0, 10, 2) if version == 4 else (41, 23, 2)  # IP(V6)_MTU_DISCOVER, always
    mtu = (0, 14) if version == 4 else (41, 24)  # IP(V6)_MTU
    headers = 28 if version == 4 else 48
    fits = NARROW - outer_size
    with asking, wire(lab.backends[0]) as heard:
        asking.setsockopt(*discover)
        asking.connect((VIPS[version], PORT))
        asking.send(bytes(fits + 1 - headers))
        quote = wrapped(heard, version)
        assert asking.getsockopt(*mtu) == 1500
        heard.send(too_big(lab, version, quote, NARROW))
        wait_until(lambda: lab.stats(name).get("too-big") == 1, "the router is heard")
        asking.send(bytes(fits + 1 - headers))
        wait_until(lambda: asking.getsockopt(*mtu) == fits, "the client is told")
        assert lab.stats(name) == {"sent": 1, "too-big": 2}
        asking.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # it has been told, too
        asking.send(bytes(fits - headers))
        assert len(wrapped(heard, version)) == NARROW


@versions
def test_an_error_that_quotes_another_way_or_flow_changes_nothing(
    lab: Lab, version: int, outer_size: int
) -> None:
    lab.publish(lab.forward("ipip", version=version, udp=True))
    name = f"web-{version}-True"
    with lab.client.entered():
        asking = socket.socket(
            socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM
        )
    with asking, wire(lab.backends[0]) as heard:
        asking.connect((VIPS[version], PORT))
        asking.send(bytes(1000))
        quote = wrapped(heard, version)
        elsewhere = bytearray(quote)
        elsewhere[outer_size - 1] ^= 1  # the last byte of the outer destination
        other_port = bytearray(quote)
        other_port[outer_size + (20 if version == 4 else 40) + 1] ^= 1
        for wrong in (bytes(elsewhere), bytes(other_port)):
            heard.send(too_big(lab, version, wrong, NARROW))
        wait_until(
            lambda: lab.stats(name).get("source-not-allowed") == 1, "the other way is not believed"
        )
        wait_until(
            lambda: lab.forwarder.stats()["others"]["packets"]["passed"] >= 1, "nor the other flow"
        )
        asking.send(bytes(NARROW - (28 if version == 4 else 48)))
        assert len(wrapped(heard, version)) == NARROW + outer_size
    assert lab.stats(name) == {"sent": 2, "source-not-allowed": 1}
