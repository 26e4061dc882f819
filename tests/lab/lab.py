"""A whole cluster in network namespaces: a broker, agents, backends and a client on one bridge."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import IO, Any, Self

from piagent.adapters.netlink import IFA_PROTO_PIAGENT
from piagent.adapters.netns import INTERFACE, Host, Network
from piagent.adapters.nftables import Nftables
from piagent.adapters.rtnetlink import RTM_GETADDR, Rtnetlink, ifaddrmsg
from tests.mosquitto import Mosquitto
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
SUBNET = "10.77.0"
VIP = f"{SUBNET}.200"
BROKER = f"{SUBNET}.5"
BROKERS = tuple(f"{SUBNET}.{5 + n}" for n in range(3))
BROKER_PORT = 1883
HTTP_PORT, TCP_PORT = 8080, 9000
"""Where the backends listen."""
ENTRY_PORT, ECHO_PORT = 80, 7000
"""Where the VIP's gateway and its TCP service listen."""

CONFIG = """\
[node]
name = "{name}"
interface = "eth0"
workers = 1

[cluster]
name = "lab"
secret_file = "{secret_file}"

[mqtt]
brokers = [{brokers}]

[election]
profile = "{profile}"

[admin]
socket = "{socket}"

[[pool]]
name = "lan"
addresses = ["{subnet}.200-{subnet}.209"]

[[service]]
name = "echo"
type = "load-balancer"
address = "{vip}"
sharing_key = "entry"
ports = [{{ port = {echo_port}, target_port = {tcp_port} }}]
backends = [{backends}]
health = {{ kind = "tcp", interval = "200ms", timeout = "150ms", rise = 1, fall = 2 }}

[[service]]
name = "web"
ports = [{{ port = 80, target_port = {http_port} }}]
backends = [{backends}]
health = {{ kind = "http", interval = "200ms", timeout = "150ms", rise = 1, fall = 2 }}

[[service]]
name = "api"
ports = [{{ port = 80, target_port = {http_port} }}]
backends = [{first_backend}]

[[gateway]]
name = "entry"
address = "{vip}"
sharing_key = "entry"
listen = [{{ port = {entry_port} }}]

[[route]]
name = "web"
gateway = "entry"
hosts = ["www.lab"]
backends = [{{ service = "web" }}]

[[route]]
name = "api"
gateway = "entry"
hosts = ["api.lab"]
path_prefix = "/v1"
backends = [{{ service = "api" }}]
"""


