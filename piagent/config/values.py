"""The values that may stand in a file: what each is called, an example, and how it is read.

A reader takes what msgspec has already found to be of the right TOML type and gives the model's
value; it raises UnfitError with what is wrong in words for people.
"""

from __future__ import annotations

import re
from decimal import Decimal
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Annotated, Any, Final

from msgspec import Meta, Struct

from piagent.core import forwarding, model, proxying
from piagent.core.model import AddressRange, Broker, Listen
from piagent.core.pattern_syntax import PatternError
from piagent.core.patterns import compile_pattern
from piagent.core.predicates import TOKEN, is_taken_out
from piagent.core.routing import PORT_MAX, BadRequestError, canonical_host, canonical_path

if TYPE_CHECKING:
    from collections.abc import Callable

NAME_LENGTH_MAX: Final = 63
MQTT_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
DRAIN_MAX_MS: Final = 60_000
OFF: Final = "off"
THIS_NETWORK: Final = IPv4Network("0.0.0.0/8")
"""RFC 1122, 3.2.1.3: never a host's address."""
DAY_MS: Final = 24 * 3600 * 1000
METHOD_LENGTH_MAX: Final = 32
RATE_MAX: Final = 1_000_000
CONNECTIONS_MAX: Final = 1_000_000
MAPPED_BITS: Final = 96
"""Of ::ffff:0:0/96, where IPv4 addresses are (RFC 4291 section 2.5.5.2)."""

_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
_LISTEN: Final = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<v4>[0-9.]+)):(?P<port>[0-9]{1,5})")
_RATE: Final = re.compile(r"([0-9]{1,9})/([a-z]{1,3})")
_BROKER: Final = re.compile(
    r"(?P<scheme>mqtts?)://(?:(?P<user>[^:@/?#%\s]+)@)?"
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^:@/?#%\[\]\s]+))(?::(?P<port>[0-9]{1,5}))?/?"
)
_UNIT_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}


class UnfitError(Exception):
    """A value of the right type that cannot be meant."""

    def __init__(self, what: str, cure: str = "") -> None:
        """Take what is wrong, and the cure when it is another one than the Leaf's example."""
        super().__init__(what)
        self.cure = cure


class Leaf(Struct, frozen=True, kw_only=True):
    """One kind of value."""

    source: Any
    """The TOML type, as msgspec understands it."""
    wants: str
    """What it is, for "expected …"."""
    example: str
    """In TOML."""
    read: Callable[[Any], Any] | None = None
    blank: Any = ""
    """Stands for a value that could not be read, so that the other checks go on; it is falsy."""


