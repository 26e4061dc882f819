"""What a reload may change, and what needs a restart."""

from __future__ import annotations

from piagent.core.model import Config


def needs_restart(old: Config, new: Config) -> tuple[str, ...]:
    """The keys of the file that differ and are fixed while the agent runs, as the file spells them.

    Pools, services, gateways, routes and `node.vip_weight` may change at any time.
    """
    fixed = {
        "node.name": (old.node.name, new.node.name),
        "node.interface": (old.node.interface, new.node.interface),
        "node.workers": (old.node.workers, new.node.workers),
        "cluster.name": (old.cluster, new.cluster),
        "cluster.secret_file": (old.secrets, new.secrets),
        "mqtt.brokers": (old.mqtt.brokers, new.mqtt.brokers),
        "mqtt.password_file": (old.mqtt.password, new.mqtt.password),
        "mqtt.embedded": (old.mqtt.embedded, new.mqtt.embedded),
        "election": (old.election, new.election),
        "admin.socket": (old.admin_socket, new.admin_socket),
    }
    return tuple(key for key, (before, after) in fixed.items() if before != after)
