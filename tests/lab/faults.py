"""Faults at random, one after the other: killed and stopped agents, pulled cables, dead brokers."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.lab.lab import VIP, Lab


@dataclass(frozen=True)
class Fault:
    """What was done, to whom, for how long."""

    at_s: float
    """time.monotonic."""
    kind: str
    victim: str
    length_s: float


class Faults:
    """Breaks something, mends it, lets the house settle for a moment, and so on."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self._lab = lab
        self._chance = random.Random(seed)
        self.done: list[Fault] = []
        self._kinds: dict[str, Callable[[str, float], None]] = {
            "kill": self._kill,
            "kill-agent": self._kill_agent,
            "stop": self._stop,
            "cable": self._cable,
            "broker": self._broker,
        }

    def run(self, seconds: float) -> None:
        """For at least so long; everything is mended at the end."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            time.sleep(self._chance.uniform(0.2, 4.0))
            kind = self._chance.choice(list(self._kinds))
            length_s = self._chance.uniform(0.2, 5.0 if kind == "stop" else 2.5)
            victim = self._victim()
            self.done.append(Fault(time.monotonic(), kind, victim, length_s))
            self._kinds[kind](victim, length_s)

    def _victim(self) -> str:
        """Mostly the owner: nobody misses the others."""
        owners = self._lab.owners(VIP)
        drawn = self._chance.choice(sorted(self._lab.nodes))
        return owners[0] if owners and self._chance.random() < 0.8 else drawn

    def _kill(self, name: str, length_s: float) -> None:
        node = self._lab.nodes[name]
        node.kill()
        time.sleep(length_s)
        node.start()

    def _kill_agent(self, name: str, length_s: float) -> None:
        """The guardian follows it, having done its work."""
        node = self._lab.nodes[name]
        node.kill_agent()
        node.wait()
        time.sleep(length_s)
        node.start()

    def _stop(self, name: str, length_s: float) -> None:
        node = self._lab.nodes[name]
        node.pause()
        time.sleep(length_s)
        node.resume()

    def _cable(self, name: str, length_s: float) -> None:
        host = self._lab.nodes[name].host
        host.pull_cable()
        time.sleep(length_s)
        host.plug_cable()

    def _broker(self, _name: str, length_s: float) -> None:
        self._lab.broker.kill()
        time.sleep(length_s)
        self._lab.broker.start()