def duration_ms(text: str) -> int:
    """Read "250ms", "2s", "1.5s", "10m" or "3h" as whole milliseconds."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise UnfitError(f'"{text}" is not a number and a unit (ms, s, m, h)')
    milliseconds = Decimal(found[1]) * _UNIT_MS[found[2]]
    if milliseconds != int(milliseconds):
        raise UnfitError(f'"{text}" is not a whole number of milliseconds')
    if milliseconds > DAY_MS:
        raise UnfitError(f'"{text}" is longer than 24h')
    return int(milliseconds)


def positive_duration_ms(text: str) -> int:
    """Read a duration that must not be zero."""
    milliseconds = duration_ms(text)
    if not milliseconds:
        raise UnfitError(f'"{text}" is no time at all')
    return milliseconds


def duration_or_off_ms(text: str) -> int | None:
    """Read a duration that must not be zero, or "off"."""
    return None if text == OFF else positive_duration_ms(text)


def drain_ms(text: str) -> int:
    """Read how long connections may live on; an agent that stops waits for so long."""
    milliseconds = duration_ms(text)
    if milliseconds > DRAIN_MAX_MS:
        raise UnfitError(f'"{text}" is longer than {DRAIN_MAX_MS // 1000}s')
    return milliseconds


def name(text: str) -> str:
    """Read a name: it stands in MQTT topics, log lines and metrics as it is."""
    if _NAME.fullmatch(text) is None or len(text) > NAME_LENGTH_MAX:
        raise UnfitError(f'"{text}" is not a name')
    return text


def interface(text: str) -> str:
    """Read the name of a network interface, as Linux allows it (dev_valid_name)."""
    if re.fullmatch(r"[!-~]{1,15}", text) is None or "/" in text or ":" in text or text in "..":
        raise UnfitError(f'"{text}" is not the name of an interface')
    return text


def address(text: str) -> str:
    """Read an IP address that one host can have, in its one spelling."""
    try:
        found = ip_address(text)
    except ValueError:
        raise UnfitError(f'"{text}" is not an IP address') from None
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped:
            raise UnfitError(f'"{text}" stands for an IPv4 address', f'write "{found.ipv4_mapped}"')
        if found.is_link_local:
            raise UnfitError(f'"{text}" means something on one interface only')
    elif found in THIS_NETWORK or str(found) == "255.255.255.255":
        raise UnfitError(f'"{text}" is not the address of a host')
    if found.is_unspecified or found.is_multicast:
        raise UnfitError(f'"{text}" is not the address of one host')
    return str(found)


def backend_address(text: str) -> str:
    """Read the IP address of a backend."""
    if "://" in text:
        what = (
            f'"{text}" is a URL, and backends are spoken to in the plain: TLS to them is not there'
        )
        raise UnfitError(what, "write the IP address alone; the port is target_port in ports")
    if re.fullmatch(r"[0-9.]+:[0-9]+|\[[0-9a-fA-F:]+\]:[0-9]+", text):
        bare = text.rpartition(":")[0].strip("[]")
        raise UnfitError(
            f'"{text}" has a port', f'write "{bare}"; the port is target_port in ports'
        )
    return address(text)


def address_range(text: str) -> AddressRange:
    """Read a CIDR, a range "first-last" (both included) or one address."""
    if "/" in text:
        try:
            network = ip_network(text, strict=False)
        except ValueError:
            raise UnfitError(f'"{text}" is not a CIDR') from None
        if str(network.network_address) != address(text.partition("/")[0]):
            raise UnfitError(f'"{text}" has bits set after its prefix', f'write "{network}"')
        return AddressRange(first=str(network[0]), last=str(network[-1]))
    first, dash, last = text.partition("-")
    low, high = address(first.strip()), address(last.strip() if dash else first.strip())
    if ip_address(low).version != ip_address(high).version:
        raise UnfitError(f'"{text}" mixes IPv4 and IPv6')
    if int(ip_address(low)) > int(ip_address(high)):
        raise UnfitError(f'"{text}" ends before it begins', f'write "{high}-{low}"')
    return AddressRange(first=low, last=high)


def network(text: str) -> str:
    """Read a CIDR or one address, as the CIDR that it is: addresses of others, so any will do."""
    try:
        found = ip_network(text, strict=False)
    except ValueError:
        raise UnfitError(f'"{text}" is neither a CIDR nor an IP address') from None
    first = found.network_address
    if isinstance(first, IPv6Address):
        if first.scope_id is not None:
            raise UnfitError(f'"{text}" names an interface', "leave % and what follows out")
        if first.ipv4_mapped and found.prefixlen >= MAPPED_BITS:
            cidr = f"{first.ipv4_mapped}/{found.prefixlen - MAPPED_BITS}"
            raise UnfitError(f'"{text}" stands for IPv4 addresses', f'write "{cidr}"')
    if ip_address(text.partition("/")[0]) != first:
        raise UnfitError(f'"{text}" has bits set after its prefix', f'write "{found}"')
    return str(found)


def rate(text: str) -> int:
    """Read "100/s"."""
    found = _RATE.fullmatch(text)
    if found is None:
        raise UnfitError(f'"{text}" is not a number and "/s"')
    if found[2] != "s":
        raise UnfitError(f'"{text}" is not by the second')
    if not 1 <= int(found[1]) <= RATE_MAX:
        raise UnfitError(f'"{text}" is not between 1 and {RATE_MAX} a second')
    return int(found[1])


def listen(text: str) -> Listen:
    """Read "address:port" or "[IPv6 address]:port"; the address may be 0.0.0.0 or [::]."""
    found = _LISTEN.fullmatch(text)
    if found is None:
        raise UnfitError(f'"{text}" is not address:port')
    host = found["v6"] or found["v4"]
    everywhere = host in {"0.0.0.0", "::"}  # noqa: S104 -- what the user may ask for
    return Listen(address=host if everywhere else address(host), port=_port(found["port"]))


def broker(text: str) -> Broker:
    """Read "mqtt[s]://[user@]host[:port]"; its label is its place in the list, given later."""
    if re.match(r"[a-z]*://[^/@]*:[^/]*@", text):
        raise UnfitError(
            "the URL has a password in it", "write it to a file, password_file names it"
        )
    found = _BROKER.fullmatch(text)
    if found is None:
        cure = "write mqtt://[user@]host[:port], or mqtts:// for TLS"
        raise UnfitError(f'"{text}" is not a broker\'s URL', cure)
    host = address(found["v6"]) if found["v6"] else _host(found["host"])
    scheme = found["scheme"]
    port = _port(found["port"]) if found["port"] else MQTT_PORTS[scheme]
    return Broker(label="", host=host, port=port, username=found["user"], tls=scheme == "mqtts")


def _host(text: str) -> str:
    if re.fullmatch(r"[0-9.]+", text):
        return address(text)
    try:
        return canonical_host(text)
    except BadRequestError:
        raise UnfitError(f'"{text}" is not a host') from None


def _port(digits: str) -> int:
    if not 1 <= int(digits) <= PORT_MAX:
        raise UnfitError(f"{digits} is not a port: they go from 1 to {PORT_MAX}")
    return int(digits)


def log_file(text: str) -> str:
    """Read the path of a file to write to, or "-"; what it is relative to is settled later."""
    if text.endswith("/"):
        raise UnfitError(f'"{text}" is a folder', "name a file in it")
    return file_name(text)


def file_name(text: str) -> str:
    """Read a path; what it is relative to is settled later."""
    if not text or "\0" in text:
        raise UnfitError("an empty path, or one with a NUL")
    return text


def route_host(text: str) -> str:
    """Read a route's host: a name, or `*.` and a name; lower case, without a trailing dot."""
    wild = text.startswith("*.")
    if text == "*":
        raise UnfitError('"*" is no host', "leave hosts out: the route takes any")
    bare = text[2:] if wild else text
    try:
        host = canonical_host(bare)
    except BadRequestError:
        raise UnfitError(f'"{text}" is not a host name') from None
    if re.search(r":[0-9]+$", bare) and not bare.endswith("]"):
        raise UnfitError(f'"{text}" has a port', f'write "{host}": it counts on every port')
    return f"*.{host}" if wild else host


