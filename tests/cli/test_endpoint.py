"""`piagent endpoint` as a process, against a real admin server in another thread."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from piagent.admin.server import AdminServer
from piagent.admin.status import EndpointStatus, RegisterEndpoint, RemoveEndpoint
from piagent.cli import main
from piagent.core.model import Listen
from tests.admin.known import ScriptedServices
from tests.cli.conftest import Source
from tests.net import free_port
from tests.waiting import PATIENCE_S, wait_until

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "0123456789abcdef"


class Agent:
    """An admin server that can be stopped and started again."""

    def __init__(self, path: str, services: ScriptedServices) -> None:
        self.path = path
        self.services = services
        self.port = free_port()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server: AdminServer | None = None

    def start(self) -> Self:
        listen = Listen(address="127.0.0.1", port=self.port)
        self._server = AdminServer(self.path, Source(self.services), listen, TOKEN)
        asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result(20)
        return self

    def stop(self) -> None:
        if self._server is not None:
            asyncio.run_coroutine_threadsafe(self._server.stop(), self._loop).result(20)
        self._server = None

    def end(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()


@pytest.fixture
def agent(tmp_path: Path, services: ScriptedServices) -> Iterator[Agent]:
    made = Agent(str(tmp_path / "admin.sock"), services)
    yield made
    made.end()


class Joining:
    """A `piagent endpoint register` process; a context manager."""

    def __init__(self, folder: Path, *words: str, token: str = TOKEN) -> None:
        self._files = (folder / "said", folder / "warned")
        with self._files[0].open("ab") as out, self._files[1].open("ab") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "piagent.cli", "endpoint", "register", *words],
                cwd=ROOT,
                stdout=out,
                stderr=err,
                env={**os.environ, "PIAGENT_TOKEN": token},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop(signal.SIGKILL)

    @property
    def said(self) -> list[str]:
        return self._files[0].read_text().splitlines()

    @property
    def warned(self) -> list[str]:
        return self._files[1].read_text().splitlines()

    def until_said(self, count: int) -> None:
        wait_until(
            lambda: len(self.said) >= count,
            lambda: f"{count} lines: {self.said} {self.warned}, code {self.process.poll()}",
        )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


# ---- register --------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_endpoint_is_registered_renewed_and_removed_at_the_end(
    agent: Agent, tmp_path: Path, number: signal.Signals
) -> None:
    agent.start()
    with Joining(tmp_path, "web", ":8080", "--ttl", "1s", "--socket", agent.path) as joining:
        joining.until_said(1)
        wait_until(lambda: len(agent.services.registered) >= 4, "it is renewed")
        assert agent.services.removed == []
        assert joining.stop(number) == 0
    asked = RegisterEndpoint(service="web", port=8080, ttl_ms=1000)
    assert set(agent.services.registered) == {asked}
    assert agent.services.removed == [RemoveEndpoint(service="web", port=8080, address="10.0.0.1")]
    assert joining.said == ["10.0.0.1:8080 is registered for web, at pi-1"]
    assert joining.warned == []


def test_everything_that_is_asked_for_reaches_the_agent(agent: Agent, tmp_path: Path) -> None:
    agent.start()
    where = ["--node", f"127.0.0.1:{agent.port}"]
    words = ["--ttl", "1m", "--port-name", "http", "--weight", "7", "--json", *where]
    with Joining(tmp_path, "web", "[fd00::5]:8080", *words) as joining:
        joining.until_said(1)
        assert joining.stop() == 0
    assert agent.services.registered == [
        RegisterEndpoint(
            service="web", port=8080, address="fd00::5", only="http", weight=7, ttl_ms=60_000
        )
    ]
    assert agent.services.removed == [RemoveEndpoint(service="web", port=8080, address="fd00::5")]
    (line,) = joining.said
    assert json.loads(line) == {"node": "pi-1", "service": "web", "address": "[fd00::5]:8080"}


@pytest.mark.parametrize(
    ("words", "token", "why"),
    [
        (["nope", "10.0.0.5:1"], TOKEN, "there is no service 'nope'"),
        (["web", "10.0.0.5:1"], "another-token-of-32", "unauthorized"),
    ],
)
def test_a_refusal_ends_it_at_once(
    words: list[str], token: str, why: str, agent: Agent, tmp_path: Path
) -> None:
    agent.start()
    with Joining(tmp_path, *words, "--node", f"127.0.0.1:{agent.port}", token=token) as joining:
        assert joining.process.wait(PATIENCE_S) == 1
    assert joining.said == []
    (line,) = joining.warned
    assert why in line
    assert agent.services.removed == []


def test_an_agent_that_is_restarted_is_told_again_and_its_absence_said_once(
    agent: Agent, tmp_path: Path
) -> None:
    words = ["web", ":8080", "--ttl", "1s", "--socket", agent.path]
    with Joining(tmp_path, *words) as joining:
        wait_until(lambda: joining.warned, "it says that there is no agent")
        time.sleep(1.2)  # it tries three times more
        agent.start()
        joining.until_said(1)
        agent.stop()
        wait_until(lambda: len(joining.warned) >= 2, "it says so again")
        known = len(agent.services.registered)
        agent.start()
        joining.until_said(2)
        assert joining.stop() == 0
    assert len(agent.services.registered) > known
    assert all(line.endswith("; trying on") for line in joining.warned)
    assert len(joining.warned) == 2
    assert joining.said[1] == "10.0.0.1:8080 is registered again for web, at pi-1"
    assert len(agent.services.removed) == 1


def test_what_an_agent_forgets_for_a_while_ends_nothing(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.start()
    register = agent.services.register
    words = ["web", ":8080", "--ttl", "1s", "--socket", agent.path]
    with Joining(tmp_path, *words) as joining:
        joining.until_said(1)
        monkeypatch.setattr(agent.services, "register", lambda _: "there is no service 'web'")
        wait_until(lambda: joining.warned, "it is refused")
        monkeypatch.setattr(agent.services, "register", register)
        joining.until_said(2)
        assert joining.stop() == 0
    assert len(joining.warned) == 1


def test_without_an_agent_it_ends_all_the_same(agent: Agent, tmp_path: Path) -> None:
    agent.start()
    words = ["web", ":8080", "--ttl", "1h", "--socket", agent.path]
    with Joining(tmp_path, *words) as joining:
        joining.until_said(1)
        agent.stop()
        assert joining.stop() == 0
    (line,) = joining.warned
    assert "not running" in line
    assert line.endswith("it ends by itself in 3600 s")


def test_another_address_of_the_host_is_said_and_the_last_one_removed(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.start()
    moved = EndpointStatus(node="pi-1", service="web", address="[fd00::1]:8080")
    words = ["web", ":8080", "--ttl", "1s", "--socket", agent.path]
    with Joining(tmp_path, *words) as joining:
        joining.until_said(1)
        monkeypatch.setattr(agent.services, "register", lambda _: moved)
        joining.until_said(2)
        assert joining.stop() == 0
    assert joining.said[1] == "[fd00::1]:8080 is registered for web, at pi-1"
    assert agent.services.removed == [RemoveEndpoint(service="web", port=8080, address="fd00::1")]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["8080"], "is not :PORT"),
        ([":0"], "is not :PORT"),
        ([":70000"], "is not :PORT"),
        (["fd00::5:8080"], "is not :PORT"),
        (["host:8080"], "is not :PORT"),
        ([":8080", "--ttl", "10"], "--ttl: "),
        ([":8080", "--ttl", "999ms"], "between 1s and 1h"),
        ([":8080", "--ttl", "61m"], "between 1s and 1h"),
        ([":8080", "--weight", "1001"], "--weight: "),
        ([":8080", "--weight", "-1"], "--weight: "),
        ([":8080", "--node", "pi-2"], "name the address too"),
    ],
)
def test_what_cannot_be_meant_is_wrong_input(
    words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["endpoint", "register", "web", *words]) == 2
    assert why in capsys.readouterr().err


# ---- list ------------------------------------------------------------------------------------


def test_endpoints_are_listed(agent_socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["endpoint", "list", "--socket", agent_socket]) == 0
    assert capsys.readouterr().out == "web  10.0.0.22:8080  at pi-2\n"
    assert main(["endpoint", "list", "--json", "--socket", agent_socket]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"node": "pi-2", "service": "web", "address": "10.0.0.22:8080"}
    ]


def test_no_endpoints_is_said(
    agent_socket: str,
    services: ScriptedServices,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(services, "endpoints", lambda: ())
    assert main(["endpoint", "list", "--socket", agent_socket]) == 0
    assert capsys.readouterr().out.startswith("no endpoints")
