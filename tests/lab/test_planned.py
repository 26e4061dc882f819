"""Planned hand-overs: nobody who uses the VIP notices."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time

from tests.lab.lab import ECHO_PORT, VIP, Lab
from tests.lab.traffic import KeptRequests, Traffic, connect, tcp_name
from tests.lab.watch import Watch, overlaps
from tests.waiting import wait_until

MOVES = 3 * int(os.environ.get("PIAGENT_LAB_TIMES", "2"))
"""`make lab` has 30."""


def move(lab: Lab, asked: str, to: str) -> None:
    """`piagent vip move` on one of the nodes."""
    argv = [sys.executable, "-m", "piagent.cli", "vip", "move", VIP, to]
    done = subprocess.run(
        [*argv, "--socket", str(lab.nodes[asked].socket)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def other(lab: Lab, name: str) -> str:
    return next(node for node in lab.nodes if node != name)


def test_moves_lose_no_probe_and_no_request_and_nobody_answers_twice(lab: Lab) -> None:
    lab.start()
    owner = lab.wait_for_owner()
    hosts = {name: node.host for name, node in lab.nodes.items()}
    with (
        Watch(VIP, lab.client, hosts) as seen,
        Traffic(lambda: tcp_name(lab.client, VIP, ECHO_PORT, 0.5)) as probes,
        KeptRequests(lab.client, VIP, "www.lab", connections=4) as requests,
    ):
        probes.wait_for_good(50)
        # To and fro between two nodes: a third one within the drain time breaks the first's flows,
        # which is the price of decision 007.
        to = other(lab, owner)
        for _ in range(MOVES):
            move(lab, owner, to)
            assert lab.wait_for_owner() == to
            owner, to = to, owner
            time.sleep(1.0)
        probes.wait_for_good(50)
    assert [sample.error for sample in probes.failures] == []
    assert requests.failures == []
    assert requests.count > 100
    assert overlaps(seen.answers) == []


def test_stream_through_the_former_owner_lives_on_until_the_drain_ends(lab: Lab) -> None:
    for node in lab.nodes.values():
        node.config.write_text(
            node.config.read_text().replace("[election]", '[election]\ndrain = "4s"')
        )
    lab.start()
    owner = lab.wait_for_owner()
    client = http.client.HTTPConnection(VIP, 80)
    client.sock = connect(lab.client, VIP, 80)
    client.request("GET", "/slow?ms=2000", headers={"Host": "www.lab"})
    move(lab, owner, other(lab, owner))
    response = client.getresponse()
    assert response.status == 200
    assert b"backend" in response.read()
    client.close()
    wait_until(lambda: VIP not in lab.nodes[owner].vips(), "the drain ends")


def test_drained_node_stops_without_a_lost_request(lab: Lab) -> None:
    lab.start()
    owner = lab.wait_for_owner()
    with KeptRequests(lab.client, VIP, "www.lab", connections=4) as requests:
        requests.wait_for(50)
        assert lab.nodes[owner].terminate() == 0
        requests.wait_for(50)
    assert requests.failures == []
    assert lab.wait_for_owner() != owner
