"""nf_tables over netlink: what the fences need of it, encoded and decoded here.

`nft` may not be installed, and libnftables would cost more memory than the agent itself. The
messages are those of linux/netfilter/nf_tables.h. Numbers in their attributes are big-endian,
except in netlink's own headers, which are in the host's order.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

NFPROTO_INET, NFPROTO_ARP, NFPROTO_NETDEV = 1, 3, 5
"""Families. Tables of one name in two families are two tables."""
INGRESS, EGRESS = 0, 1
PREROUTING, POSTROUTING = 0, 4
ARP_OUT = 1
"""Hooks of the families netdev, inet and arp."""

META_PROTOCOL, META_IIFNAME, META_OIFNAME, META_NFPROTO, META_L4PROTO = 1, 6, 7, 15, 16
META_PACKET_TYPE = 19
LINK, NETWORK, TRANSPORT = 0, 1, 2
"""What an offset of `load` and `write` counts from."""

# NFTA_SET_KEY_TYPE is nft's business alone: by it `nft list` knows how to print an element.
TYPE_IPV4, TYPE_IPV6, TYPE_ETHER, TYPE_PROTOCOL, TYPE_PORT = 7, 8, 9, 12, 13

FIRST_REGISTER = 8
"""The first of 16 registers of 4 bytes (NFT_REG32_00); a longer value takes several."""
DROP, ACCEPT = 0, 1
JUMP = -3

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 10
_BATCH_BEGIN, _BATCH_END = 16, 17
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP, _NLM_F_CREATE, _NLM_F_APPEND = 1, 4, 0x300, 0x400, 0x800
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_NLMSGERR_ATTR_MSG = 1
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_NLA_F_NESTED, _NLA_TYPE_MASK = 0x8000, 0x3FFF

_NEWTABLE, _DELTABLE, _NEWCHAIN, _GETCHAIN, _NEWRULE, _NEWSET = 0, 2, 3, 4, 6, 9
_NEWSETELEM, _GETSETELEM, _DELSETELEM = 12, 13, 14
_SET_MAP, _SET_TIMEOUT, _SET_EVAL = 0x8, 0x10, 0x20
_DYNSET_UPDATE = 1
_LOOKUP_INVERTED = 1

_HEADER = struct.Struct("=IHHII")
_FLAGS, _FLAGS_OFFSET = struct.Struct("=H"), 6
_FAMILY = struct.Struct("!BBH")
_ATTRIBUTE = struct.Struct("=HH")
_BE32, _BE64 = struct.Struct("!I"), struct.Struct("!Q")
_BUFFER_SIZE = 64 * 1024
_ELEMENTS_PER_MESSAGE = 500
"""An attribute's length has 16 bits."""


