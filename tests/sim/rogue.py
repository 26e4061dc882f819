"""Somebody with access to a broker: what he publishes may delay a claim and do nothing else."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable

from piagent.core import wire
from piagent.core.lease_types import Assertion, LeaseMessage, Role
from tests.sim.agent import TOPICS, VIPS
from tests.sim.broker import Message, SimBroker
from tests.sim.host import Host
from tests.sim.world import World


class Rogue:
    """Draws one of his tricks at a time."""

    def __init__(self, world: World, brokers: list[SimBroker]) -> None:
        self._world = world
        self._brokers = brokers
        self._tricks: tuple[Callable[[Host, SimBroker], Message | None], ...] = (
            _garbage,
            _nested,
            _forged_yield,
            _nonsense,
            _other_configuration,
            _yield_again,
            _word_for_word,
            self._of_another_broker,
            _under_another_name,
        )

    def strike(self, host: Host, broker: SimBroker) -> None:
        """Publish something as if the host had."""
        trick = self._world.random.choice(self._tricks)
        message = trick(host, broker)
        if message is not None:
            self._world.log("rogue:", trick.__name__, "as", host.setup.name)
            broker.publish(None, message)

    def _of_another_broker(self, _: Host, broker: SimBroker) -> Message | None:
        said = [m for other in self._brokers if other is not broker for m in other.history]
        return self._world.random.choice(said) if said else None


def _topic(host: Host) -> str:
    return TOPICS.lease(VIPS, host.setup.name)


def _garbage(host: Host, _: SimBroker) -> Message:
    random = host.world.random
    return _topic(host), random.randbytes(random.choice((0, 1, 30, 20_000, 70_000)))


def _nested(host: Host, _: SimBroker) -> Message:
    return _signed(host, b"[" * 5_000)


def _nonsense(host: Host, _: SimBroker) -> Message:
    """A sound signature over something that is no lease message."""
    return _signed(host, b'{"v":1,"n":[]}')


def _signed(host: Host, body: bytes) -> Message:
    signed = b"|".join((b"pa1", _topic(host).encode(), body))
    digest = hmac.digest(host.setup.secret, signed, hashlib.sha256)
    return _topic(host), base64.urlsafe_b64encode(digest[:16]).rstrip(b"=") + b"." + body


def _forged_yield(host: Host, _: SimBroker) -> Message:
    said = _message(host, host.setup.config_hash, yields=dict.fromkeys(host.setup.keys))
    return _topic(host), wire.encode(b"not the secret", _topic(host), said)


def _other_configuration(host: Host, _: SimBroker) -> Message:
    """Authentic, but of a node whose file lists other brokers: it gives up what it cannot give."""
    asserts = {host.setup.keys[0]: Assertion(1, Role.OWNER)}
    said = _message(host, "01d01d", yields=dict.fromkeys(host.setup.keys[1:]), asserts=asserts)
    return _topic(host), wire.encode(host.setup.secret, _topic(host), said)


def _message(
    host: Host,
    config_hash: str,
    *,
    yields: dict[str, str | None],
    asserts: dict[str, Assertion] | None = None,
) -> LeaseMessage:
    return LeaseMessage(
        node=host.setup.name,
        incarnation="0" * 16,
        seq=1 << 50,
        broker="b1",
        config_hash=config_hash,
        lease_ms=host.setup.timing.lease_ms,
        asserts=asserts or {},
        yields=yields,
    )


def _yield_again(host: Host, broker: SimBroker) -> Message | None:
    return host.world.random.choice(broker.yields) if broker.yields else None


def _word_for_word(host: Host, broker: SimBroker) -> Message | None:
    return host.world.random.choice(broker.history) if broker.history else None


def _under_another_name(host: Host, broker: SimBroker) -> Message | None:
    return (_topic(host), host.world.random.choice(broker.history)[1]) if broker.history else None