def route_path(text: str) -> str:
    """Read a path in its canonical form, the only one that requests are compared in.

    Whether the gateway keeps `//` is looked at later.
    """
    if set(text) & set("?#"):
        raise UnfitError(f'"{text}" is more than a path', "leave the query and fragment out")
    try:
        canonical = canonical_path(text, merges="//" not in text)
    except BadRequestError as bad:
        raise UnfitError(f'"{text}": {bad}') from None
    if canonical != text:
        raise UnfitError(f'"{text}" is never requested', f'write "{canonical}", its canonical form')
    return text


def retry_on(text: str) -> model.RetryOn | int:
    """Read what befalls a try: a word, or the status of a response."""
    if text in list(model.RetryOn):
        return model.RetryOn(text)
    if re.fullmatch(r"[45][0-9][0-9]", text) is None:
        cure = f"write {', '.join(f'{one.value!r}' for one in model.RetryOn)}, or a status"
        raise UnfitError(f'"{text}" is no reason to try again', cure.replace("'", '"'))
    return int(text)


def cookie_name(text: str) -> str:
    """Read the name of a cookie: a token (RFC 6265, 4.1.1)."""
    if re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", text) is None:
        what = f'"{text}" is no name for a cookie'
        raise UnfitError(what, "letters, digits, '-' and '_', 64 at most")
    return text


def method(text: str) -> str:
    """Read a method; they have case (RFC 9110, 9.1)."""
    if TOKEN.fullmatch(text) is None:
        raise UnfitError(f'"{text}" is not a method')
    if text != text.upper():
        raise UnfitError(f'"{text}" is never sent', f'write "{text.upper()}": methods have case')
    if text in {"CONNECT", "TRACE"}:
        raise UnfitError(f"{text} is never forwarded: it is answered with 405", "leave it out")
    if len(text) > METHOD_LENGTH_MAX:
        raise UnfitError(f'"{text}" is longer than {METHOD_LENGTH_MAX} characters')
    return text


def header_name(text: str) -> str:
    """Read the name of a header that a route asks for; in lower case."""
    lower = text.lower()
    if TOKEN.fullmatch(text) is None:
        raise UnfitError(f'"{text}" is not the name of a header')
    if lower == "host":
        raise UnfitError('"host" is what hosts is for', 'write hosts = ["www.example.com"]')
    if is_taken_out(lower):
        what = f'"{text}" is taken out of requests, so no route can ask for it'
        raise UnfitError(what, "ask for a header that backends get")
    return lower


