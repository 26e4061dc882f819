"""Published parser cases and smuggling payloads through our parser."""

from __future__ import annotations

from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fastpath.http.streams import Outcome, read
from tests.shared_vectors import load_vectors

FRAGMENT = "a raw # is no part of a request target (RFC 9112, 3.2)"
HEAD_OPEN = "the head has no end: it is judged as a whole, and nothing of it was sent on"
HOST_CHARACTERS = "a host is letters, digits, - and _ (and dots): it is compared with routes"
UNTIL_CLOSE = "no length: the stream's end is the body's end, and the case ends there"
NEXT_IN_BODY = "what follows are the bytes of a body that we were told of"
EXPLICIT_CLOSE = "a connection's life is not the parser's business: it reads on"
UPGRADE = "an upgrade that is not WebSocket is ignored; the bytes after it are the next request"
NOT_FORWARDED = "CONNECT is 405"
TRAILING_CRLF = "empty lines before a response are bytes that nobody asked for"
STRICT_CODING = "the final coding must be chunked, and nothing before it that we cannot undo"
STRICT_VERSION = "only HTTP/1.x comes from a backend"

# By index in the file: what we make of it instead, and why.
OVERRIDES = {
    2: ("reject", "the second request has no Host (1.1 needs one)"),
    8: ("incomplete", EXPLICIT_CLOSE),
    9: ("incomplete", EXPLICIT_CLOSE),
    13: ("reject", UPGRADE),
    17: ("accept", UPGRADE),
    18: ("incomplete", UPGRADE),
    19: ("reject", UPGRADE),
    20: ("reject", UPGRADE),
    23: ("incomplete", HEAD_OPEN),
    24: ("incomplete", HEAD_OPEN),
    36: ("incomplete", NEXT_IN_BODY),
    45: ("accept", "any token is a method; it is the backend's to know it"),
    55: ("accept", "any token is a method; it is the backend's to know it"),
    77: ("reject", NOT_FORWARDED),
    78: ("reject", NOT_FORWARDED),
    79: ("reject", NOT_FORWARDED),
    80: ("reject", "the target * goes only with OPTIONS"),
    87: ("reject", "a protocol of its own: not HTTP"),
    88: ("reject", "a protocol of its own: not HTTP"),
    89: ("reject", "a protocol of its own: not HTTP"),
    90: ("reject", "HTTP/2 is not spoken here"),
    108: ("reject", HOST_CHARACTERS),
    109: ("reject", HOST_CHARACTERS),
    115: ("reject", "HTTP/0.9 has no version in its request line"),
    143: ("reject", FRAGMENT),
    144: ("reject", FRAGMENT),
    162: ("reject", FRAGMENT),
    163: ("reject", NOT_FORWARDED),
    164: ("reject", "user information in a target is refused (RFC 9110, 4.2.4)"),
    167: ("accept", UNTIL_CLOSE),
    169: ("accept", UNTIL_CLOSE),
    171: ("incomplete", EXPLICIT_CLOSE),
    173: ("reject", EXPLICIT_CLOSE),
    175: ("reject", "101 ends the reading of messages in the exchange, not in the parser"),
    176: ("reject", "101 ends the reading of messages in the exchange, not in the parser"),
    177: ("accept", UNTIL_CLOSE),
    180: ("reject", TRAILING_CRLF),
    182: ("reject", TRAILING_CRLF),
    184: ("accept", UNTIL_CLOSE),
    186: ("incomplete", NEXT_IN_BODY),
    188: ("accept", UNTIL_CLOSE),
    202: ("accept", UNTIL_CLOSE),
    220: ("reject", TRAILING_CRLF),
    222: ("reject", STRICT_VERSION),
    223: ("reject", STRICT_VERSION),
    225: ("accept", UNTIL_CLOSE),
    228: ("accept", UNTIL_CLOSE),
    229: ("accept", UNTIL_CLOSE),
    230: ("accept", UNTIL_CLOSE),
    238: ("reject", STRICT_VERSION),
    239: ("accept", UNTIL_CLOSE),
    240: ("reject", TRAILING_CRLF),
    242: ("reject", STRICT_CODING),
    243: ("reject", STRICT_CODING),
    244: ("reject", STRICT_CODING),
}


def stream_of(case: dict[str, Any]) -> bytes:
    return bytes.fromhex(case.get("input_with_host_hex") or case["input_hex"])


def verdict_of(outcome: Outcome) -> str:
    if outcome.refused:
        return "reject"
    return "incomplete" if outcome.pending else "accept"


