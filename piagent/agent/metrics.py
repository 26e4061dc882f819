"""The agent's metrics: what is counted where, as families of the exposition format.

docs/reference/metrics.md describes each; a test compares both.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from piagent import __version__
from piagent.admin.exposition import Family, Histogram, Kind, Sample, histogram_samples
from piagent.admin.status import EndpointStatus, PoolStatus, ServiceStatus, Status
from piagent.core.lease_types import LEADER


def of_status(status: Status) -> Iterator[Family]:
    """What the status says in words, as numbers."""
    yield Family(
        "piagent_build_info",
        Kind.GAUGE,
        "Always 1; the version is in the label.",
        (Sample({"version": __version__}, 1),),
    )
    yield Family(
        "piagent_broker_up",
        Kind.GAUGE,
        "Whether this node is connected and subscribed to the broker.",
        tuple(Sample({"broker": b.name}, b.up) for b in status.brokers),
    )
    yield Family(
        "piagent_lease_owner",
        Kind.GAUGE,
        "Whether this node owns the VIP, or leads the cluster.",
        (
            *(Sample({"key": v.address}, v.state == "owner") for v in status.vips),
            Sample({"key": LEADER}, status.leader == status.node),
        ),
    )
    yield Family(
        "piagent_backend_up",
        Kind.GAUGE,
        "Whether the backend gets new connections.",
        tuple(
            Sample({"service": s.name, "backend": b.address}, b.up)
            for s in status.services
            for b in s.backends
        ),
    )
    yield Family(
        "piagent_service_notes",
        Kind.GAUGE,
        "Always 1: something about services that is not as it was wished.",
        tuple(
            Sample({"about": about, "reason": reason}, 1)
            for about, reason in dict.fromkeys((n.about, n.reason) for n in status.notes)
        ),
    )
    yield Family(
        "piagent_bgp_session_up",
        Kind.GAUGE,
        "Whether the BGP session with the router is established.",
        tuple(Sample({"peer": s.peer}, s.up) for s in status.bgp),
    )


def of_health(
    checks: Counter[str], node: str, services: Iterable[ServiceStatus]
) -> Iterator[Family]:
    """Who checks backends, and what comes of it."""
    checked = [
        ({"service": service.name, "backend": backend.address}, backend)
        for service in services
        for backend in service.backends
        if backend.checked is not None
    ]
    yield Family(
        "piagent_health_checks_total",
        Kind.COUNTER,
        "Health checks made by this node by result: good, failed, not-made.",
        tuple(Sample({"result": result}, count) for result, count in checks.items()),
    )
    yield Family(
        "piagent_backend_on_duty",
        Kind.GAUGE,
        "Whether this node checks the backend itself; if not, it takes another one's word.",
        tuple(Sample(labels, backend.checked_by == node) for labels, backend in checked),
    )
    yield Family(
        "piagent_backend_checked_timestamp_seconds",
        Kind.GAUGE,
        "When this node checked the backend last, or heard of it.",
        tuple(Sample(labels, (backend.checked or 0) / 1000) for labels, backend in checked),
    )


def of_pools(pools: Iterable[PoolStatus]) -> Iterator[Family]:
    """What the pools have left."""
    yield Family(
        "piagent_pool_addresses",
        Kind.GAUGE,
        "Addresses of the pool that a service or gateway has, and those that it could have.",
        tuple(
            Sample({"pool": pool.name, "family": str(of.family), "state": state}, count)
            for pool in pools
            for of in pool.counts
            for state, count in (("used", of.used), ("free", of.free))
        ),
    )


def of_endpoints(endpoints: Iterable[EndpointStatus]) -> Iterator[Family]:
    """What registered itself."""
    yield Family(
        "piagent_endpoints",
        Kind.GAUGE,
        "Endpoints of the service that registered themselves, at any node.",
        tuple(
            Sample({"service": service}, count)
            for service, count in sorted(Counter(e.service for e in endpoints).items())
        ),
    )


def of_flow_handovers(flows: Mapping[str, int], refused: Mapping[str, int]) -> Iterator[Family]:
    """Forwarded connections that went along with a VIP."""
    yield Family(
        "piagent_handover_flows_total",
        Kind.COUNTER,
        "Forwarded connections given to, or taken from another node together with a VIP.",
        tuple(Sample({"result": result}, n) for result, n in flows.items()),
    )
    yield Family(
        "piagent_handover_parts_refused_total",
        Kind.COUNTER,
        "Messages with connections of another node that did not count.",
        tuple(Sample({"reason": reason}, n) for reason, n in refused.items()),
    )


def of_conflicts(conflicts: Mapping[str, int]) -> Iterator[Family]:
    """Other hosts that use our VIPs."""
    yield Family(
        "piagent_vip_conflicts_total",
        Kind.COUNTER,
        "How often another host said that a VIP owned here is its own.",
        tuple(Sample({"vip": vip}, n) for vip, n in conflicts.items()),
    )


def of_election(
    transitions: Mapping[tuple[str, str], int], alarms: Mapping[str, int], failover: Histogram
) -> Iterator[Family]:
    """What happened to the VIPs here."""
    yield Family(
        "piagent_lease_transitions_total",
        Kind.COUNTER,
        "Acquisitions and releases of a VIP by this node.",
        tuple(Sample({"key": key, "reason": why}, n) for (key, why), n in transitions.items()),
    )
    yield Family(
        "piagent_failover_seconds",
        Kind.HISTOGRAM,
        "From the last word of a VIP's former owner to this node's announcement.",
        failover.samples(),
    )
    yield Family(
        "piagent_alarms_total",
        Kind.COUNTER,
        "Things that people should look at; the log says which.",
        tuple(Sample({"reason": reason}, count) for reason, count in alarms.items()),
    )


def of_reloads(results: Counter[str]) -> Iterator[Family]:
    """What became of reloads."""
    yield Family(
        "piagent_config_reloads_total",
        Kind.COUNTER,
        "Reloads of the file by result: done, bad-file, restart-needed, failed.",
        tuple(Sample({"result": result}, count) for result, count in results.items()),
    )


def of_access_log(late: int, unwritten: int) -> Iterator[Family]:
    """What is missing in the access logs."""
    yield Family(
        "piagent_access_log_dropped_total",
        Kind.COUNTER,
        "Connections and requests without their line in an access log.",
        (Sample({"reason": "late"}, late), Sample({"reason": "unwritten"}, unwritten)),
    )


def of_forwarding(stats: Mapping[str, Any]) -> Iterator[Family]:
    """What became of packets of forwarded services."""
    yield Family(
        "piagent_forward_packets_total",
        Kind.COUNTER,
        "Packets that came to the forwarder; those that the kernel carries are not among them.",
        tuple(
            Sample({"service": service, "verdict": verdict}, count)
            for service, verdicts in sorted(stats["packets"].items())
            for verdict, count in verdicts.items()
        ),
    )


def of_engine(stats: Mapping[str, Any]) -> Iterator[Family]:
    """The engine's counters."""
    yield from _of_backends(stats["services"])
    yield Family(
        "piagent_rejected_total",
        Kind.COUNTER,
        "Connections that were closed without reaching a backend.",
        tuple(Sample({"reason": why}, count) for why, count in stats["rejected"].items()),
    )
    yield from _of_ends(stats["ends"])
    yield from _of_udp(stats["udp"])
    yield Family(
        "piagent_tunnels_active",
        Kind.GAUGE,
        "Streams of `piagent port-forward` that are open.",
        (Sample({}, stats["relays"]["active"]),),
    )
    yield from _of_http(stats["http"])


