"""What is searched: the rules as they are, and with one of them removed."""

from __future__ import annotations

from typing import Final

from tests.model.spin import Search

_THREE = "BROKERS=3 DIRECT CONNECTED AT_ONCE IN_TURNS UNDER_WAY=1 QUEUE=2"
"""Small enough for three brokers with two registers each."""

SHORT: Final = (
    Search("1 broker, 2 nodes", "RENEWALS"),
    Search("1 broker, 2 nodes, serial fan-out, no renewals", "SERIAL"),
    Search("1 broker, 2 nodes, broker restarts once", "RENEWALS RESTARTS=1"),
    Search("3 brokers, 2 nodes, both ask the same two", f"{_THREE} TOGETHER"),
    Search("3 brokers, 3 nodes, any releases, quorum model", "", model="quorum"),
)
"""A few seconds each."""

LONG: Final = (
    Search("1 broker, 2 nodes, serial fan-out", "RENEWALS SERIAL"),
    Search("1 broker, 2 nodes, one release", "RENEWALS GIVE_UPS=1"),
    Search("1 broker, 2 nodes, one connection breaks", "RENEWALS RESETS=1"),
    Search("1 broker, 2 nodes, two releases, no renewals", "GIVE_UPS=2"),
    Search("1 broker, 2 nodes, one release, one break", "GIVE_UPS=1 RESETS=1"),
    Search("1 broker, 2 nodes, serial, one release", "SERIAL GIVE_UPS=1", storage="hashed"),
    Search("1 broker, 2 nodes, serial, one break", "SERIAL RESETS=1", storage="hashed"),
    Search("1 broker, 3 nodes, one release", "NODES=3 DIRECT CONNECTED GIVE_UPS=1"),
    Search("3 brokers, 2 nodes, one broker in common", f"{_THREE} APART", storage="hashed"),
    Search("3 brokers, 2 nodes, same two, renewals", f"{_THREE} TOGETHER RENEWALS"),
    Search(
        "5 brokers, 2 nodes, any releases, quorum model",
        "NODES=2 BROKERS=5",
        model="quorum",
        depth=12_000_000,
    ),
)
"""Up to minutes each."""

PARTIAL: Final = (
    Search("3 brokers, 2 nodes, each asks all", _THREE, storage="bits"),
    Search(
        "1 broker, 2 nodes, release, break, renewals",
        "RENEWALS GIVE_UPS=1 RESETS=1",
        storage="bits",
    ),
    Search(
        "1 broker, 2 nodes, serial, release, break", "SERIAL GIVE_UPS=1 RESETS=1", storage="bits"
    ),
    Search(
        "3 brokers, 2 nodes, one release",
        "BROKERS=3 DIRECT CONNECTED AT_ONCE UNDER_WAY=1 QUEUE=2 GIVE_UPS=1",
        storage="bits",
    ),
    Search(
        "3 brokers, 2 nodes, one connection breaks",
        "BROKERS=3 CONNECTED AT_ONCE UNDER_WAY=1 QUEUE=2 RESETS=1",
        storage="bits",
    ),
)
"""Too large to finish: searched as far as time goes."""

MUTANTS: Final = {
    "R1: no wait after SUBACK": Search("", "RENEWALS WITHOUT_R1_SUBACK"),
    "R1: assertions do not block": Search("", "RENEWALS WITHOUT_R1_SILENCE"),
    "R1: W shorter than L": Search("", "RENEWALS W=1"),
    "R2: no window": Search("", "RENEWALS WITHOUT_R2"),
    "R3: no barrier, serial fan-out": Search("", "SERIAL WITHOUT_R3"),
    "R4: the hold runs from the echo": Search("", "RENEWALS WITHOUT_R4"),
    "R5: what ran out is extended": Search("", "RENEWALS WITHOUT_R5"),
    "R6: yield before the removal": Search("", "GIVE_UPS=1 WITHOUT_R6_REMOVAL"),
    "R6: a yield of any age cancels": Search("", "GIVE_UPS=1 RESETS=1 WITHOUT_R6_ORDER"),
    "R8: one broker of three is enough": Search("", f"{_THREE} TOGETHER WITHOUT_R8"),
    "R8: the same, quorum model": Search("", "WITHOUT_R8", model="quorum"),
    "R6: the same, quorum model": Search("", "WITHOUT_R6_REMOVAL", model="quorum"),
}
"""Rule -> the search that finds what happens without it."""