def hash_on(text: str) -> model.HashOn:
    """Read what of a request is hashed: "header:x-user" or "cookie:sid"."""
    kind, _, name = text.partition(":")
    if kind == "cookie":
        return model.HashOn(name=cookie_name(name), cookie=True)
    if kind != "header":
        raise UnfitError(f'"{text}" is neither "header:" nor "cookie:" and a name')
    if len(name) > NAME_LENGTH_MAX:
        raise UnfitError(f'"{name}" is longer than {NAME_LENGTH_MAX} characters')
    return model.HashOn(name=header_name(name))


def header_value(text: str) -> str:
    """Read the value of a header."""
    if re.fullmatch(r"[ -~]*", text) is None:
        cure = r"write { regex = '…' } with its bytes, \\xc3\\xa9"
        raise UnfitError(f'"{text}" is not printable ASCII', cure)
    if text != text.strip(" "):
        raise UnfitError("white space around a value is not part of it", "leave it out")
    return text


def regex(text: str) -> str:
    """Read a regular expression."""
    try:
        compile_pattern(text)
    except PatternError as error:
        raise UnfitError(f'"{text}": {error.what}', error.cure) from None
    return text


def health_path(text: str) -> str:
    """Read the request target of a health check."""
    if re.fullmatch(r"/[!-~]*", text) is None or "#" in text:
        raise UnfitError(f'"{text}" is not a path')
    return text


def word(text: str) -> str:
    """Read a word of a command."""
    if "\0" in text:
        raise UnfitError("a program's argument ends at a NUL", "leave the NUL out")
    return text


def host_name(text: str) -> str:
    """Read a name of the DNS; lower case, without a trailing dot."""
    if re.fullmatch(r"[0-9.:]+", text) or ":" in text or "[" in text:
        raise UnfitError(f'"{text}" is an address or has a port', "write a name")
    try:
        return canonical_host(text)
    except BadRequestError:
        raise UnfitError(f'"{text}" is not a host name') from None


def _one_of(choices: type[StrEnum]) -> Leaf:
    words = [choice.value for choice in choices]
    return Leaf(source=choices, wants="one of " + ", ".join(words), example=f'"{words[0]}"')


def _number(low: int, high: int, what: str, example: int) -> Leaf:
    return Leaf(
        source=Annotated[int, Meta(ge=low, le=high)],
        wants=f"{what}, {low} to {high}",
        example=str(example),
        blank=0,
    )


def _flag() -> Leaf:
    return Leaf(source=bool, wants="true or false", example="true", blank=False)


def _text(wants: str, example: str, read: Callable[[str], Any], blank: object = "") -> Leaf:
    return Leaf(source=str, wants=wants, example=f'"{example}"', read=read, blank=blank)


_NAME_RULE: Final = f"letters, digits, '.', '_' and '-' within, at most {NAME_LENGTH_MAX}"

