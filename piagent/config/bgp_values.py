"""The values of [bgp] and of what pools say of their routes."""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address
from typing import Annotated, Final

from msgspec import Meta

from piagent.config.values import Leaf, UnfitError, duration_ms
from piagent.core.bgp import WELL_KNOWN

ASN_MAX: Final = 2**32 - 1
RESERVED_ASNS: Final = frozenset({23456, 65535, ASN_MAX})
"""AS_TRANS (RFC 6793) and the last ones of two and four octets (RFC 7300)."""
HOLD_TIME_MIN_S: Final = 3
HOLD_TIME_MAX_S: Final = 65535
"""RFC 4271 section 4.2: two octets, and neither one nor two."""
PART_MAX: Final = {2: 65535, 3: ASN_MAX}
"""Of the parts of a community, by their number: RFC 1997, RFC 8092."""


def asn(number: int) -> int:
    """Read the number of an autonomous system, of two or four octets."""
    if number in RESERVED_ASNS:
        raise UnfitError(f"{number} is reserved", "private ones: 64512 to 65534, 4200000000 and on")
    return number


def hold_time_ms(text: str) -> int:
    """Read a Hold Time; "0s" is none at all."""
    milliseconds = duration_ms(text)
    seconds = milliseconds // 1000
    if milliseconds % 1000 or 0 < seconds < HOLD_TIME_MIN_S or seconds > HOLD_TIME_MAX_S:
        span = f"{HOLD_TIME_MIN_S} to {HOLD_TIME_MAX_S}"
        cure = f'whole seconds, {span}, or "0s": silence ends no session'
        raise UnfitError(f'"{text}" is no Hold Time', cure)
    return milliseconds


def community(text: str) -> str:
    """Read a community, of two parts or large, as its numbers; some have names."""
    if text in WELL_KNOWN:
        return WELL_KNOWN[text]
    parts = text.split(":")
    limit = PART_MAX.get(len(parts))
    if limit is None or not all(part.isascii() and part.isdigit() for part in parts):
        cure = f'write "64512:100", "64512:1:2" or one of {", ".join(sorted(WELL_KNOWN))}'
        raise UnfitError(f'"{text}" is not a community', cure)
    numbers = [int(part) for part in parts]
    if max(numbers) > limit:
        cure = "" if len(parts) == 3 else 'large ones have three parts: "4200000000:1:2"'
        raise UnfitError(f'"{text}": its parts go up to {limit}', cure)
    return ":".join(map(str, numbers))


def router_id(text: str) -> str:
    """Read a BGP Identifier (RFC 6286: anything but 0.0.0.0)."""
    try:
        found = IPv4Address(text)
    except AddressValueError:
        raise UnfitError(f'"{text}" is not written as an IPv4 address') from None
    if found.is_unspecified:
        raise UnfitError(f'"{text}" identifies nobody')
    return str(found)


Asn = Annotated[
    int,
    Leaf(
        source=Annotated[int, Meta(ge=1, le=ASN_MAX)],
        wants=f"the number of an autonomous system, 1 to {ASN_MAX}",
        example="64512",
        read=asn,
        blank=0,
    ),
]
HoldTime = Annotated[
    int,
    Leaf(source=str, wants="a duration", example='"9s"', read=hold_time_ms, blank=0),
]
Community = Annotated[
    str, Leaf(source=str, wants="a community", example='"64512:100"', read=community)
]
RouterId = Annotated[
    str,
    Leaf(source=str, wants="an IPv4 address", example='"192.168.1.21"', read=router_id),
]
LocalPref = Annotated[
    int,
    Leaf(
        source=Annotated[int, Meta(ge=0, le=2**32 - 1)],
        wants=f"a preference, 0 to {2**32 - 1}",
        example="100",
        blank=0,
    ),
]
Multihop = Annotated[
    int,
    Leaf(
        source=Annotated[int, Meta(ge=1, le=255)],
        wants="a number of hops, 1 to 255",
        example="2",
        blank=0,
    ),
]