class Batch:
    """Messages that the kernel carries out all together or not at all."""

    def __init__(self, table: str) -> None:
        self._table = text(1, table)
        self._family = NFPROTO_NETDEV
        self.data = bytearray(_message(_BATCH_BEGIN, 0, 0, _SUBSYSTEM, b""))
        self.names = ["nf_tables"]
        """What each message is about, by its sequence number."""
        self._last = 0

    def turn_to(self, family: int) -> None:
        """What follows is about the table in this family; until then it is netdev's."""
        self._family = family

    def new_table(self) -> None:
        """Create the table, unless it is there."""
        self._add(_NEWTABLE, _NLM_F_CREATE, self._table, "table")

    def delete_table(self) -> None:
        """Delete the table and all that is in it."""
        self._add(_DELTABLE, 0, self._table, "table")

    def remove_table(self) -> None:
        """Have no such table, whether or not there is one."""
        self.new_table()  # so that there is one to delete
        self.delete_table()

    def new_chain(self, name: str) -> None:
        """A chain to jump to."""
        self._add(_NEWCHAIN, _NLM_F_CREATE, self._table + text(3, name), f"chain {name}")

    def new_base_chain(self, name: str, hook: int, interface: str | None, priority: int) -> None:
        """A chain that sees every packet at a hook; what it does not drop passes.

        In the family netdev it is a hook of one interface, in the others there is none to name.
        """
        where = number(1, hook) + number(2, priority & 0xFFFFFFFF)
        where += text(3, interface) if interface is not None else b""
        body = self._table + text(3, name) + nested(4, where) + number(5, ACCEPT)
        self._add(_NEWCHAIN, _NLM_F_CREATE, body + text(7, "filter"), f"{name} chain")

    def new_set(
        self,
        name: str,
        key: tuple[int, int],
        *,
        data: tuple[int, int] | None = None,
        timeout_ms: int | None = None,
        dynamic: bool = False,
        size: int | None = None,
    ) -> None:
        """A set, or with `data` a map; `key` and `data` are nft's type and the length in bytes.

        With `timeout_ms` every element ends by itself, after that time if it has none of its own.
        `dynamic`: rules add elements, `size` at most.
        """
        flags = _SET_MAP if data else 0
        flags |= _SET_TIMEOUT if timeout_ms else 0
        flags |= _SET_EVAL if dynamic else 0
        body = self._table + text(2, name) + number(3, flags) + number(4, key[0])
        body += number(5, key[1]) + number(10, len(self.names))
        if data:
            body += number(6, data[0]) + number(7, data[1])
        if size:
            body += nested(9, number(1, size))
        if timeout_ms:
            body += attribute(11, _BE64.pack(timeout_ms))
        self._add(_NEWSET, _NLM_F_CREATE, body, f"set {name}")

    def rule(self, chain: str, *expressions: bytes, first: bool = False) -> None:
        """Append a rule, or put it before all others."""
        body = self._table + text(2, chain) + nested(4, b"".join(expressions))
        flags = _NLM_F_CREATE | (0 if first else _NLM_F_APPEND)
        self._add(_NEWRULE, flags, body, f"rule of {chain}")

    def add(self, name: str, keys: Sequence[bytes], data: bytes | None = None) -> None:
        """Have the elements, new ones with the set's own timeout.

        How long one lives on that was there depends on the kernel (Linux 6.12 changed it).
        """
        self._elements(_NEWSETELEM, name, [_element(key, data, None) for key in keys])

    def delete(self, name: str, keys: Sequence[bytes], data: bytes | None = None) -> None:
        """Delete elements, whether they are there or not.

        To delete what is not there is an error, so each is added first. (NFT_MSG_DESTROYSETELEM
        does the same since Linux 6.3.)
        """
        self.add(name, keys, data)
        self._elements(_DELSETELEM, name, [_element(key, None, None) for key in keys])

    def replace(
        self, name: str, timeouts_ms: Mapping[bytes, int], data: bytes | None = None
    ) -> list[int]:
        """Have the elements live for so long from now, whether they are there or not.

        Deleted and added again: to add what is there does not renew it before Linux 6.12. The
        result is where in `data` of this batch each timeout is, for `set_timeout`.
        """
        self.delete(name, list(timeouts_ms), data)
        places: list[int] = []
        elements = [_element(key, data, timeout) for key, timeout in timeouts_ms.items()]
        for chunk in _chunks(elements):
            self._elements(_NEWSETELEM, name, chunk)
            end = len(self.data)
            ends = [end - len(chunk[0]) * left for left in reversed(range(len(chunk)))]
            places += [each - _BE64.size for each in ends]
        return places

    def set_timeout(self, place: int, timeout_ms: int) -> None:
        """Write another timeout where `replace` wrote one; a batch can be sent many times."""
        _BE64.pack_into(self.data, place, timeout_ms)

    def finished(self, *, commit: bool) -> bytes:
        """All of it for the kernel, which only tries and forgets it without the end mark."""
        data = bytearray(self.data)
        (flags,) = _FLAGS.unpack_from(data, self._last + _FLAGS_OFFSET)
        _FLAGS.pack_into(data, self._last + _FLAGS_OFFSET, flags | _NLM_F_ACK)
        if commit:
            data += _message(_BATCH_END, 0, len(self.names), _SUBSYSTEM, b"")
        return bytes(data)

    def _elements(self, kind: int, name: str, elements: list[bytes]) -> None:
        flags = _NLM_F_CREATE if kind == _NEWSETELEM else 0
        for chunk in _chunks(elements):
            body = self._table + text(2, name) + nested(3, b"".join(chunk))
            self._add(kind, flags, body, f"elements of {name}")

    def _add(self, kind: int, flags: int, body: bytes, name: str) -> None:
        self._last = len(self.data)
        sequence = len(self.names)
        self.data += _message(_SUBSYSTEM << 8 | kind, flags, sequence, 0, body, family=self._family)
        self.names.append(name)