def _of_backends(services: Mapping[str, Any]) -> Iterator[Family]:
    """What connections to backends bring about."""
    backends = [
        ({"service": service, "backend": backend}, counted)
        for service, of_service in services.items()
        for backend, counted in of_service.items()
    ]
    yield Family(
        "piagent_connections_total",
        Kind.COUNTER,
        "Connections made to the backend.",
        tuple(Sample(labels, counted["connections"]) for labels, counted in backends),
    )
    yield Family(
        "piagent_connections_active",
        Kind.GAUGE,
        "Connections to the backend that are open.",
        tuple(Sample(labels, counted["active"]) for labels, counted in backends),
    )
    yield Family(
        "piagent_connect_failures_total",
        Kind.COUNTER,
        "Attempts to connect to the backend that failed.",
        tuple(Sample(labels, counted["connect_failures"]) for labels, counted in backends),
    )
    for name, key, meaning in (
        ("connect", "connect_seconds", "How long connecting to the backend took, by TCP."),
        ("session", "session_seconds", "How long TCP connections lasted, from accept to end."),
    ):
        yield Family(
            f"piagent_{name}_seconds",
            Kind.HISTOGRAM,
            meaning,
            tuple(line for labels, one in backends for line in _histogram(one[key], labels)),
        )
    yield Family(
        "piagent_backend_ejected",
        Kind.GAUGE,
        "Whether the backend is passed over because connections to it failed.",
        tuple(Sample(labels, counted["ejected"]) for labels, counted in backends),
    )
    yield Family(
        "piagent_backend_ejections_total",
        Kind.COUNTER,
        "How often that began.",
        tuple(Sample(labels, counted["ejections"]) for labels, counted in backends),
    )
    yield Family(
        "piagent_bytes_total",
        Kind.COUNTER,
        "Bytes from clients to the backend (in) and back (out).",
        tuple(
            Sample({**labels, "direction": direction}, counted[f"bytes_{direction}"])
            for labels, counted in backends
            for direction in ("in", "out")
        ),
    )


