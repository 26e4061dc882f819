"""`piagent port-forward` as a process, through the real API and the real engine."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec.structs import replace

pytest.importorskip("piagent.dataplane", reason="the engine is not built")

from piagent.admin.client import AskError, Remote, ask
from piagent.admin.status import Status
from piagent.cli import main
from piagent.cli.output import Failure
from piagent.cli.port_forward import mappings
from tests import mosquitto
from tests.cli.forwarded import (
    ADDRESSES,
    TOKEN,
    Backend,
    Forward,
    House,
    digest,
    download,
    read_all,
    upload,
)
from tests.cli.test_run import Setting
from tests.net import free_port
from tests.waiting import wait_until

MIB = 1 << 20
LONG = os.environ.get("PIAGENT_LONG") == "1"
SIZE = 1024 * MIB if LONG else 64 * MIB


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.end()


@pytest.fixture(params=["socket", "node"])
def place(request: pytest.FixtureRequest, house: House) -> list[str]:
    """The arguments that lead to the house's agent: this host's socket, or TCP with the token."""
    return ["--socket", house.socket] if request.param == "socket" else by_tcp(house)


def by_tcp(house: House) -> list[str]:
    return ["--node", f"127.0.0.1:{house.port}"]


@pytest.mark.skipif(mosquitto.WHY_NOT is not None, reason=str(mosquitto.WHY_NOT))
def test_a_whole_agent_carries_the_bytes_unchanged_both_ways(tmp_path: Path) -> None:
    backend, port = Backend("127.0.0.1", 0), free_port()
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    with mosquitto.Mosquitto() as broker:
        service = free_port()
        node = Setting(tmp_path, broker, backend.port).node("n1", port=str(service))
        admin = f'[admin]\nlisten = "127.0.0.1:{port}"\ntoken_file = "{token}"\n'
        node.file.write_text(node.file.read_text().replace("[admin]\n", admin))
        try:
            node.start()
            wait_until(lambda: node.status() is not None, node.output)
            for where in (["--node", f"127.0.0.1:{port}"], ["--socket", node.socket]):
                with Forward([*where, "echo", f":{service}"]) as forward:
                    for work in (upload, download):
                        carry(work, forward, node.agent)
            token.write_text("another-token-of-20\n")
            node.send(signal.SIGHUP)
            node.await_output("reload: done")
            where = Remote(host="127.0.0.1", port=port, token="another-token-of-20")
            assert ask(where, "/api/v1/status", Status).node == "n1"
            with pytest.raises(AskError, match="not the token"):
                ask(replace(where, token=TOKEN), "/api/v1/status", Status)
            node.send(signal.SIGTERM)
            assert node.wait() == 0
        finally:
            node.end()
            backend.kill()


def carry(work: Callable[[socket.socket, int], object], forward: Forward, agent: int) -> None:
    """Carry SIZE bytes, see that they are right, and say what it took."""
    before = [cpu_s(forward.pid), cpu_s(agent)]
    began = time.monotonic()
    with forward.connect() as client:
        said = work(client, SIZE)
    wall_s = time.monotonic() - began
    client_s, agent_s = cpu_s(forward.pid) - before[0], cpu_s(agent) - before[1]
    print(
        f"{work.__name__} {SIZE // MIB} MiB: {wall_s:.2f} s; CPU client {client_s:.2f} s,"
        f" agent {agent_s:.2f} s"
    )
    assert said in (digest(SIZE), (SIZE, digest(SIZE)))


@pytest.mark.parametrize(
    ("service", "words", "wanted"),
    [
        ("web", [], [(None, "")]),
        ("web:80", [], [(None, "80")]),
        ("web:http", ["8080"], [(8080, "http")]),
        ("web", ["8080"], [(8080, "")]),
        ("web", ["8080:80", "8443:https"], [(8080, "80"), (8443, "https")]),
        ("web:80", [":81", "0:80", "9000"], [(0, "81"), (0, "80"), (9000, "80")]),
    ],
)
def test_words_become_mappings(
    service: str, words: list[str], wanted: list[tuple[int | None, str]]
) -> None:
    assert mappings(service, words) == wanted


@pytest.mark.parametrize(
    ("service", "words"),
    [
        ("", []), (":80", []), ("web:", []), ("web:80:81", []), ("web", ["x"]), ("web", ["80:"]),
        ("web", ["a:80"]), ("web", ["70000"]), ("web", ["1:2:3"]), ("web", ["127.0.0.1:80:80"]),
        ("web", ["-1"]), ("web", [""]),
    ],
)  # fmt: skip
def test_words_that_are_none_are_refused(service: str, words: list[str]) -> None:
    with pytest.raises(Failure) as caught:
        mappings(service, words)
    assert caught.value.code == 2


def test_it_says_where_it_listens_and_where_each_connection_goes(
    house: House, place: list[str]
) -> None:
    with Forward([*place, "web:http", ":80"]) as forward:
        (here,) = forward.ports
        assert forward.said == [f"Forwarding from 127.0.0.1:{here} -> web:80"]
        with forward.connect() as client:
            origin = "{}:{}".format(*client.getsockname())
            client.sendall(b"who\n")
            backend = read_all(client).decode()
        assert backend in ADDRESSES
        wait_until(lambda: len(forward.said) == 2)
        to = f"{backend}:{house.backends[0].port}"
        assert forward.said[1] == f"{here}: connection from {origin} -> {to}"
        assert forward.stop() == 0
        assert forward.warned == []


def test_quiet_says_nothing_of_connections_and_ctrl_c_ends_it_well(house: House) -> None:
    with Forward([*by_tcp(house), "-q", "web", ":80"]) as forward:
        assert forward.who() in ADDRESSES
        assert forward.stop(signal.SIGINT) == 0
        assert len(forward.said) == 1


def test_several_mappings_and_addresses_are_served_at_once(house: House) -> None:
    local = free_port()
    words = ["web:80", f"{local}", ":other", "--address", "127.0.0.1", "--address", ADDRESSES[0]]
    with Forward([*by_tcp(house), *words], lines=4) as forward:
        ends = [line.partition(" from ")[2] for line in forward.said]
        assert ends[0] == f"127.0.0.1:{local} -> web:80"
        assert ends[1] == f"{ADDRESSES[0]}:{local} -> web:80"
        assert ends[2].startswith("127.0.0.1:")
        assert ends[2].endswith("-> web:81")
        assert all(forward.who(number) in ADDRESSES for number in (0, 2))


@pytest.mark.parametrize("service", ["web", "dns"])
def test_the_local_port_is_the_services_own_when_none_is_named(house: House, service: str) -> None:
    words = [*by_tcp(house), service, "--address", ADDRESSES[1]]
    port = {"web": 80, "dns": 53}[service]
    if not may_bind(port):
        pytest.skip(f"nobody here may listen on port {port}")
    with Forward(words) as forward:
        assert forward.said == [f"Forwarding from {ADDRESSES[1]}:{port} -> {service}:{port}"]


def may_bind(port: int) -> bool:
    try:
        socket.create_server((ADDRESSES[1], port)).close()
    except OSError:
        return False
    return True


def test_bytes_arrive_unchanged_both_ways(house: House, place: list[str]) -> None:
    size = 8 * MIB
    with Forward([*place, "web:80", ":80"]) as forward:
        with forward.connect() as client:
            assert upload(client, size) == digest(size)
        with forward.connect() as client:
            assert download(client, size) == (size, digest(size))
    wait_until(lambda: house.source.tunnels() == 0)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def test_a_hundred_connections_at_once_get_through(house: House, place: list[str]) -> None:
    size = MIB // 4

    def work(number: int) -> bool:
        with forward.connect() as client:
            if number % 2:
                return upload(client, size) == digest(size)
            return download(client, size) == (size, digest(size))

    with Forward([*place, "web:80", ":80"]) as forward, ThreadPoolExecutor(100) as pool:
        assert all(pool.map(work, range(100)))
        assert forward.warned == []
        wait_until(lambda: house.source.tunnels() == 0)


def test_a_hundred_tunnels_are_open_at_the_same_time(house: House) -> None:
    with Forward([*by_tcp(house), "web:80", ":80"]) as forward:
        clients = [forward.connect() for _ in range(100)]
        for number, client in enumerate(clients):
            client.sendall(b"echo\n%d" % number)
        wait_until(lambda: house.source.tunnels() == 100)
        for number, client in enumerate(clients):
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"%d" % number
            client.close()
        assert forward.warned == []


def test_an_end_is_passed_on_and_the_answer_still_comes(house: House, place: list[str]) -> None:
    with Forward([*place, "web:80", ":80"]) as forward, forward.connect() as client:
        assert upload(client, 5) == hashlib.sha256(bytes(range(5))).hexdigest()


def test_who_reads_nothing_stops_the_backend(house: House, place: list[str]) -> None:
    with Forward([*place, "web:80", ":80"]) as forward, forward.connect() as client:
        client.sendall(b"source %d\n" % (1 << 40))
        assert client.recv(1) == b"\0"
        before = -1

        def stopped() -> bool:
            nonlocal before
            before, now = now_sent(), before
            return before == now

        def now_sent() -> int:
            return sum(each.sent for each in house.backends)

        wait_until(stopped, "the backend sends no more", every_s=0.5)
        assert 0 < before < 64 * MIB  # what the buffers of five sockets hold
        assert rss_kib(forward.pid) < 60 * 1024


def rss_kib(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


def test_a_dead_backend_ends_its_connections_and_new_ones_go_to_the_other(house: House) -> None:
    with Forward([*by_tcp(house), "web:80", ":80"]) as forward:
        client = forward.connect()
        client.sendall(b"echo\nx")
        assert client.recv(1) == b"x"
        wait_until(lambda: len(forward.said) == 2)
        (index,) = [i for i in (0, 1) if f"-> {ADDRESSES[i]}:" in forward.said[1]]
        house.backends[index].kill()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert {forward.who() for _ in range(8)} == {ADDRESSES[1 - index]}
        house.backends[1 - index].kill()
        assert forward.who() == ""
        wait_until(lambda: len(forward.warned) == 1)
        assert "no backend accepts" in forward.warned[0]
        assert ADDRESSES[0] in forward.warned[0]
        again = Backend(ADDRESSES[index], house.backends[0].port)
        assert forward.who() == ADDRESSES[index]
        again.kill()
        assert forward.stop() == 0


def test_an_unhealthy_backend_is_left_out_unless_it_is_asked_for(house: House) -> None:
    house.source.down = frozenset({("web", ADDRESSES[0])})
    with Forward([*by_tcp(house), "web:80", ":80"]) as forward:
        assert {forward.who() for _ in range(8)} == {ADDRESSES[1]}
    with Forward([*by_tcp(house), "web:80", ":80", "--backend", ADDRESSES[0]]) as forward:
        assert {forward.who() for _ in range(4)} == {ADDRESSES[0]}
    house.source.down = frozenset(("web", each) for each in ADDRESSES)
    with Forward([*by_tcp(house), "web:80", ":80"]) as forward:
        wait_until(lambda: len(forward.warned) == 1)
        assert forward.who() == ""
        house.source.down = frozenset()
        assert forward.who() in ADDRESSES


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["port-forward", *words])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["nothing"], 1, "there is no service 'nothing'; known: web, dns, ntp"),
        (["web:99"], 1, "service web has no port '99'; its ports: 80, 81"),
        (["ntp"], 1, "port 53 of service ntp is UDP"),
        (["web", "--backend", "10.9.9.9"], 1, "'10.9.9.9' is no backend of service web"),
        (["web", "x"], 2, '"x" is not LOCAL:PORT'),
        (["web", "--address", "eth0"], 2, '"eth0" is not an IP address'),
        (["web", "--address", "192.0.2.77"], 1, "this host does not have the address"),
    ],
)
def test_what_cannot_be_is_said_at_once(
    house: House, capsys: pytest.CaptureFixture[str], words: list[str], code: int, what: str
) -> None:
    got, said = run(capsys, *words, "--socket", house.socket)
    assert (got, what in said) == (code, True), said


def test_a_wrong_token_is_said_at_once(
    house: House,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "token"
    file.write_text("fedcba9876543210\n")
    words = ["web", ":80", *by_tcp(house)]
    code, said = run(capsys, *words, "--token-file", str(file))
    assert (code, "not the token of this agent" in said) == (1, True), said
    code, said = run(capsys, *words)
    assert (code, "send `Authorization: Bearer" in said) == (1, True), said
    code, said = run(capsys, *words, "--token-file", str(tmp_path / "none"))
    assert (code, "No such file" in said) == (2, True), said
    file.write_text("two\nlines")
    code, said = run(capsys, *words, "--token-file", str(file))
    assert (code, "is not one line" in said) == (2, True), said
    monkeypatch.setenv("PIAGENT_TOKEN", TOKEN)
    assert main(["status", *by_tcp(house)]) == 0


def test_no_agent_and_no_place_are_said_at_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, said = run(capsys, "web", "--node", f"127.0.0.1:{free_port()}")
    assert (code, "[admin] listen" in said) == (1, True), said
    code, said = run(capsys, "web", "--socket", str(tmp_path / "none"))
    assert (code, "not running here" in said) == (1, True), said
    for node in ("https://pi-1", "pi-1/x", "pi-1:x", "user@pi-1", "", "pi-1:65536", "pi-1:0"):
        code, said = run(capsys, "web", "--node", node)
        assert (code, "is not HOST" in said) == (2, True), said


def test_a_local_port_that_is_taken_is_said_with_the_cure(
    house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = run(capsys, "web", f"{port}:80", "--socket", house.socket)
    assert code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in said
    assert "name another port, or :PORT" in said
