"""`piagent check FILE`: is the file right, and what does it make this node do?"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from piagent.cli.output import WRONG_INPUT, columns, print_json, to_plain
from piagent.cli.route import route_table

if TYPE_CHECKING:
    from piagent.core.forwarding import Forwarding
    from piagent.core.model import Broker, Config, Election, Node, Pool, Service, ServicePort
    from piagent.core.plan import Plan, PlannedForward, PlannedListener
    from piagent.core.proxying import Ejection, Proxying
    from piagent.core.wants import Want


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", metavar="FILE", help="the node's configuration")
    parser.add_argument("--json", action="store_true", help="print the plan and problems as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the plan, or everything that is wrong."""
    from piagent.config import ConfigError, load
    from piagent.core.plan import plan

    try:
        loaded = load(args.file)
    except ConfigError as error:
        if args.json:
            print_json(
                {"ok": False, "errors": to_plain(error.errors), "warnings": [], "plan": None}
            )
        else:
            count = len(error.errors)
            print(error, file=sys.stderr)
            print(f"{count} error{'s' if count > 1 else ''}: nothing was used", file=sys.stderr)
        return WRONG_INPUT
    # As if this node owned every VIP, so that each listener shows.
    made = plan(loaded.config, frozenset(loaded.config.vips()), frozenset())
    if args.json:
        warnings = to_plain(loaded.warnings)
        resolved = resolve(loaded.config, made)
        print_json({"ok": True, "errors": [], "warnings": warnings, "plan": resolved})
        return 0
    for warning in loaded.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(describe(loaded.config, made))
    return 0


def resolve(config: Config, made: Plan) -> dict[str, Any]:
    """Return the configuration with all defaults, and the plan; secrets are left out."""
    plain = to_plain(config)
    plain["secrets"] = sum(map(bool, config.secrets))
    plain["admin_token"] = config.admin_token is not None
    plain["mqtt"]["password"] = config.mqtt.password is not None
    shown = ("listeners", "forwards", "gateways")
    return {"config": plain, **{name: to_plain(getattr(made, name)) for name in shown}}


def describe(config: Config, made: Plan) -> str:
    """Write the plan for people."""
    parts = [_head(config)]
    if made.listeners:
        rows = [(_place_of(one), "->", _target(one)) for one in made.listeners]
        parts.append("It listens (on a VIP when it owns it) on\n" + columns(rows, "  "))
    if made.forwards:
        rows = [(_place_of(one), "->", f"service {one.target}") for one in made.forwards]
        parts.append("It forwards (on a VIP that it owns) packets to\n" + columns(rows, "  "))
    parts += [_service(service) for service in config.services]
    if any(map(_limits, config.pools)):
        pools = [(pool.name, _limits(pool)) for pool in config.pools if _limits(pool)]
        parts.append("Pools with conditions\n" + columns(pools, "  "))
    for gateway in made.gateways:
        title = f"Gateway {gateway.name} ({gateway.wildcard} wildcards) tries in this order"
        parts.append(title + "\n" + route_table(gateway))
    return "\n\n".join(parts)


def _place_of(listener: PlannedListener | PlannedForward) -> str:
    udp = " UDP" if listener.udp else ""
    return f"{listener.address} port {listener.port}{udp}"


def _target(listener: PlannedListener) -> str:
    return f"{'gateway' if listener.http else 'service'} {listener.target}"


def _head(config: Config) -> str:
    node, times = config.node, config.election.timing
    weight = "never owns a VIP" if node.vip_weight == 0 else f"weight {node.vip_weight}"
    weight += ", wired only" if node.wired_only else ""
    lease = f"lease {times.lease_ms} ms, renewed each {times.renew_ms} ms"
    candidates = ", ".join(config.election.candidates) or "all"
    rows = [
        ("Node", f"{node.name} in cluster {config.cluster}{_place(node)}"),
        ("Secrets", _secrets(config.secrets)),
        ("Interface", node.interface or "unknown: no default route"),
        ("VIPs", f"{', '.join(config.vips()) or 'none'} ({weight})"),
        ("Workers", str(node.workers)),
        ("Brokers", ", ".join(map(_broker, config.mqtt.brokers))),
        ("Election", f"{config.election.profile}: {lease}; candidates: {candidates}"),
        ("No quorum", f"{config.election.on_quorum_loss} the VIPs"),
        ("Moves", _moves(config.election)),
        ("Admin", _admin(config)),
    ]
    if config.mqtt.embedded is not None:
        own = config.mqtt.embedded
        rows.insert(6, ("Own broker", f"{own.address} port {own.port}"))
    return columns(rows)


def _admin(config: Config) -> str:
    if config.admin_listen is None:
        return config.admin_socket
    token = "with" if config.admin_token else "without"
    place = f"{config.admin_listen.address} port {config.admin_listen.port}"
    return f"{config.admin_socket}; {place}, {token} a token"


def _place(node: Node) -> str:
    labels = "".join(f", {key} = {value}" for key, value in sorted(node.labels.items()))
    return (f", zone {node.zone}" if node.zone else "") + labels


