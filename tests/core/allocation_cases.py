"""Cases for test_allocation.py: pools, and addresses that are asked for by name."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from piagent.core.allocation import Request
from piagent.core.model import Pool
from tests.core.allocating import CLUSTER, PREFER, ask, pool

FOUR = "10.0.0.1-10.0.0.4"
WEB = {"tier": "web"}
A, B, C = ask("a"), ask("b"), ask("c")


class Case(Struct, frozen=True):
    """What goes in, and what comes out. "name …, name …": what each has, or what `outcome` says."""

    what: str
    pools: Sequence[Pool]
    requests: Sequence[Request]
    held: str
    want: str


POOLS = [
    Case(
        "1 a pool has many CIDRs of both IP versions, and gives them in their order",
        [pool("10.0.0.8/31 10.0.0.2/31 fd00::/127")],
        [A, B, C, ask("d"), ask("e")],
        "",
        "a assigned 10.0.0.8, b assigned 10.0.0.9, c assigned 10.0.0.2, d assigned 10.0.0.3, "
        "e assigned fd00::",
    ),
    Case("1 a pool of one address", [pool("10.0.0.7/32")], [A], "", "a assigned 10.0.0.7"),
    Case(
        "2 a pool from one address to another has both of them",
        [pool("10.0.0.1-10.0.0.2")],
        [A, B, C],
        "",
        "a assigned 10.0.0.1, b assigned 10.0.0.2, c - exhausted",
    ),
    Case(
        "3 what two pools have (the configuration refuses it) is given once",
        [pool("10.0.0.1-10.0.0.2", "x"), pool("10.0.0.2-10.0.0.3", "y")],
        [A, B, C, ask("d")],
        "",
        "a assigned 10.0.0.1, b assigned 10.0.0.2, c assigned 10.0.0.3, d - exhausted",
    ),
    Case(
        "3 what two ranges of a pool have is given once",
        [pool("10.0.0.1-10.0.0.2 10.0.0.1-10.0.0.3")],
        [A, B, C, ask("d")],
        "",
        "a assigned 10.0.0.1, b assigned 10.0.0.2, c assigned 10.0.0.3, d - exhausted",
    ),
    Case(
        "3 what pools of two types have is given once",
        [pool("10.0.0.1/32", "x"), pool("10.0.0.1/32", "y", type=CLUSTER)],
        [A, ask("b", type=CLUSTER)],
        "",
        "a assigned 10.0.0.1, b - exhausted",
    ),
    Case(
        "4 auto_assign = false: not for those who name neither address nor pool",
        [pool(FOUR, auto_assign=False)],
        [A, ask("b", "10.0.0.2"), ask("c", pool="lan")],
        "",
        "a - only-by-name, b asked 10.0.0.2, c assigned 10.0.0.1",
    ),
    Case(
        "4 auto_assign turned off takes nothing away",
        [pool(FOUR, auto_assign=False), pool("10.0.1.0/24", "other")],
        [A],
        "a 10.0.0.3",
        "a kept 10.0.0.3",
    ),
    Case(
        "4 a disabled pool takes nothing away, and gives nothing, asked for in whichever way",
        [pool("10.0.0.1-10.0.0.9 fd00::/124", disabled=True)],
        [
            ask("a", key="k", families=PREFER),
            ask("b", "10.0.0.2"),
            ask("c", pool="lan"),
            ask("d", key="k", ports="53/udp"),
            ask("e", "10.0.0.3", key="k", ports="53/udp"),
        ],
        "a 10.0.0.3",
        "a kept 10.0.0.3, b - pool-disabled, c - pool-disabled, d - pool-disabled, "
        "e - pool-disabled",
    ),
    Case(
        "4 the next pool is asked when one is disabled",
        [pool(FOUR, "a", disabled=True), pool("10.0.1.0/24", "b")],
        [A],
        "",
        "a assigned 10.0.1.0",
    ),
    Case(
        "5 avoid_buggy_ips: no IPv4 address that ends in .0 or .255 is given",
        [pool("10.0.0.254-10.0.1.1 fd00::/127", avoid_buggy_ips=True)],
        [A, B, C],
        "",
        "a assigned 10.0.0.254, b assigned 10.0.1.1, c assigned fd00::",
    ),
    Case(
        "5 such an address is not given to those who ask for it, either",
        [pool("10.0.0.0/23", avoid_buggy_ips=True)],
        [ask("a", "10.0.0.255"), ask("b", "10.0.1.0"), ask("c", "10.0.1.1")],
        "",
        "a - avoided, b - avoided, c asked 10.0.1.1",
    ),
    Case(
        "5 who has such an address when they are to be avoided gets another",
        [pool("10.0.0.0/24", avoid_buggy_ips=True)],
        [A, B],
        "a 10.0.0.0, b 10.0.0.2",
        "a reassigned 10.0.0.1, b kept 10.0.0.2",
    ),
    Case(
        "5 without the option they are addresses like others",
        [pool("10.0.0.255-10.0.1.0")],
        [A, B],
        "",
        "a assigned 10.0.0.255, b assigned 10.0.1.0",
    ),
    Case(
        "6 pools of lower priority come first, 0 is last, equal ones go by name",
        [
            pool("10.0.0.1/32", "a"),
            pool("10.0.0.2/32", "d", priority=2),
            pool("10.0.0.3/32", "c", priority=2),
            pool("10.0.0.4/32", "b", priority=1),
        ],
        [A, B, C, ask("d")],
        "",
        "a assigned 10.0.0.4, b assigned 10.0.0.3, c assigned 10.0.0.2, d assigned 10.0.0.1",
    ),
    Case(
        "6 an address is kept although another pool would come first now",
        [pool(FOUR, "new", priority=1), pool("10.0.1.0/24", "old")],
        [A],
        "a 10.0.1.9",
        "a kept 10.0.1.9",
    ),
    Case(
        "8 a pool for services with some labels is for those only",
        [pool(FOUR, services={"tier": "web", "env": "prod"})],
        [
            ask("a", labels={"tier": "web"}),
            ask("b", labels={"tier": "web", "env": "prod", "more": "yes"}),
            ask("c", "10.0.0.4", labels={"tier": "db", "env": "prod"}),
            ask("d", pool="lan"),
        ],
        "",
        "a - not-selected, b assigned 10.0.0.1, c - not-selected, d - not-selected",
    ),
    Case(
        "8 who is not selected any more gets an address elsewhere",
        [pool(FOUR, "a", services=WEB), pool("10.0.1.0/24", "b")],
        [A, ask("b", labels=WEB)],
        "a 10.0.0.1, b 10.0.0.2",
        "a reassigned 10.0.1.0, b kept 10.0.0.2",
    ),
    Case(
        "14 the lowest address that is free, not the one after the last",
        [pool("10.0.0.1-10.0.0.9")],
        [A, B, C, ask("d")],
        "b 10.0.0.1, c 10.0.0.3, d 10.0.0.9",
        "a assigned 10.0.0.2, b kept 10.0.0.1, c kept 10.0.0.3, d kept 10.0.0.9",
    ),
    Case(
        "16 what lies in some pool is kept, what lies in none is given up for another at once",
        [pool(FOUR)],
        [A, B],
        "a 10.0.9.9, b 10.0.0.1",
        "a reassigned 10.0.0.2, b kept 10.0.0.1",
    ),
    Case(
        "16 and when there is no other, it is given up nevertheless",
        [pool("10.0.0.1/32")],
        [A, B],
        "a 10.0.9.9, b 10.0.0.1",
        "a - exhausted, b kept 10.0.0.1",
    ),
    Case(
        "16 who is gone has nothing any more",
        [pool("10.0.0.1/32")],
        [A],
        "gone 10.0.0.1",
        "a assigned 10.0.0.1",
    ),
    Case(
        "16 what two have by mistake is the first one's",
        [pool(FOUR)],
        [A, B],
        "b 10.0.0.1, a 10.0.0.1",
        "a kept 10.0.0.1, b reassigned 10.0.0.2",
    ),
    Case(
        "16 what two have by mistake is that one's who asks for it by name",
        [pool(FOUR)],
        [A, ask("b", "10.0.0.1")],
        "a 10.0.0.1, b 10.0.0.1",
        "a reassigned 10.0.0.2, b kept 10.0.0.1",
    ),
    Case(
        "16 what is retained and no address is overlooked",
        [pool(FOUR)],
        [A, B, C],
        "a rubbish 10.0.0.4 10.0.0.3, b fe80::1%eth0, c 10.0.0.001",
        "a kept 10.0.0.4, b assigned 10.0.0.1, c assigned 10.0.0.2",
    ),
    Case(
        "16 a second request of one name is overlooked",
        [pool(FOUR)],
        [A, ask("a", "10.0.0.4"), ask("b", pool="no"), B],
        "",
        "a assigned 10.0.0.1, b - unknown-pool",
    ),
    Case(
        "16 an address of another pool type is not kept",
        [pool(FOUR), pool("10.0.1.0/24", "inside", type=CLUSTER)],
        [A, ask("b", type=CLUSTER)],
        "a 10.0.1.1, b 10.0.0.1",
        "a reassigned 10.0.0.1, b reassigned 10.0.1.0",
    ),
    Case("16 no pools at all", [], [A], "a 10.0.0.1", "a - no-pool"),
    Case(
        "16 only pools of the other type",
        [pool(FOUR)],
        [ask("a", type=CLUSTER)],
        "",
        "a - no-pool",
    ),
]

ASKED = [
    Case(
        "9 one address by name, and the next newcomer does not get it",
        [pool(FOUR)],
        [A, ask("b", "10.0.0.1"), C],
        "",
        "a assigned 10.0.0.2, b asked 10.0.0.1, c assigned 10.0.0.3",
    ),
    Case(
        "9 of two that ask for it the first one gets it",
        [pool(FOUR)],
        [ask("a", "10.0.0.1"), ask("b", "10.0.0.1")],
        "",
        "a asked 10.0.0.1, b - in-use",
    ),
    Case(
        "9 who has it keeps it, although another asks for it",
        [pool(FOUR)],
        [ask("a", "10.0.0.1"), B],
        "b 10.0.0.1",
        "a - in-use, b kept 10.0.0.1",
    ),
    Case(
        "9 addresses that cannot be given",
        [pool(FOUR), pool("10.1.0.0/24", "inside", type=CLUSTER)],
        [ask("a", "10.0.9.9"), ask("b", "10.1.0.1"), ask("c", "pi.lan"), ask("d", "fe80::1%eth0")],
        "",
        "a - outside-pools, b - outside-pools, c - malformed, d - malformed",
    ),
    Case(
        "9 another address than it has: it leaves that one",
        [pool(FOUR)],
        [ask("a", "10.0.0.3"), ask("b", "10.0.0.1")],
        "a 10.0.0.1",
        "a asked 10.0.0.3, b asked 10.0.0.1",
    ),
    Case(
        "9 another address that it cannot have: it keeps what it has",
        [pool(FOUR)],
        [ask("a", "10.0.0.3"), B, ask("c", "10.9.9.9")],
        "a 10.0.0.1, b 10.0.0.3, c 10.0.0.2",
        "a kept 10.0.0.1 - in-use, b kept 10.0.0.3, c kept 10.0.0.2 - outside-pools",
    ),
    Case(
        "9 two exchange their addresses, and a third moves up",
        [pool(FOUR)],
        [ask("a", "10.0.0.2"), ask("b", "10.0.0.1"), ask("c", "10.0.0.4"), ask("d", "10.0.0.3")],
        "a 10.0.0.1, b 10.0.0.2, c 10.0.0.3",
        "a asked 10.0.0.2, b asked 10.0.0.1, c asked 10.0.0.4, d asked 10.0.0.3",
    ),
    Case(
        "9 nobody moves up to an address whose holder has to stay",
        [pool(FOUR)],
        [ask("a", "10.0.0.2"), ask("b", "10.0.0.3"), ask("c", "10.0.0.3"), ask("d", "10.0.0.1")],
        "a 10.0.0.1, b 10.0.0.2, c 10.0.0.3",
        "a kept 10.0.0.1 - in-use, b kept 10.0.0.2 - in-use, c kept 10.0.0.3, d - in-use",
    ),
    Case(
        "9 who asks for two and cannot have one leaves the other to the next",
        [pool("10.0.0.1-10.0.0.4 fd00::1/128")],
        [
            ask("a", "10.0.0.1 fd00::1", families=PREFER),
            ask("b", "10.0.0.1"),
            ask("c", "fd00::1"),
        ],
        "c fd00::1",
        "a - in-use, b asked 10.0.0.1, c kept fd00::1",
    ),
    Case(
        "9 the same, when the other is with somebody who would leave, but cannot",
        [pool("10.0.0.1-10.0.0.4 fd00::1-fd00::2")],
        [
            ask("x", "fd00::2", first_family=6),
            ask("a", "10.0.0.1 fd00::1", families=PREFER),
            ask("b", "10.0.0.1"),
            ask("c", "fd00::2"),
        ],
        "c fd00::1",
        "x asked fd00::2, a - in-use, b asked 10.0.0.1, c kept fd00::1 - in-use",
    ),
    Case(
        "9 who has one of the two that it asks for leaves that to nobody",
        [pool("10.0.0.1/32 fd00::1/128")],
        [ask("a", "10.0.0.1"), ask("b", "10.0.0.1 fd00::1", families=PREFER)],
        "b 10.0.0.1",
        "a - in-use, b asked 10.0.0.1 fd00::1",
    ),
    Case(
        "9 and may exchange the other one although somebody else asks for the first",
        [pool("10.0.0.1/32 fd00::1-fd00::2")],
        [
            ask("a", "10.0.0.1"),
            ask("b", "10.0.0.1 fd00::1", families=PREFER),
            ask("c", "fd00::2"),
        ],
        "b 10.0.0.1 fd00::2, c fd00::1",
        "a - in-use, b asked 10.0.0.1 fd00::1, c asked fd00::2",
    ),
    Case(
        "9 where two block each other's, those go first who need nobody to leave",
        [pool("10.0.0.1-10.0.0.4 fd00::1-fd00::2")],
        [
            ask("a", "10.0.0.1 fd00::1", families=PREFER),
            ask("x", "10.0.0.3 fd00::2", families=PREFER),
            ask("b", "10.0.0.1"),
            ask("c", "fd00::2"),
        ],
        "b 10.0.0.3, c fd00::1",
        "a - in-use, x - in-use, b asked 10.0.0.1, c asked fd00::2",
    ),
    Case(
        "9 a loopback address is in no pool and may be asked for",
        [pool(FOUR)],
        [ask("a", "127.0.0.1"), ask("b", "127.0.0.1"), ask("c", "127.0.0.1", pool="lan")],
        "",
        "a asked 127.0.0.1, b - in-use, c - other-pool",
    ),
    Case(
        "9 who asks for a loopback address no more does not keep it",
        [pool(FOUR)],
        [A, ask("b", "127.0.0.2")],
        "a 127.0.0.1, b 127.0.0.2",
        "a reassigned 10.0.0.1, b kept 127.0.0.2",
    ),
    Case(
        "9 an address is the same in whichever way it is written",
        [pool("fd00::/120")],
        [ask("a", "FD00:0::1"), B],
        "b fd00::01",
        "a - in-use, b kept fd00::1",
    ),
    Case(
        "10 a pool by name",
        [pool(FOUR, "a"), pool("10.0.1.0/24", "b")],
        [ask("a", pool="b"), ask("b", pool="none"), ask("c", "10.0.1.7", pool="b")],
        "",
        "a assigned 10.0.1.0, b - unknown-pool, c asked 10.0.1.7",
    ),
    Case(
        "10 pool and address must agree",
        [pool(FOUR, "a"), pool("10.0.1.0/24", "b")],
        [ask("a", "10.0.0.1", pool="b"), ask("b", "10.0.0.1", pool="none")],
        "",
        "a - other-pool, b - unknown-pool",
    ),
    Case(
        "10 another pool than that of its address: it leaves that one",
        [pool(FOUR, "a"), pool("10.0.1.0/24", "b")],
        [ask("a", pool="b"), ask("b", pool="a")],
        "a 10.0.0.1, b 10.0.0.2",
        "a reassigned 10.0.1.0, b kept 10.0.0.2",
    ),
    Case(
        "10 another pool that has nothing: it keeps what it has",
        [pool(FOUR, "a"), pool("10.0.1.1/32", "b"), pool("10.0.2.0/24", "c", disabled=True)],
        [ask("a", pool="b"), B, ask("c", pool="c"), ask("d", pool="no")],
        "a 10.0.0.1, b 10.0.1.1, c 10.0.0.3, d 10.0.0.4",
        "a kept 10.0.0.1 - exhausted, b kept 10.0.1.1, c kept 10.0.0.3 - pool-disabled, "
        "d kept 10.0.0.4 - unknown-pool",
    ),
    Case(
        "10 what is left for another pool goes to who asks for it, before any newcomer",
        [pool("10.0.0.1/32", "a"), pool("10.0.1.0/24", "b", priority=1, auto_assign=False)],
        [A, ask("b", "10.0.0.1"), ask("c", pool="b")],
        "c 10.0.0.1",
        "a - exhausted, b asked 10.0.0.1, c reassigned 10.0.1.0",
    ),
    Case(
        "10 who leaves what is asked for by name is the first to move",
        [pool("10.0.0.1/32 fd00::1/128", "a"), pool("10.0.1.0/24", "b")],
        [
            ask("f", pool="a"),
            ask("g", "10.0.0.1 fd00::1", families=PREFER),
            ask("h", pool="b"),
        ],
        "f 10.0.1.5, h fd00::1",
        "f kept 10.0.1.5 - exhausted, g asked 10.0.0.1 fd00::1, h reassigned 10.0.1.0",
    ),
    Case(
        "10 a pool of the other type is none",
        [pool(FOUR, "a", type=CLUSTER)],
        [ask("a", pool="a")],
        "",
        "a - unknown-pool",
    ),
]
