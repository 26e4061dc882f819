"""`piagent route list` and `piagent route explain`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from piagent.cli import main

FILE = """
[mqtt]
brokers = ["mqtt://127.0.0.1"]
[[service]]
name = "api"
ports = [{ port = 80 }]
backends = ["127.0.0.21"]
[[gateway]]
name = "web"
address = "127.0.0.9"
listen = [{ port = 80 }, { port = 8080 }]
[[gateway]]
name = "strict"
address = "127.0.0.11"
listen = [{ port = 81, hosts = ["*.demo"] }]
default_backend = { service = "api" }
merge_slashes = false
encoded_slash = "reject"
[[gateway]]
name = "inside"
address = "127.0.0.10"
listen = [{ port = 80 }]
[[route]]
name = "all"
gateway = "web"
backends = [{ service = "api" }]
[[route]]
name = "api"
gateway = "web"
hosts = ["api.demo"]
path_prefix = "/v1"
backends = [{ service = "api" }]
[[route]]
name = "zombie"
gateway = "web"
hosts = ["api.demo"]
path_prefix = "/v1/"
backends = [{ service = "api" }]
[[route]]
name = "canary"
gateway = "inside"
path_regex = "^/v[0-9]"
methods = ["GET"]
headers = { x-canary = "yes", x-user = { regex = "^t-" } }
query = { v = "2" }
backends = [{ service = "api" }]
[[route]]
name = "inside"
gateway = "inside"
path_exact = "/"
backends = [{ service = "api" }]
"""

Ran = tuple[int, str, str]
Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return what runs `piagent route` on the file: exit code, output, errors without warnings."""
    (tmp_path / "pi.toml").write_text(FILE)

    def route(what: str, *words: str) -> Ran:
        code = main(["route", what, "-c", str(tmp_path / "pi.toml"), *words])
        out, err = capsys.readouterr()
        errors = [line for line in err.splitlines() if not line.startswith("warning: ")]
        return code, out, "\n".join(errors)

    return route


def test_routes_are_listed_in_the_order_they_are_tried(run: Run) -> None:
    code, out, _ = run("list")
    assert code == 0
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        "Gateway web (one-label wildcards) tries in this order",
        "api.demo /v1 -> api api:80",
        "api.demo /v1 -> zombie api:80 never: api comes first",
        "any host / -> all api:80",
        "Gateway strict (one-label wildcards) tries in this order",
        "any host whatever is left -> ~default api:80",
        "Gateway inside (one-label wildcards) tries in this order",
        "any host / exactly -> inside api:80",
        "any host ~ ^/v[0-9] GET x-canary=yes x-user~^t- ?v=2 -> canary api:80",
    ]


def test_one_gateway_can_be_asked_for(run: Run) -> None:
    assert "Gateway web" not in run("list", "--gateway", "inside")[1]
    code, _, err = run("list", "--gateway", "isnide")
    assert code == 2
    assert err == 'there is no gateway "isnide"; there are: web, strict, inside'


def test_the_list_is_there_as_json(run: Run) -> None:
    web, _, inside = json.loads(run("list", "--json")[1])
    assert [route["name"] for route in web["routes"]] == ["api", "zombie", "all"]
    assert web["shadows"] == [{"route": "zombie", "host": "api.demo", "by": "api"}]
    assert inside["shadows"] == []


WEB = ("--gateway", "web")


def test_an_explanation_names_the_winner_and_why_the_others_lost(run: Run) -> None:
    code, out, err = run("explain", *WEB, "GET", "http://API.demo:80/x/../v1//users?x=/..#top")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    spelled = "path /v1/users (sent as /x/../v1//users)"
    assert lines[0] == f"Gateway web: GET for api.demo, {spelled}"
    assert lines[1] == "takes route api (api.demo, /v1) to api:80"
    assert [line.split()[0] for line in lines[3:]] == ["zombie", "all"]
    assert "the names decide" in lines[3]
    assert "an exact host comes before a wildcard" in lines[4]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["GET", "api.demo/v1"], "takes route api (api.demo, /v1) to api:80"),
        (["GET", "http://api.demo"], "takes route all (any host, /) to api:80"),
        (["GET", "http://api.demo?/v1"], "takes route all (any host, /) to api:80"),
        (["GET", "http://127.0.0.9/v1", "-H", "Host: api.demo"], "takes route api (api.demo, /v1)"),
        (["GET", "/v1", "-H", "host:api.demo", "-H", "X-Y: z"], "takes route api (api.demo, /v1)"),
        (["OPTIONS", "*", "-H", "Host: api.demo"], "takes route all (any host, /) to api:80"),
        (["GET", "/v1"], "is answered with 400: malformed host"),
        (["GET", "http://a/%2e%2e/"], "is answered with 400: the path leads above the root"),
        (["TRACE", "http://a/"], "is answered with 405: the method is never forwarded"),
    ],
)
def test_a_request_is_taken_apart_as_a_client_does(run: Run, words: list[str], line: str) -> None:
    code, out, _ = run("explain", *WEB, *words)
    assert code == 0
    assert out.splitlines()[1].startswith(line)


