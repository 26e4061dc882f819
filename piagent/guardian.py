"""The parent process: sees the agent die, takes its VIPs down, and yields them in its name.

It runs in an interpreter without site-packages and imports next to nothing, so that it stays below
10 MiB, most of them shared with the agent, and has little in it that could fail. Two modules are
used below their public face: `signal` and `socket` would bring enum and more, 1.4 MiB.

What is to be done is the agent's will; it comes over a socket whenever it changes, the last counts.
"""

from __future__ import annotations

import _socket
import _thread
import errno
import os
import select
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable, Iterator
    from typing import NoReturn
else:
    import _signal as signal

LINE = "PIAGENT_GUARDIAN_FD"
"""The environment variable that tells the agent which descriptor leads to the guardian."""
REMOVAL_PATIENCE_S = 3.0
"""How long removing is tried again; most addresses' lifetimes end by then, too."""
DELIVERY_TIMEOUT_S = 1.0
"""From the first broker's SYN to the last PUBACK that counts."""
NOT_STARTED = 127
"""The exit code when the agent cannot be started, as a shell has it."""

Broker = tuple[bytes, ...]
"""Label, host, port, user name, password, "tls" or "", files of CA, certificate, key; b"": none."""
Letters = dict[Broker, list[tuple[bytes, bytes]]]
"""For each broker (topic, payload)."""


# ---- the will ------------------------------------------------------------------------------------

_VERSION = b"piagent will 1"
_MAX_WILL = 512 * 1024  # bytes; the kernel sends no more in one message
_SIZE = struct.Struct("=I")
_HEAD, _BROKER = 4, 9  # fields


def pack(node: bytes, interface: bytes, vips: Iterable[bytes], letters: Letters) -> bytes:
    """A will as one message; VIPs are addresses in text, the interface may be b"" for none."""
    fields = [_VERSION, node, interface, b" ".join(vips)]
    for broker, messages in letters.items():
        for message in messages:
            fields += (*broker, *message)
    return b"".join(_SIZE.pack(len(field)) + field for field in fields)


class Will:
    """What is to be done when the agent dies; nothing, as long as it said nothing."""

    def __init__(self) -> None:
        self.node = b""
        self.interface = b""
        self.vips: set[bytes] = set()
        """Addresses as they are on the wire."""
        self.letters: Letters = {}


def unpack(data: bytes) -> Will:
    """What `pack` packed; ValueError for anything else."""
    fields = list(_fields(data))
    row = _BROKER + 2
    if len(fields) < _HEAD or fields[0] != _VERSION or (len(fields) - _HEAD) % row:
        raise ValueError("not a will")
    will = Will()
    _, will.node, will.interface, vips = fields[:_HEAD]
    will.vips = {_address(text) for text in vips.split()}
    for at in range(_HEAD, len(fields), row):
        broker = tuple(fields[at : at + _BROKER])
        if not 0 < int(broker[2]) < 1 << 16:
            raise ValueError("not a port")
        will.letters.setdefault(broker, []).append((fields[at + row - 2], fields[at + row - 1]))
    return will


def _fields(data: bytes) -> Iterator[bytes]:
    while data:
        if len(data) < _SIZE.size:
            raise ValueError("cut short")
        (size,) = _SIZE.unpack_from(data)
        field, data = data[_SIZE.size :][:size], data[_SIZE.size + size :]
        if len(field) < size:
            raise ValueError("cut short")
        yield field


def _address(text: bytes) -> bytes:
    family = _socket.AF_INET6 if b":" in text else _socket.AF_INET
    try:
        return _socket.inet_pton(family, text.decode("ascii"))
    except OSError:
        raise ValueError("not an address") from None


# ---- addresses: rtnetlink(7) ---------------------------------------------------------------------

IFA_PROTO_PIAGENT = 0x70
"""The mark of our addresses (adapters/netlink.py)."""

