"""Frames that are broken at random: the flow cache carries one only if the forwarder would too.

And what it makes of one is, byte for byte, what the forwarder makes of it.
"""

from __future__ import annotations

import errno
import random
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from fastpath.packet.flow_cache import Ran
from fastpath.packet.verdicts import VERDICTS
from tests.fastpath.packet import flow_caches
from tests.fastpath.packet.flow_caches import (
    ENCAPSULATE,
    FLOW_NAMES,
    FLOWS,
    MAC,
    MAC_NEXT,
    MAC_OURS,
    NAT,
    TC_NEXT,
    TC_REDIRECT,
    XDP_PASS,
    XDP_REDIRECT,
    Bench,
    Flow,
    behind,
    nat,
    rewrite,
)
from tests.fastpath.packet.frames import ACK, FIN, RST, SYN, checksum, mapped

probe = pytest.importorskip("fastpath.packet._probe", reason="built with PIAGENT_PROBE=1 only")

TIMES = 100_000
SEED = 20_26
HOWS = {"dsr": MAC, "nat": NAT, "ipip": ENCAPSULATE}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with flow_caches.bench() as made:
        yield made


def broken(frame: bytes, chance: random.Random) -> bytes:
    """The frame with a few bytes changed, or cut, or longer; half of the IPv4 headers made good."""
    made = bytearray(frame)
    for _ in range(chance.randint(0, 2)):
        made[chance.randrange(min(len(made), 74))] = chance.choice(
            [0, 0xFF, chance.randrange(256), 1 << chance.randrange(8)]
        )
    what = chance.randrange(4)
    if what == 0:
        del made[chance.randrange(14, len(made)) :]
    elif what == 1:
        made += chance.randbytes(chance.randrange(20))
    if len(made) >= 34 and made[12:14] == b"\x08\x00" and chance.random() < 0.5:
        made[24:26] = bytes(2)
        made[24:26] = struct.pack(">H", checksum(bytes(made[14:34])))
    return bytes(made)


def in_user_space(frame: bytes, flow: Flow, what: dict[str, Any]) -> bytes | None:
    """The frame as the forwarder sends it, if it is a plain one of the flow."""
    verdict, packet = probe.parse(frame)
    own = 40 if packet["v6"] else 20
    source, destination = mapped(flow.source), mapped(flow.destination)
    key = (source, flow.ports[0], destination, flow.ports[1], flow.protocol)
    if (
        VERDICTS[verdict] != "flow"
        or packet["key"] != key
        or (packet["l3"], packet["l4"]) != (14, 14 + own)
        or packet["ttl"] <= 1
        or packet["fragment"] != 0
        or (own == 20 and frame[20] & 0x80)  # a bit that is to be 0: the cache has no view on it
        or (flow.protocol == 6 and packet["tcp_flags"] & (SYN | FIN | RST | ACK) != ACK)
    ):
        return None
    if what["how"] == ENCAPSULATE:
        result, made = probe.encapsulate(frame, what)
    else:
        result, made = probe.rewrite(frame, what)
    assert result == 0
    assert isinstance(made, bytes)
    return made


def padding(frame: bytes) -> bytes:
    """What is behind the packet; the forwarder cuts it off, the cache lets it be."""
    end = probe.parse(frame)[1]["end"]
    return frame[end:]


def in_tc(bench: Bench, frame: bytes) -> tuple[Ran, int]:
    """What tc makes of it, and what the tap says; the kernel lets no program see stumps."""
    header = 40 if frame[12:14] == b"\x86\xdd" else 20
    try:
        return bench.cache.run("tc", frame), bench.cache.run("tap", frame).verdict
    except OSError as error:
        assert error.errno == errno.EINVAL
        assert len(frame) < 14 + header
        return Ran(TC_NEXT, frame, 0), 0


@pytest.mark.parametrize("flow", FLOWS, ids=FLOW_NAMES)
@pytest.mark.parametrize("name", HOWS)
def test_a_broken_frame_fares_as_in_the_forwarder(bench: Bench, flow: Flow, name: str) -> None:
    inside = behind(flow)
    what: dict[str, Any] = {
        "how": HOWS[name], "v6": ":" in flow.source, "source": mapped(inside.source),
        "destination": mapped(inside.destination), "destination_mac": MAC_NEXT,
        "source_mac": MAC_OURS,
    }  # fmt: skip
    made = rewrite(HOWS[name], source=inside.source, destination=inside.destination)
    if HOWS[name] == NAT:
        what |= {"source_port": inside.ports[0], "destination_port": inside.ports[1]}
        made = nat(flow, inside)
    bench.cache.put(flow.key, made)
    chance = random.Random(f"{SEED} {flow} {name}")
    carried = 0
    for _ in range(TIMES // (len(FLOWS) * len(HOWS))):
        frame = broken(flow.frame(chance.randbytes(chance.randrange(30))), chance)
        expected = in_user_space(frame, flow, what)
        if expected is not None and what["how"] == ENCAPSULATE:
            expected += padding(frame)
        xdp = bench.xdp(frame)
        tc, coming = in_tc(bench, frame)
        to_us = frame[:6] == bytes(6)  # tc asks the interface, XDP leaves that to its filter
        if expected is None or frame[0] & 1:
            assert (xdp.verdict, xdp.frame) == (XDP_PASS, frame), frame.hex()
            assert (tc.verdict, tc.frame, coming) == (TC_NEXT, frame, 0), frame.hex()
        else:
            carried += 1
            assert (xdp.verdict, xdp.frame) == (XDP_REDIRECT, expected), frame.hex()
            assert coming == to_us
            wanted = (TC_REDIRECT, expected) if to_us else (TC_NEXT, frame)
            assert (tc.verdict, tc.frame) == wanted, frame.hex()
    assert carried > 10
