"""Hosts on one bridge that may own the VIP, each in a network namespace of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from piagent.adapters.netns import Host, Network
from tests.adapters.asker import mac_of

VIP = "10.78.0.100"
DIE_WITH_US = ("setpriv", "--pdeathsig=KILL", "--")
"""Before a command: it ends with the process that started it."""
NICE = ("nice", "-n", "-5")
"""As ansible/roles/piagent/templates/piagent.service.j2 has it."""

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
drain = "2s"
{election}
[admin]
socket = "{folder}/{name}.sock"
[[pool]]
name = "lan"
addresses = ["{vip}"]
[[service]]
name = "web"
ports = [{{ port = 80, target_port = 8080 }}]
backends = ["10.78.0.5"]
[[gateway]]
name = "entry"
address = "{vip}"
listen = [{{ port = 80 }}]
[[route]]
name = "web"
gateway = "entry"
hosts = ["www.bench"]
backends = [{{ service = "web" }}]
"""


def election(lease_ms: int) -> str:
    """What goes with a lease: six renewals in it, two of which a stall may cost."""
    values = {
        "lease": lease_ms,
        "renew": lease_ms // 6,
        "guard": lease_ms // 10,
        "attempt": lease_ms // 3,
        "stagger": 20,
        "lag": lease_ms // 2,
    }
    return "\n".join(f'{key} = "{value}ms"' for key, value in values.items())


class House:
    """Hosts that may own the VIP, each running the same program; HTTP at port 80 of the VIP."""

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
        return subprocess.Popen(host.command([*DIE_WITH_US, *argv]), stdout=log, stderr=log)

    def serve(self, host: Host, address: str, port: int) -> subprocess.Popen[bytes]:
        """Start a web server inside a host."""
        program = (sys.executable, "-m", "piagent.cli.demo.backend", "one")
        return self.spawn(host, *program, address, str(port), "9000")

    def owner(self) -> str:
        """Who answers for the VIP: by what the client's kernel learnt."""
        macs = {mac_of(host).hex(":"): name for name, host in self.hosts.items()}
        found = subprocess.run(
            self.client.command(["ip", "neigh", "show", VIP]),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        return macs[found[found.index("lladdr") + 1]]

    def power_off(self, name: str) -> None:
        """The host is gone: its cable, as nothing of it may answer."""
        self.hosts[name].pull_cable()

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


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


class Keepalived(House):
    """keepalived with one VRRP instance; a web server on each host."""

    def __init__(self, network: Network, folder: Path, advert: str) -> None:
        super().__init__(network, folder, ("a", "b"))
        for number, name in enumerate(self.hosts):
            file = folder / f"{name}.conf"
            text = KEEPALIVED.format(name=name, priority=100 - number, advert=advert, vip=VIP)
            file.write_text(text)
            self.start(name)
            self.processes[f"web {name}"] = self.serve(self.hosts[name], "0.0.0.0", 80)

    def start(self, name: str) -> None:
        """Start one."""
        files = [
            f"--{kind}pid={self.folder}/{name}.{kind}pid" for kind in ("", "vrrp_", "checkers_")
        ]
        self.processes[name] = self.spawn(
            self.hosts[name],
            "keepalived", "-n", "-l", "-P", "-f", f"{self.folder}/{name}.conf", *files,
        )  # fmt: skip

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
    """Three agents; a broker and a web server behind them on a host of their own."""

    def __init__(self, network: Network, folder: Path, election: str) -> None:
        """`election`: more lines of TOML for that table."""
        super().__init__(network, folder, ("a", "b", "c"))
        broker = network.add_host("broker", "10.78.0.5/24")
        config = folder / "mosquitto.conf"
        config.write_text("listener 1883 10.78.0.5\nallow_anonymous true\nset_tcp_nodelay true\n")
        self.processes["broker"] = self.spawn(broker, "mosquitto", "-c", str(config))
        self.processes["web"] = self.serve(broker, "10.78.0.5", 8080)
        secret = folder / "secret"
        secret.write_text("a secret of the benchmark, 32 bytes or so\n")
        secret.chmod(0o600)
        for name in self.hosts:
            text = PIAGENT.format(name=name, folder=folder, election=election, vip=VIP)
            (folder / f"{name}.toml").write_text(text)
            self.start(name)

    def start(self, name: str) -> None:
        """Start one."""
        self.processes[name] = self.spawn(
            self.hosts[name],
            *NICE, sys.executable, "-m", "piagent.cli", "run", "-c", f"{self.folder}/{name}.toml",
        )  # fmt: skip

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


H = TypeVar("H", bound=House)


@contextlib.contextmanager
def house(make: Callable[[Network, Path], H]) -> Iterator[H]:
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