_RTM_DELADDR, _RTM_GETADDR = 21, 22
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_IFA_ADDRESS, _IFA_LOCAL, _IFA_PROTO = 1, 2, 11
_NLMSGHDR, _IFADDRMSG = struct.Struct("=IHHII"), struct.Struct("=BBBBI")
_NLATTR = struct.Struct("=HH")
_ANSWER_TIMEOUT_S = 1.0
_BUFFER_SIZE = 64 * 1024
_PAUSE_S = 0.02


class Address:
    """An address on an interface of this host."""

    def __init__(self, message: bytes) -> None:
        """From an RTM_NEWADDR without its header; struct.error when it is none."""
        self.family, self.prefix, _, _, self.index = _IFADDRMSG.unpack_from(message)
        attributes = dict(_attributes(message[_IFADDRMSG.size :]))
        self.peer = attributes.get(_IFA_ADDRESS, b"")
        self.raw = attributes.get(_IFA_LOCAL, self.peer)
        self.marked = attributes.get(_IFA_PROTO) == bytes([IFA_PROTO_PIAGENT])

    @property
    def is_host(self) -> bool:
        """A /32 or /128, as all of ours are."""
        return bool(self.prefix == 8 * len(self.raw))

    def __str__(self) -> str:
        return f"{_socket.inet_ntop(self.family, self.raw)}/{self.prefix}"


def remove(ours: Callable[[Address], bool], patience_s: float) -> list[Address]:
    """Remove what is ours of this host's addresses, until the kernel lists no such address.

    Gives what was there. OSError: something stays, or the kernel cannot be asked, after
    `patience_s` of trying.
    """
    removed: dict[tuple[int, bytes, int], Address] = {}
    deadline = time.monotonic() + patience_s
    while True:
        failure = OSError("it comes back")
        try:
            here = [address for address in addresses() if ours(address)]
            if not here:
                return list(removed.values())
            for address in here:
                code = _delete(address)
                if code:  # the others go all the same
                    failure = OSError(code, f"{address}: {os.strerror(code)}")
                else:
                    removed[address.index, address.raw, address.prefix] = address
        except OSError as error:
            failure = OSError(f"the kernel's list of addresses: {error}")
        if time.monotonic() > deadline:
            raise failure
        time.sleep(_PAUSE_S if failure.errno else 0)


def addresses() -> list[Address]:
    """Every address of every interface, IPv4 and IPv6; OSError when the kernel does not say."""
    body = _IFADDRMSG.pack(0, 0, 0, 0, 0)
    return [Address(message) for message in _asked(_RTM_GETADDR, _NLM_F_DUMP, body)]


def _delete(address: Address) -> int:
    """Exactly this one; 0 or errno."""
    body = (
        _IFADDRMSG.pack(address.family, address.prefix, 0, 0, address.index)
        + _attribute(_IFA_LOCAL, address.raw)
        + _attribute(_IFA_ADDRESS, address.peer)
    )
    try:
        _asked(_RTM_DELADDR, _NLM_F_ACK, body)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _asked(kind: int, flags: int, body: bytes) -> list[bytes]:
    """Ask the kernel one thing; what it answers, without headers."""
    size = _NLMSGHDR.size + len(body)
    netlink = _socket.socket(
        _socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, _socket.NETLINK_ROUTE
    )
    try:
        netlink.settimeout(_ANSWER_TIMEOUT_S)
        netlink.bind((0, 0))
        netlink.send(_NLMSGHDR.pack(size, kind, flags | _NLM_F_REQUEST, 1, 0) + body)
        return list(_answers(netlink))
    finally:
        netlink.close()


def _answers(netlink: _socket.socket) -> Iterator[bytes]:
    """The messages up to the one that says done; OSError when it says why not."""
    while True:
        data, (port, _) = netlink.recvfrom(_BUFFER_SIZE)
        while port == 0 and len(data) >= _NLMSGHDR.size:  # port 0 is the kernel's
            size, kind, flags, _, _ = _NLMSGHDR.unpack_from(data)
            message, data = data[_NLMSGHDR.size : size], data[(size + 3) & ~3 :]
            if flags & _NLM_F_DUMP_INTR:
                raise OSError("it changed while it was read")
            if kind in {_NLMSG_ERROR, _NLMSG_DONE}:
                (code,) = struct.unpack_from("=i", message)
                if code:
                    raise OSError(-code, os.strerror(-code))
                return
            yield message


