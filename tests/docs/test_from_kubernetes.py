"""docs/explanation/from-kubernetes.md: every field is there, and whatever it leads to exists."""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path

import pytest

from piagent.cli import COMMANDS
from piagent.config.kinds import List, Table
from piagent.config.reader import kinds
from piagent.config.schema import File

PAGE = Path("docs/explanation/from-kubernetes.md").read_text()
METRICS = Path("docs/reference/metrics.md").read_text()
WORDS = {"same", "different", "not needed", "not there"}
ROW = re.compile(r"(?m)^\| `(.+?)` \| (.*?) \| (.*?) ?\| (.*?) ?\|$")

# What the types of Kubernetes' and MetalLB's APIs have: k8s.io/api core/v1, discovery/v1 and
# networking/v1; metallb.io v1beta1, BGPPeer v1beta2.
METADATA = "metadata.name metadata.namespace metadata.labels metadata.annotations"
FIELDS = {
    "Service": METADATA + " " + " ".join(
        f"spec.{field}" for field in (
            "type", "ports", "selector", "clusterIP", "clusterIPs", "externalIPs", "externalName",
            "externalTrafficPolicy", "internalTrafficPolicy", "healthCheckNodePort",
            "publishNotReadyAddresses", "sessionAffinity",
            "sessionAffinityConfig.clientIP.timeoutSeconds", "loadBalancerIP",
            "loadBalancerSourceRanges", "loadBalancerClass", "allocateLoadBalancerNodePorts",
            "ipFamilies", "ipFamilyPolicy", "trafficDistribution",
        )
    ),
    "ServicePort": "name protocol port targetPort nodePort appProtocol",
    "ServiceStatus": "loadBalancer.ingress.ip loadBalancer.ingress.hostname "
    "loadBalancer.ingress.ipMode loadBalancer.ingress.ports conditions",
    "EndpointSlice": "addressType endpoints.addresses endpoints.conditions.ready "
    "endpoints.conditions.serving endpoints.conditions.terminating endpoints.hostname "
    "endpoints.nodeName endpoints.zone endpoints.hints endpoints.targetRef "
    "endpoints.deprecatedTopology ports.name ports.port ports.protocol ports.appProtocol",
    "IPAddressPool": "metadata.name metadata.labels spec.addresses spec.autoAssign "
    "spec.avoidBuggyIPs spec.serviceAllocation.priority spec.serviceAllocation.namespaces "
    "spec.serviceAllocation.namespaceSelectors spec.serviceAllocation.serviceSelectors "
    "status.assignedIPv4 status.assignedIPv6 status.availableIPv4 status.availableIPv6",
    "L2Advertisement": "spec.ipAddressPools spec.ipAddressPoolSelectors spec.nodeSelectors "
    "spec.interfaces spec.serviceSelectors spec.preferredNodeSelectors",
    "BGPAdvertisement": "spec.aggregationLength spec.aggregationLengthV6 spec.localPref "
    "spec.communities spec.ipAddressPools spec.ipAddressPoolSelectors spec.nodeSelectors "
    "spec.peers spec.serviceSelectors",
    "BGPPeer": "spec.myASN spec.peerASN spec.dynamicASN spec.localASN spec.peerAddress "
    "spec.interface spec.sourceAddress spec.peerPort spec.holdTime spec.keepaliveTime "
    "spec.connectTime spec.routerID spec.nodeSelectors spec.password spec.passwordSecret "
    "spec.bfdProfile spec.enableGracefulRestart spec.ebgpMultiHop spec.vrf spec.disableMP "
    "spec.dualStackAddressFamily",
    "BFDProfile": "spec.receiveInterval spec.transmitInterval spec.detectMultiplier "
    "spec.echoInterval spec.echoMode spec.passiveMode spec.minimumTtl",
    "Community": "spec.communities.name spec.communities.value",
    "annotation": "metallb.io/address-pool metallb.io/loadBalancerIPs "
    "metallb.io/allow-shared-ip metallb.io/ip-allocated-from-pool",
    "Ingress": "spec.ingressClassName spec.defaultBackend spec.rules.host "
    "spec.rules.http.paths.path spec.rules.http.paths.pathType "
    "spec.rules.http.paths.backend.service.name "
    "spec.rules.http.paths.backend.service.port.number "
    "spec.rules.http.paths.backend.service.port.name "
    "spec.rules.http.paths.backend.resource spec.tls.hosts spec.tls.secretName "
    "status.loadBalancer.ingress",
}  # fmt: skip