class Nftables:
    """A netfilter netlink socket in the network namespace of the calling thread.

    The kernel does its work, and queues its answers, while `send` is still running; so nothing
    here ever waits for an answer. Errors are OSError; `filename` is what the kernel did not take.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
        )
        self._socket.setblocking(False)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._socket.bind((0, 0))

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

    def commit(self, batch: Batch) -> None:
        """Carry out all of it; after an error nothing has changed."""
        self._run(batch.finished(commit=True), batch.names)

    def check(self, batch: Batch) -> None:
        """Have the kernel judge all of it, and change nothing."""
        self._run(batch.finished(commit=False), batch.names)

    def has_chain(self, table: str, chain: str, family: int = NFPROTO_NETDEV) -> bool:
        """Whether there is such a chain."""
        body = text(1, table) + text(3, chain)
        self._socket.sendto(
            _message(_SUBSYSTEM << 8 | _GETCHAIN, 0, 0, 0, body, family=family), (0, 0)
        )
        return all(kind != _NLMSG_ERROR for kind, _, _, _ in self._answers())

    def elements(
        self, table: str, name: str, family: int = NFPROTO_NETDEV
    ) -> dict[bytes, int | None]:
        """The live elements of a set, and how many milliseconds each has left, if it ends."""
        body = text(1, table) + text(2, name)
        request = _message(_SUBSYSTEM << 8 | _GETSETELEM, _NLM_F_DUMP, 0, 0, body, family=family)
        self._socket.sendto(request, (0, 0))
        found: dict[bytes, int | None] = {}
        for kind, flags, _, message in self._answers():
            if kind == _NLMSG_ERROR:
                error = _error(message, flags, f"set {name}")
                raise error if error is not None else OSError("nf_tables: no list came")
            if kind == _NLMSG_DONE:
                break
            for _, elements in _attributes(message[_HEADER.size + _FAMILY.size :], 3):
                for _, element in _attributes(elements, 1):
                    parts = dict(_attributes(element))
                    left = parts.get(5)
                    ((_, key),) = _attributes(parts[1])
                    found[key] = None if left is None else _BE64.unpack(left)[0]
        return found

    def _run(self, request: bytes, names: Sequence[str]) -> None:
        self._socket.sendto(request, (0, 0))
        error: OSError | None = None
        heard = False
        for kind, flags, sequence, message in self._answers():
            if kind == _NLMSG_ERROR:
                heard = True
                name = names[sequence] if sequence < len(names) else "end"
                error = error or _error(message, flags, name)
        if error is not None:
            raise error
        if not heard:
            raise OSError("nf_tables: the kernel did not acknowledge")

    def _answers(self) -> Iterator[tuple[int, int, int, bytes]]:
        """(kind, flags, sequence, message) of all that is queued."""
        while True:
            try:
                data, (port, _) = self._socket.recvfrom(_BUFFER_SIZE)
            except BlockingIOError:
                return
            while port == 0 and len(data) >= _HEADER.size:
                size, kind, flags, sequence, _ = _HEADER.unpack_from(data)
                yield kind, flags, sequence, data[:size]
                data = data[(size + 3) & ~3 :]


def attribute(kind: int, value: bytes) -> bytes:
    """A netlink attribute, padded."""
    return _ATTRIBUTE.pack(len(value) + 4, kind) + value + bytes(-len(value) % 4)


def nested(kind: int, attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | _NLA_F_NESTED, attributes)


def text(kind: int, value: str) -> bytes:
    """An attribute with a name."""
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """An attribute with a 32-bit number."""
    return attribute(kind, _BE32.pack(value))


def load(base: int, offset: int, size: int, register: int = FIRST_REGISTER) -> bytes:
    """Bytes of the packet into registers; the rule ends when the packet has no such bytes."""
    body = number(1, register) + number(2, base) + number(3, offset) + number(4, size)
    return _expression("payload", body)


def extension(header: int, offset: int, size: int, register: int = FIRST_REGISTER) -> bytes:
    """Bytes of an IPv6 extension header into registers; the rule ends when there is none."""
    body = number(1, register) + attribute(2, bytes([header])) + number(3, offset)
    return _expression("exthdr", body + number(4, size))


def write(
    base: int,
    offset: int,
    size: int,
    register: int = FIRST_REGISTER,
    *,
    in_pseudo_header: bool = False,
) -> bytes:
    """Registers into the packet; `in_pseudo_header`: the checksum of what is inside is adjusted."""
    body = number(2, base) + number(3, offset) + number(4, size) + number(5, register)
    return _expression("payload", body + number(6, 0) + number(7, 0) + number(8, in_pseudo_header))


def meta(key: int, register: int = FIRST_REGISTER) -> bytes:
    """What the kernel knows about the packet into a register."""
    return _expression("meta", number(1, register) + number(2, key))


def equals(value: bytes, register: int = FIRST_REGISTER) -> bytes:
    """The rule ends unless the register holds this."""
    return _expression("cmp", number(1, register) + number(2, 0) + nested(3, attribute(1, value)))


def differs(value: bytes, register: int = FIRST_REGISTER) -> bytes:
    """The rule ends if the register holds this."""
    return _expression("cmp", number(1, register) + number(2, 1) + nested(3, attribute(1, value)))


def at_least(value: bytes, register: int = FIRST_REGISTER) -> bytes:
    """The rule ends unless the register holds this or, byte by byte, more."""
    return _expression("cmp", number(1, register) + number(2, 5) + nested(3, attribute(1, value)))


def at_most(value: bytes, register: int = FIRST_REGISTER) -> bytes:
    """The rule ends unless the register holds this or, byte by byte, less."""
    return _expression("cmp", number(1, register) + number(2, 3) + nested(3, attribute(1, value)))


def masked(mask: bytes, register: int = FIRST_REGISTER) -> bytes:
    """Only these bits of the register stay."""
    body = number(1, register) + number(2, register) + number(3, len(mask))
    body += nested(4, attribute(1, mask)) + nested(5, attribute(1, bytes(len(mask))))
    return _expression("bitwise", body)


def within(name: str, register: int = FIRST_REGISTER) -> bytes:
    """The rule ends unless the set has the registers' value."""
    return _expression("lookup", text(1, name) + number(2, register))


