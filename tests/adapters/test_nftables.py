"""nf_tables messages, judged by the kernel, and by `nft` where that is installed."""

from __future__ import annotations

import errno
import shutil
import struct
import subprocess
from collections.abc import Iterator

import pytest

from piagent.adapters import netns, nftables
from piagent.adapters.nftables import (
    ACCEPT,
    DROP,
    INGRESS,
    JUMP,
    LINK,
    META_L4PROTO,
    META_PROTOCOL,
    NETWORK,
    TRANSPORT,
    TYPE_ETHER,
    TYPE_IPV4,
    Batch,
    Nftables,
)
from tests.waiting import wait_until

REASON = netns.why_not()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

KEY = (TYPE_IPV4, 4)
FIRST, SECOND, THIRD = (bytes((10, 0, 0, n)) for n in (1, 2, 3))


@pytest.fixture
def place() -> Iterator[netns.Namespace]:
    with netns.Network("pa-nft") as network:
        yield network.add_host("a")


@pytest.fixture
def kernel(place: netns.Namespace) -> Iterator[Nftables]:
    with place.entered():
        opened = Nftables()
    with opened:
        yield opened


def table(*, timeout_ms: int | None = 60_000) -> Batch:
    batch = Batch("trial")
    batch.new_table()
    batch.new_set("plain", KEY)
    batch.new_set("timed", KEY, timeout_ms=timeout_ms)
    return batch


def more(kernel: Nftables, fill: str, *arguments: object) -> None:
    batch = Batch("trial")
    getattr(batch, fill)(*arguments)
    kernel.commit(batch)


def left(kernel: Nftables, key: bytes) -> int:
    milliseconds = kernel.elements("trial", "timed")[key]
    assert milliseconds is not None
    return milliseconds


@pytest.mark.skipif(shutil.which("nft") is None, reason="nft reads what we wrote")
def test_every_message_means_to_nft_what_it_says_here(place: netns.Host, kernel: Nftables) -> None:
    batch = table()
    batch.new_set("macs", KEY, data=(TYPE_ETHER, 6), timeout_ms=5000)
    batch.new_set("seen", KEY, timeout_ms=7000, dynamic=True, size=9)
    batch.add("plain", [FIRST])
    batch.replace("timed", {SECOND: 50_000})
    batch.replace("macs", {THIRD: 40_000}, bytes.fromhex("020000000007"))
    batch.new_chain("other")
    batch.new_base_chain("first", INGRESS, "eth0", -7)
    ip = nftables.meta(META_PROTOCOL) + nftables.equals(b"\x08\x00")
    tcp = nftables.meta(META_L4PROTO) + nftables.equals(b"\x06")
    source, destination = (nftables.load(NETWORK, offset, 4) for offset in (12, 16))
    batch.rule("first", ip, source, nftables.within("plain"), nftables.verdict(DROP))
    batch.rule("first", ip, source, nftables.not_within("timed"), nftables.verdict(JUMP, "other"))
    batch.rule("other", ip, source, nftables.remember("seen", 3000), nftables.verdict(ACCEPT))
    syn = nftables.load(TRANSPORT, 13, 1) + nftables.masked(b"\x12") + nftables.equals(b"\x02")
    batch.rule("other", tcp, syn, nftables.verdict(DROP))
    index = struct.pack("=I", 1)
    to = ip + destination + nftables.mapped("macs") + nftables.write(LINK, 0, 6)
    batch.rule("other", to, nftables.immediate(index), nftables.forward())
    kernel.commit(batch)
    listing = subprocess.run(
        place.command(["nft", "list", "ruleset"]), check=True, capture_output=True, text=True
    ).stdout
    for line in (
        "table netdev trial {",
        "elements = { 10.0.0.1 }",
        "10.0.0.2 timeout 50s expires",
        "10.0.0.3 timeout 40s expires",
        ": 02:00:00:00:00:07 }",
        "flags dynamic,timeout",
        "size 9",
        'type filter hook ingress device "eth0" priority',
        "ip saddr @plain drop",
        "ip saddr != @timed jump other",
        "update @seen { ip saddr timeout 3s } accept",
        "tcp flags ",  # how the mask is written depends on nft's version
        'ip daddr map @macs fwd to "lo"',
    ):
        assert line in listing, listing


def test_elements_are_read_with_the_time_they_have_left(kernel: Nftables) -> None:
    batch = table()
    batch.add("plain", [FIRST, SECOND])
    batch.add("timed", [FIRST])
    batch.replace("timed", {SECOND: 5000})
    kernel.commit(batch)
    assert kernel.elements("trial", "plain") == {FIRST: None, SECOND: None}
    assert 5000 < left(kernel, FIRST) <= 60_000
    assert 0 < left(kernel, SECOND) <= 5000
    with pytest.raises(OSError, match="No such file") as raised:
        kernel.elements("trial", "missing")
    assert raised.value.filename == "set missing"


