"""A broker on this node: Debian's mosquitto as a child, or amqtt for a demo."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import importlib.util
import logging
import os
import pwd
import secrets
import shutil
import socket
import sys
from collections.abc import Mapping
from ipaddress import ip_address
from types import TracebackType
from typing import Self

from piagent.adapters.mqtt_connection import MAX_PAYLOAD
from piagent.core.model import Listen

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 3.0
RESTART_AFTER_S = 1.0

_SYSTEM_PATHS = "/usr/sbin:/usr/local/sbin:/sbin"
_USER = "mosquitto"
"""Debian's account for the broker; used when we are root, as mosquitto itself would."""
_PASSWORD_ROUNDS = 101
_KEPT_LINES = 5

_log = logging.getLogger(__name__)


class BrokerError(Exception):
    """The broker does not run; the text says why, and the cure."""


class EmbeddedBroker:
    """A child process that is started again when it ends, and that never outlives us.

    It keeps nothing: every start is empty, which the election takes for a reconnect.
    """

    def __init__(self, listen: Listen, users: Mapping[str, str] | None = None) -> None:
        """`users`: name -> password of who may connect; none at all: everybody may."""
        self._listen = listen
        self._users = dict(users or {})
        self._files: list[int] = []
        """Descriptors of the files in memory that the child reads."""
        self._command: list[str] = []
        self._process: asyncio.subprocess.Process | None = None
        self._last_lines: list[str] = []
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Returns when the port answers; BrokerError when there is no broker, or no such port."""
        _refuse_used_port(self._listen)
        try:
            self._command = self._prepared_command()
            process = await self._spawn()
            await self._until_it_answers(process)
        except BaseException:
            await self.stop()
            raise
        self._watch = asyncio.create_task(self._keep_running(process), name="embedded broker")

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL when that is not enough."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        while self._files:
            os.close(self._files.pop())

    def _prepared_command(self) -> list[str]:
        program = shutil.which(
            "mosquitto", path=f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_PATHS}"
        )
        if program is not None:
            owner = _unprivileged_user()
            passwords = self._in_memory(_passwords(self._users)) if self._users else None
            lines = _config(self._listen, passwords)
            if owner is None and os.geteuid() == 0:
                lines += ["user root"]  # no account to drop to; say so rather than fail
            return [*_leash(owner), program, "-c", self._in_memory(lines)]
        if importlib.util.find_spec("amqtt") is None:
            raise BrokerError(
                "no broker to run for [mqtt] embedded: 'apt install mosquitto'"
                " (or, for a demo only, 'pip install piagent[demo]')"
            )
        if self._users:
            raise BrokerError(
                "amqtt would not check the brokers' user names and passwords:"
                " 'apt install mosquitto', or leave them out"
            )
        _log.warning(
            "mosquitto is not installed: running amqtt, which is not for production"
            " ('apt install mosquitto')"
        )
        address, port = self._listen.address, str(self._listen.port)
        return [*_leash(None), sys.executable, "-m", f"{__package__}.amqtt_child", address, port]

    def _in_memory(self, lines: list[str]) -> str:
        """The path of a file that only the child can open, and that nobody has to remove."""
        descriptor = os.memfd_create("piagent-broker")
        self._files.append(descriptor)
        os.write(descriptor, "".join(f"{line}\n" for line in lines).encode())
        return f"/proc/self/fd/{descriptor}"

    async def _spawn(self) -> asyncio.subprocess.Process:
        self._last_lines.clear()
        self._process = process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=self._files,
            start_new_session=True,  # a Ctrl-C at our terminal is not for it: it ends after us
        )
        # The task ends with the pipe, that is with the process.
        self._reader = asyncio.create_task(self._relay(process), name="broker log")
        return process

    async def _relay(self, process: asyncio.subprocess.Process) -> None:
        """What the broker says goes to our log."""
        while process.stderr is not None:
            try:
                line = await process.stderr.readline()
            except ValueError:
                continue  # longer than the reader's limit
            if not line:
                return
            text = line.decode(errors="replace").strip()
            self._last_lines = [*self._last_lines, text][-_KEPT_LINES:]
            _log.info("embedded broker: %s", text)

    async def _until_it_answers(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + START_TIMEOUT_S
        while loop.time() < deadline_s:
            if process.returncode is not None:
                await self._reader
                said = "; ".join(self._last_lines) or f"exit code {process.returncode}"
                raise BrokerError(f"the embedded broker did not start: {said}")
            if await _answers(self._listen):
                return
            await asyncio.sleep(0.02)
        raise BrokerError(f"the embedded broker did not answer within {START_TIMEOUT_S:g} s")

    async def _keep_running(self, process: asyncio.subprocess.Process) -> None:
        while True:
            code = await process.wait()
            _log.error("embedded broker: ended with code %d, starting it again", code)
            await asyncio.sleep(RESTART_AFTER_S)
            process = await self._spawn()


def _refuse_used_port(listen: Listen) -> None:
    family = socket.AF_INET6 if ":" in listen.address else socket.AF_INET
    try:
        with socket.create_server((listen.address, listen.port), family=family):
            pass
    except OSError as error:
        raise BrokerError(
            f"[mqtt] embedded: cannot listen on {listen.address} port {listen.port}:"
            f" {os.strerror(error.errno) if error.errno else error}; 'ss -ltnp' shows who does"
            " (Debian starts mosquitto by itself: 'systemctl disable --now mosquitto')"
        ) from error


async def _answers(listen: Listen) -> bool:
    address = ip_address(listen.address)
    here = {4: "127.0.0.1", 6: "::1"}[address.version] if address.is_unspecified else str(address)
    try:
        _, writer = await asyncio.open_connection(here, listen.port)
    except OSError:
        return False
    writer.close()
    return True


def _unprivileged_user() -> pwd.struct_passwd | None:
    """Who the broker is to be when we are root; None: whoever we are."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(_USER)
    except KeyError:
        return None


