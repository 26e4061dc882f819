"""The values that may stand in a file."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from piagent.config import values
from piagent.config.values import UnfitError
from piagent.core.model import AddressRange, Broker, Listen, RetryOn


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("0s", 0), ("250ms", 250), ("2s", 2000), ("1.5s", 1500), ("10m", 600_000), ("24h", 86_400_000),
     ("0.25s", 250), ("0.5h", 1_800_000)],
)  # fmt: skip
def test_durations_have_units(text: str, milliseconds: int) -> None:
    assert values.duration_ms(text) == milliseconds


@pytest.mark.parametrize(
    "text",
    ["", "5", "s", "-1s", "1 s", "1d", "1S", "1.s", ".5s", "1s1ms", "0.5ms", "25h", "1e3s", "٣s",
     "9" * 30 + "s", "1s\n"],
)  # fmt: skip
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UnfitError):
        values.duration_ms(text)


def test_some_durations_must_not_be_zero() -> None:
    assert values.positive_duration_ms("1ms") == 1
    with pytest.raises(UnfitError, match="no time at all"):
        values.positive_duration_ms("0s")


def test_some_durations_may_be_off() -> None:
    assert values.duration_or_off_ms("off") is None
    assert values.duration_or_off_ms("30s") == 30_000
    for text in ("0s", "Off", ""):
        with pytest.raises(UnfitError):
            values.duration_or_off_ms(text)


def test_a_backend_is_an_address_without_scheme_and_port() -> None:
    assert values.backend_address("192.0.2.21") == "192.0.2.21"
    for text in ("http://192.0.2.21", "https://192.0.2.21:8443", "h2c://web"):
        with pytest.raises(UnfitError, match="TLS to them is not there") as refused:
            values.backend_address(text)
        assert "target_port" in str(refused.value.cure)
    for text, bare in (("192.0.2.21:443", "192.0.2.21"), ("[2001:db8::1]:80", "2001:db8::1")):
        with pytest.raises(UnfitError, match="has a port") as refused:
            values.backend_address(text)
        assert f'"{bare}"' in str(refused.value.cure)


def test_a_request_is_tried_again_for_a_word_or_a_status() -> None:
    texts = ("connect-failure", "reset", "timeout", "400", "599")
    assert [values.retry_on(text) for text in texts] == [*RetryOn, 400, 599]
    for text in ("", "Reset", "200", "600", "5xx", "0503"):
        with pytest.raises(UnfitError, match="no reason to try again"):
            values.retry_on(text)


def test_a_cookies_name_is_a_token() -> None:
    assert values.cookie_name("__Host-sid") == "__Host-sid"
    for text in ("", "a b", "a=b", "a;", "é", '"a"', "a" * 65):
        with pytest.raises(UnfitError, match="no name for a cookie"):
            values.cookie_name(text)


def test_a_drain_has_an_end() -> None:
    assert [values.drain_ms(text) for text in ("0s", "60s")] == [0, 60_000]
    with pytest.raises(UnfitError, match="longer than 60s"):
        values.drain_ms("60001ms")


@pytest.mark.parametrize(
    ("text", "cidr"),
    [("192.168.0.0/16", "192.168.0.0/16"), ("192.0.2.7", "192.0.2.7/32"),
     ("0.0.0.0/0", "0.0.0.0/0"), ("2001:DB8::/32", "2001:db8::/32"), ("::/0", "::/0"),
     ("fe80::/10", "fe80::/10"), ("::1", "::1/128"),
     ("192.168.0.0/255.255.0.0", "192.168.0.0/16")],
)  # fmt: skip
def test_networks_are_cidrs_of_others(text: str, cidr: str) -> None:
    assert values.network(text) == cidr


@pytest.mark.parametrize(
    ("text", "cure"),
    [("192.168.1.1/16", 'write "192.168.0.0/16"'), ("2001:db8::1/32", 'write "2001:db8::/32"'),
     ("::ffff:192.0.2.0/120", 'write "192.0.2.0/24"'), ("::ffff:192.0.2.1", 'write "192.0.2.1/32"'),
     ("fe80::1%eth0", "leave %"), ("192.168.1", ""), ("192.168.0.0/33", ""), ("pi.lan", ""),
     ("", ""), ("/8", ""), ("192.0.2.1-192.0.2.9", ""), ("192.168.0.0 /16", "")],
)  # fmt: skip
def test_what_is_no_network_is_refused(text: str, cure: str) -> None:
    with pytest.raises(UnfitError) as caught:
        values.network(text)
    assert cure in caught.value.cure


def test_rates_are_by_the_second() -> None:
    assert [values.rate(text) for text in ("1/s", "100/s", "1000000/s")] == [1, 100, 1_000_000]
    for text in ("100/m", "100", "0/s", "1000001/s", "1.5/s", "-1/s", "/s", "1 /s", "1/S", "٣/s"):
        with pytest.raises(UnfitError):
            values.rate(text)


def test_a_log_is_a_file_or_the_standard_output() -> None:
    assert [values.log_file(text) for text in ("-", "a.log", "/a/b")] == ["-", "a.log", "/a/b"]
    for text in ("", "a/", "a\0b"):
        with pytest.raises(UnfitError):
            values.log_file(text)


@pytest.mark.parametrize("text", ["a", "pi-1", "Pi.lan_2", "0", "a" * 63])
def test_names_are_plain(text: str) -> None:
    assert values.name(text) == text


@pytest.mark.parametrize(
    "text", ["", "-a", "a-", ".", "a b", "a/b", "a+", "a#", "é", "a:b", "a" * 64]
)
def test_what_would_break_a_topic_or_a_log_line_is_no_name(text: str) -> None:
    with pytest.raises(UnfitError):
        values.name(text)


def test_interfaces_are_named_as_linux_names_them() -> None:
    assert [values.interface(text) for text in ("eth0", "br-lan.10", "wlan0@x")]
    for text in ("", ".", "..", "a b", "a/b", "eth0:1", "x" * 16, "é"):
        with pytest.raises(UnfitError):
            values.interface(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [("192.0.2.1", "192.0.2.1"), ("2001:DB8:0:0::1", "2001:db8::1"), ("127.0.0.1", "127.0.0.1"),
     ("::1", "::1"), ("169.254.0.1", "169.254.0.1")],
)  # fmt: skip
def test_an_address_has_one_spelling(text: str, address: str) -> None:
    assert values.address(text) == address


@pytest.mark.parametrize(
    "text",
    ["", "192.0.2", "192.0.2.256", "192.0.2.01", "192.0.2.1/24", "0.0.0.0", "::", "224.0.0.1",
     "ff02::1", "255.255.255.255",
     "fe80::1", "fe80::1%eth0", "0.1.2.3", "::ffff:192.0.2.1", "localhost", " 192.0.2.1"],
)  # fmt: skip
def test_what_no_host_can_have_is_no_address(text: str) -> None:
    with pytest.raises(UnfitError):
        values.address(text)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [("192.0.2.1", "192.0.2.1", "192.0.2.1"),
     ("192.0.2.1-192.0.2.9", "192.0.2.1", "192.0.2.9"),
     ("192.0.2.1 - 192.0.2.9", "192.0.2.1", "192.0.2.9"),
     ("192.0.2.16/28", "192.0.2.16", "192.0.2.31"),
     ("192.0.2.1/32", "192.0.2.1", "192.0.2.1"),
     ("FD00::F0/124", "fd00::f0", "fd00::ff"),
     ("fd00::/8", "fd00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")],
)  # fmt: skip
def test_a_range_is_a_cidr_two_addresses_or_one(text: str, first: str, last: str) -> None:
    assert values.address_range(text) == AddressRange(first=first, last=last)


@pytest.mark.parametrize(
    ("text", "cure"),
    [("192.0.2.17/28", 'write "192.0.2.16/28"'), ("192.0.2.9-192.0.2.1", "192.0.2.1-192.0.2.9"),
     ("192.0.2.1-fd00::1", ""), ("192.0.2.1/33", ""), ("/24", ""), ("a-b", ""), ("-", ""),
     ("192.0.2.1-", ""), ("192.0.2.1-192.0.2.2-192.0.2.3", ""), ("0.0.0.0/0", ""),
     ("fe80::1%1/64", "")],
)  # fmt: skip
def test_an_impossible_range_is_refused(text: str, cure: str) -> None:
    with pytest.raises(UnfitError) as caught:
        values.address_range(text)
    assert cure in caught.value.cure


@pytest.mark.parametrize(
    ("text", "broker"),
    [("mqtt://192.0.2.1", Broker(label="", host="192.0.2.1", port=1883)),
     ("mqtt://Broker.LAN./", Broker(label="", host="broker.lan", port=1883)),
     ("mqtt://me@[FD00::1]:1", Broker(label="", host="fd00::1", port=1, username="me")),
     ("mqtts://me@a", Broker(label="", host="a", port=8883, username="me", tls=True)),
     ("mqtts://[::1]:1", Broker(label="", host="::1", port=1, tls=True))],
)  # fmt: skip
def test_a_broker_is_a_url(text: str, broker: Broker) -> None:
    assert values.broker(text) == broker


@pytest.mark.parametrize(
    "text",
    ["", "mqtt://", "192.0.2.1", "http://a", "mqtt:/a", "mqtt://a:0", "mqtt://a:65536", "mqtt://a:",
     "mqtt://a/b", "mqtt://a?b", "mqtt://@a", "mqtt://u@", "mqtt://192.0.2.300", "mqtt://[a]",
     "mqtt://a b", "mqtt://::1", "mqtt://a..b", "mqtt://0.0.0.0", "MQTT://a", "mqttss://a",
     "mqtts:a", "mqtts://"],
)  # fmt: skip
def test_what_is_no_brokers_url_is_refused(text: str) -> None:
    with pytest.raises(UnfitError):
        values.broker(text)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    for text in (
        "mqtt://me:geheim@a",
        "mqtts://me:geheim@a",
        "mqtt://:geheim@a",
        "http://:geheim@a",
    ):
        with pytest.raises(UnfitError) as caught:
            values.broker(text)
        assert "password_file" in caught.value.cure
        assert "geheim" not in str(caught.value) + caught.value.cure


def test_a_place_to_listen_is_an_address_and_a_port() -> None:
    assert values.listen("0.0.0.0:1883") == Listen(address="0.0.0.0", port=1883)
    assert values.listen("[::]:1") == Listen(address="::", port=1)
    assert values.listen("[FD00::1]:65535") == Listen(address="fd00::1", port=65535)
    for text in ("", "1883", ":1883", "::1:1883", "a:1", "0.0.0.0", "0.0.0.0:0", "[::]", "[::]:"):
        with pytest.raises(UnfitError):
            values.listen(text)


def test_hosts_of_routes_are_names_or_wildcards_in_lower_case() -> None:
    assert values.route_host("WWW.a.Lan.") == "www.a.lan"
    assert values.route_host("*.A.lan") == "*.a.lan"
    assert values.route_host("[FD00::1]") == "[fd00::1]"
    for text in (
        "",
        "*",
        "*.",
        "a.*",
        "*a.lan",
        "a b",
        "*.*.lan",
        "a:80",
        "*.a:80",
        "[::1]:80",
        "é",
    ):
        with pytest.raises(UnfitError):
            values.route_host(text)


@pytest.mark.parametrize(
    ("text", "cure"),
    [("a", ""), ("", ""), ("/a//./b", '"/a//b"'), ("/a/../b", '"/b"'), ("/%7ea", '"/~a"'),
     ("/%2f", '"/%2F"'), ("/a?b", "query"), ("/a#b", "fragment"), ("/..", ""), ("/a b", ""),
     ("/é", ""), ("/%", "")],
)  # fmt: skip
def test_paths_of_routes_are_canonical(text: str, cure: str) -> None:
    assert values.route_path("/a/%2F/") == "/a/%2F/"
    with pytest.raises(UnfitError) as caught:
        values.route_path(text)
    assert cure in caught.value.cure


def test_the_path_of_a_check_may_have_a_query() -> None:
    assert values.health_path("/a/../b?c=%41") == "/a/../b?c=%41"
    for text in ("", "a", "/a b", "/a\r\nX: y", "/é", "/a#b"):
        with pytest.raises(UnfitError):
            values.health_path(text)


READERS: list[Callable[[str], Any]] = [
    values.duration_ms, values.name, values.interface, values.address, values.address_range,
    values.broker, values.listen, values.route_host, values.route_path, values.health_path,
    values.file_name,
]  # fmt: skip


@given(st.text(max_size=30) | st.text(alphabet="mqt:/[]@.0123456789-af*%", max_size=30))
def test_no_text_makes_a_reader_fail_otherwise(text: str) -> None:
    for read in READERS:
        try:
            read(text)
        except UnfitError as unfit:
            assert str(unfit)


@given(st.ip_addresses())
def test_every_address_is_read_as_itself_or_refused(address: Any) -> None:
    try:
        assert ip_address(values.address(str(address))) == address
        assert values.address_range(str(address)).holds(str(address))
    except UnfitError:
        assert (
            address.is_unspecified or address.is_multicast or str(address) == "255.255.255.255"
            or str(address).startswith("0.")
            or (address.version == 6 and (address.ipv4_mapped or address.is_link_local))
        )  # fmt: skip


def test_every_example_is_a_value_of_its_kind() -> None:
    import tomli

    leaves = [
        part.__metadata__[0] for part in vars(values).values() if hasattr(part, "__metadata__")
    ]
    assert len(leaves) > 15
    for leaf in leaves:
        plain = msgspec.convert(tomli.loads(f"x = {leaf.example}")["x"], leaf.source)
        assert leaf.read is None or leaf.read(plain) is not None
        assert not leaf.blank
