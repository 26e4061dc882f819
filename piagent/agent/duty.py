"""Which node checks which backend: verdicts of other nodes in, this node's out.

docs/explanation/health.md says how nodes share the work; `core.checking` decides.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Protocol

from piagent.adapters.clock import wall_ms
from piagent.agent.bulletins import Bulletin, Bulletins
from piagent.agent.registry import Publisher
from piagent.core.checking import DETAIL_MAX, Heard, Key, Question, Verdict, Verdicts


class Checker(Protocol):
    """Who checks backends here."""

    def checks(self, key: Key) -> bool:
        """Whether it has the backend, on duty or not."""
        ...

    def heard(self, key: Key, said: Verdict) -> None:
        """There is another verdict of a backend, maybe not one that it has."""
        ...

    def others_changed(self) -> None:
        """Other nodes are there now, or other brokers."""
        ...

    def say_again(self) -> None:
        """Say what was found again with the next checks."""
        ...


class Duty:
    """What this node and the others say of backends."""

    def __init__(
        self,
        *,
        bulletins: Bulletins,
        publisher: Publisher,
        incarnation: str,
        life: Callable[[str], str | None],
        has_company: Callable[[], bool],
    ) -> None:
        """`life`: incarnation of a node that is there. `has_company`: whether any other is."""
        self.node = bulletins.node
        self.checker: Checker
        """Given before anything runs."""
        self._bulletins = bulletins
        self._publisher = publisher
        self._incarnation = incarnation
        self._life = life
        self._has_company = has_company
        self._verdicts = Verdicts(life)
        self._at = 0

    # ---- others -------------------------------------------------------------------------------

    def subscribed(self) -> None:
        """A connection is up, to a broker that may have forgotten everything."""
        self.checker.say_again()
        self.checker.others_changed()

    def others_changed(self) -> None:
        """Other nodes or brokers are there now."""
        self.checker.others_changed()

    def hear(self, said: Bulletin) -> None:
        """Take note of what a broker carries."""
        verdict = said.message
        if not isinstance(verdict, Verdict):
            return
        service, _, backend = said.key.partition("/")
        key = service, backend
        if verdict.node == self.node:
            of_former_life = verdict.incarnation != self._incarnation and not said.fresh
            if of_former_life and not self.checker.checks(key):
                self._publisher.to_one(said.broker, *self._bulletins.no_verdict(key))
        elif self._verdicts.hear(key, verdict, monotonic()):
            self.checker.heard(key, verdict)

    def best(self, asked: Question, digest: str, now_s: float) -> Heard | None:
        """The verdict that counts, of the node that ranks highest.

        Without a connection to any broker no other node is known to be there, and none counts.
        """
        return self._verdicts.best(asked, digest, now_s)

    def is_there(self, said: Verdict) -> bool:
        """Whether who said it is."""
        return self._life(said.node) == said.incarnation

    # ---- this node ----------------------------------------------------------------------------

    def say(
        self, asked: Question, digest: str, *, near: bool, up: bool, since: int, detail: str
    ) -> bool:
        """Tell what was found; False: there is nobody to tell."""
        if not self._has_company():
            return False
        said = self._verdict(digest, near=near, up=up, since=since, detail=detail[:DETAIL_MAX])
        self._publisher.to_all(*self._bulletins.verdict(asked.key, said))
        return True

    def withdraw(self, key: Key) -> None:
        """This node was on duty, and checks the backend no more; nothing of it stays retained."""
        said = self._verdict("", near=False, up=False, since=0, detail="")
        self._publisher.to_all_once(*self._bulletins.verdict(key, said))
        self._publisher.to_all(*self._bulletins.no_verdict(key))

    def keep(self, keys: set[Key]) -> None:
        """These are the backends that are checked here."""
        self._verdicts.keep(keys)

    def _verdict(self, digest: str, *, near: bool, up: bool, since: int, detail: str) -> Verdict:
        self._at = max(self._at + 1, wall_ms())
        return Verdict(
            node=self.node,
            incarnation=self._incarnation,
            at=self._at,
            question=digest,
            near=near,
            up=up,
            since=since,
            detail=detail,
        )
