"""What a reload may change, and what needs a restart."""

from __future__ import annotations

from collections.abc import Sequence

from piagent.core.model import Config

TIMES = ("lease", "renew", "guard", "attempt", "stagger", "lag")
NO_ROTATION = (
    "cluster.secret_file (a step of a rotation keeps the secret that signs and signs with one that"
    " was accepted before: docs/how-to/rotate-the-secret.md)"
)


def needs_restart(old: Config, new: Config) -> tuple[str, ...]:
    """The keys of the file that differ and are fixed while the agent runs, as the file spells them.

    What is not named here may change at any time; secrets may as a rotation changes them.
    """
    fixed = {
        "node.name": (old.node.name, new.node.name),
        "node.interface": (old.node.interface, new.node.interface),
        "node.workers": (old.node.workers, new.node.workers),
        "node.state_file": (old.node.state_file, new.node.state_file),
        "node.flow_cache": (old.node.flow_cache, new.node.flow_cache),
        "cluster.name": (old.cluster, new.cluster),
        NO_ROTATION: (True, rotates(old.secrets, new.secrets)),
        "mqtt.brokers": (old.mqtt.brokers, new.mqtt.brokers),
        "mqtt.password_file": (old.mqtt.password, new.mqtt.password),
        "mqtt.ca_file": (old.mqtt.ca_file, new.mqtt.ca_file),
        "mqtt.cert_file": (old.mqtt.cert_file, new.mqtt.cert_file),
        "mqtt.key_file": (old.mqtt.key_file, new.mqtt.key_file),
        "mqtt.embedded": (old.mqtt.embedded, new.mqtt.embedded),
        **{
            f"election.{key}": tuple(
                getattr(config.election.timing, f"{key}_ms") for config in (old, new)
            )
            for key in TIMES
        },
        "election.candidates": (old.election.candidates, new.election.candidates),
        "dns.listen": (old.dns, new.dns),
        "admin.socket": (old.admin_socket, new.admin_socket),
        "admin.listen": (old.admin_listen, new.admin_listen),
    }
    return tuple(key for key, (before, after) in fixed.items() if before != after)


def rotates(old: Sequence[bytes], new: Sequence[bytes]) -> bool:
    """Whether nodes that have the new secrets and nodes that have the old ones still hear another.

    That is so when either side accepts the secret that the other one signs with, the first.
    """
    return old[0] in new and new[0] in old
