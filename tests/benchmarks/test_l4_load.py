"""The clients and backends of the comparison see what they are to see, through a minimal relay."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.compared.load import Load, LoadError, Ports, Proxy, Workload, compiled, load
from benchmarks.l4 import proxies
from benchmarks.processes import free_port, wait_for_port

pytestmark = [
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="no CPU for the load alone"),
]

LOCAL = "127.0.0.1"
STALL_S = 0.3


@pytest.fixture(scope="module")
def both_ends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    with load(tmp_path_factory.mktemp("load")) as found:
        yield found


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory, both_ends: Load) -> Iterator[Proxy]:
    program = tmp_path_factory.mktemp("relay") / "relay"
    compiled(program, [proxies.HERE / "relay.c"])
    ports, to = Ports(free_port(), free_port(), free_port()), both_ends.ports
    pairs = f"{ports.echo}={to.echo}", f"{ports.stream}={to.stream}"
    with subprocess.Popen([str(program), LOCAL, LOCAL, *pairs]) as process:
        try:
            wait_for_port(LOCAL, ports.echo, process)
            yield Proxy(LOCAL, ports, process)
        finally:
            process.terminate()


@pytest.mark.parametrize(
    "workload",
    [
        Workload("request", "echo", 8, 1, 1),
        Workload("connect", "echo", 8, 1, 1),
        Workload("bulk", "stream", 2, 1, 1e6),
    ],
    ids=lambda workload: str(workload.kind),
)
def test_a_run_loses_nothing_and_sees_the_relay_work(
    both_ends: Load, relay: Proxy, workload: Workload
) -> None:
    sample = both_ends.measure(workload, relay, 0.1)
    assert sample.lost == 0
    assert sample.rate > 0
    assert sample.cpu_us >= sample.engine_us > 0


def test_datagrams_that_nobody_answers_are_lost(both_ends: Load, relay: Proxy) -> None:
    with pytest.raises(LoadError, match="0 answers"):
        both_ends.measure(Workload("udp", "udp", 2, 4, 1), relay, 0.1)


def test_latency_counts_from_when_a_request_was_due_also_while_the_proxy_stalls(
    both_ends: Load, relay: Proxy
) -> None:
    def stall() -> None:
        time.sleep(0.6)  # in the midst of the run, that has got warm before
        relay.process.send_signal(signal.SIGSTOP)
        time.sleep(STALL_S)
        relay.process.send_signal(signal.SIGCONT)

    stalling = threading.Thread(target=stall)
    stalling.start()
    sample = both_ends.measure(Workload("latency", "echo", 1, 10000, 1), relay, 2.0)
    stalling.join()
    # A connection takes 64 requests ahead: only they, of 20000, are sent and then wait so long.
    assert sample.p99_us > STALL_S * 1e6 / 2


def test_requests_at_random_times_come_at_the_rate_that_was_asked_for(
    both_ends: Load, relay: Proxy
) -> None:
    sample = both_ends.measure(Workload("latency", "echo", 16, 1000, 1), relay, 1.0)
    assert 500 < sample.rate < 1200


def test_a_workload_that_there_is_not_is_refused(tmp_path: Path, relay: Proxy) -> None:
    with load(tmp_path) as other, pytest.raises(LoadError, match="load generator ended"):
        other.measure(Workload("bulk9", "echo", 1, 1, 1), relay, 0.1)
