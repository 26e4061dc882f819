"""The TOML files of the demo's nodes: what a user would write for the same cluster."""

from __future__ import annotations

from pathlib import Path

from piagent.cli.demo.site import Place, Site


def node_file(site: Site, node: Place, secret: Path, socket: Path) -> str:
    """One node's file. All nodes' files are alike but for [node] and the admin socket."""
    api, www = site.backends[:2], site.backends[2:]
    parts = [
        f'[node]\nname = "{node.name}"\nworkers = 1',
        f'interface = "{node.interface}"' if node.interface else "",
        f'\n[cluster]\nname = "demo"\nsecret_file = "{secret}"',
        f'\n[mqtt]\nbrokers = ["mqtt://{site.broker.address}:{site.broker_port}"]',
        '\n[election]\ndrain = "1s"',  # who ends the demo does not want to wait
        f'\n[admin]\nsocket = "{socket}"',
        f'\n[[pool]]\nname = "lan"\naddresses = ["{site.pool}"]' if site.pool else "",
        _service("echo", site.backends, site.backend_tcp_port, site.vip, site.tcp_port),
        _service("api", api, site.backend_http_port),
        _service("www", www, site.backend_http_port),
        f'\n[[gateway]]\nname = "web"\naddress = "{site.vip}"\nsharing_key = "demo"',
        f"listen = [{{ port = {site.http_port} }}]",
        _route("api", "api.demo", "/v1", "api"),
        _route("www", "www.demo", "/", "www"),
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _service(
    name: str, backends: tuple[Place, ...], target_port: int, vip: str = "", port: int = 80
) -> str:
    lines = [f'\n[[service]]\nname = "{name}"']
    if vip:
        # Several of these agents may be on one host: node ports would be theirs in common.
        lines.append(f'type = "load-balancer"\naddress = "{vip}"\nsharing_key = "demo"')
        lines.append("node_ports = false")
    addresses = ", ".join(f'"{place.address}"' for place in backends)
    lines.append(f"ports = [{{ port = {port}, target_port = {target_port} }}]")
    lines.append(f"backends = [{addresses}]")
    lines.append('health = { interval = "1s", timeout = "500ms", rise = 1, fall = 2 }')
    return "\n".join(lines)


def _route(name: str, host: str, prefix: str, service: str) -> str:
    return (
        f'\n[[route]]\nname = "{name}"\ngateway = "web"\nhosts = ["{host}"]'
        f'\npath_prefix = "{prefix}"\nbackends = [{{ service = "{service}" }}]'
    )
