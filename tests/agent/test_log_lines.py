"""Requests that are over -> lines, in both formats."""

from __future__ import annotations

import json

import pytest

from piagent.agent.log_lines import request_line
from piagent.core.entry import LogFormat
from piagent.ports import RequestEnd

END = RequestEnd(
    gateway="web", route="wiki", service="wiki:80", backend="10.0.0.1:8080", client="2001:db8::9",
    method="GET", host="wiki.lan", path="/start", version="HTTP/1.1", status=200, bytes_in=0,
    bytes_out=5120, started=1_767_225_600.0426, head_s=0.001, queue_s=0.0, connect_s=0.000_412_3,
    response_s=0.25, duration_s=1.5, retries=1, end="done", id=None, referer="http://x.lan/",
    agent="curl/8",
)  # fmt: skip
NOTHING = END._replace(
    route=None, service=None, backend=None, host=None, path=None, status=0, bytes_out=0,
    connect_s=None, response_s=None, referer=None, agent=None, end="client-gone",
)  # fmt: skip
NASTY = 'a\r\nb"c\\d\te\x00f\x7fg\x85h\xe9i'
BOTH = pytest.mark.parametrize("form", LogFormat)


def test_a_line_of_json_says_it_all() -> None:
    assert request_line(END, LogFormat.JSON) == (
        b'{"time":"2026-01-01T00:00:00.042Z","gateway":"web","route":"wiki","service":"wiki:80",'
        b'"backend":"10.0.0.1:8080","client":"2001:db8::9","method":"GET","host":"wiki.lan",'
        b'"path":"/start","version":"HTTP/1.1","status":200,"bytes_in":0,"bytes_out":5120,'
        b'"head_ms":1.0,"queue_ms":0.0,"connect_ms":0.412,"response_ms":250.0,"duration_ms":1500.0,'
        b'"retries":1,"end":"done","request_id":null,"referer":"http://x.lan/",'
        b'"user_agent":"curl/8"}\n'
    )


def test_what_there_is_not_is_null_or_a_dash() -> None:
    said = json.loads(request_line(NOTHING, LogFormat.JSON))
    empty = {key for key, value in said.items() if value is None}
    assert empty == {
        "route", "service", "backend", "host", "path", "status", "connect_ms", "response_ms",
        "request_id", "referer", "user_agent",
    }  # fmt: skip
    assert request_line(NOTHING, LogFormat.COMBINED) == (
        b'2001:db8::9 - - [01/Jan/2026:00:00:00 +0000] "GET - HTTP/1.1" - - "-" "-"\n'
    )


def test_combined_is_apaches_format() -> None:
    assert request_line(END, LogFormat.COMBINED) == (
        b'2001:db8::9 - - [01/Jan/2026:00:00:00 +0000] "GET /start HTTP/1.1" 200 5120'
        b' "http://x.lan/" "curl/8"\n'
    )


@BOTH
def test_nothing_that_a_client_sends_begins_a_line_or_ends_a_text(form: LogFormat) -> None:
    end = END._replace(path=NASTY, host=NASTY, referer=NASTY, agent=NASTY)
    line = request_line(end, form).decode("ascii")
    assert line.splitlines() == [line[:-1]]
    assert line[:-1].isprintable()
    if form is LogFormat.JSON:
        said = json.loads(line)
        assert said["user_agent"] == 'a\r\nb"c\\d\te\x00f\\x7fg\\x85h\\xe9i'
    else:
        quoted = r"a\x0d\x0ab\"c\\d\te\x00f\x7fg\x85h\xe9i"
        assert line.endswith(f' "{quoted}" "{quoted}"\n')


@BOTH
def test_credentials_in_a_referer_are_left_out(form: LogFormat) -> None:
    line = request_line(END._replace(referer="http://me:secret@x.lan/a@b"), form)
    assert b"secret" not in line
    assert b'"http://x.lan/a@b"' in line
