"""`piagent service` against a real admin server in another thread (conftest.py)."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from pathlib import Path

import pytest
import tomli
from msgspec.structs import replace

from piagent.admin import client
from piagent.agent import orders
from piagent.cli import main
from piagent.config.applied import load_applied
from piagent.core.applying import MAX_CHANGES, Change, Order, Outcome, Result, Verdict
from piagent.core.records import Kind
from tests.admin.known import WEB, ScriptedServices, created

WEB_TOML = """\
[[service]]
name = "web"
version = 2
type = "cluster"
ports = [{ port = 80 }]
backends = ["10.0.0.21"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "web.toml"
    made.write_text(WEB_TOML)
    return made


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


# ---- list ------------------------------------------------------------------------------------


def test_everything_is_listed_with_its_source_addresses_ports_and_backends(
    agent_socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["service", "list", "--socket", agent_socket]) == 0
    assert lines(capsys.readouterr().out) == [
        "service/api load-balancer, dsr by ipip file 10.0.0.9 80 0/1 up",
        "service/web node-port applied, version 2 10.96.0.1 53:30000/udp 0/0 up",
        "gateway/front file 10.0.0.9 80,443",
        "gateway/new applied, version 1 no address 8080",
        "route/api applied, version 1",
        "",
        "not as wished",
        "gateway/new exhausted vip: lan has none left",
    ]


def test_the_list_as_json_is_what_the_agent_says(
    agent_socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["service", "list", "--json", "--socket", agent_socket]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in said["services"]] == ["api", "web"]
    assert [one["name"] for one in said["gateways"]] == ["front", "new"]
    assert [one["version"] for one in said["applied"]] == [2, 1]
    assert said["notes"][0]["reason"] == "exhausted"


def test_what_is_applied_and_not_served_here_is_listed(
    agent_socket: str,
    services: ScriptedServices,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(services, "applied", lambda: (replace(WEB, name="away"),))
    assert main(["service", "list", "--socket", agent_socket]) == 0
    assert "service/away applied, version 2 not served here" in lines(capsys.readouterr().out)


# ---- get -------------------------------------------------------------------------------------


def test_what_is_got_can_be_applied_again(
    agent_socket: str,
    services: ScriptedServices,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["service", "get", "web", "--socket", agent_socket]) == 0
    text = capsys.readouterr().out
    assert text.startswith('[[service]]\nname = "web"\nversion = 2\n')
    file = tmp_path / "again.toml"
    file.write_text(text)
    assert load_applied(file) == (
        Change(kind=Kind.SERVICE, name="web", table=WEB.table, version=2),
    )
    assert main(["service", "apply", str(file), "--socket", agent_socket]) == 0
    assert services.orders[0].changes[0].table == WEB.table


def test_got_as_json_it_has_its_addresses(
    agent_socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["service", "get", "web", "--json", "--socket", agent_socket]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["version"], said["vips"]) == (2, ["10.0.0.9"])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["api"], "service/api is not applied; that is: service/web, route/api"),
        (["web", "--kind", "gateway"], "gateway/web is not applied"),
        (["api", "--kind", "route"], "route/api has version 1, which this node has not heard yet"),
    ],
)
def test_what_cannot_be_got_is_one_clear_line(
    words: list[str], why: str, agent_socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["service", "get", *words, "--socket", agent_socket]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert why in captured.err


# ---- apply -----------------------------------------------------------------------------------


def test_a_file_is_applied_with_a_line_for_each_change(
    agent_socket: str,
    services: ScriptedServices,
    file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    services.verdict = Verdict(
        done=True,
        outcomes=(
            created("web", "192.168.1.240"),
            Outcome(kind=Kind.ROUTE, name="r", result=Result.CHANGED, version=4, diff=("+a",)),
            Outcome(kind=Kind.GATEWAY, name="g", result=Result.UNCHANGED, version=7),
        ),
    )
    assert main(["service", "apply", str(file), "--socket", agent_socket]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "service/web created, version 1: 192.168.1.240, node port http 30000",
        "route/r changed, version 4",
        "gateway/g unchanged, version 7",
    ]
    assert services.orders == [Order(changes=load_applied(file))]


def test_a_dry_run_says_what_would_be_and_how_it_differs(
    agent_socket: str,
    services: ScriptedServices,
    file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    diff = ("-weight = 1", "+weight = 2")
    changed = Outcome(
        kind=Kind.SERVICE, name="web", result=Result.CHANGED, version=3, diff=diff,
        vips=("10.0.0.9",),
    )  # fmt: skip
    services.verdict = Verdict(done=False, outcomes=(changed, created("db")))
    words = ["service", "apply", str(file), "--dry-run", "--socket", agent_socket]
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines() == [
        "service/web would be changed, version 3: 10.0.0.9",
        "    -weight = 1",
        "    +weight = 2",
        "service/db would be created, version 1: node port http 30000",
    ]
    assert services.orders[0].dry_run


def test_stdin_is_a_file_too(
    agent_socket: str,
    services: ScriptedServices,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = io.TextIOWrapper(io.BytesIO(WEB_TOML.encode()))
    monkeypatch.setattr(sys, "stdin", given)
    assert main(["service", "apply", "-", "--socket", agent_socket]) == 0
    assert capsys.readouterr().out == "service/web changed, version 3\n"
    assert services.orders[0].changes[0].version == 2


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_conflict_is_told_with_the_diff_and_everything_else_that_was_not_done(
    dry_run: bool,
    agent_socket: str,
    services: ScriptedServices,
    file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    conflict = Outcome(
        kind=Kind.SERVICE,
        name="web",
        result=Result.CONFLICT,
        version=3,
        detail="it has version 3, not 2",
        diff=('-type = "node-port"', '+type = "cluster"'),
    )
    refused = Outcome(
        kind=Kind.SERVICE, name="db", result=Result.REFUSED, detail="vip: exhausted: \x1b[2J"
    )
    services.verdict = Verdict(done=False, outcomes=(conflict, refused, created("new")))
    words = ["service", "apply", str(file), "--socket", agent_socket]
    assert main([*words, "--dry-run"] if dry_run else words) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "service/web conflict: it has version 3, not 2",
        '    -type = "node-port"',
        '    +type = "cluster"',
        r"service/db refused: vip: exhausted: \x1b[2J",
        "service/new would be created, version 1: node port http 30000",
        "nothing was applied or deleted",
    ]


def test_a_refusal_as_json_is_the_verdict(
    agent_socket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "web.toml"
    file.write_text(WEB_TOML.replace("version = 2", "version = 1"))
    assert main(["service", "apply", str(file), "--json", "--socket", agent_socket]) == 1
    said = json.loads(capsys.readouterr().out)
    assert said["outcomes"][0]["result"] == "conflict"
    assert not said["done"]


def test_a_verdict_too_long_to_be_carried_is_no_success(
    agent_socket: str,
    services: ScriptedServices,
    file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["service", "apply", str(file), "--socket", agent_socket]
    services.verdict = Verdict(done=False)
    assert main(words) == 1
    assert main([*words, "--dry-run"]) == 1
    services.verdict = Verdict(done=True)
    assert main(words) == 0
    captured = capsys.readouterr()
    assert captured.out == "done\n"
    assert "refused, for more reasons" in captured.err


def test_no_leader_is_one_clear_line(
    agent_socket: str,
    services: ScriptedServices,
    file: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    services.verdict = Verdict(done=False, error="no node leads the cluster now; try again")
    assert main(["service", "apply", str(file), "--socket", agent_socket]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("not done: no node leads the cluster now; try again")


def test_an_order_has_the_time_that_a_change_of_leaders_takes(
    agent_socket: str,
    services: ScriptedServices,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    apply = services.apply

    async def slowly(order: Order) -> Verdict:
        await asyncio.sleep(0.5)
        return await apply(order)

    monkeypatch.setattr(services, "apply", slowly)
    monkeypatch.setattr(client, "ACTION_TIMEOUT_S", 0.1)
    assert main(["service", "apply", str(file), "--socket", agent_socket]) == 0
    assert client.APPLY_TIMEOUT_S > orders.TRY_S + orders.ANSWER_S


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ('[[service]]\nname = "web"\nprots = []\n', ":3: ", 'did you mean "ports"?'),
        ("[[service]\n", ":1:", "not TOML"),
        ('[node]\nname = "n"\n', ":1: ", "is a node's own and cannot be applied"),
        ("", ": ", "there is nothing in it to apply"),
        (WEB_TOML.replace("version = 2", 'version = "2"'), ":3: ", "the version that it has now"),
    ],
)
def test_a_wrong_file_is_told_with_its_line_and_reaches_no_agent(
    text: str,
    place: str,
    what: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    words = ["service", "apply", str(file), "--socket", str(tmp_path / "none.sock")]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{file}{place}" in captured.err
    assert what in captured.err
    assert captured.err.endswith("nothing was applied\n")
    assert main([*words, "--json"]) == 2
    said = json.loads(capsys.readouterr().out)
    assert not said["done"]
    assert said["errors"][0]["file"] == str(file)


def test_a_file_that_is_not_there_is_wrong_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["service", "apply", str(tmp_path / "none.toml")]) == 2
    assert "cannot read it" in capsys.readouterr().err


def test_more_than_fits_into_an_order_is_wrong_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "many.toml"
    names = (f"web-{number}" for number in range(MAX_CHANGES + 1))
    table = WEB_TOML.replace("version = 2\n", "")
    file.write_text("".join(table.replace('"web"', f'"{name}"') for name in names))
    assert main(["service", "apply", str(file), "--socket", str(tmp_path / "none.sock")]) == 2
    assert "use several files" in capsys.readouterr().err


# ---- delete ----------------------------------------------------------------------------------


def test_delete_orders_it_of_that_kind_and_version(
    agent_socket: str, services: ScriptedServices, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["service", "delete", "web", "--if-version", "2", "--socket", agent_socket]
    assert main(words) == 0
    services.verdict = Verdict(done=True, outcomes=(created("r"),))
    assert main(["service", "delete", "r", "--kind", "route", "--socket", agent_socket]) == 0
    assert [order.changes for order in services.orders] == [
        (Change(kind=Kind.SERVICE, name="web", version=2),),
        (Change(kind=Kind.ROUTE, name="r"),),
    ]
    assert capsys.readouterr().out.startswith("service/web deleted\n")


def test_delete_of_another_version_is_refused(
    agent_socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["service", "delete", "web", "--if-version", "1", "--socket", agent_socket]
    assert main(words) == 1
    assert capsys.readouterr().err.splitlines()[0] == (
        "service/web conflict: it has version 2, not 1"
    )


def test_a_name_that_is_none_is_refused(
    agent_socket: str, services: ScriptedServices, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["service", "delete", "a/b", "--socket", agent_socket]) == 1
    assert "name" in capsys.readouterr().err
    assert services.orders == []


@pytest.mark.parametrize(
    "words",
    [[], ["apply"], ["delete", "web", "--kind", "pool"], ["delete", "web", "--if-version", "x"]],
)
def test_wrong_usage_is_exit_code_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["service", *words])
    assert ended.value.code == 2


def test_the_written_text_is_toml(agent_socket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["service", "get", "web", "--socket", agent_socket]) == 0
    (table,) = tomli.loads(capsys.readouterr().out)["service"]
    assert table == WEB.table | {"version": 2}