class Process:
    """A command inside a host, with its output in a file."""

    def __init__(self, host: Host, argv: Sequence[str], log: Path) -> None:
        self.host = host
        self._argv = list(argv)
        self.log = log
        self._file: IO[bytes] | None = None
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, or start it again; the file is appended to."""
        self._file = self.log.open("ab")
        self.popen = subprocess.Popen(
            self.host.command(self._argv), cwd=ROOT, stdout=self._file, stderr=self._file
        )

    def send(self, number: signal.Signals) -> None:
        assert self.popen is not None, "not started"
        self.popen.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        if self.popen is not None and self.popen.poll() is None:
            self.popen.kill()
        self.wait()

    def terminate(self, timeout_s: float = 20.0) -> int:
        """SIGTERM; the exit code."""
        self.send(signal.SIGTERM)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 20.0) -> int:
        """The exit code."""
        if self.popen is None:
            return 0
        code = self.popen.wait(timeout_s)
        if self._file is not None:
            self._file.close()
        return code

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Node(Process):
    """A host with an agent."""

    def __init__(self, name: str, host: Host, folder: Path) -> None:
        self.name = name
        self.config = folder / f"{name}.toml"
        self.socket = folder / f"{name}.sock"
        argv = [sys.executable, "-m", "piagent.cli", "run", "-c", str(self.config)]
        super().__init__(host, argv, folder / f"{name}.log")

    @property
    def agent(self) -> int:
        """The process id of the agent, the guardian's child."""
        assert self.popen is not None, "not started"
        guardian = self.popen.pid
        children = Path(f"/proc/{guardian}/task/{guardian}/children").read_text().split()
        assert len(children) == 1, f"{self.name}: children of the guardian: {children}"
        return int(children[0])

    def kill_agent(self) -> None:
        """SIGKILL to the agent; its guardian lives, and does what it is there for."""
        os.kill(self.agent, signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP to the agent."""
        os.kill(self.agent, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT to the agent."""
        os.kill(self.agent, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to guardian and agent at once: nobody is left to tell anybody."""
        if self.popen is not None and self.popen.poll() is None:
            self.popen.send_signal(signal.SIGSTOP)
            with contextlib.suppress(AssertionError, ProcessLookupError, FileNotFoundError):
                os.kill(self.agent, signal.SIGKILL)
            self.popen.kill()
        self.wait()

    def reload(self, config: str) -> None:
        """A new file, and SIGHUP."""
        self.config.write_text(config)
        self.send(signal.SIGHUP)

    def get(self, path: str) -> tuple[int, Any]:
        """(status, JSON or text) of the admin API; OSError when the agent does not answer."""
        return self._ask("GET", path, None, 5)

    def post(self, path: str, body: object, timeout_s: float = 30.0) -> tuple[int, Any]:
        """The same, for what changes something."""
        return self._ask("POST", path, json.dumps(body), timeout_s)

    def _ask(self, method: str, path: str, body: str | None, timeout_s: float) -> tuple[int, Any]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(self.socket))
            client = http.client.HTTPConnection("localhost")
            client.sock = connection
            headers = {"Connection": "close", "Content-Type": "application/json"}
            client.request(method, path, body, headers)
            response = client.getresponse()
            text = response.read().decode()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text

    def is_ready(self) -> bool:
        """Whether `/readyz` says so."""
        try:
            return self.get("/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def speaks_for(self) -> set[str]:
        """The VIPs that this host's kernel has now and answers ARP or NDP for, agent or no agent.

        A former owner has a VIP for a while longer, to serve its connections, and is silent.
        """
        with self.host.entered(), Nftables() as kernel:
            return spoken_for(kernel) & self.vips()

    def vips(self) -> set[str]:
        """The addresses of ours that this host's kernel has now, agent or no agent."""
        with self.host.entered(), Rtnetlink() as rtnetlink:
            index = rtnetlink.link(INTERFACE).index
            return {
                entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS")
                for entry in rtnetlink.dump(ifaddrmsg(), RTM_GETADDR)
                if entry["index"] == index and entry.get_attr("IFA_PROTO") == IFA_PROTO_PIAGENT
            }


def spoken_for(kernel: Nftables) -> set[str]:
    """The addresses that a host's fence lets it answer ARP and NDP for now."""
    found = (kernel.elements("piagent", name) for name in ("held4", "held6"))
    try:
        return {str(ip_address(key)) for keys in found for key in keys}
    except OSError:
        return set()  # no fence, since no agent was here yet


class Lab:
    """Everything is there inside the `with` block, except the agents: `start` them."""

    def __init__(
        self, nodes: int = 3, backends: int = 3, profile: str = "fast", brokers: int = 1
    ) -> None:
        # pytest's own folders make names that are too long for a Unix socket.
        self.folder = Path(tempfile.mkdtemp(prefix="piagent-lab-"))
        self.profile = profile
        self._counts = (nodes, backends, brokers)
        self.brokers: list[Mosquitto] = []
        self._stack = ExitStack()
        self.nodes: dict[str, Node] = {}
        self.backends: dict[str, Process] = {}

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.nodes.values(), *self.backends.values()):
            process.kill()
        self._stack.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, *names: str) -> None:
        """Start these agents (none named: all) and wait until they are ready."""
        chosen = [self.nodes[name] for name in names or self.nodes]
        for node in chosen:
            node.start()
        for node in chosen:
            self._wait_until_ready(node)

    def owners(self, vip: str = VIP) -> list[str]:
        """The nodes whose kernels answer for the VIP."""
        return [node.name for node in self.nodes.values() if vip in node.speaks_for()]

    def wait_for_owner(self, vip: str = VIP, other_than: str = "", timeout_s: float = 20.0) -> str:
        """The name of the one owner, as soon as there is one that is not `other_than`."""
        found: list[str] = []

        def owned() -> bool:
            found[:] = self.owners(vip)
            return len(found) == 1 and found[0] != other_than

        wait_until(owned, f"one owner of {vip} other than {other_than!r}", timeout_s)
        return found[0]

    def config_for(self, name: str, backends: Sequence[str] | None = None) -> str:
        """A node's file; `backends`: only these, by name."""
        chosen = list(self.backends) if backends is None else backends
        quoted = [f'"{self.backend_address(name)}"' for name in chosen]
        return CONFIG.format(
            name=name,
            secret_file=self.folder / "secret",
            brokers=", ".join(f'"mqtt://{b.address}:{b.port}"' for b in self.brokers),
            profile=self.profile,
            socket=self.folder / f"{name}.sock",
            subnet=SUBNET,
            vip=VIP,
            echo_port=ECHO_PORT,
            tcp_port=TCP_PORT,
            http_port=HTTP_PORT,
            entry_port=ENTRY_PORT,
            backends=", ".join(quoted),
            first_backend=quoted[0],
        )

    def backend_address(self, name: str) -> str:
        """Its address on the bridge."""
        return f"{SUBNET}.{20 + int(name.removeprefix('backend'))}"

    def logs(self) -> dict[str, str]:
        """What every process said, by name."""
        found = {log.stem: log.read_text(errors="replace") for log in self.folder.glob("*.log")}
        return {name: text for name, text in sorted(found.items()) if text}

    def _build(self) -> None:
        network = self._stack.enter_context(Network("piagent-lab"))
        self.client = network.add_host("client", f"{SUBNET}.100/24")
        self.network = network
        nodes, backends, brokers = self._counts
        for number, address in enumerate(BROKERS[:brokers], 1):
            host = network.add_host(f"broker{number}", f"{address}/24")
            broker = Mosquitto(address, BROKER_PORT, prefix=host.command([]))
            self.brokers.append(self._stack.enter_context(broker))
        self.broker = self.brokers[0]
        script = str(Path(__file__).with_name("backend.py"))
        for number in range(1, backends + 1):
            name = f"backend{number}"
            address = self.backend_address(name)
            host = network.add_host(name, f"{address}/24")
            argv = [sys.executable, script, name, address, str(HTTP_PORT), str(TCP_PORT)]
            self.backends[name] = Process(host, argv, self.folder / f"{name}.log")
            self.backends[name].start()
        secret = self.folder / "secret"
        secret.write_text("a secret of the laboratory, 32 bytes or so\n")
        secret.chmod(0o600)
        for number in range(1, nodes + 1):
            name = f"node{number}"
            host = network.add_host(name, f"{SUBNET}.{10 + number}/24")
            self.nodes[name] = Node(name, host, self.folder)
            self.nodes[name].config.write_text(self.config_for(name))
        for backend in self.backends.values():
            wait_until(lambda b=backend: "ready" in b.output, "a backend listens")

    def _wait_until_ready(self, node: Node) -> None:
        def ready() -> bool:
            assert node.popen is not None
            code = node.popen.poll()
            assert code is None, f"{node.name} ended with {code}:\n{node.output}"
            return node.is_ready()

        wait_until(ready, f"{node.name} is ready:\n{node.output}")
