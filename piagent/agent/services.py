"""Everything about services that is not in this node's file, wired together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from piagent.agent.bulletins import Bulletins
from piagent.agent.duty import Duty
from piagent.agent.endpoints import EndpointBook
from piagent.agent.letters import Letters
from piagent.agent.members import Members
from piagent.agent.office import Office
from piagent.agent.orders import Orders
from piagent.agent.registry import Publisher, Registry, Saved
from piagent.core.catalog import Merged, merge
from piagent.core.model import Config
from piagent.core.wire import Control
from piagent.ports import Received, Store


class Services:
    """What the election tells of, and what comes of it: a configuration with everything in it."""

    def __init__(
        self,
        *,
        letters: Letters,
        members: Members,
        publisher: Publisher,
        connected: Callable[[], tuple[str, ...]],
        epoch: Callable[[], int | None],
        leader: Callable[[], str | None],
        store: Store[Saved],
        file: Config,
        changed: Callable[[], None],
    ) -> None:
        """`file`: this node's own; `changed`: `merged` may be another now."""
        self.file = file
        self._store = store
        self._changed = changed
        self._letters = letters
        self._members = members
        self._rotated = False  # what is retained may still be signed by a former secret
        bulletins = Bulletins(file.cluster, letters)
        self._bulletins = bulletins
        self.registry = Registry(
            brokers=[broker.label for broker in file.mqtt.brokers],
            bulletins=bulletins,
            publisher=publisher,
            saved=store.load(),
            save=store.save,
            incarnation=letters.incarnation,
            file=lambda: self.file,
            changed=self._news,
        )
        self.office = Office(
            bulletins=bulletins,
            registry=self.registry,
            members=members,
            publisher=publisher,
            connected=connected,
            epoch=epoch,
        )
        self.orders = Orders(
            office=self.office,
            letters=letters,
            members=members,
            leader=leader,
            publish=publisher.to_all_once,
        )
        self.endpoints = EndpointBook(
            bulletins=bulletins,
            publisher=publisher,
            incarnation=letters.incarnation,
            life=self._life,
            changed=self._news,
        )
        self.duty = Duty(
            bulletins=bulletins,
            publisher=publisher,
            incarnation=letters.incarnation,
            life=self._life,
            has_company=lambda: bool(members.all()),
        )

    def merged(self, file: Config | None = None) -> Merged:
        """What is, by what is known now; `file`: if that were this node's."""
        registry = self.registry
        return merge(
            file or self.file,
            registry.assignments(),
            registry.things(),
            self.endpoints.backends(),
        )

    def reloaded(self, file: Config) -> None:
        """This node's file is another one; its secrets may be, too."""
        self._rotated = self._rotated or self.file.secrets != file.secrets
        self.file = file
        self.registry.file_changed()
        self._sign_anew()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.office.run())
                group.create_task(self.endpoints.run())
        finally:
            await self._store.close()

    # ---- from the election --------------------------------------------------------------------

    def subscribed(self, broker: str) -> None:
        """A connection is up, and what its broker retains has been heard."""
        self.registry.subscribed(broker)
        self.endpoints.subscribed(broker)
        self.duty.subscribed()
        self.office.wake()

    def disconnected(self, broker: str) -> None:
        """A connection is gone."""
        self.registry.disconnected(broker)
        self.duty.others_changed()

    def read(self, event: Received) -> bool:
        """Take a message, if it is about services."""
        said = self._bulletins.read(event)
        if said is None:
            return False
        self.office.hear(said)
        self.registry.hear(said)
        self.endpoints.hear(said)
        self.duty.hear(said)
        return True

    def leading(self) -> None:
        """This node leads from now on."""
        self._sign_anew()
        self.office.wake()

    def asked(self, said: Control) -> None:
        """A control message came."""
        self.orders.hear(said)

    def _life(self, node: str) -> str | None:
        said = self._members.get(node)
        return None if said is None else said.incarnation

    def _sign_anew(self) -> None:
        """What was applied is the leader's to say, though its secrets changed before it led."""
        if self._rotated and self.office.leads():
            self._rotated = False
            self.registry.say_again()

    def _news(self) -> None:
        self.office.wake()
        self._changed()
