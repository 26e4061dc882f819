"""`piagent status`: the node, its brokers, the VIPs with their owners, the services."""

from __future__ import annotations

from typing import TYPE_CHECKING

from piagent.cli import admin
from piagent.cli.output import columns, print_json

if TYPE_CHECKING:
    import argparse

    from piagent.admin.status import (
        BackendStatus,
        BrokerStatus,
        NodeStatus,
        PortStatus,
        ServiceStatus,
        Status,
        VipStatus,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    admin.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the state of the agent on this host."""
    import msgspec

    from piagent.admin.status import Status

    status = admin.ask(args, "/api/v1/status", Status)
    if args.json:
        print_json(msgspec.to_builtins(status))
    else:
        print(render(status))
    return 0


def render(status: Status) -> str:
    """Make the whole text."""
    state = "ready" if status.ready else f"not ready: {status.reason}"
    running = admin.ago(status.started)
    who = f"node {status.node} of cluster {status.cluster}, piagent {status.version}"
    fence = "" if status.fence == "holds" else f"\nno kernel fence: {status.fence}"
    parts = [
        f"{who}, running for {running}, {state}{fence}",
        _section("brokers", [_broker(broker) for broker in status.brokers]),
        _section("nodes", [_node(node, status.leader) for node in status.nodes]),
        _section("VIPs", vip_rows(status.vips)),
        _section("services", [row for s in status.services for row in _service(s)]),
    ]
    return "\n\n".join(part for part in parts if part)


def vip_rows(vips: tuple[VipStatus, ...]) -> list[tuple[str, ...]]:
    """Make the rows of a table of VIPs."""
    return [
        (
            vip.address,
            f"owner {vip.owner}" if vip.owner else "no owner",
            f"epoch {vip.epoch}",
            f"{vip.state} here for {admin.ago(vip.since)}",
            vip.reason,
        )
        for vip in vips
    ]


def _section(title: str, rows: list[tuple[str, ...]]) -> str:
    return f"{title}\n{columns(rows, '  ')}" if rows else ""


def _node(node: NodeStatus, leader: str | None) -> tuple[str, ...]:
    marks = [f"host {node.host}"] if node.host not in {"", node.name} else []
    marks += [f"zone {node.zone}"] if node.zone else []
    marks += ["draining"] if node.draining else []
    marks += ["leader"] if node.name == leader else []
    return node.name, f"{node.vips} VIPs of at most {node.share}", ", ".join(marks)


def _broker(broker: BrokerStatus) -> tuple[str, ...]:
    state = f"{'up' if broker.up else 'down'} for {admin.ago(broker.since)}"
    return broker.name, broker.address, state, broker.reason


def _service(service: ServiceStatus) -> list[tuple[str, ...]]:
    addresses = ",".join((*service.vips, *service.cluster_ips)) or "no address"
    head = (
        f"{service.name} ({service.type})",
        f"{addresses} {','.join(map(_port, service.ports))}",
        "",
        "",
    )
    return [head, *(_backend(backend) for backend in service.backends)]


def _port(port: PortStatus) -> str:
    protocol = "" if port.protocol == "tcp" else f"/{port.protocol}"
    node_port = "" if port.node_port is None else f":{port.node_port}"
    return f"{port.port}{node_port}{protocol}"


def _backend(backend: BackendStatus) -> tuple[str, ...]:
    state = f"{'up' if backend.up else 'DOWN'} for {admin.ago(backend.since)}"
    return "  backend", f"{backend.address} weight {backend.weight}", state, backend.reason
