"""The comparison of HTTP proxies runs and its pieces judge as they say; not what it measures."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.compared.load import Load, LoadError, Ports, Proxy, Sample, compiled, load
from benchmarks.compared.report import judge
from benchmarks.http import __main__ as bench
from benchmarks.http import proxies
from benchmarks.http.comparisons import COMPARISONS, HOST
from benchmarks.processes import free_port, wait_for_port

LOCAL = "127.0.0.1"
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


def sample(cpu_us: float, p99_us: float = 1) -> Sample:
    return Sample(cpu_us, cpu_us, 0.5, 1, 1.0, p99_us, 0.0)


def test_every_bar_that_there_is_has_a_figure_in_the_table() -> None:
    for comparison in COMPARISONS.values():
        shown = {figure.field for figure in comparison.figures}
        assert {bar.field for bar in comparison.bars} <= shown
        assert {peer for bar in comparison.bars for peer in bar.peers} <= set(comparison.peers)


def test_a_peer_that_is_absent_is_no_bar() -> None:
    samples = {"piagent": [sample(1, 9)], "haproxy": [sample(1, 10)], "nginx": [sample(1, 8)]}
    (found,) = judge(COMPARISONS, {"latency": samples})
    assert (found.peer, found.ratio, found.holds) == ("nginx", pytest.approx(9 / 8), False)


def test_what_the_comparison_needs_is_said_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setattr(bench, "missing", lambda: ["haproxy"])
    assert bench.main(["--quick"]) == 1
    assert "haproxy (apt install nginx haproxy mosquitto gcc)" in capsys.readouterr().out


def test_peers_that_it_can_do_without_are_missed_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("far enough")

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(bench, "missing", list)
    monkeypatch.setattr(bench, "add_scripts_to_path", lambda: None)
    monkeypatch.setattr(bench.runs, "compare", refuse)
    assert bench.main(["--only", "request"]) == 1
    assert "without traefik and caddy: .venv/bin/pip install '.[bench]'" in capsys.readouterr().out


@pytest.mark.skipif(bool(bench.missing()), reason=f"this machine has not: {bench.missing()}")
def test_the_quick_form_runs_every_comparison_and_writes_every_sample(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"])  # main() adds to it
    out = tmp_path / "bench.json"
    assert bench.main(["--quick", "--seconds", "0.05", "--out", str(out)]) == 0, (
        capsys.readouterr().out
    )
    written = json.loads(out.read_text())
    assert list(written["results"]) == list(COMPARISONS)
    for name, comparison in COMPARISONS.items():
        found = written["results"][name]
        assert set(found["samples"]) == set(comparison.peers) - {"traefik", "caddy"}
        for median in found["medians"].values():
            assert median["cpu_us"] >= median["engine_us"] > 0
            assert median["rate"] > 0
            assert median["rss_mib"] > 0
    assert len(written["bars"]) == sum(len(c.bars) for c in COMPARISONS.values())


@contextlib.contextmanager
def relaying(folder: Path, backend_port: int) -> Iterator[Proxy]:
    compiled(folder / "relay", [proxies.HERE / "relay.c"])
    port = free_port()
    argv = (str(folder / "relay"), f"{LOCAL}:{port}", str(backend_port), HOST, LOCAL)
    with subprocess.Popen(argv) as process:
        try:
            wait_for_port(LOCAL, port, process)
            yield Proxy(LOCAL, Ports(http=port), process)
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def both_ends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Load]:
    if (os.cpu_count() or 1) < 2:
        pytest.skip("no CPU for the load alone")
    with load(tmp_path_factory.mktemp("load"), 0.02) as found:
        yield found


@needs_cc
@pytest.mark.parametrize("name", ["browser", "connect", "large"])
def test_a_run_loses_nothing_and_sees_the_relay_work(
    both_ends: Load, tmp_path: Path, name: str
) -> None:
    workload = COMPARISONS[name].workload
    with relaying(tmp_path, both_ends.ports.http) as relay:
        found = both_ends.measure(workload._replace(clients=4), relay, 0.05)
    assert found.lost == 0
    assert found.rate > 0
    assert found.cpu_us >= found.engine_us > 0


@needs_cc
def test_the_relay_passes_requests_to_their_host_only_with_one_field_added(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70000
    with socket.create_server((LOCAL, 0)) as backend:
        backend.settimeout(10)
        with relaying(tmp_path, backend.getsockname()[1]) as relay:
            where = relay.address, relay.ports.http
            head = f"GET /a HTTP/1.1\r\nHost: {HOST}\r\n"
            with socket.create_connection(where, 10) as client:
                client.sendall(head[:20].encode())
                client.sendall(f"{head[20:]}\r\n".encode())
                server, _ = backend.accept()
                for _ in range(2):  # the second one by the same socket
                    asked = b""
                    while not asked.endswith(b"\r\n\r\n"):
                        asked += server.recv(4096)
                    assert asked.decode() == head + f"X-Forwarded-For: {LOCAL}\r\n\r\n"
                    server.sendall(answer)
                    got = b""
                    while len(got) < len(answer):
                        got += client.recv(65536)
                    assert got == answer
                    client.sendall(f"{head}\r\n".encode())
            with socket.create_connection(where, 10) as client:
                client.sendall(b"GET /a HTTP/1.1\r\nHost: www.other\r\n\r\n")
                assert client.recv(100) == b""
            server.close()


@needs_cc
def test_answers_other_than_200_are_no_figures(tmp_path: Path) -> None:
    workload = COMPARISONS["request"].workload
    with socket.create_server((LOCAL, 0)) as proxy, load(tmp_path, 0.02) as other:
        pid = subprocess.Popen(["sleep", "60"])
        try:
            this = Proxy(LOCAL, Ports(http=proxy.getsockname()[1]), pid)  # type: ignore[arg-type]

            def answer() -> None:
                one, _ = proxy.accept()
                one.recv(4096)
                one.sendall(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")

            serving = threading.Thread(target=answer)
            serving.start()
            with pytest.raises(LoadError, match="load generator ended"):
                other.measure(workload._replace(clients=1), this, 0.05)
            serving.join()
        finally:
            pid.kill()
            pid.wait()