def _attribute(kind: int, value: bytes) -> bytes:
    # Addresses are of 4 or 16 bytes: no padding.
    return _NLATTR.pack(_NLATTR.size + len(value), kind) + value


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _NLATTR.size:
        size, kind = _NLATTR.unpack_from(data)
        yield kind, data[_NLATTR.size : size]
        data = data[max(_NLATTR.size, (size + 3) & ~3) :]


def take_down(will: Will) -> int:
    """Remove the VIPs and confirm that they are not there any more: rule R6; how many were there.

    OSError: one stays. Whatever else on that interface carries our mark goes, too.
    """
    if not will.interface:
        return 0
    try:
        index = _socket.if_nametoindex(os.fsdecode(will.interface))
    except OSError:
        index = 0  # gone, or renamed

    def is_vip(address: Address) -> bool:
        return address.raw in will.vips

    def ours(address: Address) -> bool:
        if address.index == index:
            return address.marked or (is_vip(address) and address.is_host)
        return address.marked and is_vip(address)

    count = len(remove(ours, REMOVAL_PATIENCE_S))
    for address in addresses():
        if address.index == index and is_vip(address):
            raise OSError(f"{address} is there, and piagent did not put it there")
    return count


# ---- letters: MQTT 3.1.1 -------------------------------------------------------------------------

_CONNECT, _CONNACK, _PUBLISH_QOS_1, _PUBACK, _DISCONNECT = 0x10, 0x20, 0x32, 0x40, 0xE0
_CLEAN, _PASSWORD, _USER = 0x02, 0x40, 0x80
_KEEPALIVE_S = 10
_MAX_ANSWER = 64 * 1024
_REFUSALS = {4: "bad user name or password", 5: "not authorized"}


class Delivery:
    """All letters for one broker, in a thread of its own: a broker that hangs delays no other."""

    def __init__(self, node: bytes, broker: Broker, letters: list[tuple[bytes, bytes]]) -> None:
        self.label = broker[0].decode(errors="replace")
        self.why_not = "no answer"
        """Empty when the broker has acknowledged everything."""
        self._node, self._broker, self._letters = node, broker, letters
        self._deadline = time.monotonic() + DELIVERY_TIMEOUT_S
        self._done = _thread.allocate_lock()
        self._done.acquire()

    def start(self) -> None:
        """Send; `wait` says how it went."""
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:  # no thread to be had
            self._run()

    def wait(self) -> bool:
        """Whether everything was delivered in time."""
        self._done.acquire(timeout=max(0.0, self._deadline - time.monotonic()))
        return not self.why_not

    def _run(self) -> None:
        try:
            connection = self._connected()
            self._set_timeout(connection)
            # PUBLISH does not have to wait for CONNACK: MQTT 3.1.1, section 3.1.4.
            request = [_connect(self._node, *self._broker[3:5])]
            request += [_publish(each, *it) for each, it in enumerate(self._letters, 1)]
            connection.sendall(b"".join(request))
            self._await_acknowledgements(connection)
            connection.sendall(bytes([_DISCONNECT, 0]))
            connection.close()
            self.why_not = ""
        except Exception as error:  # noqa: BLE001 - a thread's traceback would be in nobody's format
            self.why_not = _in_words(error)
        finally:
            self._done.release()

    def _connected(self) -> _socket.socket:
        """To the first of the host's addresses that answers, with TLS if the broker wants it."""
        _, host, port, _, _, tls, ca, certificate, key = self._broker
        failure = OSError("no address")
        # Bytes: for text getaddrinfo would load Python's IDNA tables.
        for family, kind, protocol, _, address in _socket.getaddrinfo(
            host, port, _socket.AF_UNSPEC, _socket.SOCK_STREAM
        ):
            raw = _socket.socket(family, kind | _socket.SOCK_CLOEXEC, protocol)
            try:
                self._set_timeout(raw)
                raw.connect(address)
                raw.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
                return _encrypted(raw, host, ca, certificate, key) if tls else raw
            except OSError as error:
                raw.close()
                failure = error
        raise failure

    def _set_timeout(self, connection: _socket.socket) -> None:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connection.settimeout(left_s)

    def _await_acknowledgements(self, connection: _socket.socket) -> None:
        waiting = set(range(1, len(self._letters) + 1))
        data = b""
        while waiting:
            self._set_timeout(connection)
            more = connection.recv(4096)
            if not more or len(data) > _MAX_ANSWER:
                raise OSError("it closed the connection" if not more else "it sent nonsense")
            data += more
            while packet := _packet(data):
                kind, body, data = packet
                if kind == _CONNACK and body[1:] != b"\0":
                    code = body[1] if len(body) > 1 else 0
                    raise OSError(f"refused: {_REFUSALS.get(code, f'code {code}')}")
                if kind == _PUBACK:
                    waiting.discard(int.from_bytes(body[:2], "big"))