def _of_ends(stats: Mapping[str, Any]) -> Iterator[Family]:
    """What became of the TCP connections of each service."""
    for name, key, meaning in (
        ("ended", "ended", "TCP connections that are over, by how they ended."),
        ("rejected", "rejected", "TCP connections that reached no backend, by why."),
    ):
        yield Family(
            f"piagent_connections_{name}_total",
            Kind.COUNTER,
            meaning,
            tuple(
                Sample({"service": service, "reason": reason}, count)
                for service, counted in stats.items()
                for reason, count in counted[key].items()
            ),
        )


OTHERS: Final = {"gateway": "", "route": "~other"}
"""The routes that the engine has no room to count one by one."""


def _histogram(known: Mapping[str, Any], labels: Mapping[str, str]) -> tuple[Sample, ...]:
    """The engine's form of a histogram as samples."""
    buckets = [(math.inf if at_most is None else at_most, n) for at_most, n in known["buckets"]]
    return histogram_samples(buckets, known["sum"], labels)


def _of_udp(stats: Mapping[str, Any]) -> Iterator[Family]:
    """What became of datagrams."""
    yield Family(
        "piagent_udp_sessions",
        Kind.GAUGE,
        "Clients whose datagrams have a backend now.",
        (Sample({}, stats["sessions"]),),
    )
    yield Family(
        "piagent_udp_evicted_total",
        Kind.COUNTER,
        "Sessions that made room for others.",
        tuple(Sample({"reason": why}, count) for why, count in stats["evicted"].items()),
    )
    yield Family(
        "piagent_udp_dropped_total",
        Kind.COUNTER,
        "Datagrams that were not passed on.",
        tuple(Sample({"reason": why}, count) for why, count in stats["dropped"].items()),
    )
    yield Family(
        "piagent_udp_segments_total",
        Kind.COUNTER,
        "Datagrams that the kernel received and sent several in one message.",
        tuple(Sample({"direction": which}, count) for which, count in stats["segments"].items()),
    )


