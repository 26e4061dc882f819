"""What health checks ask."""

from __future__ import annotations

import pytest

from piagent.core.checking import Question, question
from piagent.core.model import Backend, HealthCheck
from piagent.core.proxying import NOBODYS_HEADER, ProxyHeader, Proxying
from tests.core.things import service

BACKEND = Backend(address="192.0.2.1")


def test_a_check_asks_the_backends_port_and_says_nothing_first() -> None:
    asked = question(service("web"), HealthCheck(), BACKEND)
    assert asked == Question("web", "192.0.2.1", "192.0.2.1", 8080, HealthCheck())


@pytest.mark.parametrize("header", list(ProxyHeader))
def test_who_expects_a_proxy_header_gets_one_that_names_nobody(header: ProxyHeader) -> None:
    web = service("web", proxying=Proxying(header=header))
    assert question(web, HealthCheck(), BACKEND).preface == NOBODYS_HEADER[header] != b""
    assert question(web, HealthCheck(port=9), BACKEND).preface == b"", "another port"


def test_the_headers_are_as_the_protocol_has_them() -> None:
    assert NOBODYS_HEADER[ProxyHeader.V1] == b"PROXY UNKNOWN\r\n"
    signature = bytes.fromhex("0d0a0d0a000d0a515549540a")
    local, unspecified, nothing_follows = b"\x20", b"\x00", b"\x00\x00"
    assert NOBODYS_HEADER[ProxyHeader.V2] == signature + local + unspecified + nothing_follows
