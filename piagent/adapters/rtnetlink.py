"""One question to the kernel's routing netlink, and its answer.

pyroute2 encodes and decodes the messages. Its sockets are not used: `import pyroute2` brings 236
modules and 14 MiB, a third of the agent's whole budget; the message class that we need brings
0.7 MiB. rtnetlink answers while `send` is still running, so a plain socket is enough; `send` may
take a while when somebody else holds the kernel's rtnl lock.
"""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, TracebackType
from typing import Any, Self

from msgspec import Struct


@contextmanager
def parts_of_pyroute2() -> Iterator[None]:
    """Lets modules of pyroute2 be imported without the package's own `__init__`.

    Afterwards `import pyroute2` works as ever, for whoever wants all of it.
    """
    if "pyroute2" in sys.modules:
        yield
        return
    spec = importlib.util.find_spec("pyroute2")
    if spec is None or spec.submodule_search_locations is None:
        msg = "pyroute2 is not installed: pip install 'pyroute2>=0.9.5,<0.10'"
        raise ImportError(msg)
    bare = ModuleType("pyroute2")
    bare.__path__ = list(spec.submodule_search_locations)
    sys.modules["pyroute2"] = bare
    try:
        yield
    finally:
        del sys.modules["pyroute2"]


with parts_of_pyroute2():
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

RTM_NEWLINK = 16
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22

NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400

IFF_UP = 0x1

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_NLMSGERR_ATTR_MSG = 1
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_HEADER = struct.Struct("=IHHII")
_SEQUENCE, _SEQUENCE_OFFSET = struct.Struct("=I"), 8
_ANSWER_TIMEOUT_S = 5.0
_BUFFER_SIZE = 64 * 1024
_DUMP_ATTEMPTS = 5
_IFNAMSIZ = 16
_SIOCGIFFLAGS, _SIOCGIFMTU, _SIOCGIFHWADDR, _SIOCGIFINDEX = 0x8913, 0x8921, 0x8927, 0x8933
_ARPHRD_ETHER, _ARPHRD_LOOPBACK = 1, 772


class Link(Struct, frozen=True):
    """A network interface as the kernel sees it now."""

    name: str
    index: int
    up: bool
    """Switched on (IFF_UP); says nothing about the cable."""
    mac: bytes
    """Its hardware address: 6 bytes on Ethernet and Wi-Fi, none on a tunnel."""


class Rtnetlink:
    """A netlink socket in the network namespace of the calling thread; errors are OSError."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._socket.settimeout(_ANSWER_TIMEOUT_S)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        """Nothing can be asked afterwards."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def change(self, message: Any, kind: int, flags: int = 0) -> None:
        """Have the kernel do something, and wait for its acknowledgement."""
        self.repeat(encoded(message, kind, flags | NLM_F_ACK))

    def repeat(self, request: bytearray) -> None:
        """Have the kernel do what `encoded` made of a message with NLM_F_ACK, now or once more."""
        self._send(request)
        for _ in self._answers():
            pass

    def dump(self, message: Any, kind: int) -> list[Any]:
        """Every object of a kind; asked again when it changed while the kernel was listing it."""
        for _ in range(_DUMP_ATTEMPTS):
            self._send(encoded(message, kind, NLM_F_DUMP))
            answers = list(self._answers())
            if not any(flags & NLM_F_DUMP_INTR for flags, _ in answers):
                return [_decoded(type(message), data) for _, data in answers]
        msg = "the kernel's list kept changing while it was read"
        raise OSError(msg)

    def link(self, name: str) -> Link:
        """One interface by its name; ENODEV when there is none.

        By netdevice(7)'s ioctls: three short calls, where rtnetlink gives 1.5 KiB to decode.
        """
        if len(name.encode()) >= _IFNAMSIZ:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        wanted = struct.pack("40s", name.encode())
        index, flags, hardware = (
            fcntl.ioctl(self._socket, request, wanted)
            for request in (_SIOCGIFINDEX, _SIOCGIFFLAGS, _SIOCGIFHWADDR)
        )
        kind, mac = struct.unpack_from("=H6s", hardware, _IFNAMSIZ)
        return Link(
            name=name,
            index=struct.unpack_from("=i", index, _IFNAMSIZ)[0],
            up=bool(struct.unpack_from("=H", flags, _IFNAMSIZ)[0] & IFF_UP),
            mac=mac if kind in {_ARPHRD_ETHER, _ARPHRD_LOOPBACK} else b"",
        )

    def mtu(self, name: str) -> int:
        """The longest IP packet that an interface sends, in bytes; ENODEV when there is none."""
        answer = fcntl.ioctl(self._socket, _SIOCGIFMTU, struct.pack("40s", name.encode()))
        return int(struct.unpack_from("=i", answer, _IFNAMSIZ)[0])

    def _send(self, request: bytearray) -> None:
        self._sequence += 1
        _SEQUENCE.pack_into(request, _SEQUENCE_OFFSET, self._sequence)
        self._socket.sendto(request, (0, 0))

    def _answers(self) -> Iterator[tuple[int, bytes]]:
        """(flags, message) of each answer up to the one that says done."""
        while True:
            data, (port, _) = self._socket.recvfrom(_BUFFER_SIZE)
            if port != 0:
                continue  # not from the kernel
            while len(data) >= _HEADER.size:
                size, kind, flags, sequence, _ = _HEADER.unpack_from(data)
                message, data = data[:size], data[(size + 3) & ~3 :]
                if sequence != self._sequence:
                    continue
                if kind == _NLMSG_ERROR:
                    _raise_for(message, flags)
                    return
                if kind == _NLMSG_DONE:
                    return
                yield flags, message


def encoded(message: Any, kind: int, flags: int) -> bytearray:
    """The message as the kernel takes it, still without its sequence number."""
    header = message["header"]
    header["type"] = kind
    header["flags"] = flags | NLM_F_REQUEST
    header["sequence_number"] = 0
    header["pid"] = 0
    message.encode()
    return bytearray(message.data)


def _decoded(kind: Any, data: bytes) -> Any:
    message = kind(data)
    message.decode()
    return message


def _raise_for(message: bytes, flags: int) -> None:
    """Raise what struct nlmsgerr says, in the kernel's own words when it has some."""
    (code,) = struct.unpack_from("=i", message, _HEADER.size)
    if code == 0:
        return
    text = os.strerror(-code)
    if flags & _NLM_F_ACK_TLVS and flags & _NLM_F_CAPPED:
        attributes = message[_HEADER.size + 4 + _HEADER.size :]
        while len(attributes) >= 4:
            size, kind = struct.unpack_from("=HH", attributes)
            if kind == _NLMSGERR_ATTR_MSG:
                detail = attributes[4:size].rstrip(b"\0").decode(errors="replace")
                text = f"{text}: {detail}"
            attributes = attributes[max(4, (size + 3) & ~3) :]
    raise OSError(-code, text)


__all__ = ["Link", "Rtnetlink", "encoded", "ifaddrmsg", "parts_of_pyroute2"]
