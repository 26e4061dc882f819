"""The proxies under test: one worker each on the same CPU, four backends each."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from benchmarks.compared.load import Ports, Proxy, compiled
from benchmarks.http.comparisons import GO_PEERS, HOST, ONE_ROUTE
from benchmarks.peers import PROXY_CPU, VIP, agent
from benchmarks.processes import free_port, running, wait_for_port
from fastpath.numbering import MAX_ROUTES

LOCAL = "127.0.0.1"
HERE = Path(__file__).parent
ROUTES = min(10_000, MAX_ROUTES - 8)
GO_CURE = ".venv/bin/pip install '.[bench]'"

NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  upstream back {{ {servers} keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} reuseport backlog=4096; server_name {host};
    location / {{
      proxy_pass http://back; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $host;
      proxy_max_temp_file_size 0;
    }}
  }}
}}
"""

HAPROXY = """
global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout connect 3s
  timeout client 1h
  timeout server 1h
frontend web
  bind 127.0.0.1:{port}
  option forwardfor
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  use_backend www if {{ hdr(host) -i {host} }}
frontend auto
  bind 127.0.0.1:{auto}
  option splice-auto
  option forwardfor
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  use_backend auto if {{ hdr(host) -i {host} }}
backend www
  http-reuse always
{servers}
backend auto
  option splice-auto
  http-reuse always
{servers}
"""

TRAEFIK = """
[http.routers.www]
rule = "Host(`{host}`)"
entryPoints = ["web"]
service = "www"
[http.services.www.loadBalancer]
servers = [{servers}]
"""

CADDY = """
{{
  admin off
  auto_https off
  persist_config off
  log default {{
    level ERROR
  }}
}}
http://{host}:{port} {{
  bind 127.0.0.1
  reverse_proxy {servers} {{
    lb_policy round_robin
  }}
}}
"""

SERVICES = """
[[service]]
name = "www"
ports = [{{ port = 80, target_port = {to} }}]
backends = {backends}
[[gateway]]
name = "web"
address = "{vip}"
sharing_key = "bench"
listen = [{{ port = {ports.http} }}]
[[gateway]]
name = "many"
address = "{vip}"
sharing_key = "bench"
listen = [{{ port = {ports.routes} }}]
"""

ROUTE = """
[[route]]
name = "{name}"
gateway = "{gateway}"
hosts = ["{host}"]
path_prefix = "{path}"
backends = [{{ service = "www" }}]
"""


def _backends(number: int) -> list[str]:
    """Four addresses of one proxy's own: its connections that are over take no ports of others."""
    return [f"127.2.{number}.{i}" for i in range(1, 5)]


def _routes(n: int) -> str:
    """`n` of the gateway with many: hosts with ten paths each, and the one that is asked for."""
    several = [
        ROUTE.format(name=f"r{i}", gateway="many", host=f"h{i // 10}.bench", path=f"/p{i % 10}")
        for i in range(n - 1)
    ]
    return "".join([*several, ROUTE.format(name="www-many", gateway="many", host=HOST, path="/")])


@contextlib.contextmanager
def _piagent(folder: Path, to: Ports, n_routes: int) -> Iterator[dict[str, Proxy]]:
    ports = Ports(http=free_port(), routes=free_port())
    services = SERVICES.format(vip=VIP, ports=ports, to=to.http, backends=json.dumps(_backends(1)))
    services += ROUTE.format(name="www", gateway="web", host=HOST, path="/") + _routes(n_routes)
    with agent(folder, services, ports.http) as process:
        one = Proxy(VIP, ports, process)
        yield {"piagent": one, ONE_ROUTE: one._replace(ports=Ports(routes=ports.http))}


@contextlib.contextmanager
def _haproxy(folder: Path, to: Ports) -> Iterator[dict[str, Proxy]]:
    port, auto = free_port(), free_port()
    file = folder / "haproxy.cfg"
    servers = "\n".join(f"  server s{i} {at}:{to.http}" for i, at in enumerate(_backends(2)))
    file.write_text(HAPROXY.format(port=port, auto=auto, host=HOST, servers=servers))
    log = folder / "haproxy.log"
    with running("haproxy", "-db", "-f", str(file), cpu=PROXY_CPU, log=log) as process:
        wait_for_port(LOCAL, port, process)
        yield {
            "haproxy": Proxy(LOCAL, Ports(http=port), process),
            "haproxy-auto": Proxy(LOCAL, Ports(http=auto), process),
        }