def test_more_elements_than_a_message_holds(kernel: Nftables) -> None:
    keys = [bytes((10, 1, n // 256, n % 256)) for n in range(1234)]
    batch = table()
    batch.add("plain", keys)
    places = batch.replace("timed", dict.fromkeys(keys, 1))
    for number, where in enumerate(places):
        batch.set_timeout(where, 100_000 + 100 * number)
    kernel.commit(batch)
    assert len(kernel.elements("trial", "plain")) == 1234
    found = kernel.elements("trial", "timed")
    for number, key in enumerate(keys):
        milliseconds = found[key]
        assert milliseconds is not None
        assert 0 <= 100_000 + 100 * number - milliseconds < 50_000
    gone = Batch("trial")
    gone.delete("plain", keys)
    kernel.commit(gone)
    assert kernel.elements("trial", "plain") == {}


def test_replacing_counts_from_now_longer_or_shorter(kernel: Nftables) -> None:
    kernel.commit(table())
    more(kernel, "replace", "timed", {FIRST: 5000})
    assert left(kernel, FIRST) <= 5000
    more(kernel, "replace", "timed", {FIRST: 50_000})
    assert left(kernel, FIRST) > 5000
    more(kernel, "replace", "timed", {FIRST: 3000})
    assert left(kernel, FIRST) <= 3000


def test_the_same_time_again_counts_from_now_too(kernel: Nftables) -> None:
    kernel.commit(table())
    more(kernel, "replace", "timed", {FIRST: 60_000})
    wait_until(lambda: left(kernel, FIRST) < 59_500)
    before = left(kernel, FIRST)

    def renewed() -> bool:
        more(kernel, "replace", "timed", {FIRST: 60_000})
        return left(kernel, FIRST) > before

    wait_until(renewed, timeout_s=10)


def test_a_batch_can_be_sent_many_times(kernel: Nftables) -> None:
    kernel.commit(table())
    batch = Batch("trial")
    first, second = batch.replace("timed", {FIRST: 1, SECOND: 1})
    for milliseconds in (90_000, 30_000, 60_000):
        batch.set_timeout(first, milliseconds)
        batch.set_timeout(second, milliseconds + 100_000)
        kernel.commit(batch)
        assert milliseconds - 20_000 < left(kernel, FIRST) <= milliseconds
        assert milliseconds + 80_000 < left(kernel, SECOND) <= milliseconds + 100_000


def test_deleting_what_is_not_there_is_no_error_but_only_that(kernel: Nftables) -> None:
    kernel.commit(table())
    more(kernel, "add", "plain", [FIRST, SECOND])
    for _ in range(2):
        more(kernel, "delete", "plain", [FIRST])
        assert kernel.elements("trial", "plain") == {SECOND: None}


def test_an_element_without_a_time_of_its_own_has_the_sets(kernel: Nftables) -> None:
    kernel.commit(table(timeout_ms=100))
    more(kernel, "add", "timed", [FIRST])
    wait_until(lambda: not kernel.elements("trial", "timed"))


def test_a_refused_message_is_named_and_nothing_has_changed(kernel: Nftables) -> None:
    batch = table()
    batch.add("plain", [FIRST])
    batch.add("missing", [FIRST])
    batch.new_chain("late")
    with pytest.raises(OSError, match="No such file") as raised:
        kernel.commit(batch)
    assert raised.value.errno == errno.ENOENT
    assert raised.value.filename == "elements of missing"
    with pytest.raises(OSError, match="No such file"):
        kernel.elements("trial", "plain")
    kernel.commit(table())  # the socket is as good as new
    assert kernel.elements("trial", "plain") == {}


def test_a_check_finds_errors_and_changes_nothing(kernel: Nftables) -> None:
    batch = table()
    batch.new_chain("late")
    kernel.check(batch)
    assert not kernel.has_chain("trial", "late")
    batch.new_base_chain("first", 9, "eth0", 0)
    with pytest.raises(OSError, match="not supported: 'first chain'"):
        kernel.check(batch)
    kernel.commit(table())
    more(kernel, "new_chain", "late")
    assert kernel.has_chain("trial", "late")


def test_a_dynamic_set_is_bounded(kernel: Nftables) -> None:
    batch = table()
    batch.new_set("small", KEY, timeout_ms=5000, dynamic=True, size=2)
    kernel.commit(batch)
    more(kernel, "add", "small", [FIRST, SECOND])
    with pytest.raises(OSError, match="Too many open files"):  # ENFILE: the set is full
        more(kernel, "add", "small", [THIRD])