Name = Annotated[str, _text(f"a name ({_NAME_RULE})", "web-1", name)]
Interface = Annotated[str, _text("the name of an interface", "eth0", interface)]
Address = Annotated[str, _text("an IP address", "192.168.1.240", address)]
BackendAddress = Annotated[str, _text("an IP address", "192.168.1.21", backend_address)]
Addresses = Annotated[
    AddressRange | None,
    _text("a CIDR, a range or an address", "192.168.1.240-192.168.1.250", address_range, None),
]
Port = Annotated[int, _number(1, PORT_MAX, "a port", 80)]
Flag = Annotated[bool, _flag()]
Priority = Annotated[int, _number(0, 1000, "a priority", 1)]
Weight = Annotated[int, _number(0, 1000, "a weight", 100)]
RouteWeight = Annotated[int, _number(0, 1_000_000, "a weight", 9)]
Workers = Annotated[int, _number(1, 256, "a number of threads", 2)]
Count = Annotated[int, _number(1, 100, "a number of checks", 2)]
Attempts = Annotated[int, _number(1, 10, "a number of tries", 2)]
StatusCode = Annotated[int, _number(100, 599, "a status code", 200)]
Duration = Annotated[int, _text("a duration", "30s", duration_ms, 0)]
PositiveDuration = Annotated[int, _text("a duration", "2s", positive_duration_ms, 0)]
DurationOrOff = Annotated[int | None, _text('a duration or "off"', "30s", duration_or_off_ms, None)]
Failures = Annotated[int, _number(1, 1000, "a number of failures", 5)]
Connections = Annotated[int, _number(1, CONNECTIONS_MAX, "a number of connections", 1000)]
Rate = Annotated[int, _text("a rate by the second", "100/s", rate, 0)]
Network = Annotated[str, _text("a CIDR or an address", "192.168.0.0/16", network)]
LogFile = Annotated[str, _text('the path of a file, or "-"', "-", log_file)]
Drain = Annotated[int, _text("a duration of at most 60s", "10s", drain_ms, 0)]
BrokerUrl = Annotated[
    Broker | None, _text("the URL of a broker", "mqtt://192.168.1.11", broker, None)
]
ListenAt = Annotated[Listen | None, _text("address:port", "0.0.0.0:1883", listen, None)]
FileName = Annotated[str, _text("the path of a file", "cluster.secret", file_name)]
RouteHost = Annotated[str, _text("a host name or *.name", "www.example.com", route_host)]
RoutePath = Annotated[str, _text("a path", "/v1", route_path)]
RetryOn = Annotated[
    model.RetryOn | int, _text("a reason or a status from 400 to 599", "503", retry_on, 0)
]
CookieName = Annotated[str, _text("the name of a cookie", "sid", cookie_name)]
HashOn = Annotated[
    model.HashOn | None,
    _text('"header:" or "cookie:" and a name', "header:x-user", hash_on, None),
]
HealthPath = Annotated[str, _text("a path", "/healthz", health_path)]
Word = Annotated[str, _text("a program or an argument", "/usr/local/bin/check", word)]
HostName = Annotated[str, _text("a host name", "db.example.com", host_name)]
Method = Annotated[str, _text("a method", "GET", method)]
HeaderName = Annotated[str, _text("the name of a header", "x-canary", header_name)]
HeaderValue = Annotated[str, _text("the value of a header", "yes", header_value)]
Regex = Annotated[str, _text("a regular expression", "^t-", regex)]
Text = Annotated[str, _text("text", "2", str)]
QueryName = Annotated[str, _text("the name of a query parameter", "v", str)]
LabelName = Annotated[str, _text(f"a label ({_NAME_RULE})", "rack", name)]
LabelValue = Annotated[str, _text(f"a label ({_NAME_RULE})", "a", name)]
AnnounceBy = Annotated[model.Announce, _one_of(model.Announce)]
Conflict = Annotated[model.Conflict, _one_of(model.Conflict)]
QuorumLoss = Annotated[model.QuorumLoss, _one_of(model.QuorumLoss)]
ServiceType = Annotated[model.ServiceType, _one_of(model.ServiceType)]
TrafficPolicy = Annotated[model.TrafficPolicy, _one_of(model.TrafficPolicy)]
PoolType = Annotated[model.PoolType, _one_of(model.PoolType)]
Protocol = Annotated[model.Protocol, _one_of(model.Protocol)]
FamilyPolicy = Annotated[model.Families, _one_of(model.Families)]
Mode = Annotated[forwarding.Mode, _one_of(forwarding.Mode)]
Encapsulation = Annotated[forwarding.Encapsulation, _one_of(forwarding.Encapsulation)]
Balance = Annotated[proxying.Balance, _one_of(proxying.Balance)]
Affinity = Annotated[proxying.Affinity, _one_of(proxying.Affinity)]
ProxyHeader = Annotated[proxying.ProxyHeader, _one_of(proxying.ProxyHeader)]
CheckKind = Annotated[model.HealthKind, _one_of(model.HealthKind)]
EncodedSlash = Annotated[model.EncodedSlash, _one_of(model.EncodedSlash)]
Wildcard = Annotated[model.Wildcard, _one_of(model.Wildcard)]


class Eligible(StrEnum):
    """Through which interfaces a node may own VIPs."""

    ANY = "any"
    WIRED_ONLY = "wired-only"


class IpVersion(StrEnum):
    """The IP versions, as Kubernetes spells them."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"


IpFamily = Annotated[IpVersion, _one_of(IpVersion)]
VipEligible = Annotated[Eligible, _one_of(Eligible)]
FlowCacheKind = Annotated[forwarding.FlowCache, _one_of(forwarding.FlowCache)]


class ProfileName(StrEnum):
    """The rows of docs/reference/toml.md, [election]."""

    FAST = "fast"
    NORMAL = "normal"
    WIFI = "wifi"
    KILO = "kilo"


Profile = Annotated[ProfileName, _one_of(ProfileName)]
