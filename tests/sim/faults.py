"""What goes wrong, drawn from the world's seed."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable

from piagent.core import wire
from piagent.core.lease_types import HandOver, LeaseMessage, Rank, Reason, SetKeys, Want
from tests.sim.broker import SimBroker
from tests.sim.node import GROUP, TOPICS, SimNode
from tests.sim.world import MS, S, World

_FAVOUR = 5


class Storm:
    """Faults at random times until the storm ends."""

    def __init__(self, world: World, nodes: list[SimNode], brokers: list[SimBroker]) -> None:
        self._world = world
        self._nodes = nodes
        self._brokers = brokers
        self._faults: dict[str, tuple[int, Callable[[SimNode, SimBroker], None]]] = {
            "reset": (15, self._reset),
            "half-open": (10, self._half_open),
            "broker-crash": (6, self._crash_broker),
            "broker-stall": (4, self._stall_broker),
            "pause": (14, self._pause),
            "node-crash": (8, self._crash_node),
            "hand-over": (10, self._hand_over),
            "partition": (6, self._partition),
            "clog": (6, self._clog),
            "rogue": (5, self._rogue),
            "want": (4, self._want),
            "reload": (4, self._reload),
        }
        self._weights = [
            weight * (_FAVOUR if name in world.options.favourites else 1)
            for name, (weight, _) in self._faults.items()
        ]
        if world.options.faults_per_s:
            self._schedule()

    def _schedule(self) -> None:
        mean = S / self._world.options.faults_per_s
        self._world.after(int(self._world.random.expovariate(1) * mean), self._strike)

    def _strike(self) -> None:
        if self._world.calm:
            return
        self._schedule()
        random = self._world.random
        _, fault = random.choices(list(self._faults.values()), self._weights)[0]
        fault(random.choice(self._nodes), random.choice(self._brokers))

    def end(self) -> None:
        """Everything works again, from now on."""
        self._world.calm = True
        self._world.log("the storm is over")
        for node in self._nodes:
            node.cut_off_until = 0
            node.boot()
            node.step(SetKeys(dict.fromkeys(node.setup.keys, node.setup.rank)))
            for key in node.setup.keys:
                node.step(Want(key, wanted=True))

    # ---- the network ----

    def _reset(self, node: SimNode, broker: SimBroker) -> None:
        if (connection := node.connections.get(broker.label)) is not None:
            connection.cut(0)

    def _half_open(self, node: SimNode, broker: SimBroker) -> None:
        if (connection := node.connections.get(broker.label)) is not None:
            connection.cut(self._world.random.randrange(100 * MS, 2500 * MS))

    def _partition(self, node: SimNode, _: SimBroker) -> None:
        random = self._world.random
        span = random.randrange(200 * MS, 4 * S)
        self._world.log(node.setup.name, node.setup.place, "is cut off", span / 1e9)
        node.cut_off_until = self._world.now + span
        for broker in self._brokers:
            if random.random() < 0.7:
                self._half_open(node, broker)

    def _clog(self, node: SimNode, broker: SimBroker) -> None:
        random = self._world.random
        if (connection := node.connections.get(broker.label)) is not None:
            span = random.randrange(100 * MS, 3 * S)
            self._world.log("clogged:", connection.name, span / 1e9)
            connection.clog(span, down=random.random() < 0.7)

    # ---- brokers and nodes ----

    def _crash_broker(self, _: SimNode, broker: SimBroker) -> None:
        random = self._world.random
        broker.crash(int(random.choice((50, 400, 2000)) * MS * random.uniform(0.5, 1.5)))

    def _stall_broker(self, _: SimNode, broker: SimBroker) -> None:
        broker.stall(int(self._world.random.choice((100, 600, 1500)) * MS))

    def _pause(self, node: SimNode, _: SimBroker) -> None:
        random = self._world.random
        span = random.choice((50, 300, 900, 1000, 1500, 4000)) * random.uniform(0.8, 1.2)
        node.pause(int(span * MS))

    def _crash_node(self, node: SimNode, _: SimBroker) -> None:
        random = self._world.random
        node.crash(int(random.choice((50, 500, 3000)) * MS * random.random()))

    # ---- people ----

    def _hand_over(self, node: SimNode, _: SimBroker) -> None:
        random = self._world.random
        key, other = random.choice(node.setup.keys), random.choice(self._nodes)
        owner = next((n for n in self._nodes if self._owns(n, key)), node)
        owner.step(HandOver(key, other.setup.name))

    def _owns(self, node: SimNode, key: str) -> bool:
        return node.core is not None and any(
            view.key == key and view.until_ns is not None for view in node.core.view()
        )

    def _want(self, node: SimNode, _: SimBroker) -> None:
        random = self._world.random
        key = random.choice(node.setup.keys)
        at = 0
        for wanted in (False, True, random.random() < 0.5, True):
            event = Want(key, wanted=wanted, reason=Reason.STOPPING)
            self._world.after(at, node.step, event)
            at += int(random.choice((5 * MS, 200 * MS, 2 * S)) * random.random())
        self._world.after(at, node.step, Rank(key, random.randrange(4)))

    def _reload(self, node: SimNode, _: SimBroker) -> None:
        """A key goes from the node's file and comes back."""
        random = self._world.random
        gone = random.choice(node.setup.keys)
        ranks = dict.fromkeys(node.setup.keys, node.setup.rank)
        node.step(SetKeys({key: rank for key, rank in ranks.items() if key != gone}))
        self._world.after(random.randrange(5 * S), node.step, SetKeys(ranks))

    # ---- somebody with access to the broker ----

    def _rogue(self, node: SimNode, broker: SimBroker) -> None:
        random = self._world.random
        topic = TOPICS.lease(GROUP, node.setup.name)
        kind = random.randrange(5)
        if kind == 0:
            payload = random.randbytes(random.choice((0, 1, 30, 20_000)))
        elif kind == 1:
            payload = _forged_yield(topic, node)
        elif kind == 2 and broker.yields:  # word for word again
            topic, payload = random.choice(broker.yields)
        elif kind == 3 and broker.history:
            topic, payload = random.choice(broker.history)
        elif broker.history:  # another node's words
            payload = random.choice(broker.history)[1]
        else:
            payload = _signed_nonsense(node.setup.secret, topic)
        self._world.log("rogue", kind, "as", node.setup.name)
        broker.publish(None, (topic, payload))


def _forged_yield(topic: str, node: SimNode) -> bytes:
    message = LeaseMessage(
        node=node.setup.name,
        incarnation="0" * 16,
        seq=1 << 50,
        broker="b1",
        config_hash=node.setup.config_hash,
        lease_ms=node.setup.timing.lease_ms,
        yields=dict.fromkeys(node.setup.keys, None),
    )
    return wire.encode(b"not the secret", topic, message)


def _signed_nonsense(secret: bytes, topic: str) -> bytes:
    """A sound signature over something that is no lease message."""
    body = b'{"v":1,"n":[]}'
    digest = hmac.digest(secret, b"|".join((b"pa1", topic.encode(), body)), hashlib.sha256)
    return base64.urlsafe_b64encode(digest[:16]).rstrip(b"=") + b"." + body