@contextlib.contextmanager
def _nginx(folder: Path, to: Ports) -> Iterator[dict[str, Proxy]]:
    port, file = free_port(), folder / "nginx.conf"
    servers = " ".join(f"server {at}:{to.http};" for at in _backends(3))
    file.write_text(NGINX.format(folder=folder, port=port, host=HOST, servers=servers))
    with running("nginx", "-c", str(file), cpu=PROXY_CPU, log=folder / "nginx.log") as process:
        wait_for_port(LOCAL, port, process)
        yield {"nginx": Proxy(LOCAL, Ports(http=port), process)}


@contextlib.contextmanager
def _relay(folder: Path, to: Ports) -> Iterator[dict[str, Proxy]]:
    relay, port = folder / "relay", free_port()
    compiled(relay, [HERE / "relay.c"])
    argv = (str(relay), f"{LOCAL}:{port}", str(to.http), HOST, ",".join(_backends(4)))
    with running(*argv, cpu=PROXY_CPU, log=folder / "relay.log") as process:
        wait_for_port(LOCAL, port, process)
        yield {"relay": Proxy(LOCAL, Ports(http=port), process)}


@contextlib.contextmanager
def _traefik(folder: Path, to: Ports) -> Iterator[dict[str, Proxy]]:
    port, file = free_port(), folder / "traefik.toml"
    servers = ", ".join(f'{{ url = "http://{at}:{to.http}" }}' for at in _backends(5))
    file.write_text(TRAEFIK.format(host=HOST, servers=servers))
    argv = (
        "traefik", f"--entrypoints.web.address={LOCAL}:{port}", "--log.level=ERROR",
        f"--providers.file.filename={file}", "--global.checknewversion=false",
        "--global.sendanonymoususage=false",
    )  # fmt: skip
    with running(*argv, cpu=PROXY_CPU, log=folder / "traefik.log") as process:
        wait_for_port(LOCAL, port, process)
        yield {"traefik": Proxy(LOCAL, Ports(http=port), process)}


@contextlib.contextmanager
def _caddy(folder: Path, to: Ports) -> Iterator[dict[str, Proxy]]:
    port, file = free_port(), folder / "Caddyfile"
    servers = " ".join(f"{at}:{to.http}" for at in _backends(6))
    file.write_text(CADDY.format(host=HOST, port=port, servers=servers))
    argv = (
        "env", f"XDG_DATA_HOME={folder}", f"XDG_CONFIG_HOME={folder}",
        "caddy", "run", "--adapter", "caddyfile", "--config", str(file),
    )  # fmt: skip
    with running(*argv, cpu=PROXY_CPU, log=folder / "caddy.log") as process:
        wait_for_port(LOCAL, port, process)
        yield {"caddy": Proxy(LOCAL, Ports(http=port), process)}


Part = Callable[[Path, Ports], "AbstractContextManager[dict[str, Proxy]]"]
GO: dict[str, Part] = {"traefik": _traefik, "caddy": _caddy}


def add_scripts_to_path() -> None:
    """Where pip puts programs of this Python's environment."""
    os.environ["PATH"] += f":{sysconfig.get_path('scripts')}"


def absent() -> list[str]:
    """Peers that the comparison can do without, and this machine has not."""
    return [name for name in GO_PEERS if shutil.which(name) is None]


@contextlib.contextmanager
def proxies(
    folder: Path, to: Ports, *, n_routes: int = ROUTES, go: tuple[str, ...] = GO_PEERS
) -> Iterator[dict[str, Proxy]]:
    """All of them that are there, by name, at the same time; `to`: what the backends listen on."""
    parts: list[Part] = [functools.partial(_piagent, n_routes=n_routes), _haproxy, _nginx, _relay]
    parts += [GO[name] for name in go if shutil.which(name)]
    with contextlib.ExitStack() as stack:
        found: dict[str, Proxy] = {}
        for start in parts:
            found |= stack.enter_context(start(folder, to))
        yield found