def _encrypted(
    raw: _socket.socket, host: bytes, ca: bytes, certificate: bytes, key: bytes
) -> _socket.socket:
    """The same with TLS; errors are OSError (ssl.SSLError is one)."""
    import socket  # 6 MiB together, and only now
    import ssl

    timeout = raw.gettimeout()
    plain = socket.socket(fileno=raw.detach())
    plain.settimeout(timeout)
    context = ssl.create_default_context(cafile=os.fsdecode(ca) if ca else None)
    if certificate:
        context.load_cert_chain(os.fsdecode(certificate), os.fsdecode(key) if key else None)
    return context.wrap_socket(plain, server_hostname=host.decode())


def _connect(node: bytes, username: bytes, password: bytes) -> bytes:
    client_id = b"pa-" + node + b"-guardian-" + os.urandom(4).hex().encode()
    flags, fields = _CLEAN, [client_id]
    if username:
        flags |= _USER
        fields.append(username)
        if password:
            flags |= _PASSWORD
            fields.append(password)
    head = _string(b"MQTT") + bytes([4, flags]) + struct.pack(">H", _KEEPALIVE_S)
    return _framed(_CONNECT, head + b"".join(map(_string, fields)))


def _publish(number: int, topic: bytes, payload: bytes) -> bytes:
    return _framed(_PUBLISH_QOS_1, _string(topic) + struct.pack(">H", number) + payload)


def _string(text: bytes) -> bytes:
    return struct.pack(">H", len(text)) + text


def _framed(kind: int, body: bytes) -> bytes:
    """With the remaining length: seven bits a byte (MQTT 3.1.1, section 2.2.3)."""
    head, left = bytearray([kind]), len(body)
    while left > 0x7F:
        head.append(left & 0x7F | 0x80)
        left >>= 7
    head.append(left)
    return bytes(head) + body


def _packet(data: bytes) -> tuple[int, bytes, bytes] | None:
    """(type, body, what follows), or None when the packet is not complete."""
    size = 0
    for at, byte in enumerate(data[1:5], 1):
        size |= (byte & 0x7F) << 7 * (at - 1)
        if byte < 0x80:
            end = at + 1 + size
            return (data[0] & 0xF0, data[at + 1 : end], data[end:]) if len(data) >= end else None
    if len(data) >= 5:
        raise OSError("it sent nonsense")
    return None


def _in_words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    return (error.strerror if isinstance(error, OSError) else "") or str(error) or repr(error)


# ---- the child -----------------------------------------------------------------------------------

_PASSED_ON = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGABRT", "SIGUSR1", "SIGUSR2")
"""SIGABRT is systemd's when a watchdog runs out: an agent that hangs dies of it."""