def parser_cases() -> list[tuple[int, dict[str, Any]]]:
    """Every case that is a stream of messages."""
    cases = load_vectors("http1_parser_cases.json")
    return [(i, case) for i, case in enumerate(cases) if case["kind"] != "url"]


def test_every_strict_parser_case_has_its_verdict_or_one_of_ours_with_a_reason() -> None:
    wrong = []
    for index, case in parser_cases():
        if case["mode"] not in {"strict", "finish"}:
            continue
        outcome = read(stream_of(case), case["kind"])
        expected = OVERRIDES.get(index, (case["verdict"], ""))[0]
        if verdict_of(outcome) != expected:
            wrong.append((index, case["name"], expected, outcome))
        elif index not in OVERRIDES and expected == "accept":
            assert len(outcome.messages) == case["messages_complete"], case["name"]
    assert not wrong


def test_there_is_no_lenient_mode_what_only_such_a_mode_accepts_is_refused() -> None:
    for _, case in parser_cases():
        if not case["mode"].startswith("lenient"):
            continue
        got = verdict_of(read(stream_of(case), case["kind"]))
        assert got in {"reject", case["verdict"]}, case["name"]


def test_no_override_is_left_that_says_what_the_case_says_anyway() -> None:
    cases = dict(parser_cases())
    idle = [i for i, (expected, _) in OVERRIDES.items() if cases[i]["verdict"] == expected]
    assert not idle


def test_every_case_comes_out_the_same_a_byte_at_a_time_and_cut_at_each_place() -> None:
    for _, case in parser_cases():
        stream = stream_of(case)
        whole = read(stream, case["kind"])
        assert read(stream, case["kind"], tuple(range(len(stream)))) == whole, case["name"]
        for cut in range(1, len(stream), max(1, len(stream) // 40)):
            assert read(stream, case["kind"], (cut,)) == whole, (case["name"], cut)


@given(st.data())
def test_cases_come_out_the_same_however_they_are_cut(data: st.DataObject) -> None:
    _, case = data.draw(st.sampled_from(parser_cases()))
    stream = stream_of(case)
    cuts = tuple(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    assert read(stream, case["kind"], cuts) == read(stream, case["kind"])


def garden() -> list[tuple[str, bytes]]:
    """The payloads behind published bugs."""
    bugs = load_vectors("http_garden_payloads.json")["bugs"]
    return [
        (f"{bug['section']} {bug['n']}", bytes.fromhex(payload["hex"]))
        for bug in bugs
        for payload in bug["payloads"]
    ]


def as_sent_on(head: bytes, body: bytes) -> bytes:
    """A message as the backend gets it."""
    if b"\r\nTransfer-Encoding: chunked\r\n" in head:
        chunk = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
        return head + chunk + b"0\r\n\r\n"
    return head + body


def test_what_passes_of_each_garden_payload_is_one_message_to_a_second_reader() -> None:
    for name, stream in garden():
        for head, body in read(stream).messages:
            peer = h11.Connection(h11.SERVER)
            peer.receive_data(as_sent_on(head, body))
            request = peer.next_event()
            assert isinstance(request, h11.Request), name
            got = b""
            while isinstance(event := peer.next_event(), h11.Data):
                got += event.data
            assert isinstance(event, h11.EndOfMessage), name
            assert got == body, name
            assert not peer.trailing_data[0], name


@pytest.mark.parametrize(
    ("index", "sent_on"),
    [
        ("Server Bugs 41", 1),  # obs-text in a value is one value to every reader
        ("Server Bugs 48", 1),  # two streams: one whole request, then one without its body
        ("Bonus bugs 3", 1),  # a byte too many is the start of a next, malformed request
        ("Bonus bugs 4", 1),
    ],
)
def test_harmless_garden_payloads_pass(index: str, sent_on: int) -> None:
    streams = [stream for name, stream in garden() if name == index]
    assert len(read(streams[0]).messages) == sent_on


def test_only_known_garden_payloads_pass_at_all() -> None:
    passing = {name for name, stream in garden() if read(stream).messages}
    assert passing == {
        "Server Bugs 41",
        "Server Bugs 48",
        "Bonus bugs 3",
        "Bonus bugs 4",
    }


@given(st.binary(max_size=200))
def test_random_bytes_never_do_anything_but_parse_or_be_refused(stream: bytes) -> None:
    read(stream)
    read(b"GET / HTTP/1.1\r\nHost: a\r\n" + stream)
    read(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + stream)
    read(b"HTTP/1.1 200 OK\r\n" + stream, "response")
