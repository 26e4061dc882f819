"""Compares the orders in which subscribers got the messages of racing publishers.

Messages are `publisher:number`. Each function returns None, or in words what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence


def first_difference(one: Sequence[bytes], other: Sequence[bytes]) -> str | None:
    """Two subscribers that were there all the time got the same messages in the same order."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return (
                f"two subscribers got different orders: message {place + 1} was {left.decode()} for"
                f" one and {right.decode()} for the other"
            )
    if len(one) != len(other):
        return f"one subscriber got {len(one)} messages, another {len(other)}"
    return None


def not_a_slice(segment: Sequence[bytes], order: Sequence[bytes]) -> str | None:
    """A subscriber that came and went got a stretch of what the others got, without a gap."""
    if not segment:
        return None
    if segment[0] not in order:
        return f"{segment[0].decode()} reached one subscriber and not another"
    begin = order.index(segment[0])
    if list(order[begin : begin + len(segment)]) != list(segment):
        return "a subscriber that came later got another order, or not all"
    return None


def out_of_turn(order: Sequence[bytes]) -> str | None:
    """What one publisher sent comes in the order of its sending, once each."""
    last: dict[bytes, int] = {}
    for message in order:
        publisher, _, number = message.partition(b":")
        if int(number) != last.get(publisher, -1) + 1:
            return f"{message.decode()} came after message {last.get(publisher)} of its publisher"
        last[publisher] = int(number)
    return None
