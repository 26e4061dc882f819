"""Ports that the kernel leaves alone, in the kernel's own list."""

from __future__ import annotations

import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piagent.adapters import netns, reserved_ports
from piagent.adapters.reserved_ports import ReservedPorts, parse, spell
from tests.adapters.two_hosts import run

REASON = netns.why_not()
needs_namespaces = pytest.mark.skipif(REASON is not None, reason=str(REASON))
ports = st.sets(st.integers(1, 65_535), max_size=50)


@pytest.fixture
def place() -> Iterator[netns.Host]:
    with netns.Network("pa-ports") as network:
        host = network.add_host("a", "10.9.0.1/24")
        with host.entered():
            yield host


def listed() -> str:
    return reserved_ports.PATH.read_text().strip()


@given(ports=ports)
def test_a_list_is_read_as_it_was_written(ports: set[int]) -> None:
    assert parse(spell(ports)) == ports


@needs_namespaces
@pytest.mark.usefixtures("place")
def test_the_kernel_picks_no_reserved_port() -> None:
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("40000 40009\n")
    ReservedPorts().reserve(40_000, 40_007)
    taken = [socket.create_server(("10.9.0.1", 0)) for _ in range(2)]
    assert {one.getsockname()[1] for one in taken} == {40_008, 40_009}
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("10.9.0.1", 0))
    asked_for = socket.create_server(("10.9.0.1", 40_003))  # by its number it is to be had
    for one in [*taken, asked_for]:
        one.close()


@needs_namespaces
@pytest.mark.usefixtures("place")
def test_what_others_have_reserved_stays() -> None:
    reserved_ports.PATH.write_text("80,20005-20010\n")
    ours = ReservedPorts()
    ours.reserve(20_000, 20_007)
    assert listed() == "80,20000-20010"
    ours.reserve(30_000, 30_001)  # another range in its place
    assert listed() == "80,20005-20010,30000-30001"
    reserved_ports.PATH.write_text("80,30000-30001\n")
    ours.release()
    assert listed() == "80"
    ours.release()
    assert listed() == "80"


@needs_namespaces
@pytest.mark.usefixtures("place")
def test_nothing_reserved_is_nothing_changed() -> None:
    ours = ReservedPorts()
    ours.reserve(20_000, 29_999)
    ours.release()
    assert listed() == ""


@needs_namespaces
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv makes it somebody else's")
def test_who_may_not_is_told_the_cure(place: netns.Host) -> None:
    code = (
        "from piagent.adapters.reserved_ports import ReservedPorts\n"
        "try: ReservedPorts().reserve(20000, 20001)\n"
        "except OSError as error: print(error)\n"
    )
    as_nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    said = run(place, *as_nobody, sys.executable, "-c", code)
    assert "net.ipv4.ip_local_reserved_ports" in said
    assert "root" in said
