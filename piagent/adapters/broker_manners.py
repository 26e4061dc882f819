"""How a broker does what it does: how fast, how large, what it keeps, what it tells of the dead.

Each check makes connections of its own: a broker may end the one on which it was asked too much.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Final, Protocol

from piagent.adapters.probe_client import ANSWER_S, ProbeClient
from piagent.core.finding import Finding, error, good, warning

EXCHANGES: Final = 60
PAIRS: Final = 5
NAGLE_S: Final = 0.030
"""Linux delays an acknowledgement by 40 ms: so long Nagle's algorithm keeps a second message."""
MAX_PAYLOAD: Final = 64 * 1024
"""Bytes of the longest lease message."""
WILL_S: Final = 2.0


class Connect(Protocol):
    """Makes a fresh connection; ProbeError when it cannot."""

    def __call__(self, *, will: str | None = None) -> ProbeClient:
        """`will`: a topic."""


def latency(connect: Connect, topic: str, *, attempt_ms: int) -> Finding:
    """A claim and its confirm: two messages, each sent when the one before came back."""
    client = connect()
    client.listen(topic)
    times: list[float] = []
    while len(times) < EXCHANGES and sum(times) < ANSWER_S:
        began = time.monotonic()
        for step in (b"claim", b"confirm"):
            seen = len(client.messages)
            client.publish(topic, step)
            client.expect(seen + 1)
        times.append(time.monotonic() - began)
    times.sort()
    worst = times[int(len(times) * 0.99)]
    what = f"claim and confirm: median {median(times) * 1e3:.1f} ms, p99 {worst * 1e3:.1f} ms"
    if median(times) * 1e3 > attempt_ms:
        why = f"a claim has {attempt_ms} ms (attempt)"
        return error("latency", what, why=why, cure='[election] profile = "wifi"')
    return good("latency", what)


def delay(connect: Connect, topic: str) -> Finding:
    """Two messages in a row for a subscriber that does not acknowledge the first at once."""
    listener, sender = connect(), connect()
    listener.listen(topic, qos=0)  # at QoS 1 its PUBACK would acknowledge
    gaps: list[float] = []
    while len(gaps) < PAIRS:
        listener.delay_acknowledgement()
        for part in (b"first", b"second"):
            sender.publish(topic, part)
            time.sleep(0.002)
        listener.expect(2 * len(gaps) + 2)
        gaps.append(listener.messages[-1].at - listener.messages[-2].at)
        time.sleep(2 * NAGLE_S)
    if median(gaps) < NAGLE_S:
        return good("nodelay", "messages leave at once")
    what = f"a message waits {median(gaps) * 1e3:.0f} ms for the acknowledgement of the last"
    why = "a claim and a hand-over then take 40 ms more, now and then: Nagle's algorithm"
    cure = "mosquitto.conf: set_tcp_nodelay true; then restart it"
    return warning("nodelay", what, why=why, cure=cure)


def size(connect: Connect, topic: str) -> Finding:
    """The longest message there may be."""
    client = connect()
    client.listen(topic)
    client.publish(topic, bytes(MAX_PAYLOAD))
    if client.wait_for(lambda one: bytes(MAX_PAYLOAD) in one.payloads(topic), ANSWER_S):
        return good("size", "64 KiB in one message")
    why = "a lease message with many keys is larger than what it takes"
    cure = "mosquitto.conf: neither message_size_limit nor max_packet_size below 70000"
    return error("size", "a message of 64 KiB did not arrive", why=why, cure=cure)


def retained(connect: Connect, topic: str) -> Finding:
    """What is kept for those who come later."""
    sender, late = connect(), connect()
    sender.publish(topic, b"kept", retain=True)
    sender.flush()
    try:
        late.listen(topic)
        kept = late.wait_for(lambda one: one.messages, ANSWER_S) and late.messages[0].retain
    finally:
        sender.publish(topic, b"", retain=True)
        sender.flush()
    if kept:
        return good("retained", "kept, and marked as such")
    why = "who is there and who owns what is told by retained messages"
    cure = "mosquitto.conf: retain_available true"
    return warning("retained", "retained messages are not kept", why=why, cure=cure)


def will(connect: Connect, topic: str) -> Finding:
    """What is told of a client that vanishes."""
    watcher = connect()
    watcher.listen(topic)
    began = time.monotonic()
    connect(will=topic).cut()
    if watcher.wait_for(lambda one: one.messages, WILL_S):
        return good("will", f"told after {(time.monotonic() - began) * 1e3:.0f} ms")
    what = f"the will of a client that vanished was not told within {WILL_S:g} s"
    why = "others then learn late that a node is gone; no lease depends on it"
    cure = "none is needed; its log says why"
    return warning("will", what, why=why, cure=cure)
