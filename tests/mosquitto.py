"""A real Mosquitto for tests, empty at every start."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from tests.net import free_port

PROGRAM = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/sbin:/usr/local/sbin")
LEASH = ["setpriv", "--pdeathsig=KILL", "--"] if shutil.which("setpriv") else []
"""It must not outlive a killed test run."""
WHY_NOT = None if PROGRAM else "mosquitto is not installed (apt install mosquitto)"


class Mosquitto:
    """One broker process; a context manager."""

    def __init__(
        self,
        address: str = "127.0.0.1",
        port: int | None = None,
        *,
        lines: Sequence[str] = ("allow_anonymous true",),
        prefix: Sequence[str] = (),
    ) -> None:
        """`prefix`: a command that runs it elsewhere (Namespace.command([]))."""
        self.address = address
        self.port = port or free_port(address)
        self._folder = tempfile.TemporaryDirectory(prefix="piagent-mosquitto-")
        self._lines = lines
        self._prefix = list(prefix)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it listens."""
        config = Path(self._folder.name, "mosquitto.conf")
        log = Path(self._folder.name, "log")
        config.write_text(
            "\n".join(
                [
                    f"listener {self.port} {self.address}",
                    "set_tcp_nodelay true",
                    "max_queued_messages 10000",
                    f"log_dest file {log}",
                    "user root",
                    *self._lines,
                    "",
                ]
            )
        )
        log.unlink(missing_ok=True)
        assert PROGRAM is not None
        self._process = subprocess.Popen(
            [*self._prefix, *LEASH, PROGRAM, "-c", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while not (log.exists() and " running" in log.read_text()):
            assert self._process.poll() is None, log.read_text() if log.exists() else "it ended"
            assert time.monotonic() < deadline, "mosquitto does not listen"
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL; what it knew is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def send_signal(self, number: int) -> None:
        """To the broker's process."""
        assert self._process is not None
        self._process.send_signal(number)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()
