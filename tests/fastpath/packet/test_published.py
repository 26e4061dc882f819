"""The frames that Katran publishes, whole: what goes to a backend, and what is answered."""

from __future__ import annotations

from typing import Any

import pytest

from fastpath.packet.verdicts import VERDICTS
from tests.fastpath.packet.frames import mapped
from tests.shared_vectors import load_vectors

probe = pytest.importorskip("fastpath.packet._probe", reason="built with PIAGENT_PROBE=1 only")

GATEWAY = bytes.fromhex("0000deadbeaf")


def cases(name: str) -> list[dict[str, Any]]:
    """Those of one set, as far as they are for any balancer."""
    sets = load_vectors("l4_vectors.json")["katran_packets"]["sets"]
    return [case for case in sets[name]["cases"] if case.get("piagent_applicable", True)]


def frames(case: dict[str, Any]) -> tuple[bytes, bytes]:
    return bytes.fromhex(case["in_hex"]), bytes.fromhex(case["out_hex"])


def encapsulated(frame: bytes, backend: str, **what: Any) -> bytes:
    """The frame as it goes to the only backend there is."""
    rewrite = {
        "how": probe.ENCAPSULATE,
        "v6": ":" in backend,
        "destination": mapped(backend),
        "destination_mac": GATEWAY,
        "source_mac": frame[:6],
    }
    result, out = probe.encapsulate(frame, rewrite | what, spread="source" not in what)
    assert result == 0
    assert isinstance(out, bytes)
    return out


def test_what_goes_to_a_backend_is_encapsulated_byte_for_byte() -> None:
    sent = [case for case in cases("base") if case.get("backend") and case["n"] not in {19, 20}]
    assert len(sent) >= 9
    for case in sent:
        frame, expected = frames(case)
        assert encapsulated(frame, case["backend"]) == expected, case["desc"]


def test_where_the_source_counts_for_nothing_the_outer_one_has_only_its_port() -> None:
    for case in cases("base"):
        if case["n"] in {19, 20}:
            frame, expected = frames(case)
            source = mapped(f"172.16.{frame[35]}.{frame[34]}")
            assert encapsulated(frame, case["backend"], source=source) == expected


def test_an_echo_request_is_answered_byte_for_byte() -> None:
    asked = [case for case in cases("base") if "echo-request" in case["desc"]]
    assert len(asked) == 2
    for case in asked:
        frame, expected = frames(case)
        assert probe.echo_reply(frame) == expected, case["desc"]


def test_what_is_passed_or_dropped_has_a_verdict() -> None:
    verdicts = {
        case["n"]: VERDICTS[probe.parse(frames(case)[0])[0]]
        for case in cases("base")
        if case["action"] != "XDP_TX"
    }
    assert verdicts == {
        12: "checksum",
        13: "length",
        14: "other-protocol",
        # Another service's, and one longer than may be: the caller's to say.
        15: "flow",
        16: "flow",
        17: "not-ip",
        21: "other-protocol",
        22: "other-protocol",
        23: "other-protocol",
        33: "flow",
    }


def test_what_is_longer_than_may_be_does_not_fit() -> None:
    case = next(case for case in cases("base") if case["n"] == 33)
    frame, _ = frames(case)
    assert probe.fits(frame, 1501)
    assert not probe.fits(frame, 1500)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_a_packet_too_big_is_answered_byte_for_byte(n: int) -> None:
    frame, expected = frames(cases("icmp_too_big")[n - 1])
    mtu = {1: 1500, 2: 1500, 3: 1452, 4: 1452}[n]
    v6 = frame[12:14] == b"\x86\xdd"
    kind, code, quoted = (2, 0, 248) if v6 else (3, 4, 84)
    assert probe.error(frame, kind, code, mtu, quoted) == expected
