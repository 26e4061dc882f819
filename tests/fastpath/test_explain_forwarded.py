"""What is said of a flow that is forwarded: who gets it, who does not and why, what changes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpath.explain_carried import Conversation, carried_alike
from fastpath.explain_forwarded import CLIENT_MAC, Node, explain
from fastpath.forwards import HOWS, Forward, Target
from fastpath.packet.conversation import Ends, headers
from fastpath.packet.flow_cache import FlowCache, Ran
from fastpath.trial import Trial
from tests.adapters.asker import mac_of
from tests.fastpath.packet import flow_caches

ROOT = Path(__file__).parents[2]
KEY = bytes(range(16))
LO, ETH, MAC_ETH = 1, 7, bytes.fromhex("0200000000dd")
MAC_B = bytes.fromhex("0200000000ee")
VIPS = {4: "198.51.100.1", 6: "2001:db8:1::1"}
CLIENTS = {4: "192.0.2.7", 6: "2001:db8::7"}
NODE = Node(KEY, ETH, MAC_ETH, 1500)
WHY_NO_BPF = flow_caches.why_not()
with_bpf = pytest.mark.skipif(WHY_NO_BPF is not None, reason=str(WHY_NO_BPF))


def target(number: int = 1, version: int = 4, **more: Any) -> Target:
    address = f"10.0.0.{number}" if version == 4 else f"fd00::{number}"
    return Target(
        name=f"b{number}", address=address, port=8080, weight=1, up=True, interface=ETH,
        mac=MAC_B, own_mac=MAC_ETH, source=VIPS[version], mtu=1500,
    )._replace(**more)  # fmt: skip


def forward(how: str, *targets: Target, version: int = 4, **more: Any) -> Forward:
    every = targets or (target(1, version), target(2, version))
    return Forward("web", VIPS[version], 443, False, how, every)._replace(**more)


def ends(version: int = 4, **more: Any) -> Ends:
    return Ends(CLIENTS[version], 40000, VIPS[version], 443)._replace(**more)


def told(one: Forward, of: Ends | None = None, node: Node = NODE, **more: Any) -> dict[str, Any]:
    return explain(one, [], node, of or ends(), **more)


def changed(said: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {name: (before, after) for name, before, after in said["changes"]}


# ---- the flow ----


def test_nat_changes_addresses_ports_and_macs() -> None:
    said = told(forward("nat", target(1)))
    assert (said["service"], said["how"], said["verdict"], said["chosen"]) == (
        "web", "nat", "sent", "b1",
    )  # fmt: skip
    port = str(headers(said["frame_out"]).ends.source_port)
    assert changed(said) == {
        "source": (CLIENTS[4], VIPS[4]),
        "source port": ("40000", port),
        "destination": (VIPS[4], "10.0.0.1"),
        "destination port": ("443", "8080"),
        "ttl": ("64", "63"),
        "source MAC": (CLIENT_MAC.hex(":"), MAC_ETH.hex(":")),
        "destination MAC": (MAC_ETH.hex(":"), MAC_B.hex(":")),
    }
    assert NODE.ports[0] <= int(port) <= NODE.ports[1]


def test_dsr_changes_macs_and_an_outer_header_is_new() -> None:
    said = told(forward("dsr", target(1)))
    assert changed(said).keys() == {"ttl", "source MAC", "destination MAC"}
    said = told(forward("ipip", target(1)))
    assert changed(said).keys() == {
        "outer source", "outer destination", "source MAC", "destination MAC"
    }  # fmt: skip
    assert changed(said)["outer destination"] == ("", "10.0.0.1")
    assert said["mtu"] == 1480


def test_what_is_too_big_says_what_the_sender_is_told() -> None:
    said = told(forward("nat", target(mtu=1000)), size=1400)
    assert (said["verdict"], said["answer_mtu"], said["frame_out"]) == ("too-big", 1000, b"")
    assert said["answer"] != b""
    with pytest.raises(ValueError, match="40 to 65535"):
        told(forward("nat"), size=20)


def test_who_is_not_allowed_is_told_from_a_vip() -> None:
    said = told(forward("nat", allowed=("10.0.0.0/8",)))
    assert (said["verdict"], said["allowed"], said["chosen"]) == ("source-not-allowed", False, None)
    said = told(forward("nat", allowed=("10.0.0.0/8", "192.0.2.0/24")))
    assert (said["verdict"], said["allowed"]) == ("sent", True)


def test_a_port_of_another_vip_is_known_though_its_backends_are_not() -> None:
    other = forward("nat", name="other", address="198.51.100.2", port=53)
    of = ends(source="198.51.100.2", source_port=53)
    said = explain(forward("nat"), [other], NODE, of)
    assert (said["verdict"], said["allowed"]) == ("source-not-allowed", True)


def test_how_long_clients_are_remembered_is_said() -> None:
    for affinity_ms, told_of in ((None, (False, 0)), (0, (True, 0)), (5000, (True, 5000))):
        said = told(forward("nat", affinity_ms=affinity_ms))
        assert (said["affinity"], said["remembers_ms"]) == told_of


def test_a_malformed_flow_says_how() -> None:
    said = told(forward("nat"), ends(source="127.0.0.1"))
    assert (said["verdict"], said["kind"]) == ("malformed", "source")


BACKENDS = st.lists(
    st.tuples(st.integers(0, 2), st.booleans(), st.booleans()), min_size=0, max_size=5
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(HOWS), BACKENDS, st.integers(1, 65535), st.integers(0, 7))
def test_nobody_who_is_passed_over_is_chosen_and_who_has_the_entry_gets_it_unless_he_is(
    how: str, backends: list[tuple[int, bool, bool]], port: int, client: int
) -> None:
    """Sometimes the client is a backend itself."""
    targets = tuple(
        target(i, weight=weight, up=up, interface=ETH if reached else 0)
        for i, (weight, up, reached) in enumerate(backends, 1)
    )
    one = forward(how)._replace(targets=targets)
    said = told(one, ends(source=f"10.0.0.{client}" if client else CLIENTS[4], source_port=port))
    why = {each["name"]: each["passed_over"] for each in said["backends"]}
    assert list(why) == [each.name for each in targets]
    if said["chosen"] is not None:
        assert (said["verdict"], why[said["chosen"]]) == ("sent", "")
    if why.get(said["table"]) == "":
        assert said["chosen"] == said["table"]
    if all(why.values()):
        assert said["verdict"] == "no-backend"
    assert (said["table"] is None) == all(each in {"down", "weight"} for each in why.values())


# ---- what the kernel does ----


HOW = pytest.mark.parametrize("how", HOWS)
VERSIONS = pytest.mark.parametrize("version", [4, 6])
PROTOCOLS = pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])


@pytest.fixture
def wired() -> Iterator[Node]:
    """A node whose interface is there."""
    with flow_caches.bench() as bench:
        yield Node(KEY, flow_caches.ETH0, mac_of(bench.host), 1500, cache=bench.cache)


def behind(node: Node, number: int = 1, version: int = 4, **more: Any) -> Target:
    return target(number, version, interface=node.interface, own_mac=node.mac, **more)


@with_bpf
@HOW
@VERSIONS
@PROTOCOLS
def test_the_kernels_programs_do_what_the_forwarder_does(
    wired: Node, how: str, version: int, udp: bool
) -> None:
    """Both ways, where both come by here."""
    targets = [behind(wired, i, version) for i in (1, 2)]
    one = forward(how, *targets, version=version, udp=udp)
    for port in (1, 40000, 65535):
        said = told(one, ends(version, udp=udp, source_port=port), wired, bpf=True)
        ways = ["request", "answer"] if how == "nat" else ["request"]
        assert [(each["way"], each["program"]) for each in said["bpf"]] == [
            (way, program) for way in ways for program in ("xdp", "tc")
        ]
        assert {(each["verdict"], each["same"]) for each in said["bpf"]} == {("carried", True)}


@with_bpf
def test_what_the_programs_leave_alone_is_passed(wired: Node) -> None:
    said = told(forward("dsr", behind(wired, mtu=1000)), node=wired, bpf=True, size=1001)
    assert said["verdict"] == "too-big"
    assert {(each["verdict"], each["same"]) for each in said["bpf"]} == {("passed", None)}


@with_bpf
def test_what_is_for_this_host_itself_goes_up_to_its_stack(wired: Node) -> None:
    said = told(forward("dsr", target(1).here()), node=wired, bpf=True)
    assert (said["verdict"], said["interface"]) == ("sent", LO)
    assert {(each["verdict"], each["same"]) for each in said["bpf"]} == {("passed", None)}


@with_bpf
def test_what_has_no_backend_nobody_carries() -> None:
    assert told(forward("nat", target(up=False)), bpf=True)["bpf"] == []


class Wrong:
    """A cache whose programs do something else."""

    def __init__(self, cache: FlowCache) -> None:
        self._cache = cache

    def run(self, program: Any, frame: bytes, **what: Any) -> Ran:
        ran = self._cache.run(program, frame, **what)
        return ran._replace(frame=ran.frame[:-1] + bytes((ran.frame[-1] ^ 1,)))


@with_bpf
def test_another_byte_is_not_the_same(wired: Node) -> None:
    cache = FlowCache(flows=64, uses=1024)
    one = forward("nat", behind(wired))
    made = Trial([one], hash_key=KEY, interface=wired.interface, mtu=1500, cache=cache)
    talk = Conversation(made, ends(), (wired.mac, CLIENT_MAC))
    found = carried_alike(talk, Wrong(cache), wired.interface, nat=True)  # type: ignore[arg-type]
    assert [(each["verdict"], each["same"]) for each in found] == [("carried", False)] * 4


OLD = flow_caches.Flow(CLIENTS[4], VIPS[4], flow_caches.Ports(40000, 443))
NEW = flow_caches.Flow(VIPS[4], "10.0.0.1", flow_caches.Ports(50000, 8080))


@with_bpf
def test_a_flow_that_the_kernel_carries_by_now_is_said_to_be_so(wired: Node) -> None:
    assert wired.cache is not None
    one = forward("nat", target(1))
    assert told(one, node=wired)["carried"] is None
    wired.cache.put(OLD.key, flow_caches.nat(OLD, NEW))
    said = told(one, node=wired)
    assert said["carried"] == {"backend": "b1", "packets": 0, "bytes": 0, "idle_ms": None}
    assert said["cache_mode"] == "tc"
    wired.cache.run("xdp", OLD.frame())
    carried = told(one, node=wired)["carried"]
    assert (carried["packets"], carried["bytes"]) == (1, len(OLD.frame()))
    assert 0 <= carried["idle_ms"] < 60_000


@with_bpf
def test_where_nothing_but_the_mac_is_new_it_tells_the_backend(wired: Node) -> None:
    assert wired.cache is not None
    wired.cache.put(OLD.key, flow_caches.rewrite(flow_caches.MAC))
    for mac, name in ((flow_caches.MAC_NEXT, "b1"), (bytes(6), None)):
        said = told(forward("dsr", target(1, mac=mac)), node=wired)
        assert said["carried"]["backend"] == name


@with_bpf
def test_a_cache_that_is_attached_is_no_trials(wired: Node) -> None:
    with pytest.raises(ValueError, match="it is attached"):
        Trial([forward("nat")], hash_key=KEY, interface=ETH, mtu=1500, cache=wired.cache)


def test_without_the_rights_the_programs_are_not_tried_and_the_rest_is_said() -> None:
    script = (
        "import os\n"
        "from tests.fastpath.test_explain_forwarded import *\n"
        "told(forward('nat'))\n"  # what it imports may be root's alone
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "print(told(forward('nat'))['verdict'])\n"
        "try: told(forward('nat'), bpf=True)\n"
        "except OSError as error: print(error)\n"
    )
    if os.geteuid() != 0:
        pytest.skip("gives up the rights of root")
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("sent\n"), done.stderr
    assert "AmbientCapabilities=CAP_BPF" in done.stdout
