"""A leader that dies while services are applied; brokers and nodes that forget everything."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from piagent.core.assignments import Assignment
from tests.lab.history import History, check
from tests.lab.lab import SUBNET, TCP_PORT, Lab, Node
from tests.lab.services import Place, reach, settle, write
from tests.waiting import wait_until

COUNT = 100
"""Services: as many as a cluster may have VIPs, and as each pool has addresses."""
KILLS = 1 + int(os.environ.get("PIAGENT_LAB_TIMES", "2"))
PATIENCE_S = 60.0
FILE = f"""
[[pool]]
name = "lan"
addresses = ["{SUBNET}.150-{SUBNET}.{149 + COUNT}"]

[[pool]]
name = "inside"
type = "cluster"
addresses = ["10.96.0.1-10.96.0.{COUNT}"]
"""
STATE = 'state_file = "{folder}/{name}.state"'


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(backends=1, brokers=3, profile="normal") as built:
        write(built, FILE, node=STATE)
        built.start()
        yield built


def name_of(number: int) -> str:
    return f"web-{number:03}"


def change(number: int) -> dict[str, Any]:
    table = {
        "name": name_of(number),
        "type": "load-balancer",
        "ports": [{"port": 80, "target_port": TCP_PORT}],
        "backends": [f"{SUBNET}.21"],
    }
    return {"kind": "service", "name": table["name"], "table": table}


def apply(nodes: list[Node], number: int) -> None:
    """Until it is done, at one node after the other; as an operator would who gets no answer."""
    end_s, turn, said = time.monotonic() + PATIENCE_S, number, ""
    while time.monotonic() < end_s:
        node = nodes[turn % len(nodes)]
        turn += 1
        try:
            status, answer = node.post("/api/v1/apply", {"changes": [change(number)]})
        except (OSError, http.client.HTTPException) as error:
            said = f"{node.name}: {error!r}"
            time.sleep(0.1)
            continue
        said = f"{node.name}: {status}: {answer}"
        assert status in {200, 503}, said
        if status == 200:
            assert answer["done"], said
            assert len(answer["outcomes"][0]["vips"]) == 1, said
            return
    raise AssertionError(f"{name_of(number)} is not applied: {said}")


def leader(lab: Lab) -> str:
    """The name that the nodes that are there agree on, or nothing."""
    said = set()
    for node in lab.nodes.values():
        try:
            said.add(node.get("/api/v1/status")[1]["leader"])
        except (OSError, http.client.HTTPException):
            continue
    return said.pop() or "" if len(said) == 1 else ""


def kill_leader(lab: Lab) -> str:
    """SIGKILL to the agent that leads, and to its guardian."""
    name = ""

    def found() -> bool:
        nonlocal name
        name = leader(lab)
        return bool(name)

    wait_until(found, "a node leads")
    lab.nodes[name].kill()
    return name


Has = dict[str, tuple[list[str], list[str], list[int]]]
"""Service -> its VIPs, cluster addresses and node ports."""


def served(node: Node) -> Has:
    """As one node has them."""
    return {
        one["name"]: (
            one["vips"],
            one["cluster_ips"],
            [port["node_port"] for port in one["ports"] if port["node_port"]],
        )
        for one in node.get("/api/v1/services")[1]
    }


def carried(given: dict[str, Assignment]) -> Has:
    """As a broker has them."""
    return {
        key.removeprefix("service/"): (
            list(has.vips),
            list(has.cluster_ips),
            list(has.node_ports.values()),
        )
        for key, has in given.items()
    }


def everywhere(lab: Lab, history: History) -> Has:
    """What all nodes and all brokers have alike; nothing when they differ."""
    try:
        found = [served(node) for node in lab.nodes.values()]
    except (OSError, http.client.HTTPException):
        return {}
    last = history.last()
    if len(last) < len(lab.brokers):
        return {}
    found += [carried(one.given) for one in last.values()]
    return found[0] if all(one == found[0] for one in found) else {}


def wait_for_all(lab: Lab, history: History) -> Has:
    """What every node and broker has, once it is everything."""
    has: Has = {}

    def complete() -> bool:
        nonlocal has
        has = everywhere(lab, history)
        return len(has) == COUNT

    wait_until(
        complete,
        lambda: (
            f"the same everywhere: nodes {[len(served(n)) for n in lab.nodes.values()]},"
            f" brokers {[len(one.given) for one in history.last().values()]}"
        ),
        PATIENCE_S,
        every_s=0.2,
    )
    return has


@pytest.mark.timeout(180 + 20 * KILLS)
def test_leaders_that_die_during_applies_and_memories_that_are_lost(lab: Lab) -> None:
    with History(lab) as history:
        done = apply_all_while_leaders_die(lab)
        assert len(done) == COUNT
        has = wait_for_all(lab, history)
        vips = sorted(vip for one, _, _ in has.values() for vip in one)
        assert vips == [f"{SUBNET}.{n}" for n in range(150, 150 + COUNT)]
        inside = {ip for _, one, _ in has.values() for ip in one}
        assert inside == {f"10.96.0.{n}" for n in range(1, COUNT + 1)}
        history_of_applies = history.in_force()
        # A leader may die before anything of its own is in force.
        assert len({one.epoch for one in history_of_applies}) > KILLS // 2 + 1
        check(history_of_applies)
        reached(lab, vips)

        for broker in lab.brokers:
            broker.kill()
        wait_until(lambda: not any(says_a_leader(node) for node in lab.nodes.values()), "no leader")
        history.forget()
        for broker in lab.brokers:
            broker.start()
        settle(lambda: wait_for_all(lab, history), has)

        for process in (*lab.nodes.values(), *lab.brokers):
            process.kill()
        history.forget()
        for broker in lab.brokers:
            broker.start()
        lab.start()
        settle(lambda: wait_for_all(lab, history), has)
        check(history.in_force())
        reached(lab, vips)


def says_a_leader(node: Node) -> bool:
    return node.get("/api/v1/status")[1]["leader"] is not None


def apply_all_while_leaders_die(lab: Lab) -> list[int]:
    """From four operators at once; the numbers of those that are done."""
    done: list[int] = []
    go = threading.Semaphore(0)
    nodes = list(lab.nodes.values())

    def work(number: int) -> None:
        with go:  # some at a time, so that each leader dies with work before it
            apply(nodes, number)
            done.append(number)
        go.release()

    killed: list[str] = []
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(work, number) for number in range(COUNT)]
        go.release(4)
        for turn in range(KILLS):
            due = (turn + 1) * COUNT // (KILLS + 1)
            wait_until(lambda n=due: len(done) >= n, f"{due} are applied", PATIENCE_S)
            if killed:
                lab.start(killed[-1])
            killed.append(kill_leader(lab))
        for future in futures:
            future.result()
    lab.start(killed[-1])
    print("killed:", ", ".join(killed))
    return done


def reached(lab: Lab, vips: list[str]) -> None:
    """Each of these has an owner that answers."""
    waiting = set(vips)

    def answered() -> bool:
        for vip in sorted(waiting):
            if reach(lab.client, Place(vip, 80), timeout_s=0.3) == "backend1":
                waiting.discard(vip)
        return not waiting

    wait_until(answered, lambda: f"an answer of {sorted(waiting)}", PATIENCE_S, every_s=0.2)
