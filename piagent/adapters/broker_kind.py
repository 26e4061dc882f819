"""What brokers say of themselves: product, uptime, the nodes of a cluster."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import Struct

from piagent.core.finding import Finding, error, good, warning
from piagent.core.text import printable

UPTIMES_DIFFER_S: Final = 2
_PRODUCTS: Final = {
    "emqx": "it dispatches asynchronously: order between publishers is not promised",
    "hivemq": "in a cluster, order on a topic is not guaranteed",
    "vernemq": "in a cluster, order is not guaranteed",
    "rabbitmq": "its MQTT is a translation to queues that may be spread over nodes",
    "nanomq": "several threads: order was reported broken after a reconnect",
}
"""Name in a version or property -> why it is looked at twice."""
_CURE: Final = "Mosquitto, one process a line in [mqtt] brokers: sudo apt install mosquitto"


class Told(Struct, frozen=True):
    """What one connection was told; empty where nothing was."""

    version: str = ""
    """`$SYS/broker/version`."""
    uptime: str = ""
    """`$SYS/broker/uptime`: "17 seconds"."""
    nodes: str = ""
    """`$SYS/brokers`: the nodes of an EMQX cluster."""
    properties: str = ""
    """Of an MQTT 5 CONNACK."""


def judge(told: Sequence[Told], *, again: Callable[[], Sequence[Told]]) -> list[Finding]:
    """What follows; `again` asks once more, as a value may change between two questions."""
    findings = [*_products(told), *_clusters(told)]
    if _several(told) and _several(later := again()):
        said = sorted({f"{one.version}, up for {one.uptime}" for one in later})
        findings.append(
            error(
                "process",
                f"its connections end at different brokers: {printable('; '.join(said))}",
                why="a lease needs one sequencer, and this is a load balancer or a cluster",
                cure="name each broker process by its own address, one a line in [mqtt] brokers",
            )
        )
    elif told and told[0].version and not findings:
        findings.append(good("product", printable(told[0].version)))
    return findings


def _products(told: Sequence[Told]) -> list[Finding]:
    text = " ".join(f"{one.version} {one.nodes} {one.properties}" for one in told).lower()
    return [
        warning("product", f"it is {name}", why=why, cure=f"better: {_CURE}")
        for name, why in _PRODUCTS.items()
        if name in text
    ]


def _clusters(told: Sequence[Told]) -> list[Finding]:
    nodes = {node for one in told for node in re.split(r"[,\s]+", one.nodes) if "@" in node}
    if len(nodes) < 2:
        return []
    what = f"it is a cluster of {len(nodes)} nodes: {printable(', '.join(sorted(nodes)))}"
    why = "the nodes of a cluster do not agree on an order of messages in time"
    return [error("process", what, why=why, cure=_CURE)]


def _several(told: Sequence[Told]) -> bool:
    uptimes = [int(found[1]) for one in told if (found := re.match(r"(\d{1,12})\b", one.uptime))]
    apart = bool(uptimes) and max(uptimes) - min(uptimes) > UPTIMES_DIFFER_S
    return apart or len({one.version for one in told if one.version}) > 1
