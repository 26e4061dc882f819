"""Whole agents that forward packets: nat to hosts of their own, dsr to the nodes themselves."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from piagent.adapters.forward_fence import TABLE
from piagent.adapters.nftables import Nftables
from tests.adapters.asker import mac_of
from tests.adapters.two_hosts import run
from tests.lab import backend
from tests.lab.lab import ECHO_PORT, HTTP_PORT, SUBNET, TCP_PORT, VIP, Lab, Process
from tests.lab.test_planned import move, other
from tests.lab.traffic import Traffic, connect, tcp_name
from tests.waiting import wait_until

ALL = {"backend1", "backend2", "backend3"}
NODES = {"node1", "node2", "node3"}
DSR_PORT = TCP_PORT
"""A packet keeps its port."""


def forward(lab: Lab, mode: str, port: int = ECHO_PORT, *, here: bool = False) -> None:
    """Have the files say that the TCP service is forwarded; `here`: to the nodes themselves."""
    for node in lab.nodes.values():
        text = node.config.read_text()
        echo, rest = text.split('name = "web"', 1)
        echo = echo.replace('name = "echo"\n', f'name = "echo"\nmode = "{mode}"\n')
        echo = echo.replace(f"port = {ECHO_PORT}", f"port = {port}")
        if here:
            for number in range(1, 4):
                echo = echo.replace(f"{SUBNET}.{20 + number}", f"{SUBNET}.{10 + number}")
        node.config.write_text(f'{echo}name = "web"{rest}')


@contextmanager
def backends_on_nodes(lab: Lab) -> Iterator[None]:
    """Each node has a program that answers by the node's name, at every address."""
    with ExitStack() as stack:
        for name, node in lab.nodes.items():
            argv = [sys.executable, str(Path(backend.__file__)), name, "0.0.0.0"]
            argv += [str(HTTP_PORT), str(TCP_PORT)]
            program = Process(node.host, argv, lab.folder / f"on-{name}.log")
            program.start()
            stack.callback(program.kill)
            wait_until(lambda p=program: "ready" in p.output, "a backend listens")
        yield


def names(lab: Lab, port: int = ECHO_PORT, n: int = 30) -> set[str]:
    """Who answers so many connections; on a machine that is busy the VIP may be away meanwhile."""
    with Traffic(lambda: tcp_name(lab.client, VIP, port, 2)) as probes:
        probes.wait_for_good(n, 60)
    return {sample.answer for sample in probes.good if sample.answer is not None}


class Stream:
    """A connection that says a line again and again, and compares what comes back."""

    def __init__(self, lab: Lab, port: int) -> None:
        self.socket = connect(lab.client, VIP, port, 20)
        self._lines = self.socket.makefile("rb")
        self.backend = self._lines.readline().decode().strip()
        self.said = 0
        self.error = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._talk, daemon=True)
        self._thread.start()

    def _talk(self) -> None:
        while not self._stop.wait(0.02):
            line = f"line {self.said}\n".encode()
            try:
                self.socket.sendall(line)
                answer = self._lines.readline()
            except OSError as error:
                self.error = repr(error)
                return
            if answer != line:
                self.error = f"{answer!r} for {line!r}"
                return
            self.said += 1

    def close(self) -> None:
        self._stop.set()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.socket.close()


def test_nat_serves_a_vip_and_says_how(lab: Lab) -> None:
    forward(lab, "nat")
    lab.start()
    owner = lab.nodes[lab.wait_for_owner()]
    assert names(lab) == ALL
    status = owner.get("/api/v1/status")[1]["forwarding"]
    assert status["flow_cache"] in {"xdp", "tc", "forwarder"}
    assert status["reason"]
    assert status["unreached"] == []
    metrics = owner.get("/metrics")[1]
    (sent,) = [
        line
        for line in metrics.splitlines()
        if line.startswith("piagent_forward_packets_total") and 'verdict="sent"' in line
    ]
    assert f'service="echo:{ECHO_PORT}@ipv4"' in sent
    assert int(sent.split()[1]) > 100
    assert owner.terminate() == 0
    with owner.host.entered(), Nftables() as kernel:
        assert not kernel.has_chain(TABLE, "ingress")


def test_nat_fails_over_when_the_owner_dies(lab: Lab) -> None:
    forward(lab, "nat")
    lab.start()
    owner = lab.wait_for_owner()
    assert names(lab) == ALL
    lab.nodes[owner].kill_agent()
    lab.wait_for_owner(other_than=owner)
    with Traffic(lambda: tcp_name(lab.client, VIP, ECHO_PORT, 1)) as probes:
        probes.wait_for_good(50)
    assert {sample.answer for sample in probes.good} == ALL


def test_a_reload_changes_how_a_service_is_carried(lab: Lab) -> None:
    proxied = {name: node.config.read_text() for name, node in lab.nodes.items()}
    forward(lab, "nat")
    forwarded = {name: node.config.read_text() for name, node in lab.nodes.items()}
    lab.start()
    owner = lab.nodes[lab.wait_for_owner()]
    for count, (files, mode) in enumerate(
        [(proxied, "proxy"), (forwarded, "nat"), (proxied, "proxy")], 1
    ):
        for name, node in lab.nodes.items():
            node.reload(files[name])
        wait_until(lambda n=count: owner.output.count("reload: done") == n, "the reload")
        assert names(lab) == ALL
        state = owner.get("/api/v1/status")[1]["forwarding"]
        assert (state is None) == (mode == "proxy")


def test_a_backend_that_dies_gets_no_packets_after_its_checks_noticed(lab: Lab) -> None:
    forward(lab, "nat")
    lab.start("node1")
    lab.wait_for_owner()
    assert names(lab) == ALL
    lab.backends["backend2"].kill()
    node = lab.nodes["node1"]
    wait_until(lambda: "echo 10.77.0.22: down" in node.output, "the check notices")
    assert names(lab) == ALL - {"backend2"}


