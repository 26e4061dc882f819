"""Programs that join a service by themselves: traffic follows them, through a VIP elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab.lab import SUBNET, TCP_PORT, VIP, Lab, Node, Process
from tests.lab.services import POOLS, add_backend, write
from tests.lab.traffic import Traffic, tcp_name
from tests.waiting import wait_until

FILE = f"""{POOLS}
[[service]]
name = "web"
type = "load-balancer"
address = "{VIP}"
ports = [{{ port = 80, target_port = 1 }}]
backends = []
"""
STATIC = FILE.replace("target_port = 1", f"target_port = {TCP_PORT}").replace(
    "backends = []", f'backends = ["{SUBNET}.21"]'
)
"""One backend is always there, so that every connection has an answer."""
TTL_S = 2
LATE_S = 1.0
"""What a busy machine may add to the time to live."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(backends=1) as built:
        write(built, STATIC)
        built.start()
        built.wait_for_owner(VIP)
        yield built


@pytest.fixture
def node(lab: Lab) -> Iterator[Node]:
    """A node that does not own the VIP, with a backend that no file knows."""
    owner = lab.wait_for_owner(VIP)
    found = next(each for name, each in lab.nodes.items() if name != owner)
    if "joined" not in lab.backends or lab.backends["joined"].host is not found.host:
        add_backend(lab, "joined", found.host, f"{SUBNET}.1{found.name[-1]}")
    yield found
    lab.backends.pop("joined").kill()


@contextmanager
def registered(lab: Lab, node: Node, ttl: str, probes: Traffic) -> Iterator[Process]:
    """`piagent endpoint register`, under way, and clients have seen what it registered."""
    words = ["endpoint", "register", "web", f":{TCP_PORT}", "--ttl", ttl]
    argv = [sys.executable, "-m", "piagent.cli", *words, "--socket", str(node.socket)]
    made = Process(node.host, argv, lab.folder / "register.log")
    made.log.unlink(missing_ok=True)
    made.start()
    try:
        # What a former one registered may be asked still.
        wait_until(lambda: "is registered" in made.output, lambda: made.output)
        begun_s = time.monotonic()
        wait_until(lambda: joined(probes, begun_s), lambda: f"it is asked: {made.output}")
        yield made
    finally:
        made.kill()


@contextmanager
def clients(lab: Lab) -> Iterator[Traffic]:
    with Traffic(lambda: tcp_name(lab.client, VIP, 80)) as probes:
        probes.wait_for_good(20)
        yield probes


def joined(probes: Traffic, after_s: float = 0.0) -> list[float]:
    """When clients whom the endpoint answered had asked."""
    return [s.started_s for s in probes.good if s.answer == "joined" and s.started_s >= after_s]


def left_after(probes: Traffic, ended_s: float, within_s: float) -> float:
    """How long after its end clients still got to the endpoint or to nothing, within that time."""
    wait_until(lambda: time.monotonic() > ended_s + within_s, "its time is over", within_s + 5)
    probes.wait_for_good(100)
    missed = [sample.started_s for sample in probes.failures_after(ended_s)]
    asked = [*joined(probes, ended_s), *missed]
    assert [at - ended_s for at in asked if at > ended_s + within_s] == []
    return max(asked, default=ended_s) - ended_s


@pytest.mark.parametrize("what", ["program", "agent", "node"])
def test_killed_endpoint_is_asked_no_more_after_its_time(lab: Lab, node: Node, what: str) -> None:
    with clients(lab) as probes, registered(lab, node, f"{TTL_S}s", probes) as program:
        if what == "program":
            time.sleep(TTL_S + LATE_S)  # it has to be renewed to be asked still
            probes.wait_for_good(100)
            assert joined(probes, time.monotonic() - LATE_S)
        killed_s = time.monotonic()
        if what == "program":
            program.kill()
        elif what == "agent":
            node.kill()
        else:
            node.host.pull_cable()
        gone_s = left_after(probes, killed_s, TTL_S + LATE_S)
        if what == "agent":
            lab.start(node.name)
        elif what == "node":
            node.host.plug_cable()
    print(f"asked for {gone_s:.2f} s after the {what} was gone")
    if what != "node":
        assert probes.failures == []


def test_endpoint_that_ends_is_asked_no_more_at_once(lab: Lab, node: Node) -> None:
    with clients(lab) as probes, registered(lab, node, "1m", probes) as program:
        ended_s = time.monotonic()
        assert program.terminate() == 0
        print(f"asked for {left_after(probes, ended_s, TTL_S):.2f} s after SIGTERM")
    assert probes.failures == []
