"""Two nodes that a VIP moves between, a client and backends, each in a network namespace."""

from __future__ import annotations

import contextlib
import random
import selectors
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Self

from fastpath.forwarding import Forwarder
from fastpath.forwards import Forward, Target
from fastpath.packet.flow_cache import FlowCache
from piagent.adapters import arp, netns
from piagent.adapters.fence import KernelFence
from piagent.adapters.forward_fence import ForwardFence
from piagent.adapters.forwarded import TCP, Forwarded
from piagent.adapters.packet_filter import program
from piagent.adapters.rtnetlink import Rtnetlink
from tests.adapters.asker import mac_of
from tests.adapters.two_hosts import run
from tests.fastpath.forwarding_lab import (
    CLIENT,
    KEY,
    PORT,
    PORTS,
    VIPS,
    accept_vips,
    backend_address,
    serving,
)
from tests.waiting import wait_until

VIP = VIPS[4]
LONG_MS = 60_000


class Node:
    """A host with the VIP, the agent's fences, and a forwarder."""

    def __init__(self, host: netns.Host, cache: FlowCache | None) -> None:
        self.host, self.mac = host, mac_of(host)
        self.fence = KernelFence()
        self._forward_fence = ForwardFence()
        self._forwards: tuple[Forward, ...] = ()
        with host.entered():
            self.fence.guard(netns.INTERFACE, [VIP])
            self.index = socket.if_nametoindex(netns.INTERFACE)
            if cache is not None:
                cache.open([self.index], "auto")
            self.forwarder = Forwarder(self.index, 1500, hash_key=KEY, ports=PORTS, cache=cache)
        self.forwarder.start()

    def close(self) -> None:
        self.forwarder.stop()
        self.fence.shut()
        self._forward_fence.close()

    def publish(self, *forwards: Forward) -> None:
        self._forwards = forwards
        is_nat = any(one.how == "nat" for one in forwards)
        taken = [Forwarded(one.address, TCP, one.port, one.port, is_nat) for one in forwards]
        if is_nat:
            taken.append(Forwarded(VIP, TCP, *PORTS, is_nat))
        with self.host.entered():
            self._forward_fence.take(netns.INTERFACE, taken)
        self.forwarder.publish(forwards, program(taken))

    def own(self) -> None:
        self.fence.open({VIP: LONG_MS})
        self.announce()

    def hide(self) -> None:
        """Own the VIP no more, but serve what still comes."""
        self.fence.hide(VIP, LONG_MS)
        self.publish(*[each._replace(draining=True) for each in self._forwards])

    def take_over(self, former: Node) -> None:
        """Own the VIP; the former owner gets what is not known here."""
        self.fence.take_over(VIP, former.mac, LONG_MS)
        self.own()

    def leave(self) -> None:
        """Serve nothing for the VIP any more."""
        self.fence.close(VIP)
        self.publish()

    def announce(self) -> None:
        with self.host.entered(), arp.frame_socket() as channel, Rtnetlink() as rtnetlink:
            arp.announce(channel, rtnetlink.link(netns.INTERFACE), VIP)

    def stats(self) -> dict[str, int]:
        """What became of the service's packets; zeros left out."""
        packets = self.forwarder.stats()["services"]["web"]["packets"]
        return {what: n for what, n in packets.items() if n}


