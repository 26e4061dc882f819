"""Where the flow cache's program is attached, and why there: a choice by what interfaces can do.

Native XDP is the cheapest place, but every interface has to be able to run the program and to send
what the others redirect to it: what cannot be sent there is lost without a word. So all interfaces
get the same kind, the best that all of them can do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from fastpath.packet.interfaces import XDP_RECEIVES, XDP_REDIRECT, Interface

How = Literal["auto", "xdp", "tc", "xdp-generic"]
Mode = Literal["none", "xdp", "tc", "xdp-generic"]

HOWS: tuple[How, ...] = ("auto", "xdp", "tc", "xdp-generic")


class Choice(NamedTuple):
    """A kind of attachment, or none, with its reason in words."""

    mode: Mode
    reason: str


def choose(how: How, interfaces: Sequence[Interface]) -> Choice:
    """What to try first; `mode` is "none" when what was asked for cannot be had."""
    if how == "tc":
        return Choice("tc", "as configured")
    if how == "xdp-generic":
        there = occupied(interfaces)
        return Choice("none", there) if there else Choice("xdp-generic", "as configured")
    hindrance = why_not_native(interfaces)
    if how == "xdp":
        return Choice("none", hindrance) if hindrance else Choice("xdp", "as configured")
    if hindrance:
        return Choice("tc", f"no native XDP: {hindrance}")
    return Choice("xdp", "every driver runs XDP programs and sends what they redirect to it")


def why_not_native(interfaces: Sequence[Interface]) -> str:
    """What speaks against native XDP, of the first interface that has something; "": nothing."""
    for each in interfaces:
        if each.xdp_features is None:
            return f"{each.name}: this kernel does not say what its driver can do (6.3 does)"
        if not each.xdp_features & XDP_REDIRECT:
            return f"{each.name}: its driver runs no XDP programs"
        if not each.xdp_features & XDP_RECEIVES:
            return (
                f"{each.name}: what XDP sends would not be received; of a veth, "
                "switch the peer's gro on (ethtool -K <peer> gro on)"
            )
    return occupied(interfaces)


def occupied(interfaces: Sequence[Interface]) -> str:
    """Whose program is in the way; "": nobody's."""
    for each in interfaces:
        if each.xdp_program:
            return f"{each.name}: XDP program number {each.xdp_program} is attached already"
    return ""