def not_within(name: str, register: int = FIRST_REGISTER) -> bytes:
    """The rule ends if the set has the registers' value."""
    body = text(1, name) + number(2, register) + number(5, _LOOKUP_INVERTED)
    return _expression("lookup", body)


def mapped(name: str, register: int = FIRST_REGISTER) -> bytes:
    """The map's value replaces the key in the registers; the rule ends when it has none."""
    return _expression("lookup", text(1, name) + number(2, register) + number(3, register))


def remember(name: str, timeout_ms: int, register: int = FIRST_REGISTER) -> bytes:
    """Add to a dynamic set, or renew; the rule ends when the set is full."""
    body = text(1, name) + number(3, _DYNSET_UPDATE) + number(4, register)
    return _expression("dynset", body + attribute(6, _BE64.pack(timeout_ms)))


def immediate(value: bytes, register: int = FIRST_REGISTER) -> bytes:
    """A constant into registers."""
    return _expression("immediate", number(1, register) + nested(2, attribute(1, value)))


def counted() -> bytes:
    """Counts the packets that come so far; `nft list` shows how many there were."""
    return _expression("counter", b"")


def verdict(code: int, chain: str | None = None) -> bytes:
    """DROP, ACCEPT, or JUMP to a chain."""
    body = number(1, code & 0xFFFFFFFF) + (text(2, chain) if chain is not None else b"")
    return _expression("immediate", number(1, 0) + nested(2, nested(2, body)))


def forward(register: int = FIRST_REGISTER) -> bytes:
    """Send the frame as it is out of the interface whose index the register holds."""
    return _expression("fwd", number(1, register))


def _expression(name: str, body: bytes) -> bytes:
    return nested(1, text(1, name) + nested(2, body))


def _element(key: bytes, data: bytes | None, timeout_ms: int | None) -> bytes:
    """The timeout comes last: `Batch.replace` counts on it."""
    body = nested(1, attribute(1, key))
    if data is not None:
        body += nested(2, attribute(1, data))
    if timeout_ms is not None:
        body += attribute(4, _BE64.pack(timeout_ms))
    return nested(1, body)


def _chunks(elements: list[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(elements), _ELEMENTS_PER_MESSAGE):
        yield elements[start : start + _ELEMENTS_PER_MESSAGE]


def _message(
    kind: int,
    flags: int,
    sequence: int,
    resource: int,
    body: bytes,
    *,
    family: int = socket.AF_UNSPEC,
) -> bytes:
    """`family`: whose table it is about; none for the marks of a batch."""
    size = _HEADER.size + _FAMILY.size + len(body)
    header = _HEADER.pack(size, kind, flags | _NLM_F_REQUEST, sequence, 0)
    return header + _FAMILY.pack(family, 0, resource) + body


def _attributes(data: bytes, only: int | None = None) -> Iterable[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        if size < _ATTRIBUTE.size:
            return
        kind &= _NLA_TYPE_MASK
        if only is None or kind == only:
            yield kind, data[_ATTRIBUTE.size : size]
        data = data[(size + 3) & ~3 :]


def _error(message: bytes, flags: int, name: str) -> OSError | None:
    """What struct nlmsgerr says, in the kernel's own words when it has some; None for success."""
    (code,) = struct.unpack_from("=i", message, _HEADER.size)
    if code == 0:
        return None
    words = os.strerror(-code)
    if flags & _NLM_F_ACK_TLVS and flags & _NLM_F_CAPPED:
        for _, value in _attributes(message[_HEADER.size + 4 + _HEADER.size :], _NLMSGERR_ATTR_MSG):
            words = f"{words}: {value.rstrip(bytes(1)).decode(errors='replace')}"
    return OSError(-code, words, name)
