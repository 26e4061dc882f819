"""Failover side by side with keepalived: a client asks the VIP every 5 ms while its owner goes.

Both run in the same kind of house: two or three hosts on one bridge, each in a network namespace.
The client sends ICMP echo requests, which the kernel of whoever has the address answers: the gap is
that of the address alone, no proxy behind it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from benchmarks.tables import table
from piagent.adapters.netns import Host, Network

VIP = "10.78.0.100"
EVERY_S = 0.005
SETTLE_S = 2.0

KEEPALIVED = """\
global_defs {{
  router_id {name}
  vrrp_version 3
}}
vrrp_instance one {{
  state BACKUP
  interface eth0
  virtual_router_id 51
  priority {priority}
  advert_int {advert}
  virtual_ipaddress {{ {vip}/24 }}
}}
"""

PIAGENT = """\
[node]
name = "{name}"
interface = "eth0"
workers = 1
[cluster]
name = "bench"
secret_file = "{folder}/secret"
[mqtt]
brokers = ["mqtt://10.78.0.5"]
[election]
profile = "{profile}"
drain = "2s"
[admin]
socket = "{folder}/{name}.sock"
[[pool]]
name = "lan"
addresses = ["{vip}"]
[[service]]
name = "none"
type = "load-balancer"
address = "{vip}"
ports = [{{ port = 9 }}]
backends = ["10.78.0.5"]
"""


class Pings:
    """ICMP echo requests (RFC 792) every 5 ms, in a thread of their own."""

    def __init__(self, host: Host) -> None:
        with host.entered():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._socket.setblocking(False)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent: list[float] = []
        self.answered: dict[int, float] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def lost_after(self, since_s: float) -> list[float]:
        """When those were sent that nobody answered, leaving out the last half second."""
        until_s = time.monotonic() - 0.5
        return [
            at
            for number, at in enumerate(self.sent)
            if since_s <= at < until_s and number not in self.answered
        ]

    def gap_s(self, since_s: float) -> float:
        """The longest time from one answer to the next."""
        times = [since_s, *sorted(at for at in self.answered.values() if at >= since_s)]
        return max((b - a for a, b in itertools.pairwise(times)), default=0.0)

    def wait(self, count: int = 50) -> None:
        """Until so many more are answered."""
        goal, end_s = len(self.answered) + count, time.monotonic() + 30
        while len(self.answered) < goal:
            if time.monotonic() > end_s:
                raise TimeoutError(f"{VIP} does not answer")
            time.sleep(0.02)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            number = len(self.sent)
            with contextlib.suppress(OSError):
                self._socket.sendto(_echo(number), (VIP, 0))
            self.sent.append(time.monotonic())
            due += EVERY_S
            while (left := due - time.monotonic()) > 0:
                if select.select([self._socket], [], [], left)[0]:
                    self._take(self._socket.recv(2048))

    def _take(self, packet: bytes) -> None:
        body = packet[(packet[0] & 15) * 4 :]
        if body[0] == 0 and len(body) >= 12:
            (number,) = struct.unpack_from("!I", body, 8)
            self.answered.setdefault(number, time.monotonic())


def _echo(number: int) -> bytes:
    body = struct.pack("!BBHHHI", 8, 0, 0, os.getpid() & 0xFFFF, number & 0xFFFF, number)
    total = sum(struct.unpack(f"!{len(body) // 2}H", body))
    total = (total & 0xFFFF) + (total >> 16)
    return body[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + body[4:]


class House:
    """Hosts that may own the VIP, each running the same program."""

    def __init__(self, network: Network, folder: Path, names: tuple[str, ...]) -> None:
        self.folder = folder
        self.client = network.add_host("client", "10.78.0.99/24")
        self.hosts = {
            name: network.add_host(name, f"10.78.0.{11 + number}/24")
            for number, name in enumerate(names)
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def spawn(self, host: Host, *argv: str) -> subprocess.Popen[bytes]:
        """Start something inside a host."""
        log = (self.folder / "log").open("ab")
        return subprocess.Popen(
            host.command(["setpriv", "--pdeathsig=KILL", "--", *argv]), stdout=log, stderr=log
        )

    def owner(self) -> str:
        """Who answers for the VIP: by what the client's kernel learnt."""
        macs = {_mac(host): name for name, host in self.hosts.items()}
        found = subprocess.run(
            self.client.command(["ip", "neigh", "show", VIP]),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        return macs[found[found.index("lladdr") + 1]]

    def restore(self, name: str) -> None:
        """Have a host that was ended one way or another take part as before."""
        raise NotImplementedError

    def stop(self) -> None:
        """End all processes."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


def _mac(host: Host) -> str:
    shown = subprocess.run(
        host.command(["ip", "-o", "link", "show", "eth0"]),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return shown[shown.index("link/ether") + 1]


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


class Keepalived(House):
    """keepalived with one VRRP instance."""

    def __init__(self, network: Network, folder: Path, advert: str) -> None:
        super().__init__(network, folder, ("a", "b"))
        for number, name in enumerate(self.hosts):
            file = folder / f"{name}.conf"
            text = KEEPALIVED.format(name=name, priority=100 - number, advert=advert, vip=VIP)
            file.write_text(text)
            self.start(name)

    def start(self, name: str) -> None:
        """Start one."""
        files = [
            f"--{kind}pid={self.folder}/{name}.{kind}pid" for kind in ("", "vrrp_", "checkers_")
        ]
        self.processes[name] = self.spawn(
            self.hosts[name],
            "keepalived", "-n", "-l", "-P", "-f", f"{self.folder}/{name}.conf", *files,
        )  # fmt: skip

    def power_off(self, name: str) -> None:
        """The host is gone: its cable, as nothing of it may answer."""
        self.hosts[name].pull_cable()

    def crash(self, name: str) -> None:
        """SIGKILL to the process that speaks VRRP, and to its parent."""
        process = self.processes[name]
        for pid in _children(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()

    def end(self, name: str) -> None:
        """A planned end: priority 0."""
        self.processes[name].terminate()
        self.processes[name].wait(10)

    def restore(self, name: str) -> None:
        """As before."""
        self.hosts[name].plug_cable()
        process = self.processes[name]
        if process.poll() is not None:
            subprocess.run(
                self.hosts[name].command(["ip", "address", "del", f"{VIP}/24", "dev", "eth0"]),
                check=False,
                stderr=subprocess.DEVNULL,
            )
            self.start(name)


class Piagents(House):
    """Three agents and a broker."""

    def __init__(self, network: Network, folder: Path, profile: str) -> None:
        super().__init__(network, folder, ("a", "b", "c"))
        broker = network.add_host("broker", "10.78.0.5/24")
        config = folder / "mosquitto.conf"
        config.write_text("listener 1883 10.78.0.5\nallow_anonymous true\nset_tcp_nodelay true\n")
        self.processes["broker"] = self.spawn(broker, "mosquitto", "-c", str(config))
        secret = folder / "secret"
        secret.write_text("a secret of the benchmark, 32 bytes or so\n")
        secret.chmod(0o600)
        for name in self.hosts:
            text = PIAGENT.format(name=name, folder=folder, profile=profile, vip=VIP)
            (folder / f"{name}.toml").write_text(text)
            self.start(name)

    def start(self, name: str) -> None:
        """Start one."""
        self.processes[name] = self.spawn(
            self.hosts[name],
            sys.executable, "-m", "piagent.cli", "run", "-c", f"{self.folder}/{name}.toml",
        )  # fmt: skip

    def power_off(self, name: str) -> None:
        """The host is gone: its cable, as nothing of it may answer."""
        self.hosts[name].pull_cable()

    def crash(self, name: str) -> None:
        """SIGKILL to the agent."""
        (agent,) = _children(self.processes[name].pid)
        os.kill(agent, signal.SIGKILL)

    def end(self, name: str) -> None:
        """A planned end."""
        self.processes[name].terminate()

    def move(self, name: str) -> None:
        """A planned move to another node."""
        to = next(other for other in self.hosts if other != name)
        argv = [sys.executable, "-m", "piagent.cli", "vip", "move", VIP, to]
        subprocess.run(
            [*argv, "--socket", f"{self.folder}/{name}.sock"], check=True, stdout=subprocess.DEVNULL
        )

    def restore(self, name: str) -> None:
        """As before."""
        self.hosts[name].plug_cable()
        process = self.processes[name]
        end_s = time.monotonic() + 5
        while process.poll() is None and time.monotonic() < end_s and not _children(process.pid):
            time.sleep(0.05)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(4)
        if process.poll() is not None:
            self.start(name)


@contextlib.contextmanager
def house(make: Callable[[Network, Path], House]) -> Iterator[House]:
    """A network with everything in it."""
    with (
        tempfile.TemporaryDirectory(prefix="piagent-bench-") as folder,
        Network("piagent-bench") as network,
    ):
        built = make(network, Path(folder))
        try:
            yield built
        finally:
            built.stop()


def measure(
    make: Callable[[Network, Path], House], fault: str, times: int
) -> tuple[list[float], int]:
    """(the gap of each turn in ms, how many pings were lost in all)."""
    gaps, lost = [], 0
    with house(make) as built, Pings(built.client) as pings:
        pings.wait()
        time.sleep(SETTLE_S)
        for _ in range(times):
            owner = built.owner()
            since_s = time.monotonic()
            getattr(built, fault)(owner)
            time.sleep(SETTLE_S)
            pings.wait()
            time.sleep(0.6)
            gaps.append(pings.gap_s(since_s) * 1000)
            lost += len(pings.lost_after(since_s))
            built.restore(owner)
            time.sleep(SETTLE_S)
            pings.wait()
    return gaps, lost


HOUSES: dict[str, Callable[[Network, Path], House]] = {
    "piagent fast": lambda network, folder: Piagents(network, folder, "fast"),
    "piagent normal": lambda network, folder: Piagents(network, folder, "normal"),
    "keepalived 1 s": lambda network, folder: Keepalived(network, folder, "1"),
    "keepalived 0.1 s": lambda network, folder: Keepalived(network, folder, "0.1"),
}


def run(times: int) -> str:
    """Every fault in every house, one after the other; a table for people."""
    rows = []
    for fault in ("power_off", "crash", "end", "move"):
        for name, make in HOUSES.items():
            if fault == "move" and name.startswith("keepalived"):
                continue
            gaps, lost = measure(make, fault, times)
            row = [f"{value:.0f}" for value in (statistics.median(gaps), min(gaps), max(gaps))]
            rows.append([fault.replace("_", " "), name, *row, str(lost)])
            print("  ", *rows[-1], file=sys.stderr, flush=True)
    return table(["owner's", "program", "median ms", "least", "most", "pings lost"], rows)


if __name__ == "__main__":
    print(run(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