def _leash(owner: pwd.struct_passwd | None) -> list[str]:
    """The command before the command: the child dies with us, and is not root.

    mosquitto can drop privileges itself, but that would undo the death signal (prctl(2)).
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return []
    drop = []
    if owner is not None:
        drop = [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
    return [setpriv, *drop, "--pdeathsig=KILL", "--"]


def _config(listen: Listen, passwords: str | None) -> list[str]:
    """mosquitto.conf(5); nothing in it is a name or text from anybody's file."""
    if passwords is None:
        access = ["allow_anonymous true"]
    else:
        access = ["allow_anonymous false", f"password_file {passwords}"]
    return [
        f"listener {int(listen.port)} {ip_address(listen.address)}",
        *access,
        "persistence false",
        "set_tcp_nodelay true",
        # The defaults drop messages to a slow subscriber without a word.
        "max_queued_messages 10000",
        "max_queued_bytes 0",
        f"message_size_limit {MAX_PAYLOAD}",
        "log_dest stderr",
        "log_timestamp false",
        "log_type error",
        "log_type warning",
        "connection_messages false",
    ]


def _passwords(users: Mapping[str, str]) -> list[str]:
    return [_password_line(name, password) for name, password in sorted(users.items())]


def _password_line(name: str, password: str) -> str:
    """One line of mosquitto_passwd(1)'s format 7: PBKDF2 with SHA-512."""
    if not name or not name.isprintable() or ":" in name:
        raise BrokerError(
            f"[mqtt] a broker's user name must be printable and without ':': {name!r}"
        )
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _PASSWORD_ROUNDS)
    encoded = [base64.b64encode(part).decode() for part in (salt, digest)]
    return f"{name}:$7${_PASSWORD_ROUNDS}${encoded[0]}${encoded[1]}"
