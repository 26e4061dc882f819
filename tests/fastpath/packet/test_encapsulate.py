"""`dsr` across subnets: the packet whole inside another one."""

from __future__ import annotations

from typing import Any

import pytest

from fastpath.packet.verdicts import UNWRITTEN, VERDICTS
from tests.fastpath.packet.frames import (
    BACKEND4,
    BACKEND6,
    CLIENT4,
    MAC_US,
    NODE4,
    NODE6,
    VIP4,
    ether,
    ipv4,
    ipv6,
    mapped,
    udp,
)
from tests.fastpath.packet.samples import PORTS, SAMPLES

probe = pytest.importorskip("fastpath.packet._probe", reason="built with PIAGENT_PROBE=1 only")

MAC_NEXT = bytes.fromhex("02000000000c")
USEFUL = {"flow", "fragment", "icmp-error"}
FAMILIES = pytest.mark.parametrize("v6", [False, True], ids=["in ipv4", "in ipv6"])


def tunnel(*, v6: bool) -> dict[str, Any]:
    return {
        "how": probe.ENCAPSULATE,
        "v6": v6,
        "source": mapped(NODE6 if v6 else NODE4),
        "destination": mapped(BACKEND6 if v6 else BACKEND4),
        "destination_mac": MAC_NEXT,
        "source_mac": MAC_US,
    }


def outer(packet: bytes, *, v6: bool, tos: int = 0) -> bytes:
    """The packet inside another one, as the model builds it."""
    protocol = 41 if packet[0] >> 4 == 6 else 4
    if v6:
        return ipv6(NODE6, BACKEND6, protocol, packet, tos=tos)
    return ipv4(NODE4, BACKEND4, protocol, packet, identity=0, tos=tos)


@FAMILIES
@pytest.mark.parametrize("name", SAMPLES)
def test_the_packet_is_whole_inside_another_one(name: str, v6: bool) -> None:
    frame = SAMPLES[name]
    number, fields = probe.parse(frame)
    if VERDICTS[number] not in USEFUL:
        return
    result, out = probe.encapsulate(frame, tunnel(v6=v6))
    l3 = fields["l3"]
    kind = b"\x86\xdd" if v6 else b"\x08\x00"
    assert UNWRITTEN[result] == ""
    inner = frame[l3 : fields["end"]]
    assert out == MAC_NEXT + MAC_US + frame[12 : l3 - 2] + kind + outer(inner, v6=v6)


@FAMILIES
def test_traffic_class_and_congestion_marks_are_outside_too(v6: bool) -> None:
    for tos in (0xB8, 0x01, 0x03, 0xFF):
        for packet in (
            ipv4(CLIENT4, VIP4, 17, udp(PORTS), tos=tos),
            ipv6("2001:db8::7", "2001:db8::8", 17, udp(PORTS), tos=tos),
        ):
            _, out = probe.encapsulate(ether(packet), tunnel(v6=v6))
            assert out[14:] == outer(packet, v6=v6, tos=tos)


@FAMILIES
def test_nothing_becomes_longer_than_a_packet_can_be(v6: bool) -> None:
    most = 65535 if v6 else 65515
    for size, expected in ((most, ""), (most + 1, "size")):
        frame = (
            ether(ipv4(CLIENT4, VIP4, 17, udp(PORTS, bytes(size - 28)))) if size < 65536 else b""
        )
        if not frame:  # only IPv6 is that long
            frame = ether(ipv6("2001:db8::7", "2001:db8::8", 17, udp(PORTS, bytes(size - 48))))
        result, out = probe.encapsulate(frame, tunnel(v6=v6))
        assert UNWRITTEN[result] == expected
        assert expected == "" or out == frame


def test_a_source_of_the_flows_own_spreads_flows_over_a_cards_queues() -> None:
    sources = set()
    for port in range(40000, 40064):
        packet = ipv4(CLIENT4, VIP4, 17, udp(PORTS._replace(source=port)))
        _, out = probe.encapsulate(ether(packet), tunnel(v6=False), spread=True)
        sources.add(out[26:30])
    assert len(sources) == 64
    assert {source[:2] for source in sources} == {bytes([172, 16])}
