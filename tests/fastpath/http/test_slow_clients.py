"""slowhttptest's clients, who say and read as little as they can: others are served meanwhile.

`make slow-http` lets them go on for minutes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fastpath.http.gateways import Client, Web, ok, serving
from tests.waiting import wait_until

SECONDS = int(os.environ.get("PIAGENT_SLOW_S", "2"))
EACH = 60
"""Connections of each kind."""
KINDS = {
    "headers that never end (slowloris)": ["-H", "-i", "1"],
    "bodies that drip": ["-B", "-i", "1", "-s", "8192"],
    "ranges without an end": ["-R", "-a", "5", "-b", "3000"],
    "responses read byte by byte": ["-X", "-w", "1", "-y", "8", "-n", "1", "-z", "1", "-k", "3"],
}


@contextlib.contextmanager
def slow_clients(folder: Path, url: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    common = ["-c", str(EACH), "-r", str(EACH), "-l", str(SECONDS), "-p", "2", "-u", url]
    started = []
    with contextlib.ExitStack() as stack:
        for number, options in enumerate(KINDS.values()):
            log = stack.enter_context((folder / f"{number}.log").open("wb"))
            argv = ["slowhttptest", *options, *common]
            started.append(stack.enter_context(subprocess.Popen(argv, stdout=log, stderr=log)))
        try:
            yield started
        finally:
            for process in started:
                process.kill()


@pytest.mark.skipif(shutil.which("slowhttptest") is None, reason="apt install slowhttptest")
@pytest.mark.timeout(SECONDS + 60)
def test_slow_clients_of_every_kind_keep_nobody_from_being_served(tmp_path: Path) -> None:
    web = Web(lambda _peer, seen: ok(bytes(100_000) if "/?" in seen.line else b"hello"))
    with serving(web.backend()) as (engine, port):
        with slow_clients(tmp_path, f"http://127.0.0.1:{port}/?slow") as started:
            wait_until(lambda: engine.active() > EACH)  # they are at it
            served = 0
            with Client(port) as kept:
                while any(process.poll() is None for process in started):
                    with Client(port) as client:
                        assert client.get("/")[:1] == (200,)
                    assert kept.get("/")[2] == b"hello"
                    served += 1
                    time.sleep(0.05)
        assert served > 5
        for number, kind in enumerate(KINDS):
            said = (tmp_path / f"{number}.log").read_text(errors="replace")
            assert "Exit status" in said, (kind, said)
        wait_until(lambda: engine.active() == 0)