class Guardian:
    """One child, from its start to what is left to do after its end."""

    def __init__(self) -> None:
        self._will = Will()
        self._child = 0
        kind = _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC
        # Whole messages or none: what a dying agent did not finish does not arrive.
        self._line, self._far_end = _socket.socketpair(_socket.AF_UNIX, kind)
        self._line.setblocking(False)
        self._said_garbage = False

    def run(self, command: list[str]) -> int:
        """Start the command as the child and see to its end; the exit code to end with."""
        awake = self._handle_signals()
        try:
            self._start(command)
        except OSError as error:
            say("CRITICAL", f"cannot start {command[0]}: {error.strerror}")
            return NOT_STARTED
        status = self._watch(awake)
        died_s = time.monotonic()
        code = os.waitstatus_to_exitcode(status)
        self._read_line()
        how = f"died (signal {-code})" if code < 0 else f"ended (exit code {code})"
        self._execute(f"agent {how}", died_s)
        return 128 - code if code < 0 else code

    def _handle_signals(self) -> int:
        """Pass signals on from the start of the child; the descriptor that wakes the poll up."""
        readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
        numbers = [getattr(signal, name) for name in _PASSED_ON]
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        for number in numbers:
            signal.signal(number, self._pass_on)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        return readable

    def _pass_on(self, number: int, _frame: object) -> None:
        try:  # noqa: SIM105 -- contextlib would have to be imported
            os.kill(self._child, number)
        except ProcessLookupError:
            pass  # it has just ended

    def _start(self, command: list[str]) -> None:
        far_end = self._far_end.fileno()
        os.set_inheritable(far_end, True)
        self._child = os.posix_spawnp(
            command[0],
            command,
            {**os.environ, LINE: str(far_end)},
            # Else Ctrl-C would reach it twice, from the terminal and from here; twice is "hurry".
            setsid=True,
            setsigmask=(),
        )
        self._far_end.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _watch(self, awake: int) -> int:
        """Read wills until the child has ended; its wait status."""
        line = self._line.fileno()
        poll = select.poll()
        poll.register(line, select.POLLIN)
        poll.register(awake, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == awake:
                    os.read(awake, 512)
                elif not self._read_line():
                    poll.unregister(line)
            # The signal handlers have run by now.
            ended, status = os.waitpid(self._child, os.WNOHANG)
            if ended:
                return status

    def _read_line(self) -> bool:
        """Take what has come, the last will counts; False when no more can come."""
        try:
            while data := self._line.recv(_MAX_WILL):
                self._take(data)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def _take(self, data: bytes) -> None:
        try:
            self._will = unpack(data)
        except ValueError:
            if not self._said_garbage:
                self._said_garbage = True
                say("ERROR", "what the agent entrusts is no will: the one before it stays valid")

    def _execute(self, how: str, died_s: float) -> None:
        will = self._will
        try:
            removed = take_down(will)
        except OSError as error:
            text = "VIPs not confirmed removed, so not yielded; the lease will run out"
            say("ERROR", f"{how}, {text}: {_in_words(error)}")
            return
        deliveries = [Delivery(will.node, *each) for each in will.letters.items()]
        for delivery in deliveries:
            delivery.start()
        delivered = sum([delivery.wait() for delivery in deliveries])
        took_ms = (time.monotonic() - died_s) * 1000
        for delivery in deliveries:
            if delivery.why_not:
                say("WARNING", f"broker {delivery.label}: not yielded: {delivery.why_not}")
        if removed or deliveries or "signal" in how:
            what = f"{removed} VIPs removed, yielded at {delivered} of {len(deliveries)} brokers"
            say("WARNING", f"{how}, {what} in {took_ms:.0f} ms")


def say(level: str, text: str) -> None:
    """One line on stderr as the agent's log writes it; the journal writes the time itself."""
    now_s = time.time()
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now_s))
    stamp = "" if "JOURNAL_STREAM" in os.environ else f"{stamp}.{int(now_s * 1000) % 1000:03d} "
    try:  # noqa: SIM105 -- contextlib would have to be imported
        os.write(2, f"{stamp}{level:8} guardian: {text}\n".encode(errors="replace"))
    except OSError:
        pass  # nobody listens


def main(command: list[str]) -> NoReturn:
    """Guard a command; ends with its exit code, or 128 and the number of the signal it died of."""
    # Threads that wait for a broker or a resolver must not delay the end.
    os._exit(Guardian().run(command))
