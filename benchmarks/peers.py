"""The proxies under test, each with one worker, the same backend and the same routes."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.processes import free_port, running, wait_for_port

PROXY_CPU, LOAD_CPU = 0, 1
VIP = "127.99.0.1"
CURE = "apt install nginx libnginx-mod-stream haproxy mosquitto gcc"


class Target(NamedTuple):
    """A running proxy."""

    address: str
    http_port: int
    tcp_port: int
    process: subprocess.Popen[bytes]
    log: Path
    """What it wrote; the file has the proxy's name."""


class Ports(NamedTuple):
    """Where a proxy listens, and what for."""

    http: int
    tcp: int
    http_backend: int
    tcp_backend: int


NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.err;
{modules}
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  upstream back {{ server 127.0.0.1:{ports.http_backend}; keepalive 64;
                   keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{ports.http} reuseport backlog=4096; server_name www.bench;
    location / {{
      proxy_pass http://back; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header X-Real-IP $remote_addr;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $host;
    }}
  }}
}}
stream {{
  server {{ listen 127.0.0.1:{ports.tcp} reuseport backlog=4096;
            proxy_pass 127.0.0.1:{ports.tcp_backend}; tcp_nodelay on; }}
}}
"""

HAPROXY = """
global
  nbthread 1
  maxconn 8192
defaults
  timeout connect 3s
  timeout client 1h
  timeout server 1h
frontend web
  mode http
  bind 127.0.0.1:{ports.http}
  option forwardfor
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  use_backend www if {{ hdr(host) -i www.bench }}
backend www
  mode http
  http-reuse always
  server s 127.0.0.1:{ports.http_backend}
frontend relay
  mode tcp
  bind 127.0.0.1:{ports.tcp}
  default_backend echo
backend echo
  mode tcp
  server s 127.0.0.1:{ports.tcp_backend}
"""

AGENT = """
[node]
name = "bench"
workers = 1
[cluster]
name = "bench"
[mqtt]
brokers = ["mqtt://127.0.0.1:{broker}"]
[election]
drain = "1s"
[admin]
socket = "{folder}/admin.sock"
"""

SERVICES = """
[[service]]
name = "echo"
type = "load-balancer"
address = "127.99.0.1"
sharing_key = "bench"
node_ports = false
ports = [{{ port = {ports.tcp}, target_port = {ports.tcp_backend} }}]
backends = ["127.0.0.1"]
[[service]]
name = "www"
ports = [{{ port = 80, target_port = {ports.http_backend} }}]
backends = ["127.0.0.1"]
[[gateway]]
name = "web"
address = "127.99.0.1"
sharing_key = "bench"
listen = [{{ port = {ports.http} }}]
[[route]]
name = "www"
gateway = "web"
hosts = ["www.bench"]
path_prefix = "/"
backends = [{{ service = "www" }}]
"""


def nginx_modules() -> str:
    """The line that loads nginx's stream module, which Debian packages apart."""
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    return f"load_module {module};" if module.exists() else ""


@contextlib.contextmanager
def nginx(folder: Path, ports: Ports) -> Iterator[Target]:
    """nginx, http and stream."""
    file = folder / "nginx.conf"
    file.write_text(NGINX.format(folder=folder, ports=ports, modules=nginx_modules()))
    log = folder / "nginx.log"
    with running("nginx", "-c", str(file), cpu=PROXY_CPU, log=log) as process:
        wait_for_port("127.0.0.1", ports.http, process)
        yield Target("127.0.0.1", ports.http, ports.tcp, process, log)


@contextlib.contextmanager
def haproxy(folder: Path, ports: Ports) -> Iterator[Target]:
    """HAProxy, mode http and mode tcp."""
    file = folder / "haproxy.cfg"
    file.write_text(HAPROXY.format(ports=ports))
    log = folder / "haproxy.log"
    with running("haproxy", "-db", "-f", str(file), cpu=PROXY_CPU, log=log) as process:
        wait_for_port("127.0.0.1", ports.http, process)
        yield Target("127.0.0.1", ports.http, ports.tcp, process, log)


@contextlib.contextmanager
def agent(folder: Path, services: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A whole agent and its guardian, with a broker (which is not measured), once they listen on
    `port` of VIP.
    """
    broker = free_port()
    conf, file = folder / "mosquitto.conf", folder / "piagent.toml"
    conf.write_text(f"listener {broker} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    file.write_text(AGENT.format(folder=folder, broker=broker) + services)
    with (
        running("mosquitto", "-c", str(conf), cpu=LOAD_CPU, log=folder / "mosquitto.log") as mqtt,
        running(
            sys.executable, "-m", "piagent.cli", "run", "-c", str(file),
            cpu=PROXY_CPU, log=folder / "piagent.log",
        ) as process,
    ):  # fmt: skip
        wait_for_port("127.0.0.1", broker, mqtt)
        wait_for_port(VIP, port, process)
        yield process


@contextlib.contextmanager
def piagent(folder: Path, ports: Ports) -> Iterator[Target]:
    """The agent, with a service and a gateway."""
    with agent(folder, SERVICES.format(ports=ports), ports.http) as process:
        yield Target(VIP, ports.http, ports.tcp, process, folder / "piagent.log")


Peer = Callable[[Path, Ports], "contextlib.AbstractContextManager[Target]"]
PEERS: dict[str, Peer] = {"piagent": piagent, "nginx": nginx, "haproxy": haproxy}


def missing() -> list[str]:
    """Programs that the comparison needs and this machine has not."""
    return [name for name in ("nginx", "haproxy", "mosquitto", "cc") if shutil.which(name) is None]