def _secrets(secrets: tuple[bytes, ...]) -> str:
    if not any(secrets):
        return "none: messages are not authenticated"
    return "one" if len(secrets) == 1 else f"{len(secrets)} are accepted, the first one signs"


def _broker(broker: Broker) -> str:
    return f"{broker.host} port {broker.port}{' by TLS' if broker.tls else ''}"


def _moves(election: Election) -> str:
    def after(span_ms: int | None) -> str:
        return "never" if span_ms is None else f"after {span_ms} ms"

    return (
        f"back to a preferred node {after(election.preempt_ms)}, to even the shares "
        f"{after(election.rebalance_ms)}; connections have {election.drain_ms} ms"
    )


def _limits(pool: Pool) -> str:
    """What narrows a pool's owners down, or differs from the default; else nothing."""
    parts = [f"{key} = {value}" for key, value in sorted(pool.nodes.items())]
    parts += [f"on {' or '.join(pool.interfaces)}"] if pool.interfaces else []
    parts += ["only configured, not announced"] if pool.announce == "none" else []
    parts += ["defended against other hosts"] if pool.conflict == "defend" else []
    return ", ".join(parts)


def _service(service: Service) -> str:
    if service.external_name is not None:
        return f"Service {service.name} (external), stands for {service.external_name}"
    check = service.health
    health = "not checked" if check is None else (
        f"checked by {' '.join(check.command) or check.kind} every {check.interval_ms} ms, "
        f"up after {check.rise}, down after {check.fall}"
    )  # fmt: skip
    rows = [
        (backend.id, f"weight {backend.weight}{f' on {backend.node}' if backend.node else ''}")
        for backend in service.backends
    ]
    local = ", only those on the node it came to" if service.traffic_policy == "local" else ""
    ports = ", ".join(map(_port, service.ports))
    title = f"Service {service.name} ({service.type}), port {ports}, backends {health}{local}"
    from piagent.core.wants import want_of_service

    title += _waits(want_of_service(service))
    words = "; ".join([*_forwarding(service.forwarding), *_proxying(service.proxying)])
    title += f"\n  {words}" if words else ""
    return title + "\n" + (columns(rows, "  ") if rows else "  none")


def _forwarding(how: Forwarding) -> list[str]:
    """How packets get to the backends, unless it is the default."""
    if how.proxied:
        return []
    return [f"forwarded by {how.mode}{f' in {how.encapsulation}' if how.encapsulation else ''}"]


def _proxying(how: Proxying) -> list[str]:
    """What differs from the default in what becomes of its connections."""
    limits, times, plain = how.limits, how.timeouts, type(how)()
    return [
        text
        for differs, text in (
            (how.balance is not plain.balance, f"balanced by {how.balance}"),
            (how.affinity_ms == 0, "each client's address decides where it goes"),
            (bool(how.affinity_ms), f"a client stays for {how.affinity_ms} ms"),
            (bool(how.allowed), f"only from {', '.join(how.allowed)}"),
            (bool(how.trusted), f"PROXY headers from {', '.join(how.trusted)}"),
            (how.header is not None, f"PROXY header {how.header} to backends"),
            (bool(how.sources), f"to backends from {', '.join(how.sources)}"),
            (bool(limits.connections), f"at most {limits.connections} connections"),
            (
                bool(limits.connections_per_source),
                f"at most {limits.connections_per_source} of one client",
            ),
            (bool(limits.accept_rate), f"at most {limits.accept_rate} new ones a second"),
            (times.connect_ms != plain.timeouts.connect_ms, f"connects in {times.connect_ms} ms"),
            (times.idle_ms == 0, "idle for ever"),
            (times.idle_ms not in {0, plain.timeouts.idle_ms}, f"idle for {times.idle_ms} ms"),
            (bool(how.slow_start_ms), f"slow start in {how.slow_start_ms} ms"),
            (how.drain_ms != plain.drain_ms, f"drains for {how.drain_ms} ms"),
            (how.ejection is None, "ejects no backend"),
            (how.ejection not in {None, plain.ejection}, _ejects(how.ejection)),
            (how.access_log is not None, f"logged to {how.access_log}"),
        )
        if differs
    ]


def _ejects(ejection: Ejection | None) -> str:
    return "" if ejection is None else (
        f"ejects a backend after {ejection.failures} failures for {ejection.time_ms} ms"
    )  # fmt: skip


def _port(port: ServicePort) -> str:
    udp = "" if port.protocol == "tcp" else f"/{port.protocol}"
    target = "" if port.port == port.target_port else f" -> {port.target_port}"
    return f"{port.port}{udp}{target}"


def _waits(want: Want) -> str:
    """What the leader has to give."""
    parts = ["a VIP"] if want.vip and not want.vips else []
    if want.opens and any(port.node_port is None for port in want.ports):
        parts.append("node ports")
    return f", is assigned {' and '.join(parts)}" if parts else ""
