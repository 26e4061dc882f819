"""Nodes share their health checks: real agents, backends and a broker that comes and goes."""

from __future__ import annotations

import http.client
import re
import signal
from collections.abc import Callable
from typing import Any

from tests.lab.lab import ECHO_PORT, SUBNET, TCP_PORT, VIP, Lab
from tests.lab.services import POOLS, write
from tests.lab.traffic import tcp_name
from tests.waiting import wait_until

CHECKED = ("echo", "web")
View = dict[tuple[str, str], tuple[str, bool]]
"""(service, backend) -> who checked it, whether it is up."""


def view(lab: Lab, name: str) -> View:
    """How a node sees the backends that are checked; nothing while it does not answer."""
    try:
        status, found = lab.nodes[name].get("/api/v1/services")
    except (OSError, http.client.HTTPException):
        return {}
    assert status == 200
    services: list[dict[str, Any]] = found
    return {
        (service["name"], backend["address"]): (backend["checked_by"], backend["up"])
        for service in services
        if service["name"] in CHECKED
        for backend in service["backends"]
    }


def agree(lab: Lab, *names: str, down: str = "") -> bool:
    """Whether one of these nodes checks each backend and all know that only `down` is down."""
    views = [view(lab, name) for name in names]
    if not views[0] or any(each != views[0] for each in views):
        return False
    return all(
        by in names and up is (backend != down) for (_, backend), (by, up) in views[0].items()
    )


def alone(lab: Lab, name: str, down: str = "") -> bool:
    """Whether a node checks all by itself."""
    return bool(seen := view(lab, name)) and seen == {
        (service, backend): (name, backend != down) for service, backend in seen
    }


def checks(lab: Lab, name: str) -> int:
    """How many checks a node has made."""
    _, text = lab.nodes[name].get("/metrics")
    found = re.findall(r"^piagent_health_checks_total\{.*\} (\d+)", text, re.MULTILINE)
    return sum(map(int, found))


def until(condition: Callable[[], bool], what: str, lab: Lab) -> None:
    wait_until(condition, lambda: f"{what}: { {n: view(lab, n) for n in lab.nodes} }", every_s=0.1)


def test_nodes_agree_on_who_checks_and_what_is_down(lab: Lab) -> None:
    lab.start()
    names = tuple(lab.nodes)
    until(lambda: agree(lab, *names), "one node checks each backend", lab)

    dead = lab.backend_address("backend2")
    lab.backends["backend2"].kill()
    until(lambda: agree(lab, *names, down=dead), "all know that backend2 is down", lab)

    # The owner of the VIP goes, and maybe with it who found that: the next one knows it already.
    owner = lab.wait_for_owner()
    lab.nodes[owner].kill()
    rest = [name for name in names if name != owner]
    lab.wait_for_owner(other_than=owner)
    assert {tcp_name(lab.client, VIP, ECHO_PORT) for _ in range(30)} == {"backend1", "backend3"}
    until(lambda: agree(lab, *rest, down=dead), "the others share what it checked", lab)

    lab.broker.kill()
    until(lambda: all(alone(lab, name, dead) for name in rest), "each checks for itself", lab)
    lab.broker.start()
    until(lambda: agree(lab, *rest, down=dead), "they share the checks again", lab)

    lab.nodes[owner].start()
    lab.backends["backend2"].start()
    until(lambda: agree(lab, *names), "the one that came back takes part, too", lab)


def test_the_checks_are_made_once_and_not_once_a_node(lab: Lab) -> None:
    lab.start()
    names = tuple(lab.nodes)
    until(lambda: agree(lab, *names), "one node checks each backend", lab)
    before = {name: checks(lab, name) for name in names}
    on_duty = {by for by, _ in view(lab, names[0]).values()}
    wait_until(lambda: sum(checks(lab, n) - before[n] for n in names) >= 200, "many checks")
    idle = [name for name in names if name not in on_duty]
    assert [checks(lab, name) - before[name] for name in idle] == [0] * len(idle)
    made = {name: checks(lab, name) - before[name] for name in on_duty}
    # Each of the six backends is asked as often as any other.
    shares = {n: sum(by == n for by, _ in view(lab, n).values()) for n in on_duty}
    for name in on_duty:
        assert abs(made[name] - 200 * shares[name] / 6) < 60, (made, shares)


PROGRAM = """#!/bin/sh
echo "$PIAGENT_SERVICE at $PIAGENT_ADDRESS port $PIAGENT_PORT"
[ ! -e {flag} ]
"""


def test_programs_check_on_every_node_that_names_them(lab: Lab) -> None:
    program, flag = lab.folder / "check", lab.folder / "flag"
    program.write_text(PROGRAM.format(flag=flag))
    program.chmod(0o755)
    body = f"""{POOLS}
[[service]]
name = "web"
type = "load-balancer"
address = "{VIP}"
ports = [{{ port = 80, target_port = {TCP_PORT} }}]
backends = ["{SUBNET}.21"]
health = {{ kind = "exec", command = ["{program}"], interval = "200ms", rise = 1, fall = 1 }}
"""
    write(lab, body)
    lab.start()
    until(lambda: all(alone(lab, name) for name in lab.nodes), "each node runs it", lab)
    for node in lab.nodes.values():
        _, services = node.get("/api/v1/services")
        (backend,) = services[0]["backends"]
        assert backend["reason"].endswith(f"web at {SUBNET}.21 port {TCP_PORT}")
    flag.touch()
    down = f"{SUBNET}.21"
    until(lambda: all(alone(lab, name, down) for name in lab.nodes), "it fails everywhere", lab)
    node = next(iter(lab.nodes.values()))
    node.send(signal.SIGTERM)
    assert node.wait() == 0
