"""Flows as people write them."""

from __future__ import annotations

import pytest

from piagent.core.flow import Flow, flow_of
from piagent.core.model import Protocol


@pytest.mark.parametrize(
    ("src", "dst", "proto", "text"),
    [
        ("10.0.0.9:51234", "10.0.0.1:80", "tcp", "10.0.0.9:51234 -> 10.0.0.1:80/tcp"),
        ("[FD00::9]:1", "[fd00:0::1]:65535", "udp", "[fd00::9]:1 -> [fd00::1]:65535/udp"),
        ("[::ffff:10.0.0.9]:1", "10.0.0.1:80", "tcp", "10.0.0.9:1 -> 10.0.0.1:80/tcp"),
        ("[fe80::9%eth0]:1", "[fd00::1]:80", "tcp", "[fe80::9%eth0]:1 -> [fd00::1]:80/tcp"),
    ],
)
def test_a_flow_is_two_places_and_a_protocol(src: str, dst: str, proto: str, text: str) -> None:
    assert str(flow_of(src, dst, proto)) == text


def test_a_flow_has_its_parts() -> None:
    assert flow_of("10.0.0.9:51234", "10.0.0.1:80", "udp") == Flow(
        src="10.0.0.9", src_port=51234, dst="10.0.0.1", dst_port=80, protocol=Protocol.UDP
    )


@pytest.mark.parametrize(
    "place",
    ["", "10.0.0.9", "10.0.0.9:", "10.0.0.9:0", "10.0.0.9:65536", "10.0.0:80", "fd00::9:80",
     "[10.0.0.9]:80", "pi:80", "10.0.0.9:80 ", "[fd00::9]", "256.0.0.1:80", "[::9:80",
     "1.2.3.4:-1"],
)  # fmt: skip
def test_what_is_no_place_is_refused_with_an_example(place: str) -> None:
    for src, dst in ((place, "10.0.0.1:80"), ("10.0.0.1:80", place)):
        with pytest.raises(ValueError, match=r"is not address:port, as in 10\.0\.0\.9:51234"):
            flow_of(src, dst, "tcp")


def test_a_flow_is_of_one_ip_version_and_a_protocol_that_is_known() -> None:
    with pytest.raises(ValueError, match="not of one IP version"):
        flow_of("10.0.0.9:1", "[fd00::1]:80", "tcp")
    with pytest.raises(ValueError, match="'sctp' is not one of tcp, udp"):
        flow_of("10.0.0.9:1", "10.0.0.1:80", "sctp")
