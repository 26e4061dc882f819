"""Labs with services of every type: their files, and who reaches what."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from piagent.adapters.netns import Host
from tests.lab.lab import HTTP_PORT, SUBNET, TCP_PORT, Lab, Node, Process
from tests.lab.traffic import connect
from tests.waiting import wait_until

HEAD = """\
[node]
name = "{name}"
interface = "eth0"
workers = 1
{node}

[cluster]
name = "lab"
secret_file = "{secret_file}"

[mqtt]
brokers = [{brokers}]

[election]
profile = "{profile}"

[admin]
socket = "{socket}"
"""
POOLS = f"""
[[pool]]
name = "lan"
addresses = ["{SUBNET}.200-{SUBNET}.209", "fd77::200-fd77::209"]

[[pool]]
name = "inside"
type = "cluster"
addresses = ["10.96.0.0/24", "fd96::/112"]
"""
SILENCE_S = 1.0
"""After this nobody answers any more."""


def write(lab: Lab, body: str, *, node: str = "", only: Mapping[str, str] | None = None) -> None:
    """Give every node the same file.

    `body`: what is behind [admin]. `node`: keys of [node]; `{name}` and `{folder}` stand for the
    node's name and the lab's folder. `only`: node -> what its file has besides.
    """
    for name, each in lab.nodes.items():
        each.config.write_text(file_of(lab, name, body + (only or {}).get(name, ""), node=node))


def file_of(lab: Lab, name: str, body: str, *, node: str = "") -> str:
    """The file of one node."""
    head = HEAD.format(
        name=name,
        node=node.format(name=name, folder=lab.folder),
        secret_file=lab.folder / "secret",
        brokers=", ".join(f'"mqtt://{b.address}:{b.port}"' for b in lab.brokers),
        profile=lab.profile,
        socket=lab.folder / f"{name}.sock",
    )
    return head + body


def add_backend(lab: Lab, name: str, host: Host, address: str) -> Process:
    """Another backend, running; on a host that may be a node."""
    script = str(Path(__file__).with_name("backend.py"))
    argv = [sys.executable, script, name, address, str(HTTP_PORT), str(TCP_PORT)]
    made = lab.backends[name] = Process(host, argv, lab.folder / f"{name}.log")
    made.start()
    wait_until(lambda: "ready" in made.output, f"{name} listens")
    return made


def ip(host: Host, *words: str) -> str:
    """What `ip` says in a host."""
    argv = host.command(["ip", *words])
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


class Place(NamedTuple):
    """Where something may be reached."""

    address: str
    port: int


def reach(host: Host, place: Place, *, udp: bool = False, timeout_s: float = SILENCE_S) -> str:
    """Who answers there, or: refused, closed, silent, no route (and why)."""
    ask = _ask_udp if udp else _ask_tcp
    try:
        return ask(host, place, timeout_s)
    except ConnectionRefusedError:
        return "refused"
    except ConnectionResetError:
        return "closed"
    except TimeoutError:
        return "silent"
    except OSError as error:
        return f"no route ({error.strerror})"


def _ask_tcp(host: Host, place: Place, timeout_s: float) -> str:
    with connect(host, *place, timeout_s) as made, made.makefile("rb") as lines:
        return lines.readline().decode().strip() or "closed"


def _ask_udp(host: Host, place: Place, timeout_s: float) -> str:
    family = socket.AF_INET6 if ":" in place.address else socket.AF_INET
    with host.entered():
        made = socket.socket(family, socket.SOCK_DGRAM)
    with made:
        made.settimeout(timeout_s)
        made.connect(place)
        made.send(b"hello")
        name, _, rest = made.recv(1500).partition(b" ")
        assert rest == b"hello"
        return name.decode()


Table = dict[str, dict[str, str]]
"""From whom -> to what -> what comes of it."""


def table(
    hosts: Mapping[str, Host], places: Mapping[str, Place], backends: set[str], *, udp: bool
) -> Table:
    """Try everything; "yes" stands for an answer of one of the backends."""

    def cell(key: tuple[str, str]) -> str:
        found = reach(hosts[key[0]], places[key[1]], udp=udp)
        return "yes" if found in backends else found.partition(" (")[0]

    keys = [(source, target) for source in hosts for target in places]
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(keys, pool.map(cell, keys), strict=True))
    return {source: {target: found[source, target] for target in places} for source in hosts}


def settle(look: Callable[[], Any], wanted: Any, timeout_s: float = 20.0) -> None:
    """Wait until it is as it should be; the last look is in the failure."""
    seen: list[Any] = [None]

    def holds() -> bool:
        seen[0] = look()
        return bool(seen[0] == wanted)

    wait_until(holds, lambda: f"it is {seen[0]}\nnot {wanted}", timeout_s, every_s=0.1)


def service_of(node: Node, name: str) -> dict[str, Any]:
    """A service as one node's API shows it."""
    found: dict[str, Any] = next(
        (one for one in node.get("/api/v1/services")[1] if one["name"] == name), {}
    )
    return found


def notes_of(node: Node) -> list[dict[str, str]]:
    """What is not as it was wished, as one node's API shows it."""
    found: list[dict[str, str]] = node.get("/api/v1/status")[1]["notes"]
    return found