def test_a_backend_that_drains_keeps_its_streams_until_its_time_is_over(lab: Lab) -> None:
    forward(lab, "nat")
    lab.start("node1")
    lab.wait_for_owner()
    node = lab.nodes["node1"]
    assert names(lab) == ALL
    streams = [Stream(lab, ECHO_PORT) for _ in range(12)]
    assert {stream.backend for stream in streams} == ALL
    text = node.config.read_text()
    drained = '{ address = "10.77.0.22", weight = 0 }'
    echo = text.replace('mode = "nat"', 'mode = "nat"\ndrain_timeout = "3s"')
    node.reload(echo.replace('"10.77.0.22"', drained, 1))
    wait_until(lambda: "reload: done" in node.output, "the reload")
    assert names(lab) == ALL - {"backend2"}
    its = [stream for stream in streams if stream.backend == "backend2"]
    others = [stream for stream in streams if stream.backend != "backend2"]
    before = [stream.said for stream in its]
    wait_until(lambda: all(one.said > n for one, n in zip(its, before, strict=True)), "they go on")
    wait_until(lambda: "what is left of it is cut" in node.output, "the time is over")
    time.sleep(0.3)
    before = [stream.said for stream in (*its, *others)]
    time.sleep(1)
    after = [stream.said for stream in (*its, *others)]
    assert after[: len(its)] == before[: len(its)]
    assert all(a > b for a, b in zip(after[len(its) :], before[len(its) :], strict=True))
    for stream in streams:
        stream.close()


def test_dsr_to_the_nodes_themselves_survives_moves_without_a_reset(lab: Lab) -> None:
    forward(lab, "dsr", DSR_PORT, here=True)
    with backends_on_nodes(lab):
        lab.start()
        owner = lab.wait_for_owner()
        wait_until(lambda: names(lab, DSR_PORT) == NODES, "every node serves")
        streams = [Stream(lab, DSR_PORT) for _ in range(24)]
        assert {stream.backend for stream in streams} == NODES
        for _ in range(3):
            to = other(lab, owner)
            move(lab, owner, to)
            assert lab.wait_for_owner() == to
            owner = to
            said = [stream.said for stream in streams]
            wait_until(
                lambda s=said: all(
                    one.error or one.said > before + 20
                    for one, before in zip(streams, s, strict=True)
                ),
                "all go on",
            )
        assert [stream.error for stream in streams] == [""] * len(streams)
        assert names(lab, DSR_PORT) == NODES
        for stream in streams:
            stream.close()


@pytest.mark.parametrize("mode", ["nat"])
def test_moves_fail_no_new_connection(lab: Lab, mode: str) -> None:
    forward(lab, mode)
    lab.start()
    owner = lab.wait_for_owner()
    with Traffic(lambda: tcp_name(lab.client, VIP, ECHO_PORT, 5)) as probes:
        probes.wait_for_good(50)
        for _ in range(3):
            to = other(lab, owner)
            move(lab, owner, to)
            assert lab.wait_for_owner() == to
            owner = to
            time.sleep(0.5)
        probes.wait_for_good(50)
    assert probes.failures == []


def test_nat_streams_go_along_with_the_vip_whatever_becomes_of_its_former_owners(lab: Lab) -> None:
    forward(lab, "nat")
    for node in lab.nodes.values():  # a backend that is down, or seems to be, loses its streams
        node.config.write_text(node.config.read_text().replace("fall = 2", "fall = 50"))
    lab.start()
    owner = lab.wait_for_owner()
    wait_until(lambda: names(lab) == ALL, "every backend serves")
    streams = [Stream(lab, ECHO_PORT) for _ in range(24)]
    assert {stream.backend for stream in streams} == ALL

    def go_on(what: str) -> None:
        said = [stream.said for stream in streams]
        wait_until(
            lambda: all(
                one.error or one.said > before + 20
                for one, before in zip(streams, said, strict=True)
            ),
            what,
        )
        assert [stream.error for stream in streams] == [""] * len(streams)

    former = []
    for _ in range(3):
        go_on("all speak")
        to = other(lab, owner)
        move(lab, owner, to)
        assert lab.wait_for_owner() == to
        wait_until(
            lambda name=owner, taker=to: (
                f"nat connections handed over to {taker}" in lab.nodes[name].output
            ),
            "they are handed over",
        )
        former.append(owner)
        owner = to
    for name in set(former) - {owner}:
        lab.nodes[name].kill_agent()
    go_on("the owner alone is there")
    for stream in streams:
        stream.close()


def test_a_stopped_agent_forwards_nothing_after_its_lease(lab: Lab) -> None:
    forward(lab, "nat")
    lab.start()
    owner = lab.nodes[lab.wait_for_owner()]
    mac = ":".join(f"{byte:02x}" for byte in mac_of(owner.host))
    status = owner.get("/api/v1/status")[1]["forwarding"]
    stream = Stream(lab, ECHO_PORT)
    wait_until(lambda: stream.said > 5, "it is established")
    # Nobody hears whose the VIP is later: all that is sent for it goes on coming to this node.
    for host in (lab.client, *(one.host for one in lab.backends.values())):
        run(host, "ip", "neigh", "replace", VIP, "lladdr", mac, "dev", "eth0", "nud", "permanent")
    owner.pause()
    try:
        lab.wait_for_owner(other_than=owner.name)
        time.sleep(0.3)
        said = stream.said
        time.sleep(1.0)
        assert stream.said == said, f"carried by {status['flow_cache']} after the lease"
    finally:
        owner.resume()
        stream.close()
