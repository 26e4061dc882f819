"""Errors about outer headers of ours: what they say, against the packets that they were made of."""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fastpath.packet import frames

REASON = "built with PIAGENT_PROBE=1 only"
probe = pytest.importorskip("fastpath.packet._tunnel_probe", reason=REASON)

OUTERS = {4: ("10.0.0.1", "10.1.0.9", "10.0.0.254"), 6: ("fd00::1", "fd01::9", "fd00::fe")}
"""Ours, a backend's, a router's, by IP version."""
ENDS = {4: ("192.0.2.7", "198.51.100.1"), 6: ("2001:db8::7", "2001:db8:1::1")}
PORTS = frames.Ports(40000, 443)
MTU_MIN = {4: 576, 6: 1280}


class Case(NamedTuple):
    """A packet inside another one, and what a router says of it."""

    outer: int = 4
    inner: int = 4
    protocol: int = frames.TCP
    mtu: int = 1400
    quoted: int = 100
    """Bytes."""
    author: str = ""
    """Of the quoted outer header, if not who gets the error."""

    def frame(self) -> bytes:
        ours, backend, router = OUTERS[self.outer]
        l4 = frames.tcp(PORTS, bytes(40)) if self.protocol == frames.TCP else frames.udp(PORTS)
        packet = frames.ip(*ENDS[self.inner], self.protocol, l4)
        build = frames.ipv4 if self.outer == 4 else frames.ipv6
        wrapped = build(self.author or ours, backend, 4 if self.inner == 4 else 41, packet)
        kind, code = (3, 4) if self.outer == 4 else (2, 0)
        message = struct.pack(">BBHI", kind, code, 0, self.mtu) + wrapped[: self.quoted]
        its = frames.ICMP if self.outer == 4 else frames.ICMP6
        return frames.ether(frames.ip(router, ours, its, message))

    def told(self) -> object:
        """What is to be read of it."""
        at = (20 if self.outer == 4 else 40) + (20 if self.inner == 4 else 40) + 4
        if self.quoted < at or not MTU_MIN[self.outer] <= self.mtu <= 65535:
            return None
        key = b"".join(map(frames.mapped, ENDS[self.inner])) + struct.pack(
            ">HHB3x", *PORTS, self.protocol
        )
        ours, backend, _ = OUTERS[self.outer]
        return key, frames.mapped(ours), frames.mapped(backend), self.mtu


CASES = st.builds(
    Case,
    st.sampled_from([4, 6]),
    st.sampled_from([4, 6]),
    st.sampled_from([frames.TCP, frames.UDP]),
    st.one_of(st.sampled_from([575, 576, 1279, 1280, 1400]), st.integers(0, 65535)),
    st.integers(0, 120),
    st.just(""),
)


@settings(max_examples=500)
@given(case=CASES)
def test_the_flow_inside_and_the_mtu_are_read_if_enough_is_quoted(case: Case) -> None:
    assert probe.read(case.frame()) == case.told()


@settings(max_examples=1000)
@given(case=CASES, at=st.integers(14, 200), bit=st.integers(0, 7))
def test_one_wrong_bit_is_noticed_by_the_checksum(case: Case, at: int, bit: int) -> None:
    frame = bytearray(case.frame())
    begins = 14 + (20 if case.outer == 4 else 40)
    at = begins + at % (len(frame) - begins)
    frame[at] ^= 1 << bit
    assert probe.read(bytes(frame)) is None


@settings(max_examples=1000)
@given(case=CASES, size=st.integers(0, 200), junk=st.binary(max_size=60), at=st.integers(0, 200))
def test_cut_and_changed_frames_are_survived(case: Case, size: int, junk: bytes, at: int) -> None:
    frame = case.frame()
    assert probe.read(frame[:size]) in {case.told(), None}
    probe.read(frame[:at] + junk + frame[at + len(junk) :])


@pytest.mark.parametrize("outer", [4, 6])
def test_an_error_about_somebody_elses_packet_says_nothing(outer: int) -> None:
    assert Case(outer).told() == probe.read(Case(outer).frame())
    assert probe.read(Case(outer, author=OUTERS[outer][2]).frame()) is None
