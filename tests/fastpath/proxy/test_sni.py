"""Which server a TLS client asks for: against a model, however it is cut, and from real clients."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.fastpath.peers import PATIENCE_S
from tests.fastpath.proxy.hellos import (
    ALPN,
    KEY_SHARE,
    PADDING,
    SERVER_NAME,
    SIZE_MAX,
    Asked,
    alpn,
    extension,
    hello,
    message,
    read,
    records,
    server_name,
    vector,
)

probe = pytest.importorskip("fastpath.proxy._probe", reason="built with PIAGENT_PROBE=1 only")
AGAIN, BAD = (-1,), (-3,)

NAMES = st.sampled_from([b"a", b"Example.COM", b"x-1.lan", b"_srv.a", b"1.2.3.4a", b"0x7f.b"])
PROTOCOLS = st.lists(st.sampled_from([b"h2", b"http/1.1", b"acme-tls/1", b"x" * 255]), max_size=3)
OTHERS = st.builds(extension, st.sampled_from([5, 10, 43, KEY_SHARE, PADDING, 0x0A0A]),
                   st.binary(max_size=20) | st.just(bytes(1216)))  # fmt: skip
EXTENSIONS = st.lists(
    OTHERS
    | NAMES.map(server_name)
    | PROTOCOLS.map(lambda names: alpn(*names))
    | st.builds(server_name, st.binary(max_size=12), st.integers(0, 1)),
    max_size=5,
)
MESSAGES = st.builds(
    message,
    st.none() | EXTENSIONS,
    session_id=st.sampled_from([b"", bytes(32), bytes(33)]),
    ciphers=st.sampled_from([bytes(2), bytes(30), b"", bytes(3)]),
    compression=st.sampled_from([b"\0", b"\0\1", b""]),
    kind=st.sampled_from([1, 1, 1, 2]),
    more=st.sampled_from([b"", b"", b"x"]),
) | st.builds(lambda name, others: message([*others[:2], server_name(name), *others[2:]]),
              NAMES, st.lists(OTHERS, max_size=4))  # fmt: skip
SIZES = st.lists(st.integers(1, 60) | st.integers(1, 3), max_size=30)
HELLOS = st.builds(records, MESSAGES, SIZES, st.sampled_from([0x0301, 0x0301, 0x0303, 0x0401]))
EDITS = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=2)


def edited(data: bytes, edits: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for place, byte in edits:
        changed[place % len(changed)] = byte
    return bytes(changed)


DATA = st.builds(
    lambda data, edits, more: edited(data, edits) + more,
    HELLOS,
    EDITS,
    st.sampled_from([b"", b"\x14\x03\x03\x00\x01\x01", b"anything"]),
) | st.binary(max_size=80)


def verdict(data: bytes) -> Asked | tuple[int]:
    code, *found = probe.peek_sni(data)
    assert code in {1, -1, -3}
    return Asked(*found) if found else (code,)


@settings(max_examples=1500)
@given(DATA)
def test_a_name_is_found_where_the_model_finds_it(data: bytes) -> None:
    expected = read(data)
    if expected is None:
        assert verdict(data) in {AGAIN, BAD}
    else:
        assert verdict(data) == expected


@settings(max_examples=200)
@given(DATA)
def test_how_the_bytes_arrive_does_not_matter(data: bytes) -> None:
    final = verdict(data)
    decided = [found for size in range(len(data) + 1) if (found := verdict(data[:size])) != AGAIN]
    assert decided == [final] * len(decided)
    assert verdict(data + b"more") == final or final == AGAIN


@settings(max_examples=200)
@given(HELLOS)
def test_no_beginning_of_a_hello_is_refused(data: bytes) -> None:
    assume(read(data) is not None)
    end = next(size for size in range(len(data) + 1) if verdict(data[:size]) != AGAIN)
    assert verdict(data[:end]) == read(data)
    assert verdict(data[: end - 1]) == AGAIN


@settings(max_examples=300)
@given(MESSAGES, SIZES)
def test_how_records_cut_it_does_not_matter(handshake: bytes, sizes: list[int]) -> None:
    whole = verdict(records(handshake))
    assert verdict(records(handshake, sizes)) == whole
    if 6 * len(handshake) <= SIZE_MAX:
        assert verdict(records(handshake, [1] * len(handshake))) == whole


HOST_CHARACTERS = st.text("aZ09-_.", max_size=80) | st.text("a.", max_size=260)


@given(HOST_CHARACTERS.map(str.encode) | st.binary(max_size=20))
@example(b"a" * 63 + b".b")
@example(b"a" * 64 + b".b")
@example(b".".join([b"a" * 62] * 4) + b"a")
@example(b".".join([b"a" * 62] * 4) + b"aa")
@example(b"")
def test_only_a_host_name_is_a_name(name: bytes) -> None:
    assert verdict(hello(name)) == (read(hello(name)) or BAD)


@pytest.mark.parametrize(
    "name",
    [b"192.0.2.1", b"2001:db8::1", b"[::1]", b"a\0.example", b"a.example.", b".a", b"a..b",
     b"*.example", b"b\xc3\xbccher.example", b"a b", b"1", b"a.1", b"a/b", b"example.com:443"],
)  # fmt: skip
def test_what_is_no_host_name_is_refused(name: bytes) -> None:
    assert verdict(hello(name)) == BAD


def test_what_it_asks_for() -> None:
    assert verdict(hello(b"WWW.Example.com", b"h2", b"http/1.1")) == Asked(
        b"www.example.com", b"\2h2\x08http/1.1"
    )
    assert verdict(records(message())) == Asked(b"", b"")
    assert verdict(records(message(None))) == Asked(b"", b"")
    assert verdict(records(message([alpn(*[b"x" * 127] * 2)]))) == Asked(b"", b"")
    assert len(verdict(records(message([alpn(b"x" * 254)])))[1]) == 255


SHORT = extension(SERVER_NAME, vector(b"\0" + vector(b"a", 2), 2))


@pytest.mark.parametrize(
    "extensions",
    [
        [server_name(b"a"), server_name(b"a")],
        [alpn(b"h2"), alpn(b"h2")],
        [server_name(b"a", kind=1)],
        [extension(SERVER_NAME, b"")],
        [extension(SERVER_NAME, vector(b"", 2))],
        [extension(SERVER_NAME, vector((b"\0" + vector(b"a", 2)) * 2, 2))],
        [extension(SERVER_NAME, vector(b"\0" + vector(b"a", 2), 2) + b"x")],
        [extension(SERVER_NAME, vector(b"\0" + vector(b"a", 2) + b"x", 2))],
        [extension(SERVER_NAME, vector(b"\0" + vector(b"a", 2) + extension(5, b""), 2))],
        [extension(SERVER_NAME, vector(b"\0\0\5a", 2))],
        [extension(ALPN, b"")],
        [extension(ALPN, b"\0")],
        [alpn()],
        [alpn(b"h2", b"")],
        [extension(ALPN, vector(b"\5h2", 2))],
        [SHORT[:-1]],
        [SHORT, b"\0"],
    ],
)
def test_a_malformed_extension_is_refused(extensions: list[bytes]) -> None:
    assert verdict(records(message(extensions))) == BAD


def test_nothing_may_follow_the_extensions() -> None:
    for more in (b"x", extension(5, b"")):
        assert verdict(records(message([SHORT], more=more))) == BAD


GREETING = hello(b"a.example")


@pytest.mark.parametrize(
    ("known_at", "data"),
    [
        (1, b"GET / HTTP/1.1\r\n"),
        (1, b"\x80\x2e\x01\x03\x01"),  # SSL 2.0's form
        (1, b"\x15" + GREETING[1:]),
        (2, b"\x16\x02" + GREETING[2:]),
        (5, b"\x16\x03\x01\0\0" + GREETING),  # an empty record
        (5, b"\x16\x03\x01\x40\x01" + GREETING[5:]),
        (6, records(message(kind=2))),
        (9, b"\x16\x03\x01\x40\x00\x01\x01\x00\x00" + bytes(9)),
        (11, records(message(version=0x0203))),
    ],
)
def test_what_is_no_client_hello_is_refused_when_that_is_known(known_at: int, data: bytes) -> None:
    assert verdict(data) == BAD
    assert verdict(data[:known_at]) == BAD
    assert verdict(data[: known_at - 1]) == AGAIN


def padded(size: int) -> bytes:
    """A message of that many bytes that ends with a name."""
    least = len(message([extension(PADDING, b""), server_name(b"a.example")]))
    return message([extension(PADDING, bytes(size - least)), server_name(b"a.example")])


def test_there_is_a_limit_and_the_record_headers_count() -> None:
    largest = records(padded(SIZE_MAX - 5))
    assert len(largest) == probe.SNI_SIZE_MAX == SIZE_MAX
    assert verdict(largest) == Asked(b"a.example", b"")
    assert verdict(records(padded(SIZE_MAX - 4))) == BAD
    assert verdict(records(padded(SIZE_MAX - 5), [100])[: SIZE_MAX - 1]) == AGAIN
    assert verdict(records(padded(SIZE_MAX - 5), [100])[:SIZE_MAX]) == BAD
    assert verdict(records(padded(SIZE_MAX - 5), [100])) == BAD
    assert verdict(records(padded(SIZE_MAX - 10), [100])) == Asked(b"a.example", b"")


def test_keys_of_post_quantum_exchanges_do_not_matter() -> None:
    shares = extension(KEY_SHARE, vector(key_share(0x11EC, 1216) + key_share(29, 32), 2))
    data = records(message([shares, server_name(b"pq.example"), alpn(b"h2")]))
    assert 1300 < len(data) < 1500
    assert verdict(data) == Asked(b"pq.example", b"\2h2")
    assert verdict(data[:1200]) == AGAIN


def key_share(group: int, size: int) -> bytes:
    return group.to_bytes(2) + vector(bytes(size), 2)


def python_hello(name: str, version: ssl.TLSVersion, *protocols: str) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    if protocols:
        context.set_alpn_protocols(list(protocols))
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("Www.Example.Com", b"www.example.com"),
        ("xn--bcher-kva.example", b"xn--bcher-kva.example"),
        ("127.0.0.1", b""),  # it names no address
        ("::1", b""),
    ],
)
def test_what_pythons_client_asks_for(version: ssl.TLSVersion, host: str, name: bytes) -> None:
    data = python_hello(host, version, "h2", "http/1.1")
    assert verdict(data) == read(data) == Asked(name, b"\2h2\x08http/1.1")
    assert {verdict(data[:size]) for size in range(len(data))} == {AGAIN}


CURL = ["curl", "-sk", "--http2", "--resolve", "Curl.example:{port}:127.0.0.1",
        "https://Curl.example:{port}/"]  # fmt: skip
OPENSSL = ["openssl", "s_client", "-connect", "127.0.0.1:{port}", "-servername", "s.example"]


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        (CURL, Asked(b"curl.example", b"\2h2\x08http/1.1")),
        (OPENSSL, Asked(b"s.example", b"")),
        ([*OPENSSL, "-alpn", "acme-tls/1", "-tls1_2"], Asked(b"s.example", b"\x0aacme-tls/1")),
        ([*OPENSSL[:4], "-noservername"], Asked(b"", b"")),
        ([*OPENSSL, "-split_send_frag", "100", "-max_send_frag", "512"], Asked(b"s.example", b"")),
    ],
)  # fmt: skip
def test_what_real_clients_ask_for(command: list[str], asked: Asked) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE_S)
        filled = [part.format(port=listening.getsockname()[1]) for part in command]
        client = subprocess.Popen(
            filled, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            connection, _ = listening.accept()
            connection.settimeout(PATIENCE_S)
            with connection:
                data = b""
                while verdict(data) == AGAIN:
                    more = connection.recv(100)
                    assert more, "the end came first"
                    data += more
        finally:
            client.kill()
            client.wait()
    assert verdict(data) == read(data) == asked
