"""The composition root: the only place that builds adapters."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack

from piagent.adapters import systemd
from piagent.adapters.arp import Announcer
from piagent.adapters.bgp import ExabgpSpeaker
from piagent.adapters.clock import BootClock, wall_ms
from piagent.adapters.dsr_backend import DsrBackend, settings_notes
from piagent.adapters.embedded_broker import BrokerError, EmbeddedBroker
from piagent.adapters.fence import KernelFence
from piagent.adapters.guardian_line import line_from_environment
from piagent.adapters.lan import KernelLan
from piagent.adapters.line_file import LineFile
from piagent.adapters.local_addresses import LoopbackAddresses
from piagent.adapters.mqtt import MqttBus, Presence
from piagent.adapters.mqtt_tls import Certificates
from piagent.adapters.netlink import KernelAddresses
from piagent.adapters.packet_forwarding import Engine, KernelForwarding
from piagent.adapters.pi import Hardware
from piagent.adapters.prober import KindProber
from piagent.adapters.state_file import StateFile
from piagent.admin.server import AdminError
from piagent.agent.agent import Agent, Edge
from piagent.agent.letters import Letters
from piagent.agent.registry import Saved
from piagent.config import ConfigError, load
from piagent.core.lease import LeaseGroup
from piagent.core.lease_types import LEADER
from piagent.core.model import Config, QuorumLoss
from piagent.core.names import Answer, Question
from piagent.core.text import printable
from piagent.core.wire import config_hash
from piagent.dataplane import EngineDataPlane
from piagent.ports import AddressError, Guardian, Responder

log = logging.getLogger("piagent")

BARRIER = "subscribed"
"""What a new connection says to itself; no nonce of a self-echo is like it."""
FAILED = 1
WRONG_INPUT = 2


def run_agent(path: str, level: str) -> int:
    """Run the agent that the file at `path` describes; the exit code."""
    _log_to_stderr(level)
    config = _load(path)
    if config is None:
        return WRONG_INPUT
    return asyncio.run(_serve(path, config))


async def _serve(path: str, config: Config) -> int:
    async with AsyncExitStack() as stack:
        try:
            # Before other processes are started, which must not have it.
            guardian = line_from_environment(config.mqtt, config.node.name)
            await _start_embedded_broker(config, stack)
            agent = await _build(config, guardian)
            _handle_signals(agent, path)
            gc.freeze()  # what is here now stays: nothing to look through again and again
            return 0 if await agent.run() else FAILED
        except (AdminError, BrokerError, OSError, ValueError) as error:
            log.critical("cannot start: %s", error)
            return FAILED


async def _start_embedded_broker(config: Config, stack: AsyncExitStack) -> None:
    mqtt = config.mqtt
    if mqtt.embedded is not None:
        names = {broker.username for broker in mqtt.brokers if broker.username is not None}
        users = dict.fromkeys(names, mqtt.password or "")
        await stack.enter_async_context(EmbeddedBroker(mqtt.embedded, users))


async def _build(config: Config, guardian: Guardian | None) -> Agent:
    node, timing = config.node.name, config.election.timing
    clock = BootClock()
    addresses = KernelAddresses(config.node.interface)
    await _remove_leftovers(addresses)
    local = LoopbackAddresses(dsr=DsrBackend(settings_notes(config.admin_socket)))
    local.remove_all()
    incarnation = secrets.token_hex(8)
    letters = Letters(
        cluster=config.cluster,
        node=node,
        incarnation=incarnation,
        secrets=config.secrets,
        started=wall_ms(),
    )
    bus = MqttBus(
        config.mqtt.brokers,
        node=node,
        incarnation=incarnation,
        subscriptions=letters.subscriptions,
        presence=Presence(letters.presence_topic, letters.presence),
        password=config.mqtt.password,
        barrier=lambda connection: letters.echo(connection, BARRIER),
        certificates=Certificates(config.mqtt.ca_file, config.mqtt.cert_file, config.mqtt.key_file),
    )
    group = LeaseGroup(
        timing,
        tuple(broker.label for broker in config.mqtt.brokers),
        node,
        incarnation,
        dict.fromkeys((*config.vips(), LEADER), 0),
        config_hash=config_hash(config.mqtt.brokers, timing, config.election.candidates),
        seed=secrets.randbits(64),
        now_ns=clock.now_ns(),
        wall_ms=wall_ms(),
        hold=config.election.on_quorum_loss is QuorumLoss.HOLD,
    )
    forwarding = KernelForwarding(config.node.interface, _packet_engine(config))
    forwarding.clear()
    hardware = Hardware()
    edge = Edge(
        clock=clock,
        bus=bus,
        addresses=addresses,
        fence=KernelFence(),
        lan=KernelLan(config.node.interface),
        guardian=guardian,
        vitals=lambda wireless: hardware.vitals(wireless=wireless),
        announcer=Announcer,
        plane=EngineDataPlane(config.node.workers, config.secrets[0]),
        forwarding=forwarding,
        prober=KindProber(),
        notifier=systemd.Notifier(),
        local=local,
        speaker=ExabgpSpeaker(),
        responder=_responder(config),
        store=StateFile(config.node.state_file, Saved),
        lines=LineFile,
    )
    return Agent(config, edge, group, letters)


def _packet_engine(config: Config) -> Callable[[int, int], Engine]:
    def make(interface: int, mtu: int) -> Engine:
        from piagent.dataplane.packets import PacketEngine  # a MiB, for nodes that forward only

        return PacketEngine(interface, mtu, config.secrets[0], config.node.flow_cache)

    return make


def _responder(config: Config) -> Callable[[Callable[[Question], Answer]], Responder] | None:
    listen = config.dns
    if listen is None:
        return None
    from piagent.adapters.dns import DnsServer  # dnslib: 1 MiB, for nodes with [dns] only

    return lambda answer: DnsServer(listen, answer)


async def _remove_leftovers(addresses: KernelAddresses) -> None:
    """What a former life left on the interface is nobody's now."""
    try:
        for address in await addresses.leftovers():
            gone = await addresses.remove(address)
            log.warning(
                "vip %s: left by a former life; %s", address, "removed" if gone else "stays"
            )
    except (AddressError, OSError) as error:
        log.warning("%s; this node can own no VIP that is not a loopback address", error)


def _handle_signals(agent: Agent, path: str) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.stop)
    loop.add_signal_handler(signal.SIGHUP, agent.reload, lambda: _load(path))


def _load(path: str) -> Config | None:
    """The file, or None when it cannot be used; each problem is a line in the log."""
    try:
        loaded = load(path)
    except ConfigError as error:
        for problem in error.errors:
            log.error("%s", problem)
        return None
    for warning in loaded.warnings:
        log.warning("%s", warning)
    return loaded.config


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    # The journal writes the time itself.
    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s.%(msecs)03d "
    handler.setFormatter(_OneLine(stamp + "%(levelname)-8s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler])


class _OneLine(logging.Formatter):
    """Names from the network stay inside their line: what does not print is escaped."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 -- logging's name
        """The line, without the traceback that may follow it."""
        return printable(super().formatMessage(record))
