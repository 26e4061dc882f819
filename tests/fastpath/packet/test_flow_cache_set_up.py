"""How the flow cache is made, filled, attached, and what it says when it cannot be."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastpath.packet import compile_flow_cache
from fastpath.packet.attachment import choose
from fastpath.packet.flow_cache import FlowCache, Unavailable
from fastpath.packet.interfaces import XDP_RECEIVES, XDP_REDIRECT, Interface, interface
from piagent.adapters import netns
from tests.fastpath.packet import flow_caches
from tests.fastpath.packet.flow_caches import ETH0, FLOWS, LO, MAC, Bench, rewrite

ROOT = Path(__file__).parents[3]
ALL = XDP_REDIRECT | XDP_RECEIVES


@pytest.fixture
def bench() -> Iterator[Bench]:
    with flow_caches.bench(flows=4) as made:
        yield made


# ---- the table that is checked in ----


with_sources = pytest.mark.skipif(
    not compile_flow_cache.TABLE.exists(), reason="the engine's sources are not beside it"
)


@with_sources
def test_the_programs_that_are_checked_in_are_of_the_source_that_is() -> None:
    assert compile_flow_cache.recorded("SOURCE") == compile_flow_cache.digest(), "run `make bpf`"


@with_sources
def test_compiling_again_gives_the_same_bytes() -> None:
    here, then = compile_flow_cache.compiler(), compile_flow_cache.recorded("COMPILER")
    if here != then:
        pytest.skip(f"compiled by {then}; here is {here or 'no clang'}")
    made = compile_flow_cache.table(compile_flow_cache.compiled())
    assert made == compile_flow_cache.TABLE.read_text()


def test_without_the_rights_it_says_which_ones_it_needs() -> None:
    script = (
        "from fastpath.packet.flow_cache import FlowCache, Unavailable\n"
        "import os\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: FlowCache()\n"
        "except Unavailable as error: print(error)\n"
    )
    if os.geteuid() != 0:
        pytest.skip("gives up the rights of root")
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "AmbientCapabilities=CAP_BPF" in done.stdout, done.stderr


# ---- the choice of a place ----


def facts(name: str, *, features: int | None = ALL, program: int = 0) -> Interface:
    return Interface(7, name, program, features)


def test_native_xdp_is_first_where_every_interface_can() -> None:
    assert choose("auto", [facts("eth0"), facts("eth1")]).mode == "xdp"
    assert choose("xdp", [facts("eth0")]).mode == "xdp"


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (facts("eth1", features=0), "eth1: its driver runs no XDP programs"),
        (facts("eth1", features=XDP_REDIRECT), "eth1: what XDP sends would not be received"),
        (facts("eth1", features=None), "eth1: this kernel does not say"),
        (facts("eth1", program=12), "eth1: XDP program number 12 is attached already"),
    ],
)
def test_one_that_cannot_makes_it_tc_for_all_and_is_named(other: Interface, reason: str) -> None:
    choice = choose("auto", [facts("eth0"), other])
    assert choice.mode == "tc"
    assert choice.reason.startswith(f"no native XDP: {reason}")
    assert choose("xdp", [facts("eth0"), other]).mode == "none"
    assert choose("xdp", [facts("eth0"), other]).reason.startswith(reason)


def test_generic_xdp_and_tc_are_had_for_the_asking_only() -> None:
    poor = [facts("eth0", features=0)]
    assert choose("auto", poor).mode == "tc"
    assert choose("xdp-generic", poor).mode == "xdp-generic"
    assert choose("tc", [facts("eth0")]).mode == "tc"
    assert choose("xdp-generic", [facts("eth0", program=3)]).mode == "none"


# ---- attaching ----


def test_closing_or_forgetting_it_leaves_nothing_attached(bench: Bench) -> None:
    bench.cache.close()
    for how in ("xdp-generic", "tc", "auto"):
        bench.cache.open([LO, ETH0], how)
        assert bench.cache.mode != "none"
        if how == "xdp-generic":
            assert interface(ETH0).xdp_program
        bench.cache.close()
        assert not interface(ETH0).xdp_program
    other = FlowCache(flows=1)
    other.open([ETH0], "xdp-generic")
    del other
    assert not interface(ETH0).xdp_program


def test_another_program_is_left_alone_and_named(bench: Bench) -> None:
    other = FlowCache(flows=1)
    other.open([ETH0], "xdp-generic")
    bench.cache.close()
    with pytest.raises(Unavailable, match=r"eth0: XDP program number \d+ .*: piagent_xdp"):
        bench.cache.open([LO, ETH0], "xdp-generic")
    assert bench.cache.mode == "none"
    assert interface(LO).xdp_program == 0
    bench.cache.open([LO, ETH0])
    assert (bench.cache.mode, other.mode) == ("tc", "xdp-generic")
    other.close()


def test_a_veth_whose_peer_takes_nothing_from_xdp_gets_tc(bench: Bench) -> None:
    bench.cache.close()
    bench.cache.open([ETH0])
    assert bench.cache.mode == "tc"
    assert "gro on" in bench.cache.reason
    bench.cache.close()
    with pytest.raises(Unavailable, match="gro on"):
        bench.cache.open([ETH0], "xdp")
    assert bench.cache.mode == "none"


def test_an_interface_that_is_not_there_is_an_error(bench: Bench) -> None:
    bench.cache.close()
    with pytest.raises(OSError, match="No such device"):
        bench.cache.open([99])
    with pytest.raises(ValueError, match="each one once"):
        bench.cache.open([LO, LO])
    with pytest.raises(ValueError, match="one of auto"):
        bench.cache.open([LO], "fast")  # type: ignore[arg-type]
    bench.cache.open([LO])
    with pytest.raises(RuntimeError, match="open already"):
        bench.cache.open([ETH0])


# ---- filling ----


def test_a_full_cache_says_so_and_has_room_again_after_a_delete(bench: Bench) -> None:
    keys = [FLOWS[0]._replace(ports=FLOWS[0].ports._replace(source=n)).key for n in range(5)]
    assert [bench.cache.put(key, rewrite(MAC)) for key in keys] == [True] * 4 + [False]
    assert bench.cache.stats() == (4, 4, 0, 1)
    assert bench.cache.put(keys[0], rewrite(MAC, use=1))
    assert bench.cache.delete(keys[1])
    assert not bench.cache.delete(keys[1])
    assert bench.cache.put(keys[4], rewrite(MAC))
    assert bench.cache.stats() == (4, 6, 1, 1)
    bench.cache.close()
    assert bench.cache.stats().flows == 0


@pytest.mark.parametrize(
    "bad", [rewrite(3), rewrite(MAC, use=4), rewrite(MAC, interface=9), rewrite(MAC)[:-1]]
)
def test_what_cannot_be_carried_out_is_refused(bench: Bench, bad: bytes) -> None:
    with pytest.raises(ValueError, match=r"how|63 bytes"):
        bench.cache.put(FLOWS[0].key, bad)
    assert bench.cache.stats().flows == 0


def test_a_cache_that_is_not_open_takes_no_flow(bench: Bench) -> None:
    bench.cache.close()
    with pytest.raises(ValueError, match="interface"):
        bench.cache.put(FLOWS[0].key, rewrite(MAC))


def test_sizes_that_make_no_sense_are_refused() -> None:
    for flows, uses in ((0, 0), (1 << 23, 0), (1, -1)):
        with pytest.raises(ValueError, match="at most"):
            FlowCache(flows, uses)
    with pytest.raises(IndexError, match="there are"):
        FlowCache(1).use(1)


def test_the_kernel_names_interfaces_as_others_do(bench: Bench) -> None:
    assert interface(ETH0).name == netns.INTERFACE == socket.if_indextoname(ETH0)
    assert interface(LO).name == "lo"


# ---- outliving the process ----


@pytest.fixture
def pins(bench: Bench, tmp_path: Path) -> Iterator[str]:
    bench.cache.close()
    subprocess.run(["mount", "-t", "bpf", "bpf", tmp_path], check=True)
    yield str(tmp_path / "cache")
    subprocess.run(["umount", tmp_path], check=True)


def test_what_is_pinned_goes_on_until_it_is_closed(bench: Bench, pins: str) -> None:
    first = FlowCache(flows=4, pin=pins)
    first.open([LO, ETH0], "xdp-generic")
    first.put(FLOWS[0].key, rewrite(MAC, use=2))
    first.run("xdp", FLOWS[0].frame())
    program = interface(ETH0).xdp_program
    del first
    assert interface(ETH0).xdp_program == program
    second = FlowCache(flows=4, pin=pins)
    assert second.adopted
    second.open([ETH0], "xdp-generic")
    assert interface(ETH0).xdp_program not in {0, program}
    assert interface(LO).xdp_program == 0
    assert second.carried() == [(FLOWS[0].key, rewrite(MAC, use=2))]
    assert second.use(2).packets == 1
    second.close()
    assert interface(ETH0).xdp_program == 0
    assert sorted(os.listdir(pins)) == ["flows", "uses"]
    assert second.carried() == []


def test_pinned_links_at_tc_are_taken_over_and_left_for_xdp(bench: Bench, pins: str) -> None:
    FlowCache(flows=4, pin=pins).open([LO, ETH0], "tc")
    assert sorted(os.listdir(pins)) == ["flows", "tc-1", "tc-2", "uses"]
    second = FlowCache(flows=4, pin=pins)
    second.open([LO, ETH0], "tc")
    second.close()
    second.open([ETH0], "xdp-generic")
    assert sorted(os.listdir(pins)) == ["flows", "uses", "xdp-generic-2"]
    second.close()


def test_pinned_maps_of_another_size_are_given_up(bench: Bench, pins: str) -> None:
    first = FlowCache(flows=4, pin=pins)
    first.open([ETH0], "xdp-generic")
    first.put(FLOWS[0].key, rewrite(MAC))
    del first
    second = FlowCache(flows=8, pin=pins)
    assert not second.adopted
    assert second.carried() == []
    assert interface(ETH0).xdp_program == 0


def test_pinning_needs_a_bpf_file_system(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="mount -t bpf"):
        FlowCache(flows=4, pin=str(tmp_path))