def _of_tries(stats: Mapping[str, Any]) -> Iterator[Family]:
    """What went to backends beside the first try of each request."""
    for name, key, text in (
        ("piagent_http_retries_total", "begun", "Tries of requests after the first one."),
        ("piagent_http_retries_denied_total", "denied", "Tries that the budget had no room for."),
    ):
        yield Family(
            name,
            Kind.COUNTER,
            text,
            tuple(
                Sample({"gateway": gateway, "route": route}, counts[key])
                for gateway, routes in stats["retries"].items()
                for route, counts in routes.items()
                if counts[key]
            ),
        )
    yield Family(
        "piagent_http_mirrored_total",
        Kind.COUNTER,
        "Copies of requests, by what became of them.",
        tuple(Sample({"result": how}, count) for how, count in stats["mirrored"].items()),
    )


def _of_http(stats: Mapping[str, Any]) -> Iterator[Family]:
    """What the gateways answered."""
    others = stats["others"]["durations"]
    yield Family(
        "piagent_http_requests_total",
        Kind.COUNTER,
        "Responses of requests that took a route.",
        tuple(
            Sample({"gateway": gateway, "route": route, "code": str(code), "method": method}, n)
            for gateway, routes in stats["requests"].items()
            for route, methods in routes.items()
            for method, codes in methods.items()
            for code, n in codes.items()
        )
        + _others({"code": "", "method": ""}, stats["others"]["requests"]),
    )
    yield Family(
        "piagent_http_request_duration_seconds",
        Kind.HISTOGRAM,
        "How long such requests took, from head to end of the response.",
        tuple(
            line
            for gateway, routes in stats["durations"].items()
            for route, known in routes.items()
            for line in _histogram(known, {"gateway": gateway, "route": route})
        )
        + (tuple(_histogram(others, OTHERS)) if others["count"] else ()),
    )
    yield from _of_tries(stats)
    yield Family(
        "piagent_http_waiting",
        Kind.GAUGE,
        "Requests that wait for a place at their service.",
        (Sample({}, stats["waiting"]),),
    )
    yield from _of_compression(stats)
    yield Family(
        "piagent_http_checking",
        Kind.GAUGE,
        "Requests that wait for their credentials to be checked.",
        (Sample({}, stats["checking"]),),
    )
    yield Family(
        "piagent_http_checks_total",
        Kind.COUNTER,
        "Credentials that were checked, for nothing was known of them.",
        (Sample({}, stats["checks"]),),
    )
    yield Family(
        "piagent_http_rejected_total",
        Kind.COUNTER,
        "Requests that the gateway itself refused.",
        tuple(Sample({"reason": why}, count) for why, count in stats["rejected"].items()),
    )


def _of_compression(stats: Mapping[str, Any]) -> Iterator[Family]:
    compressed = stats["compressed"].items()
    yield Family(
        "piagent_http_compressed_total",
        Kind.COUNTER,
        "Responses that were compressed.",
        tuple(Sample({"encoding": name}, known["responses"]) for name, known in compressed),
    )
    yield Family(
        "piagent_http_compressed_bytes_total",
        Kind.COUNTER,
        "Bytes of their bodies, before and after.",
        tuple(
            Sample({"encoding": name, "direction": direction}, known[f"bytes_{direction}"])
            for name, known in compressed
            for direction in ("in", "out")
        ),
    )
    yield Family(
        "piagent_http_compressing",
        Kind.GAUGE,
        "Responses that are being compressed.",
        (Sample({}, stats["compressing"]),),
    )
    yield Family(
        "piagent_http_uncompressed_total",
        Kind.COUNTER,
        "Responses that went out as they were, for too many were being compressed.",
        (Sample({}, stats["uncompressed"]),),
    )


def _others(labels: Mapping[str, str], count: int) -> tuple[Sample, ...]:
    return (Sample({**OTHERS, **labels}, count),) if count else ()
