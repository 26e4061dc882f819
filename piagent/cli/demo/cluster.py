"""The demo's processes: a broker, three backends and the agents, each one killable."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from piagent.admin.client import AskError, ask
from piagent.admin.status import Status
from piagent.cli.demo.files import node_file
from piagent.cli.demo.site import Place, Site

PATIENCE_S = 20.0
ASK_EVERY_S = 0.02
WATCH_EVERY_S = 0.1
STOP_TIMEOUT_S = 15.0
LOG_TAIL = 2000
_LEASH = ("setpriv", "--pdeathsig=KILL", "--", "sh", "-c", '[ $PPID = "$0" ] && exec "$@"')
"""A child ends with the demo, even when the demo is killed before it is on the leash.

The demo's process id follows.
"""


class DemoError(Exception):
    """The demo cannot go on; says why."""


class Cluster:
    """Everything that runs on a site; files and logs are in one folder."""

    def __init__(
        self,
        site: Site,
        folder: Path,
        say: Callable[[str], None],
        file_of: Callable[[Site, Place, Path, Path], str] = node_file,
    ) -> None:
        """`file_of`: site, node, its secret's file, its admin socket -> the node's TOML."""
        self._site, self._folder, self._say, self._file_of = site, folder, say, file_of
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def start(self) -> None:
        """Start broker, backends and agents; returns when the VIP has an owner."""
        site = self._site
        self._say(f"starting a broker and {len(site.backends)} backends")
        await self._spawn(
            site.broker, "-m", "piagent.cli.demo.broker", site.broker.address, str(site.broker_port)
        )
        await self._broker_ready()
        ports = (str(site.backend_http_port), str(site.backend_tcp_port))
        for place in site.backends:
            await self._spawn(
                place, "-m", "piagent.cli.demo.backend", place.name, place.address, *ports
            )
        self._say(f"starting {len(site.nodes)} agents")
        secret = self._folder / "secret"
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_hex(32))
        for place in site.nodes:
            text = self._file_of(site, place, secret, self.socket(place.name))
            self._file(place.name).write_text(text)
            await self._start_agent(place)
        await self.wait_for(
            lambda status: status.ready and status.vips[0].owner is not None, "an owner of the VIP"
        )

    async def owner(self) -> str:
        """The node that owns the VIP."""
        status = await self.wait_for(lambda s: s.vips[0].owner is not None, "an owner")
        return str(status.vips[0].owner)

    async def kill(self, name: str) -> None:
        """SIGKILL to a node's agent, and wait until its guardian has done its work and ended."""
        process = self._running.pop(name)
        for child in _children(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        await process.wait()

    async def lose(self, name: str) -> None:
        """SIGKILL to a process and its children at once, as if the host had died: no goodbye."""
        process = self._running.pop(name)
        if process.returncode is None:
            _kill_family(process)
        await process.wait()

    async def end(self, name: str) -> None:
        """SIGTERM, and wait until the process has ended."""
        process = self._running.pop(name)
        process.terminate()
        await process.wait()

    async def time_to_ready(self, name: str) -> float:
        """Start a node's agent again; seconds from exec until it says that it is ready."""
        place = next(place for place in self._site.nodes if place.name == name)
        started = time.monotonic()
        await self._start_agent(place)
        await self._wait_for(lambda: self._ask(name), lambda status: status.ready, "ready agent")
        return time.monotonic() - started

    async def wait_for(self, true: Callable[[Status], bool], what: str) -> Status:
        """Ask a living agent until `true` holds for its answer."""
        return await self._wait_for(lambda: self._ask(self._living()), true, what)

    def pid(self, name: str) -> int:
        """The process of a node's agent; its guardian's while there is no agent."""
        guardian = self.guardian(name)
        return next(iter(_children(guardian)), guardian)

    def guardian(self, name: str) -> int:
        """The process that guards a node's agent."""
        return self._running[name].pid

    def running_nodes(self) -> list[str]:
        """The nodes that have not been ended."""
        return [place.name for place in self._site.nodes if place.name in self._running]

    def socket(self, name: str) -> Path:
        """The admin socket of a node."""
        return self._folder / f"{name}.sock"

    async def watch(self, owner: str) -> None:
        """Say what ends and who owns the VIP then; DemoError when no agent is left."""
        while True:
            for name in [n for n, it in self._running.items() if it.returncode is not None]:
                del self._running[name]
                self._say(f"{name} has ended")
            if owner not in self._running:
                with contextlib.suppress(AskError):
                    status = await asyncio.to_thread(self._ask, self._living())
                    owner = status.vips[0].owner or ""
                if owner in self._running:
                    self._say(f"{owner} owns the VIP (process {self.pid(owner)})")
            await asyncio.sleep(WATCH_EVERY_S)

    async def stop(self) -> None:
        """End everything: agents first, so that they can say goodbye, the broker last."""
        for name in reversed(list(self._running)):
            process = self._running[name]
            if process.returncode is None:
                process.terminate()
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await process.wait()
            except TimeoutError:
                self._say(f"{name} does not end by itself")
                _kill_family(process)
                await process.wait()
            del self._running[name]

    async def kill_all(self) -> None:
        """SIGKILL for whatever still runs."""
        for name in list(self._running):
            await self.lose(name)

    # ---- inside -------------------------------------------------------------------------------

    async def _start_agent(self, place: Place) -> None:
        await self._spawn(place, "-m", "piagent.cli", "run", "-c", str(self._file(place.name)))

    async def _spawn(self, place: Place, *argv: str) -> None:
        command = self._site.command(place, *_LEASH, str(os.getpid()), sys.executable, *argv)
        with self._log(place.name).open("ab") as log:
            self._running[place.name] = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which ends them in order
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )

    async def _broker_ready(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while "ready" not in (said := self._log(self._site.broker.name).read_text()):
                self._check_alive()
                await asyncio.sleep(ASK_EVERY_S)
        for warning in said.splitlines()[:-1]:
            self._say(warning)

    def _living(self) -> str:
        names = self.running_nodes()
        if not names:
            raise DemoError("no agent is running")
        return names[0]

    def _ask(self, name: str) -> Status:
        return ask(str(self.socket(name)), "/api/v1/status", Status)

    async def _wait_for(
        self, get: Callable[[], Status], true: Callable[[Status], bool], what: str
    ) -> Status:
        reason = "the agents answer"
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            self._check_alive()
            try:
                if true(status := await asyncio.to_thread(get)):
                    return status
            except AskError as error:
                reason = str(error)
            await asyncio.sleep(ASK_EVERY_S)
        raise DemoError(f"no {what} after {PATIENCE_S:.0f} s ({reason}); {self._tails()}")

    def _check_alive(self) -> None:
        for name, process in self._running.items():
            if process.returncode is not None:
                raise DemoError(f"{name} ended by itself ({process.returncode}); {self._tails()}")

    def _tails(self) -> str:
        """The ends of all logs: the folder is gone when the reader could look."""
        tails = (
            f"--- {name}\n{self._log(name).read_text(errors='replace')[-LOG_TAIL:]}"
            for name in self._running
        )
        return "logs:\n" + "\n".join(tails)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.toml"

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def _children(pid: int) -> list[int]:
    """The processes that a process has started; none once it has ended."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for child in listed.split()]


def _kill_family(process: asyncio.subprocess.Process) -> None:
    """SIGKILL to a process and its children, all at once: a stopped guardian starts no agent."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        process.send_signal(signal.SIGSTOP)
        # It stops within a moment. If it has ended, its end is left for asyncio to see.
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    for pid in (*_children(process.pid), process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
