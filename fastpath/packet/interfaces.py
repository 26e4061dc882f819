"""What the kernel says of an interface that matters to where a program can be attached.

Two questions by netlink(7), in the network namespace of the calling thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

XDP_REDIRECT = 1 << 1  # linux/netdev.h: the driver runs programs and does all they may ask for
XDP_RECEIVES = 1 << 2  # NDO_XMIT: what is redirected to it is sent; on a veth, its peer takes it

_NETLINK_GENERIC = 16
_RTM_GETLINK, _IFLA_IFNAME, _IFLA_XDP = 18, 3, 43
_IFLA_XDP_PROG_ID = 4
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY = 16, 3
_CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 1, 2
_NETDEV_CMD_DEV_GET, _NETDEV_A_DEV_IFINDEX, _NETDEV_A_DEV_XDP_FEATURES = 1, 1, 3
_NLMSG_ERROR, _NLM_F_REQUEST, _NESTED = 2, 1, 0x3FFF
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_IFINFOMSG = struct.Struct("=BxHiII")
_GENLMSGHDR = struct.Struct("=BBxx")
_ANSWER_MAX = 1 << 16
_TIMEOUT_S = 5.0


class Interface(NamedTuple):
    """An interface now; `number` is its index."""

    number: int
    name: str
    xdp_program: int
    """Number of the program that is attached to it; 0: none."""
    xdp_features: int | None
    """Bits XDP_*; None: the kernel (before 6.3) does not know."""


def interface(index: int) -> Interface:
    """Ask for one; OSError ENODEV when there is none."""
    asked = _IFINFOMSG.pack(0, 0, index, 0, 0)
    answer = _ask(socket.NETLINK_ROUTE, _RTM_GETLINK, asked)
    attributes = dict(_attributes(answer[_IFINFOMSG.size :]))
    xdp = dict(_attributes(attributes.get(_IFLA_XDP, b"")))
    return Interface(
        number=index,
        name=attributes[_IFLA_IFNAME].rstrip(b"\0").decode(),
        xdp_program=int.from_bytes(xdp.get(_IFLA_XDP_PROG_ID, b""), "little"),
        xdp_features=_xdp_features(index),
    )


def _xdp_features(index: int) -> int | None:
    with contextlib.suppress(OSError):
        named = _attribute(_CTRL_ATTR_FAMILY_NAME, b"netdev\0")
        answer = _generic(_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, named)
        family = int.from_bytes(answer[_CTRL_ATTR_FAMILY_ID], "little")
        wanted = _attribute(_NETDEV_A_DEV_IFINDEX, struct.pack("=I", index))
        answer = _generic(family, _NETDEV_CMD_DEV_GET, wanted)
        return int.from_bytes(answer[_NETDEV_A_DEV_XDP_FEATURES], "little")
    return None


def _generic(family: int, command: int, attributes: bytes) -> dict[int, bytes]:
    answer = _ask(_NETLINK_GENERIC, family, _GENLMSGHDR.pack(command, 1) + attributes)
    return dict(_attributes(answer[_GENLMSGHDR.size :]))


def _ask(protocol: int, kind: int, body: bytes) -> bytes:
    """The body of the one message that answers."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as asker:
        asker.settimeout(_TIMEOUT_S)
        asker.bind((0, 0))
        asker.send(_HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST, 1, 0) + body)
        answer = asker.recv(_ANSWER_MAX)
    size, answered, _, _, _ = _HEADER.unpack_from(answer)
    body = answer[_HEADER.size : size]
    if answered == _NLMSG_ERROR:
        code = -int(struct.unpack_from("=i", body)[0])
        raise OSError(code, os.strerror(code))
    if size > len(answer):
        raise OSError(errno.EMSGSIZE, "the kernel's answer was cut")
    return body


def _attribute(kind: int, value: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + bytes(-size % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        if size < _ATTRIBUTE.size:
            return
        yield kind & _NESTED, data[_ATTRIBUTE.size : size]
        data = data[(size + 3) & ~3 :]
