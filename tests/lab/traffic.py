"""What a client sees: single requests, and a steady stream of them whose gaps are measured."""

from __future__ import annotations

import http.client
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from piagent.adapters.netns import Host
from tests.waiting import wait_until


def connect(host: Host, address: str, port: int, timeout_s: float = 5.0) -> socket.socket:
    """A TCP connection from inside the host."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with host.entered():
        made = socket.socket(family)
    made.settimeout(timeout_s)
    try:
        made.connect((address, port))
    except BaseException:
        made.close()
        raise
    return made


def tcp_name(host: Host, address: str, port: int, timeout_s: float = 5.0) -> str:
    """Which backend a new TCP connection reaches."""
    with connect(host, address, port, timeout_s) as made, made.makefile("rb") as lines:
        name = lines.readline()
    if not name.endswith(b"\n"):
        raise ConnectionError("closed before the backend's name came")
    return name.decode().strip()


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; `content` is the lab backend's JSON, or the bytes when it is not."""

    status: int
    content: Any

    @property
    def backend(self) -> str:
        return str(self.content["backend"])


def http_get(
    host: Host, address: str, port: int, name: str, target: str = "/", *, timeout_s: float = 5.0
) -> Answer:
    """One request on a connection of its own."""
    with connect(host, address, port, timeout_s) as made:
        client = http.client.HTTPConnection(address, port)
        client.sock = made
        client.request("GET", target, headers={"Host": name, "Connection": "close"})
        response = client.getresponse()
        body = response.read()
        client.close()
    try:
        return Answer(response.status, json.loads(body))
    except ValueError:
        return Answer(response.status, body)


@dataclass(frozen=True)
class Sample:
    """One request of a Traffic."""

    started_s: float
    ended_s: float
    answer: str | None
    """None: it failed."""
    error: str = ""


class Traffic:
    """Asks the same thing again and again in a thread, until the `with` block ends."""

    def __init__(self, ask: Callable[[], str], *, every_s: float = 0.005) -> None:
        """`ask` returns who answered and raises OSError (or http.client's errors) on failure."""
        self._ask = ask
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.samples: list[Sample] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def failures(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.answer is None]

    @property
    def good(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.answer is not None]

    def failures_after(self, moment_s: float) -> list[Sample]:
        """Failures of requests that began after `moment_s` (time.monotonic)."""
        return [sample for sample in self.failures if sample.started_s >= moment_s]

    def longest_gap_s(self) -> float:
        """The longest time from one good answer to the next."""
        ends = [sample.ended_s for sample in self.good]
        return max((b - a for a, b in itertools.pairwise(ends)), default=0.0)

    def wait_for_good(self, count: int = 1, timeout_s: float = 20.0) -> None:
        """Until so many more good answers have come."""
        after = time.monotonic()
        wait_until(
            lambda: sum(sample.started_s >= after for sample in self.good) >= count,
            f"{count} good answers; the last: {self.samples[-3:]}",
            timeout_s,
        )

    def _run(self) -> None:
        while not self._stop.is_set():
            started_s = time.monotonic()
            answer, error = None, ""
            try:
                answer = self._ask()
            except (OSError, http.client.HTTPException, AssertionError) as failed:
                error = repr(failed)
            self.samples.append(Sample(started_s, time.monotonic(), answer, error))
            self._stop.wait(max(0.0, started_s + self._every_s - time.monotonic()))


class KeptRequests:
    """GET after GET on connections that are kept as long as the server keeps them."""

    def __init__(
        self, host: Host, address: str, name: str, *, connections: int, every_s: float = 0.008
    ) -> None:
        """Each connection asks every `every_s`; a failed request is never tried again."""
        self._host, self._address, self._name = host, address, name
        self._every_s = every_s
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(connections)]
        self.failures: list[str] = []
        self.count = 0
        """Good answers."""

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int) -> None:
        """Until so many more were answered."""
        goal = self.count + more
        wait_until(lambda: self.count >= goal, f"{more} good answers; failed: {self.failures[:3]}")

    def _run(self) -> None:
        client: http.client.HTTPConnection | None = None
        while not self._stop.wait(self._every_s):
            try:
                if client is None:
                    client = http.client.HTTPConnection(self._address, 80)
                    client.sock = connect(self._host, self._address, 80, 5.0)
                client.request("GET", "/", headers={"Host": self._name})
                response = client.getresponse()
                response.read()
                assert response.status == 200, response.status
                self.count += 1
                if response.will_close:
                    client.close()
                    client = None
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.failures.append(repr(error))
                client = None
        if client is not None:
            client.close()
