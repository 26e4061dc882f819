"""Somebody on the broker without the secret: takes no VIP, makes no second owner."""

from __future__ import annotations

import json
import time

from tests.lab.intruder import LEASES, ROOT, Intruder, rss_kib
from tests.lab.lab import ECHO_PORT, VIP, Lab
from tests.lab.test_one_owner import watch
from tests.lab.traffic import tcp_name
from tests.lab.watch import overlaps
from tests.waiting import wait_until

DEEP = b"x" * 22 + b"." + b'{"a":' * 3000


def test_nothing_an_intruder_says_takes_the_vip_away(lab: Lab) -> None:
    lab.start()
    owner = lab.wait_for_owner()
    lies = json.dumps({"owner": "intruder", "epoch": 1 << 62, "since": "", "reason": "mine"})
    with Intruder(lab) as intruder, watch(lab) as seen:
        captured = intruder.captured(30)
        for topic, payload in captured:  # as they were, late, elsewhere, in another's name
            intruder.say(topic, payload)
            intruder.say(topic, payload, retain=True)
            intruder.say(f"{LEASES}/node9", payload)
        of_the_owner = captured[0][1]
        signature, _, said = of_the_owner.partition(b".")
        forged = json.loads(said)
        forged["q"] += 1000
        forged["y"] = {VIP: None}
        forged["a"] = {}
        intruder.say(captured[0][0], signature + b"." + json.dumps(forged).encode())
        for payload in (b"", b"\0" * 100, DEEP, b"[" * 60_000, b"\xff" * 1000, b"x" * (1 << 20)):
            for topic in (f"{LEASES}/{owner}", f"{LEASES}/x", f"{ROOT}/s/{owner}", f"{ROOT}/s/x"):
                intruder.say(topic, payload)
        intruder.say(f"{ROOT}/v/{VIP}", lies.encode(), retain=True)
        intruder.say(f"{ROOT}/s/{owner}", b'{"on":0,"i":"0"}', retain=True)
        intruder.say(f"{LEASES}/\u202e\u2028INFO     vip: fine %s", b"?")
        intruder.say(f"{ROOT}/s/\u202e%n", b'{"on":1,"i":"0"}')
        time.sleep(2)
        assert lab.owners() == [owner]
    assert overlaps(seen.lists) == []
    for node in lab.nodes.values():
        assert "\u202e" not in node.output
        assert "\u2028" not in node.output
        assert "Traceback" not in node.output
        assert node.get("/api/v1/status")[1]["vips"][0]["owner"] == owner


def test_a_flood_costs_no_memory_and_never_makes_two_owners(lab: Lab) -> None:
    lab.start()
    owner = lab.wait_for_owner()
    pids = [node.agent for node in lab.nodes.values()]
    before = [rss_kib(pid) for pid in pids]
    with Intruder(lab) as intruder, watch(lab) as seen:
        for topics, payload in (
            ([f"{LEASES}/x{number}" for number in range(500)], b"{}"),
            ([f"{ROOT}/s/x{number}" for number in range(5000)], b'{"on":1,"i":"0"}'),
            ([f"{ROOT}/e/{owner}/x"], b"0123456789abcdef"),
        ):
            intruder.flood(topics, payload, each_s=5000, seconds=3)
            for node in lab.nodes.values():
                assert node.get("/healthz")[0] == 200, "it answers meanwhile"
    assert overlaps(seen.answers) == []
    lab.wait_for_owner(timeout_s=30)
    for pid, was in zip(pids, before, strict=True):
        assert rss_kib(pid) - was < 8 * 1024


def test_a_hundred_thousand_invented_nodes_do_not_keep_the_vip_down(lab: Lab) -> None:
    lab.start("node1")
    lab.wait_for_owner()
    with Intruder(lab) as intruder:
        intruder.retain(100_000, f"{ROOT}/s/ghost", b'{"on":1,"i":"0"}')
        intruder.retain(20_000, f"{LEASES}/ghost", b"?")
    lab.start("node2")
    lab.nodes["node1"].kill()
    lab.wait_for_owner(other_than="node1", timeout_s=40)
    wait_until(lambda: tcp_name(lab.client, VIP, ECHO_PORT), "it serves")