class MovingLab:
    """The first node owns the VIP; everything is on one bridge."""

    def __init__(
        self,
        network: netns.Network,
        how: str,
        n_backends: int = 2,
        caches: Sequence[FlowCache | None] = (None, None),
    ) -> None:
        self.client = network.add_host("c", f"{CLIENT[4]}/24")
        hosts = [network.add_host(f"n{i}", f"10.9.0.{i}/24", f"{VIP}/32") for i in (1, 2)]
        self.backends = [
            network.add_host(f"b{i}", f"{backend_address(i)}/24") for i in range(1, n_backends + 1)
        ]
        self.how = how
        self.one, self.two = map(Node, hosts, caches)
        for node in (self.one, self.two):
            node.publish(Forward("web", VIP, PORT, False, how, tuple(self._targets(node))))
        self.one.own()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for node in (self.one, self.two):
            node.close()

    def _targets(self, node: Node) -> Iterator[Target]:
        for number, host in enumerate(self.backends, 1):
            yield Target(
                name=f"b{number}", address=backend_address(number), port=PORT, weight=1, up=True,
                interface=node.index, mac=mac_of(host), own_mac=node.mac, source=VIP,
            )  # fmt: skip

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Each backend says what it hears."""
        with contextlib.ExitStack() as stack:
            for number, host in enumerate(self.backends, 1):
                if self.how == "dsr":
                    accept_vips(host)
                address = VIP if self.how == "dsr" else backend_address(number)
                stack.enter_context(serving(host, address, says=lambda data: data))
            yield

    def goes_to(self, node: Node) -> None:
        """Wait until everybody's packets to the VIP go to that node."""

        def learnt() -> bool:
            node.announce()
            asked = [self.client] if self.how == "dsr" else [self.client, *self.backends]
            return all(node.mac.hex(":") in _neighbour(host) for host in asked)

        wait_until(learnt, every_s=0.1)


class Talk:
    """Streams that go on saying something new to an echo, and compare each byte of its answers."""

    def __init__(self, lab: MovingLab, n: int) -> None:
        self.streams = [_Stream(lab.client, number) for number in range(n)]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for stream in self.streams:
            stream.close()

    def heard(self) -> list[int]:
        """How much has come back to each."""
        return [stream.heard for stream in self.streams]

    def broken(self) -> dict[int, str]:
        """Those that came to an end, and how."""
        told = enumerate(stream.broken for stream in self.streams)
        return {number: how for number, how in told if how}

    def goes_on(self, what: str, timeout_s: float = 30) -> None:
        """Wait until each has heard what it says from now on; AssertionError."""
        before = [stream.said for stream in self.streams]

        def all_heard() -> bool:
            assert not self.broken(), self.broken()
            return all(now > then for now, then in zip(self.heard(), before, strict=True))

        wait_until(all_heard, what, timeout_s)

    def _work(self) -> None:
        with selectors.DefaultSelector() as waiting:
            for stream in self.streams:
                waiting.register(stream.socket, selectors.EVENT_READ, stream)
            while not self._ended.wait(_PAUSE_S):
                for stream in self.streams:
                    stream.say()
                for key, _ in waiting.select(0):
                    if not key.data.hear():
                        waiting.unregister(key.fileobj)


_PAUSE_S = 0.02
_PIECE = 300
_BEHIND = 64 * 1024
"""A stream that has so much to hear says nothing more: its buffers would be full."""


class _Stream:
    """One of a talk: what it says is random, by its number."""

    def __init__(self, host: netns.Host, number: int) -> None:
        self._says, self._hears = random.Random(number), random.Random(number)
        self.said = self.heard = 0
        self.broken = ""
        with host.entered():
            self.socket = socket.create_connection((VIP, PORT), timeout=20)
        self.socket.setblocking(False)
        self._expected = self._unsent = b""

    def say(self) -> None:
        if self.said - self.heard < _BEHIND:
            self._unsent += self._says.randbytes(_PIECE)
            self.said += _PIECE
        if self._unsent and not self.broken:
            self._try(self._send)

    def hear(self) -> bool:
        """Whether there may be more."""
        data: list[bytes] = []
        self._try(lambda: data.append(self.socket.recv(65536)))
        if data and not data[0]:
            self.broken = self.broken or "ended by the other side"
        for part in data:
            while len(self._expected) < len(part):
                self._expected += self._hears.randbytes(_PIECE)
            if not self._expected.startswith(part):
                self.broken = f"other bytes after {self.heard}"
            self._expected = self._expected[len(part) :]
            self.heard += len(part)
        return not self.broken

    def close(self) -> None:
        self.socket.close()

    def _send(self) -> None:
        """What the socket takes."""
        self._unsent = self._unsent[self.socket.send(self._unsent) :]

    def _try(self, what: Callable[[], object]) -> None:
        try:
            what()
        except BlockingIOError:
            pass
        except OSError as error:
            self.broken = str(error)


def _neighbour(host: netns.Host) -> str:
    """What its kernel believes of the VIP."""
    return run(host, "ip", "neigh", "show", "to", VIP)