def tables() -> dict[str, list[tuple[str, str, str, str]]]:
    """Heading of the first column -> the rows below: field, verdict, here, why."""
    found = {}
    for part in re.split(r"(?m)^(?=\| [\w, -]+ \| \|)", PAGE)[1:]:
        block = part.partition("\n\n")[0]
        found[part[2:].partition(" |")[0]] = ROW.findall(block)
        assert len(ROW.findall(block)) == len(block.strip().splitlines()) - 2, part[:60]
    return found


TABLES = tables()
ROWS = [(heading, *row) for heading, rows in TABLES.items() for row in rows]


@pytest.mark.parametrize("kind", FIELDS)
def test_a_table_has_every_field_and_no_other(kind: str) -> None:
    assert [field for field, *_ in TABLES[kind]] == FIELDS[kind].split()


def test_each_field_is_the_same_or_different_or_not_needed_or_not_there() -> None:
    assert [row for row in ROWS if row[2] not in WORDS] == []
    assert [row[1] for row in ROWS if row[2] in {"same", "different"} and not row[3]] == []
    assert [row[1] for row in ROWS if row[2] != "same" and not row[4]] == []
    assert {"kubectl", "word"} | FIELDS.keys() == TABLES.keys()


def key_paths() -> set[str]:
    """Every key of the file, with its table: `service.ports.port`."""
    found: set[str] = set()

    def add(struct: type, prefix: str) -> None:
        for key, kind in kinds(struct).items():
            found.add(prefix + key)
            inner = kind.of.__metadata__[0] if isinstance(kind, List) else kind
            if isinstance(inner, Table):
                add(inner.struct, f"{prefix}{key}.")

    add(File, "")
    return found


TOP = {path for path in key_paths() if "." not in path}
OWN = [
    span for span in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`", PAGE) if span.partition(".")[0] in TOP
] + [here.strip("`") for *_, here, _ in ROWS if here and not here.startswith("`piagent")]
"""What is written like a key of ours, and all that stands in the column for them."""


@pytest.mark.parametrize("key", sorted(set(OWN)))
def test_a_key_that_is_named_exists(key: str) -> None:
    assert key in key_paths()


@pytest.mark.parametrize("words", sorted(set(re.findall(r"`piagent\s+([^`…]+?)`", PAGE))))
def test_a_command_that_is_named_exists(words: str) -> None:
    command, *rest = words.split()
    assert command in COMMANDS
    parser = argparse.ArgumentParser()
    importlib.import_module(f"piagent.cli.{command.replace('-', '_')}").add_arguments(parser)
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for action in below:
        assert rest[0] in action.choices
    assert rest or not below


def test_a_metric_that_is_named_exists() -> None:
    named = set(re.findall(r"`(piagent_\w+)`", PAGE))
    assert "piagent_pool_addresses" in named
    assert [one for one in named if f"| `{one}` |" not in METRICS] == []


def test_the_words_of_the_enums_are_the_files() -> None:
    from piagent.core import model, proxying

    quoted = set(re.findall(r'`"([a-z][a-z-]+)"`', PAGE))
    known = {
        str(value)
        for enum in (
            model.ServiceType, model.TrafficPolicy, model.Families, model.Protocol,
            model.Announce, model.PoolType, proxying.Affinity, proxying.Balance,
        )
        for value in enum
    } | {"ipv4", "ipv6"}  # fmt: skip
    assert {"node-port", "client-ip", "require-dual"} <= quoted
    assert quoted - known == set()
