"""Access logs: a line for each connection or request that is over, where one is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from piagent.agent.log_lines import connection_line, request_line
from piagent.agent.tasks import Tasks
from piagent.core.entry import LogFormat
from piagent.core.plan import Plan
from piagent.ports import ConnectionEnd, Ends, Lines, RequestEnd

PAUSE_S: Final = 0.05
"""Between looks at what has ended, so that many connections are one wake-up."""
KNOWN_MAX: Final = 4096
"""Services (or gateways) whose log is known, those that are gone included: their last lines are
still to come."""


class AccessLog:
    """From the engine to the files."""

    def __init__(
        self,
        ends: Ends,
        plan: Callable[[], Plan | None],
        lines: Callable[[str], Lines],
    ) -> None:
        """`plan`: what is served now; `lines` makes what writes to a path."""
        self._ends = ends
        self._plan = plan
        self._make = lines
        self._seen: Plan | None = None
        self._logs: dict[str, str] = {}  # service port -> path
        self._gateways: dict[str, tuple[str, LogFormat]] = {}  # likewise
        self._files: dict[str, Lines] = {}  # path -> it, of those that got a line
        self._closed_dropped = 0
        self._closing = Tasks()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def dropped(self) -> int:
        """Lines that no file took."""
        return self._closed_dropped + sum(file.dropped for file in self._files.values())

    def troubles(self) -> dict[str, str]:
        """Path -> why it cannot be written."""
        found = ((path, file.trouble) for path, file in sorted(self._files.items()))
        return {path: trouble for path, trouble in found if trouble is not None}

    def start(self) -> None:
        """Watch for what ends."""
        asyncio.get_running_loop().add_reader(self._ends.log_fd(), self._soon)

    def follow(self) -> None:
        """The plan may be another one: let go of files that it does not name."""
        plan = self._plan()
        if plan is None or plan is self._seen:
            return
        self._seen = plan
        named = {one.name: one.proxying.access_log or "" for one in plan.services}
        self._logs = named if len(self._logs) > KNOWN_MAX else self._logs | named
        gates = {
            gateway.name: (gateway.entry.access_log or "", gateway.entry.log_format)
            for gateway in plan.gateways
        }
        self._gateways = gates if len(self._gateways) > KNOWN_MAX else self._gateways | gates
        for path in self._files.keys() - named.values() - {path for path, _ in gates.values()}:
            self._closing.spawn(self._close(self._files.pop(path)))

    def reopen(self) -> None:
        """Files may have been moved away."""
        for file in self._files.values():
            file.reopen()

    async def stop(self) -> None:
        """Write what is left; the engine has stopped, and knows how everything ended."""
        if self._timer is not None:
            self._timer.cancel()
        asyncio.get_running_loop().remove_reader(self._ends.log_fd())
        self._write()
        await asyncio.gather(*map(self._close, self._files.values()))
        self._files = {}

    def _soon(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._ends.log_fd())
        self._timer = loop.call_later(PAUSE_S, self._look)

    def _look(self) -> None:
        self._timer = None
        self._write()
        self.start()

    def _write(self) -> None:
        self.follow()
        for path, lines in self._sorted(self._ends.read_log()).items():
            if path not in self._files:
                self._files[path] = self._make(path)
            self._files[path].write(lines)

    def _sorted(self, ends: Iterable[ConnectionEnd | RequestEnd]) -> dict[str, list[bytes]]:
        lines: dict[str, list[bytes]] = {}
        for end in ends:
            if isinstance(end, RequestEnd):
                path, form = self._gateways.get(end.gateway, ("", LogFormat.JSON))
                if path:
                    lines.setdefault(path, []).append(request_line(end, form))
            elif path := self._logs.get(end.service, ""):
                lines.setdefault(path, []).append(connection_line(end))
        return lines

    async def _close(self, file: Lines) -> None:
        await file.close()
        self._closed_dropped += file.dropped
