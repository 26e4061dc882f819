"""`piagent status`: the node, its brokers, the VIPs with their owners, the services, BGP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from piagent.cli import admin
from piagent.cli.output import columns, print_json

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from piagent.admin.status import (
        BackendStatus,
        BrokerStatus,
        DrainStatus,
        ForwardingStatus,
        GatewayStatus,
        NodeStatus,
        NoteStatus,
        PortStatus,
        RoutedStatus,
        ServiceStatus,
        SessionStatus,
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
        _section("VIPs that BGP leads to", [_routed(vip) for vip in status.routed]),
        _section("BGP sessions", [_session(session) for session in status.bgp]),
        _section("services", [row for s in status.services for row in _service(s)]),
        _section("gateways", [_gateway(gateway) for gateway in status.gateways]),
        _section("draining backends", [_drain(drain) for drain in status.drains]),
        _forwarding(status.forwarding),
        notes_section(status.notes),
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


def backend_rows(backends: Iterable[BackendStatus]) -> list[tuple[str, ...]]:
    """Make the rows of a table of backends."""
    return [
        (
            f"{backend.address} weight {backend.weight}",
            _state(backend),
            backend.reason + _checked(backend),
        )
        for backend in backends
    ]


def _state(backend: BackendStatus) -> str:
    since = f"{'up' if backend.up else 'DOWN'} for {admin.ago(backend.since)}"
    return f"{since}, ejected" if backend.ejected else since


def _checked(backend: BackendStatus) -> str:
    if backend.checked_by is None or backend.checked is None:
        return ""
    return f" (checked by {backend.checked_by} {admin.ago(backend.checked)} ago)"


def version_words(applied: int) -> str:
    """Say which version was applied; nothing of what is in the node's file."""
    return f"applied, version {applied}" if applied else ""


def port_words(ports: Iterable[PortStatus]) -> str:
    """Write ports as one word: `80:30000,53/udp`; the second number is the node port."""
    return ",".join(map(_port, ports))


def mode_words(mode: str, encapsulation: str | None) -> str:
    """Write how traffic gets to backends: `proxy`, `nat`, `dsr`, `dsr by ipip`."""
    return mode if encapsulation is None else f"{mode} by {encapsulation}"


def notes_section(notes: Iterable[NoteStatus]) -> str:
    """Write what is not as it was wished; nothing when all is."""
    return _section("not as wished", [(note.about, note.reason, note.detail) for note in notes])


def _section(title: str, rows: list[tuple[str, ...]]) -> str:
    return f"{title}\n{columns(rows, '  ')}" if rows else ""


def _forwarding(of: ForwardingStatus | None) -> str:
    """Write how packets are forwarded; nothing when none are to be."""
    if of is None:
        return ""
    rows: list[tuple[str, ...]] = [("flows carried by", of.flow_cache, of.reason)]
    rows += [(f"not reached: {one.service}", one.backend, one.reason) for one in of.unreached]
    return _section("forwarding", rows)


def _node(node: NodeStatus, leader: str | None) -> tuple[str, ...]:
    marks = [f"host {node.host}"] if node.host not in {"", node.name} else []
    marks += [f"zone {node.zone}"] if node.zone else []
    marks += ["draining"] if node.draining else []
    marks += ["leader"] if node.name == leader else []
    return node.name, f"{node.vips} VIPs of at most {node.share}", ", ".join(marks)


def _broker(broker: BrokerStatus) -> tuple[str, ...]:
    state = f"{'up' if broker.up else 'down'} for {admin.ago(broker.since)}"
    return broker.name, broker.address, state, broker.reason


def _routed(vip: RoutedStatus) -> tuple[str, ...]:
    return vip.address, "announced here" if vip.announced else "not announced here", vip.reason


def _session(session: SessionStatus) -> tuple[str, ...]:
    return session.peer, "up" if session.up else "DOWN", session.reason


def _service(service: ServiceStatus) -> list[tuple[str, ...]]:
    addresses = ",".join((*service.vips, *service.cluster_ips)) or "no address"
    kind = ", ".join(filter(None, (service.type, version_words(service.applied))))
    head = (
        f"{service.name} ({kind})",
        f"{addresses} {port_words(service.ports)}",
        "",
        "",
    )
    return [head, *(("  backend", *row) for row in backend_rows(service.backends))]


def _drain(drain: DrainStatus) -> tuple[str, ...]:
    plural = "" if drain.connections == 1 else "s"
    left = f"{drain.connections} connection{plural}, cut in {admin.until(drain.until)}"
    return drain.backend, f"of {drain.service}", left


def _gateway(gateway: GatewayStatus) -> tuple[str, ...]:
    addresses = ",".join(gateway.vips) or "no address"
    source = version_words(gateway.applied)
    name = f"{gateway.name} ({source})" if source else gateway.name
    return name, f"{addresses} {','.join(map(str, gateway.ports))}"


def _port(port: PortStatus) -> str:
    protocol = "" if port.protocol == "tcp" else f"/{port.protocol}"
    node_port = "" if port.node_port is None else f":{port.node_port}"
    return f"{port.port}{node_port}{protocol}"
