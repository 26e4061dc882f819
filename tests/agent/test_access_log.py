"""Connections that are over -> lines, in the files that their services name."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from piagent.adapters.line_file import LineFile
from piagent.agent.access_log import PAUSE_S, AccessLog
from piagent.agent.log_lines import connection_line
from piagent.core.entry import Entry, LogFormat
from piagent.core.model import Wildcard
from piagent.core.plan import Plan, PlannedBackend, PlannedListener, PlannedService
from piagent.core.proxying import Proxying
from piagent.core.routing import PlannedGateway
from piagent.ports import ConnectionEnd, RequestEnd
from tests.agent.nodes import VIP, Bench, config, service
from tests.fakes import FakeBroker, FakeDataPlane, FakeLines
from tests.net import free_port
from tests.waiting import until

END = ConnectionEnd(
    service="web:80", backend="10.0.0.1:8080", client="2001:db8::9", client_port=51234,
    address="10.0.0.9", port=80, started=1_767_225_600.0426, connect_s=0.000_412_3,
    duration_s=1.5, bytes_in=120, bytes_out=4096, end="client",
)  # fmt: skip


def a_plan(**logs: str | None) -> Plan:
    services = (
        PlannedService(f"{name}:80", (), Proxying(access_log=log)) for name, log in logs.items()
    )
    return Plan((), tuple(services), ())


class Logging:
    """An access log with everything around it in memory."""

    def __init__(self, **logs: str | None) -> None:
        self.plan = a_plan(**logs)
        self.plane = FakeDataPlane()
        self.files: dict[str, FakeLines] = {}
        self.log = AccessLog(self.plane, lambda: self.plan, self._make)
        self.log.start()

    def _make(self, path: str) -> FakeLines:
        self.files[path] = FakeLines(path)
        return self.files[path]

    def written(self, path: str) -> list[bytes]:
        return self.files[path].lines if path in self.files else []

    async def stop(self) -> None:
        self.plane.stop()
        await self.log.stop()


def test_a_line_says_who_where_when_how_long_how_much_and_how_it_ended() -> None:
    assert connection_line(END) == (
        b'{"time":"2026-01-01T00:00:00.042Z","service":"web:80","client":"[2001:db8::9]:51234",'
        b'"address":"10.0.0.9:80","backend":"10.0.0.1:8080","connect_ms":0.412,'
        b'"duration_ms":1500.0,"bytes_in":120,"bytes_out":4096,"end":"client"}\n'
    )


def test_a_line_of_who_was_turned_away_has_no_backend() -> None:
    said = json.loads(
        connection_line(END._replace(backend=None, connect_s=None, end="client_limit"))
    )
    assert (said["backend"], said["connect_ms"], said["end"]) == (None, None, "client_limit")


def test_what_a_name_brings_stays_in_its_line() -> None:
    assert connection_line(END._replace(service='a"\n\\b')).count(b"\n") == 1


async def test_each_line_goes_where_its_service_says() -> None:
    node = Logging(web="web.log", mail="-", quiet=None)
    ends = [END._replace(service=f"{name}:80") for name in ("web", "mail", "web", "quiet", "gone")]
    node.plane.wake(*ends)
    await until(lambda: len(node.written("web.log")) == 2, "they are written")
    assert node.written("-") == [connection_line(ends[1])]
    assert node.files.keys() == {"web.log", "-"}
    await node.stop()


async def test_it_goes_on_after_each_look() -> None:
    node = Logging(web="web.log")
    for n in range(3):
        node.plane.wake(END)
        await until(lambda n=n: len(node.written("web.log")) == n + 1, "one more")
    await node.stop()


async def test_many_connections_are_few_looks() -> None:
    node = Logging(web="web.log")
    looks = 0
    read = node.plane.read_log

    def counting() -> list[ConnectionEnd | RequestEnd]:
        nonlocal looks
        looks += 1
        return read()

    node.plane.read_log = counting  # type: ignore[method-assign]
    begin = time.monotonic()
    for _ in range(100):
        node.plane.wake(END)
        await asyncio.sleep(0.002)
    await until(lambda: len(node.written("web.log")) == 100, "all are written")
    assert looks <= (time.monotonic() - begin) / PAUSE_S + 2
    await node.stop()


async def test_what_comes_late_of_a_service_that_is_gone_is_written_and_its_file_closed() -> None:
    node = Logging(web="web.log")
    node.plane.wake(END)
    await until(lambda: node.written("web.log"), "it is written")
    first = node.files["web.log"]
    node.plan = a_plan()
    node.log.follow()
    await until(lambda: first.closed, "nobody names it any more")
    node.plane.wake(END)
    await until(lambda: node.files["web.log"] is not first, "it came late")
    assert node.written("web.log") == [connection_line(END)]
    await node.stop()
    assert node.files["web.log"].closed


async def test_a_service_that_logs_no_more_has_no_lines() -> None:
    node = Logging(web="web.log")
    node.log.follow()
    node.plan = a_plan(web=None)
    node.plane.wake(END)
    await asyncio.sleep(0.2)
    assert node.files == {}
    await node.stop()


async def test_what_ended_with_the_engine_is_written_before_the_files_are_closed() -> None:
    node = Logging(web="web.log")
    node.plane.ends = [END._replace(end="stopped")]
    await node.stop()
    file = node.files["web.log"]
    assert (len(file.lines), file.closed) == (1, True)


async def test_dropped_lines_are_counted_for_closed_files_too_and_trouble_is_told() -> None:
    node = Logging(web="web.log", mail="mail.log")
    node.plane.wake(END, END._replace(service="mail:80"))
    await until(lambda: len(node.files) == 2, "both are open")
    node.files["web.log"].dropped, node.files["mail.log"].dropped = 3, 4
    node.files["mail.log"].trouble = "No space left on device"
    assert node.log.dropped == 7
    assert node.log.troubles() == {"mail.log": "No space left on device"}
    node.plan = a_plan(web="web.log")
    node.log.follow()
    await until(lambda: node.files["mail.log"].closed, "closed")
    assert node.log.dropped == 7
    await node.stop()


async def test_an_agent_logs_reopens_at_a_reload_and_tells_of_trouble(tmp_path: Path) -> None:
    web = replace(
        service("web", VIP, "10.0.0.1", check=False), proxying=Proxying(access_log="web.log")
    )
    one = Bench(config(tmp_path, services=(web,)), FakeBroker()).start()
    await until(one.owns, "it runs")
    one.plane.wake(END)
    await until(lambda: "web.log" in one.logs, "it is written")
    file = one.logs["web.log"]
    assert file.lines == [connection_line(END)]
    assert not one.agent.reload(lambda: None), "a bad file"
    assert file.opened == 2
    file.trouble = "No space left on device"
    (note,) = one.agent.view.status().notes
    assert (note.about, note.reason) == ("access log web.log", "log-unwritable")
    assert note.detail == "No space left on device"
    file.dropped = 2
    dropped = next(
        family
        for family in one.agent.view.metrics()
        if family.name == "piagent_access_log_dropped_total"
    )
    assert [(each.labels["reason"], each.value) for each in dropped.samples] == [
        ("late", 0), ("unwritten", 2),
    ]  # fmt: skip
    await one.stop()
    assert file.closed


async def test_requests_come_to_files_in_their_gateways_formats_and_files_may_be_moved(
    tmp_path: Path,
) -> None:
    plane = pytest.importorskip("piagent.dataplane").EngineDataPlane(1, b"secret")
    paths = {form: tmp_path / f"{form}.log" for form in LogFormat}
    ports = {form: free_port() for form in LogFormat}
    plan = Plan(
        tuple(PlannedListener("127.0.0.1", ports[form], form, http=True) for form in LogFormat),
        (),
        tuple(
            PlannedGateway(
                form, Wildcard.ONE_LABEL, (),
                entry=Entry(access_log=str(paths[form]), log_format=form),
            )
            for form in LogFormat
        ),
    )  # fmt: skip
    log = AccessLog(plane, lambda: plan, LineFile)
    log.start()

    async def ask(path: str) -> None:
        for port in ports.values():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            request = f"GET /{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            writer.write(request.encode())
            await reader.read()
            writer.close()

    try:
        plane.apply(plan)
        await ask("first")
        await until(lambda: all(path.exists() for path in paths.values()), "there are lines")
        for path in paths.values():
            path.rename(path.with_suffix(".old"))
        log.reopen()
        await ask("second")
        await until(lambda: all(path.exists() for path in paths.values()), "there are new files")
    finally:
        plane.stop()
        await log.stop()
    for suffix, asked in ((".old", "/first"), (".log", "/second")):
        said = json.loads(paths[LogFormat.JSON].with_suffix(suffix).read_text())
        assert (said["gateway"], said["path"], said["end"]) == ("json", asked, "no-route")
        line = paths[LogFormat.COMBINED].with_suffix(suffix).read_text()
        assert f'"GET {asked} HTTP/1.1" 404 ' in line
        assert line.count("\n") == 1


async def test_what_the_engine_tells_comes_to_a_file(tmp_path: Path) -> None:
    plane = pytest.importorskip("piagent.dataplane").EngineDataPlane(1, b"secret")
    path, port = tmp_path / "web.log", free_port()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hi")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    to: int = server.sockets[0].getsockname()[1]
    plan = Plan(
        (PlannedListener("127.0.0.1", port, "web:80", http=False),),
        (
            PlannedService(
                "web:80",
                (PlannedBackend("a", "127.0.0.1", to, 1, up=True),),
                Proxying(access_log=str(path)),
            ),
        ),
        (),
    )
    log = AccessLog(plane, lambda: plan, LineFile)
    log.start()
    try:
        plane.apply(plan)
        reader, first = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.readexactly(2) == b"hi"
        client = first.get_extra_info("sockname")
        first.write_eof()
        first.close()
        await until(path.exists, "there is a line")
        reader, second = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.readexactly(2) == b"hi"
        plane.stop()
        second.close()
    finally:
        plane.stop()
        await log.stop()
        server.close()
    ended, stopped = map(json.loads, path.read_text().splitlines())
    assert (ended["service"], ended["backend"]) == ("web:80", "a")
    assert (ended["client"], ended["address"]) == (f"127.0.0.1:{client[1]}", f"127.0.0.1:{port}")
    assert (ended["bytes_in"], ended["bytes_out"]) == (0, 2)
    assert 0 <= ended["connect_ms"] <= ended["duration_ms"]
    assert stopped["end"] == "stopped"
