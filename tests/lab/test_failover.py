"""A VIP moves when its owner goes, whichever way it goes; clients find it again."""

from __future__ import annotations

import signal
import time

import pytest

from tests.lab.lab import ECHO_PORT, SUBNET, VIP, Lab
from tests.lab.traffic import Traffic, tcp_name
from tests.waiting import wait_until


def echo(lab: Lab) -> Traffic:
    """A client that asks the TCP service again and again."""
    return Traffic(lambda: tcp_name(lab.client, VIP, ECHO_PORT, 0.3))


def others(lab: Lab, name: str) -> list[str]:
    return [other for other in lab.nodes if other != name]


def test_vip_moves_when_its_owner_is_killed_and_does_not_move_back(lab: Lab) -> None:
    lab.start()
    owner = lab.wait_for_owner()
    with echo(lab) as traffic:
        traffic.wait_for_good(20)
        lab.nodes[owner].kill()
        killed_s = time.monotonic()
        traffic.wait_for_good(20)
        successor = lab.wait_for_owner(other_than=owner)
        lab.nodes[owner].start()
        wait_until(lab.nodes[owner].is_ready, f"{owner} is ready again")
        time.sleep(3)
        assert lab.owners() == [successor], "the returning node leaves the VIP where it is"
    print(f"gap after SIGKILL: {traffic.longest_gap_s():.3f} s")
    assert traffic.longest_gap_s() < 10
    later = [s for s in traffic.failures_after(killed_s) if s.started_s > killed_s + 10]
    assert later == []


def test_vip_moves_when_its_owners_cable_is_pulled(lab: Lab) -> None:
    lab.start()
    owner = lab.wait_for_owner()
    with echo(lab) as traffic:
        traffic.wait_for_good(20)
        lab.nodes[owner].host.pull_cable()
        wait_until(
            lambda: (
                VIP
                in lab.nodes[others(lab, owner)[0]].vips() | lab.nodes[others(lab, owner)[1]].vips()
            ),
            "another node has the VIP",
        )
        traffic.wait_for_good(20)
        wait_until(lambda: VIP not in lab.nodes[owner].vips(), "the cut-off node lets go")
        lab.nodes[owner].host.plug_cable()
        successor = lab.wait_for_owner(other_than=owner)
        wait_until(lab.nodes[owner].is_ready, f"{owner} is ready again")
        traffic.wait_for_good(50)
        assert lab.owners() == [successor]
    print(f"gap after the cable: {traffic.longest_gap_s():.3f} s")


def test_ipv6_vip_moves_too(lab: Lab) -> None:
    vip = "fd00:77::200"
    lab.client.add_address("fd00:77::100/64")
    for number, node in enumerate(lab.nodes.values(), 1):
        node.host.add_address(f"fd00:77::1{number}/64")
        text = node.config.read_text()
        text = text.replace(f'"{SUBNET}.200-', f'"fd00:77::200/124", "{SUBNET}.200-')
        node.config.write_text(text.replace(f'address = "{VIP}"', f'address = "{vip}"'))
    lab.start("node1", "node2")
    owner = lab.wait_for_owner(vip)
    with Traffic(lambda: tcp_name(lab.client, vip, ECHO_PORT, 0.3)) as traffic:
        traffic.wait_for_good(20)
        lab.nodes[owner].kill()
        traffic.wait_for_good(20)
    assert lab.wait_for_owner(vip, other_than=owner)


def test_vip_moves_at_once_when_its_owner_is_stopped(lab: Lab) -> None:
    lab.start()
    owner = lab.wait_for_owner()
    with echo(lab) as traffic:
        traffic.wait_for_good(20)
        assert lab.nodes[owner].terminate() == 0
        traffic.wait_for_good(50)
        lab.wait_for_owner(other_than=owner)
    print(f"gap after SIGTERM: {traffic.longest_gap_s():.3f} s")
    assert "reason=stopping" in lab.nodes[owner].output
    said = "".join(node.output for node in lab.nodes.values())
    assert "reason=invited" in said or "reason=yielded" in said, "not by silence"


def test_paused_owner_acts_no_more_when_it_wakes_up(lab: Lab) -> None:
    lab.start()
    owner = lab.wait_for_owner()
    lab.nodes[owner].pause()
    with echo(lab) as traffic:
        successor = lab.wait_for_owner(other_than=owner)
        traffic.wait_for_good(20)
        lab.nodes[owner].resume()
        traffic.wait_for_good(100)
        assert lab.owners() == [successor]
    wait_until(lambda: "reason=lease-ran-out" in lab.nodes[owner].output, "it noticed")


def test_vip_stays_when_the_broker_restarts_empty(lab: Lab) -> None:
    lab.start()
    owner = lab.wait_for_owner()
    with echo(lab) as traffic:
        traffic.wait_for_good(20)
        lab.broker.kill()
        lab.broker.start()
        for node in lab.nodes.values():
            wait_until(node.is_ready, f"{node.name} is ready again")
        time.sleep(2)
    assert lab.owners() == [owner]
    assert traffic.failures == []


def test_vip_goes_when_no_broker_comes_back_and_returns_with_it(lab: Lab) -> None:
    lab.start()
    lab.wait_for_owner()
    lab.broker.kill()
    wait_until(lambda: lab.owners() == [], "nobody has the VIP without a quorum")
    for node in lab.nodes.values():
        wait_until(lambda n=node: n.get("/readyz")[0] == 503, f"{node.name} is not ready")
        assert not node.get("/api/v1/status")[1]["brokers"][0]["up"]
    lab.broker.start()
    lab.wait_for_owner()


def test_node_with_another_secret_takes_nothing_and_is_named_once(lab: Lab) -> None:
    lab.start("node1", "node2")
    owner = lab.wait_for_owner()
    stranger = lab.nodes["node3"]
    other = lab.folder / "other-secret"
    other.write_text("another secret of the laboratory\n")
    other.chmod(0o600)
    secret = str(lab.folder / "secret")
    stranger.config.write_text(stranger.config.read_text().replace(secret, str(other)))
    lab.start("node3")
    time.sleep(3)
    assert lab.owners() == [owner]
    said = [line for line in stranger.output.splitlines() if "bad-signature" in line]
    # The leader speaks as well, and may be another than the VIP's owner.
    named = [name for line in said for name in ("node1", "node2") if name in line]
    assert owner in named
    assert len(said) == len(named) == len(set(named)), said


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_agents_leave_nothing_behind(lab: Lab, signal_number: signal.Signals) -> None:
    lab.start("node1")
    node = lab.nodes["node1"]
    lab.wait_for_owner()
    node.send(signal_number)
    assert node.wait() == 0
    assert node.vips() == set()
    assert not node.socket.exists()
