"""docs/reference/metrics.md says of each metric its name, type and labels."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from piagent.admin.exposition import Family, Histogram
from piagent.admin.status import (
    BackendStatus,
    BrokerStatus,
    EndpointStatus,
    NoteStatus,
    PoolCount,
    PoolStatus,
    PortStatus,
    ServiceStatus,
    SessionStatus,
    Status,
    VipStatus,
)
from piagent.agent import metrics

PAGE = Path("docs/reference/metrics.md").read_text()

BACKEND = BackendStatus(
    address="b", weight=1, up=True, since=0, reason="r", checked_by="n", checked=1
)
STATUS = Status(
    node="n",
    cluster="c",
    version="0",
    started=0,
    ready=True,
    reason="ready",
    leader="n",
    fence="holds",
    nodes=(),
    brokers=(BrokerStatus(name="b1", address="a", up=True, since=0, reason="r"),),
    vips=(VipStatus(address="v", state="owner", owner="n", epoch=1, since=0, reason="r"),),
    notes=(NoteStatus(about="service/s", reason="exhausted", detail="d"),),
    bgp=(SessionStatus(peer="r", up=True, reason="r"),),
    services=(
        ServiceStatus(
            name="s",
            type="cluster",
            vips=(),
            cluster_ips=(),
            applied=0,
            ports=(PortStatus(name="80", port=80, protocol="tcp", node_port=None),),
            backends=(BACKEND,),
        ),
    ),
)

POOL = PoolStatus(
    name="p",
    type="cluster",
    addresses=("a-b",),
    disabled=False,
    counts=(PoolCount(family=4, total=2, used=1, free=1),),
)
STATS = {
    "services": {
        "s:80": {
            "b:80": {
                "connections": 1,
                "active": 1,
                "open": 1,
                "bytes_in": 1,
                "bytes_out": 1,
                "connect_failures": 1,
                "connect_seconds": {"buckets": [(0.1, 1), (None, 1)], "sum": 0.1, "count": 1},
                "session_seconds": {"buckets": [(0.1, 1), (None, 1)], "sum": 0.1, "count": 1},
                "ejected": False,
                "ejections": 0,
            }
        }
    },
    "ends": {"s:80": {"ended": {"client": 1}, "rejected": {"capacity": 1}}},
    "relays": {"active": 1},
    "udp": {
        "sessions": 1,
        "evicted": {"table_full": 1},
        "dropped": {"unsent": 1},
        "segments": {"received": 1, "sent": 1},
    },
    "rejected": {"capacity": 1},
    "http": {
        "requests": {"g": {"r": {"GET": {200: 1}}}},
        "waiting": 0,
        "mirrored": {"answered": 1},
        "checking": 0,
        "checks": 0,
        "compressed": {"gzip": {"responses": 1, "bytes_in": 1, "bytes_out": 1}},
        "compressing": 1,
        "uncompressed": 1,
        "retries": {"g": {"r": {"begun": 1, "denied": 1}}},
        "durations": {"g": {"r": {"buckets": [(0.1, 1), (None, 1)], "sum": 0.1, "count": 1}}},
        "rejected": {"path": 1},
        "others": {
            "requests": 1,
            "durations": {"buckets": [(0.1, 1), (None, 1)], "sum": 0.1, "count": 1},
        },
    },
}


def families() -> list[Family]:
    return [
        *metrics.of_status(STATUS),
        *metrics.of_health(Counter({"good": 1}), "n", STATUS.services),
        *metrics.of_pools((POOL,)),
        *metrics.of_endpoints((EndpointStatus(node="n", service="s", address="a:1"),)),
        *metrics.of_election({("v", "silence"): 1}, {"twin": 1}, Histogram((1.0,))),
        *metrics.of_flow_handovers({"given": 1}, {"twice": 1}),
        *metrics.of_conflicts({"v": 1}),
        *metrics.of_reloads(Counter({"done": 1})),
        *metrics.of_engine(STATS),
        *metrics.of_forwarding({"packets": {"s": {"sent": 1}}}),
        *metrics.of_access_log(0, 0),
    ]


def test_the_page_has_every_metric_with_its_type_and_labels_and_no_other() -> None:
    rows = re.findall(r"(?m)^\| `(piagent_\w+)` \| (\w+) \|([^|]*)\|", PAGE)
    said = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    true = {
        family.name: (
            family.kind.value,
            {label for sample in family.samples for label in sample.labels} - {"le"},
        )
        for family in families()
    }
    assert said == true
