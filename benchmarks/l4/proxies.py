"""The proxies under test: one worker each on the same CPU, four backends each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from benchmarks.compared.load import Ports, Proxy, compiled
from benchmarks.peers import PROXY_CPU, VIP, agent, nginx_modules
from benchmarks.processes import free_port, running, wait_for_datagrams, wait_for_port

LOCAL = "127.0.0.1"
HERE = Path(__file__).parent


NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
{modules}
events {{ worker_connections 8192; }}
stream {{
  upstream echo {{ {echo} }}
  upstream stream {{ {stream} }}
  upstream udp {{ {udp} }}
  server {{ listen {address}:{ports.echo} reuseport backlog=4096; proxy_pass echo; }}
  server {{ listen {address}:{ports.stream} reuseport backlog=4096; proxy_pass stream; }}
  server {{ listen {address}:{ports.udp} udp reuseport rcvbuf=4m sndbuf=4m; proxy_pass udp; }}
}}
"""

HAPROXY = """
global
  nbthread 1
  maxconn 4096
defaults
  mode tcp
  timeout connect 3s
  timeout client 1h
  timeout server 1h
listen echo
  bind {address}:{ports.echo}
{echo}
listen stream
  bind {address}:{ports.stream}
{stream}
listen splice-auto
  bind {address}:{auto}
  option splice-auto
{stream}
listen splice
  bind {address}:{splice}
  option splice-response
{stream}
"""

SERVICE = """
[[service]]
name = "bench"
type = "load-balancer"
address = "{address}"
node_ports = false
backends = {backends}
ports = [
  {{ name = "echo", port = {ports.echo}, target_port = {to.echo} }},
  {{ name = "stream", port = {ports.stream}, target_port = {to.stream} }},
  {{ name = "udp", port = {ports.udp}, target_port = {to.udp}, protocol = "udp" }},
]
"""


def _backends(number: int) -> list[str]:
    """Four addresses of one proxy's own: its connections that are over take no ports of others."""
    return [f"127.2.{number}.{i}" for i in range(1, 5)]


def _free_ports() -> Ports:
    return Ports(free_port(), free_port(), free_port())


@contextlib.contextmanager
def _piagent(folder: Path, to: Ports) -> Iterator[dict[str, Proxy]]:
    ports = _free_ports()
    backends = str(_backends(1)).replace("'", '"')
    services = SERVICE.format(address=VIP, ports=ports, to=to, backends=backends)
    with agent(folder, services, ports.echo) as process:
        yield {"piagent": Proxy(VIP, ports, process)}


@contextlib.contextmanager
def _haproxy(folder: Path, to: Ports) -> Iterator[dict[str, Proxy]]:
    ports, auto, splice = _free_ports(), free_port(), free_port()
    file = folder / "haproxy.cfg"
    servers = [
        "\n".join(f"  server s{i} {at}:{port}" for i, at in enumerate(_backends(2)))
        for port in (to.echo, to.stream)
    ]
    file.write_text(
        HAPROXY.format(
            address=LOCAL, ports=ports, auto=auto, splice=splice,
            echo=servers[0], stream=servers[1],
        )
    )  # fmt: skip
    log = folder / "haproxy.log"
    with running("haproxy", "-db", "-f", str(file), cpu=PROXY_CPU, log=log) as process:
        wait_for_port(LOCAL, ports.echo, process)
        yield {
            "haproxy": Proxy(LOCAL, ports, process),
            "haproxy-auto": Proxy(LOCAL, ports._replace(stream=auto), process),
            "haproxy-splice": Proxy(LOCAL, ports._replace(stream=splice), process),
        }


@contextlib.contextmanager
def _nginx(folder: Path, to: Ports) -> Iterator[dict[str, Proxy]]:
    ports = _free_ports()
    file = folder / "nginx.conf"
    echo, stream, udp = (" ".join(f"server {at}:{port};" for at in _backends(3)) for port in to[:3])
    file.write_text(
        NGINX.format(
            folder=folder, modules=nginx_modules(), address=LOCAL, ports=ports,
            echo=echo, stream=stream, udp=udp,
        )
    )  # fmt: skip
    with running("nginx", "-c", str(file), cpu=PROXY_CPU, log=folder / "nginx.log") as process:
        wait_for_port(LOCAL, ports.echo, process)
        wait_for_datagrams(ports.udp, process)
        yield {"nginx": Proxy(LOCAL, ports, process)}


@contextlib.contextmanager
def _relay(folder: Path, to: Ports) -> Iterator[dict[str, Proxy]]:
    relay, ports = folder / "relay", _free_ports()
    compiled(relay, [HERE / "relay.c"])
    pairs = f"{ports.echo}={to.echo}", f"{ports.stream}={to.stream}"
    argv = (str(relay), LOCAL, ",".join(_backends(4)), *pairs)
    with running(*argv, cpu=PROXY_CPU, log=folder / "relay.log") as process:
        wait_for_port(LOCAL, ports.echo, process)
        yield {"relay": Proxy(LOCAL, ports, process)}


@contextlib.contextmanager
def _udp_relay(folder: Path, to: Ports) -> Iterator[dict[str, Proxy]]:
    relay, ports = folder / "udp_relay", _free_ports()
    compiled(relay, [HERE / "udp_relay.c"])
    argv = (str(relay), LOCAL, str(ports.udp), ",".join(_backends(5)), str(to.udp))
    with running(*argv, cpu=PROXY_CPU, log=folder / "udp_relay.log") as process:
        wait_for_datagrams(ports.udp, process)
        yield {"udp-relay": Proxy(LOCAL, ports, process)}


@contextlib.contextmanager
def proxies(folder: Path, to: Ports) -> Iterator[dict[str, Proxy]]:
    """All of them, by name, at the same time; `to`: what the backends listen on."""
    with contextlib.ExitStack() as stack:
        found: dict[str, Proxy] = {}
        for start in (_piagent, _haproxy, _nginx, _relay, _udp_relay):
            found |= stack.enter_context(start(folder, to))
        yield found