def test_a_request_that_no_route_takes_is_answered_with_404(run: Run) -> None:
    _, out, _ = run("explain", "--gateway", "inside", "GET", "http://a/x")
    assert [" ".join(line.split()) for line in out.splitlines()[1:]] == [
        "is answered with 404: no route matches",
        "The other routes",
        "inside any host / exactly its path does not match",
        "canary any host ~ ^/v[0-9] GET x-canary=yes x-user~^t- ?v=2 its path does not match",
    ]


def test_who_is_asked_first_is_in_the_list_and_the_explanation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asks = (
        'filters = [{ forward_auth = { service = "api", path = "/auth" } },'
        ' { mirror = { service = "api", percent = 5 } }]\n'
    )
    (tmp_path / "pi.toml").write_text(FILE + asks)
    file = ("-c", str(tmp_path / "pi.toml"), "--gateway", "inside")
    assert main(["route", "list", *file]) == 0
    assert "-> inside api:80 if api:80 says so; 5 % copied to api:80" in " ".join(
        capsys.readouterr().out.split()
    )
    assert main(["route", "explain", *file, "GET", "http://a/"]) == 0
    assert "to api:80 if api:80 says so; 5 % copied to api:80\n" in capsys.readouterr().out


def test_headers_and_the_query_count_in_an_explanation(run: Run) -> None:
    asked = ("explain", "--gateway", "inside", "GET", "http://a/v1?v=2", "-H", "X-Canary: yes")
    assert "canary" in run(*asked, "-H", "x-user: t-1")[1].splitlines()[1]
    out = run(*asked, "-H", "x-user: z")[1]
    assert "404" in out.splitlines()[1]
    assert "its headers do not match" in out


def test_the_explanation_is_there_as_json(run: Run) -> None:
    told = json.loads(run("explain", *WEB, "GET", "http://api.demo/v1", "--json")[1])
    assert told["winner"]["name"] == "api"
    assert told["status"] == 0
    assert told["losers"][0]["criterion"] == "all else is equal, so the names decide"


def test_the_gateway_is_found_by_the_port_or_asked_for(run: Run) -> None:
    assert "Gateway web" in run("explain", "GET", "http://x:8080/")[1]
    code, _, err = run("explain", "GET", "http://x/")
    assert (code, err) == (2, "which gateway? Say --gateway with one of: web, strict, inside")


@pytest.mark.parametrize("url", ["https://x/", "ftp://x", "HTTPS://x"])
def test_other_schemes_are_wrong_usage(run: Run, url: str) -> None:
    code, _, err = run("explain", *WEB, "GET", url)
    assert (code, err) == (2, f'"{url}" is not an http:// URL')


def test_two_hosts_are_wrong_usage(run: Run) -> None:
    code, _, err = run("explain", *WEB, "GET", "/", "-H", "Host: a", "-H", "Host: b")
    assert code == 2
    assert "more than one Host" in err


@pytest.mark.parametrize(
    "words", [["route"], ["route", "lst"], ["route", "explain", "GET"],
              ["route", "explain", "GET", "/", "-H", "nonsense"]]
)  # fmt: skip
def test_wrong_usage_exits_with_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


def test_a_bad_file_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.toml").write_text("[mqtt")
    assert main(["route", "list", "-c", str(tmp_path / "bad.toml")]) == 2
    assert "not TOML" in capsys.readouterr().err


def test_a_file_without_a_gateway_has_nothing_to_explain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.toml").write_text('[mqtt]\nbrokers = ["mqtt://127.0.0.1"]')
    assert main(["route", "explain", "-c", str(tmp_path / "a.toml"), "GET", "/"]) == 2
    assert "the file has no gateway" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("http://a.demo:81//x/", "takes route ~default (any host, whatever is left) to api:80"),
        ("http://a.demo:81/a%2fb", "is answered with 400: an encoded slash or backslash"),
        ("http://demo:81/", "is answered with 404: the listener on this port does not serve"),
    ],
)
def test_the_rules_of_the_gateway_count(run: Run, url: str, line: str) -> None:
    out = run("explain", "GET", url)[1]
    assert out.splitlines()[1].startswith(line)
