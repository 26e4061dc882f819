"""Who gets how many answers; the clock is the test's."""

from __future__ import annotations

from piagent.adapters.dns_limits import (
    BURST,
    MAX_SOURCES,
    SOURCE_PER_S,
    TOTAL_PER_S,
    Limits,
    Verdict,
)

HERE = "127.0.0.1"


def verdicts(limits: Limits, source: str, count: int, now_s: float = 0.0) -> list[Verdict]:
    return [limits.udp(source, now_s) for _ in range(count)]


def test_an_address_on_the_network_gets_so_many_answers_and_then_is_sent_to_tcp() -> None:
    limits = Limits(0.0)
    burst = SOURCE_PER_S * BURST
    found = verdicts(limits, "192.168.1.5", burst + 10)
    assert found == [Verdict.ANSWER] * burst + [Verdict.ASK_BY_TCP] * 10
    assert verdicts(limits, "192.168.1.6", 1) == [Verdict.ANSWER]
    assert verdicts(limits, "192.168.1.5", SOURCE_PER_S + 1, 1.0) == [
        *[Verdict.ANSWER] * SOURCE_PER_S,
        Verdict.ASK_BY_TCP,
    ]
    assert verdicts(limits, "192.168.1.5", burst + 1, 1000.0)[-1] is Verdict.ASK_BY_TCP


def test_the_addresses_of_one_ipv6_network_are_one() -> None:
    limits = Limits(0.0)
    verdicts(limits, "fd00::1", SOURCE_PER_S * BURST)
    assert verdicts(limits, "fd00::2", 1) == [Verdict.ASK_BY_TCP]
    assert verdicts(limits, "fd00:0:0:1::2", 1) == [Verdict.ANSWER]
    assert verdicts(limits, "fe80::1%eth0", 1) == [Verdict.ANSWER]


def test_a_flood_from_everywhere_is_dropped_and_this_host_is_still_answered() -> None:
    limits = Limits(0.0)
    sources = [f"10.{n // 250}.{n % 250}.1" for n in range(TOTAL_PER_S * BURST)]
    assert {limits.udp(source, 0.0) for source in sources} == {Verdict.ANSWER}
    assert verdicts(limits, "192.168.1.5", 1) == [Verdict.NOTHING]
    assert not limits.tcp("192.168.1.5", 0.0)
    assert limits.tcp(HERE, 0.0)
    assert verdicts(limits, HERE, TOTAL_PER_S) == [Verdict.ANSWER] * TOTAL_PER_S
    assert Verdict.NOTHING in verdicts(limits, "127.0.0.9", TOTAL_PER_S)


def test_what_is_remembered_has_an_end() -> None:
    limits = Limits(0.0)
    for n in range(3 * MAX_SOURCES):
        limits.udp(f"10.{n // 65536}.{n // 256 % 256}.{n % 256}", float(n))
    assert len(limits._sources) == MAX_SOURCES
