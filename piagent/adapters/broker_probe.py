"""Is a broker what the silence lease needs? Asked of the broker itself, on topics of our own.

Needed are one process that puts every message into all subscribers' queues before the sender's next
one (A1), no silent loss within a connection (A2), and answers in milliseconds. Clusters and load
balancers are neither. Everything is below `piagent/<cluster>/e/<node>/`, where an access list lets
the node write and where nobody else listens.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable
from functools import partial

from msgspec import Struct

from piagent.adapters import broker_manners
from piagent.adapters.broker_kind import Told, judge
from piagent.adapters.broker_manners import Connect
from piagent.adapters.mqtt_tls import Certificates, make_context
from piagent.adapters.probe_client import ANSWER_S, Place, ProbeClient, ProbeError
from piagent.adapters.probe_order import first_difference, not_a_slice, out_of_turn
from piagent.core.finding import Finding, error, good
from piagent.core.model import Broker

PATIENCE_S = 20.0
"""For one broker."""
CONNECTIONS = 4
RACERS = 3
RACE_LENGTH = 150
"""Messages of each racing publisher."""
RACE_S = 6.0
FLOOD = 2000
"""Messages for a subscriber that does not read: what 100 owning nodes say in 6 s (`normal`)."""
FLOOD_S = 6.0

_MANY_PROCESSES = (
    "a lease needs one sequencer: nodes on different ones would each find themselves alone"
)
_ONE_PROCESS = (
    "name one plain broker process a line in [mqtt] brokers, by its own address:"
    " no cluster, no load balancer, no VIP"
)
_QUEUE_CURE = "mosquitto.conf: max_queued_messages 10000 and max_queued_bytes 0; then restart it"


class Settings(Struct, frozen=True, kw_only=True):
    """What the broker is probed with, and measured against."""

    cluster: str
    node: str | None
    """None: the user's name in the broker's URL, as access lists have it."""
    password: str | None = None
    certificates: Certificates = Certificates()
    attempt_ms: int
    """A: how long a claim may take."""
    lag_ms: int
    """lambda: how late a message may be."""


class BrokerReport(Struct, frozen=True):
    """What was found of one broker."""

    label: str
    address: str
    fit: bool
    findings: tuple[Finding, ...]


def probe(broker: Broker, settings: Settings, say: Callable[[str], None]) -> BrokerReport:
    """Probe one broker, which takes a few seconds; `say` hears what is being done."""
    trial = _Trial(broker, settings, say)
    try:
        trial.run()
    except ProbeError as problem:
        why = "without a majority of its brokers a node owns nothing"
        cure = f"see its log; is it there? nc -vz {broker.host} {broker.port}"
        if "refused:" in str(problem):
            cure = "user in the URL, password in password_file; on the broker: mosquitto_passwd"
        trial.note(error("connection", f"it cannot be used: {problem}", why=why, cure=cure))
    finally:
        trial.close()
    fit = all(finding.level != "error" for finding in trial.findings)
    where = f"{broker.host} port {broker.port}"
    return BrokerReport(broker.label, where, fit, tuple(trial.findings))


class _Trial:
    """The checks of one broker, one after the other."""

    def __init__(self, broker: Broker, settings: Settings, say: Callable[[str], None]) -> None:
        self.findings: list[Finding] = []
        self._broker = broker
        self._settings = settings
        self._say = say
        node = settings.node or broker.username or "doctor"
        self._base = f"piagent/{settings.cluster}/e/{node}/doctor-{secrets.token_hex(6)}"
        self._place = Place(broker.host, broker.port)
        self._properties: str | None = None
        self._clients: list[ProbeClient] = []
        self._ends = time.monotonic() + PATIENCE_S

    def note(self, finding: Finding) -> None:
        """Keep a finding."""
        self.findings.append(finding)

    def close(self) -> None:
        """Leave nothing behind."""
        for client in self._clients:
            client.close()

    def run(self) -> None:
        """All checks; what the later ones need the earlier ones have shown."""
        self._check_name()
        self._say("connecting")
        self._place = self._found_place()
        for _ in range(CONNECTIONS):
            self._connected()
        if not self._check_one_process():
            return
        attempt_ms = self._settings.attempt_ms
        for doing, check in (
            ("order of racing publishers", self._check_order),
            (f"{FLOOD} messages for a subscriber that does not read", self._check_queue),
            ("time of a claim", partial(broker_manners.latency, attempt_ms=attempt_ms)),
            ("messages in a row", broker_manners.delay),
            ("a message of 64 KiB", broker_manners.size),
            ("retained messages", broker_manners.retained),
            ("last will", broker_manners.will),
        ):
            if time.monotonic() > self._ends:
                self._note_slowness()
                return
            self._say(doing)
            topic = f"{self._base}/{len(self.findings)}"
            self.note(check(self._connected, topic))

    def _note_slowness(self) -> None:
        what, why = f"not done after {PATIENCE_S:g} s", "a lease lives on answers in milliseconds"
        self.note(error("time", what, why=why, cure="look at the broker's load and network"))

    # ---- what the checks share ----

    def _found_place(self) -> Place:
        broker = self._broker
        try:
            context = make_context(self._settings.certificates) if broker.tls else None
        except OSError as problem:
            raise ProbeError(f"ca_file, cert_file or key_file cannot be used: {problem}") from None
        password = self._settings.password if broker.username else None
        return Place(broker.host, broker.port, broker.username, password, context)

    def _connected(self, *, will: str | None = None, mqtt5: bool = False) -> ProbeClient:
        client = ProbeClient(self._place, will=will, mqtt5=mqtt5)
        self._clients.append(client)
        return client

    # ---- one process ----

    def _check_name(self) -> None:
        """Several addresses of one family are several hosts, or a load balancer."""
        try:
            found = socket.getaddrinfo(self._broker.host, None, type=socket.SOCK_STREAM)
        except (OSError, ValueError):
            return  # connecting says it
        for family in (socket.AF_INET, socket.AF_INET6):
            addresses = sorted({str(entry[4][0]) for entry in found if entry[0] == family})
            if len(addresses) > 1:
                what = f"{self._broker.host} has {len(addresses)} addresses: {', '.join(addresses)}"
                self.note(error("name", what, why=_MANY_PROCESSES, cure=_ONE_PROCESS))

    def _check_one_process(self) -> bool:
        """What one connection publishes comes back on each, and all see the same `$SYS`."""
        self._say("is it one process")
        limit_s = max(self._settings.attempt_ms / 1000, ANSWER_S)
        for client in self._clients:
            client.listen(f"{self._base}/nonce/+")
        told = [self._asked(client) for client in self._clients]
        began = time.monotonic()
        for number, client in enumerate(self._clients):
            client.publish(f"{self._base}/nonce/{number}", b"")
        missing = 0
        for client in self._clients:
            left = max(0.0, began + limit_s - time.monotonic())
            client.wait_for(lambda one: self._nonces(one) == CONNECTIONS, left)
            missing += CONNECTIONS - self._nonces(client)
        if missing:
            what = (
                f"{missing} of {CONNECTIONS**2} messages between {CONNECTIONS} connections did not"
                f" arrive within {limit_s:g} s"
            )
            why = f"it is several brokers, or its access list forbids them; {_MANY_PROCESSES}"
            cure = f"{_ONE_PROCESS}; its access list must allow {self._base}"
            self.note(error("process", what, why=why, cure=cure))
        else:
            self.note(good("process", f"{CONNECTIONS} connections hear each other"))
        self.findings += judge([self._told(*one) for one in told], again=self._ask_again)
        return all(finding.level != "error" for finding in self.findings)

    def _nonces(self, client: ProbeClient) -> int:
        prefix = f"{self._base}/nonce/"
        return len({m.topic for m in client.messages if m.topic.startswith(prefix)})

    def _asked(self, client: ProbeClient) -> tuple[ProbeClient, int]:
        """Asks for `$SYS`; many access lists do not show it, which is no fault."""
        begin = len(client.messages)
        for topic in ("$SYS/broker/version", "$SYS/broker/uptime", "$SYS/brokers"):
            client.subscribe(topic)
        return client, begin

    def _told(self, client: ProbeClient, begin: int) -> Told:
        """After something that was published later has come back, so this has, too."""
        found = {m.topic: m.payload for m in client.messages[begin:] if m.topic.startswith("$SYS/")}
        return Told(
            version=_text(found.get("$SYS/broker/version")),
            uptime=_text(found.get("$SYS/broker/uptime")),
            nodes=_text(found.get("$SYS/brokers")),
            properties=self._said_at_connect(),
        )

    def _ask_again(self) -> list[Told]:
        asked = [self._asked(client) for client in self._clients]
        time.sleep(0.2)
        return [self._told(*one) for one in asked]

    def _said_at_connect(self) -> str:
        if self._properties is None:
            try:
                self._properties = self._connected(mqtt5=True).properties
            except ProbeError:
                self._properties = ""  # a broker without MQTT 5
        return self._properties

    # ---- A1 ----

    def _check_order(self, _connect: Connect, topic: str) -> Finding:
        """Racing publishers that listen, one that only listens, and one that comes and goes."""
        for client in self._clients:
            client.listen(f"{topic}/+")
        total = RACERS * RACE_LENGTH
        racers = [
            threading.Thread(target=_race, args=(client, f"{topic}/{number}"), daemon=True)
            for number, client in enumerate(self._clients[:RACERS])
        ]
        for racer in racers:
            racer.start()
        segments = self._come_and_go(f"{topic}/+", racers)
        end = time.monotonic() + RACE_S
        for client in self._clients:
            left = max(0.0, end - time.monotonic())
            client.wait_for(lambda one: len(_of(one, topic)) >= total, left)
        orders = [_of(client, topic) for client in self._clients]
        wrong = [
            *(first_difference(orders[0], other) for other in orders[1:]),
            *(not_a_slice(segment, orders[0]) for segment in segments),
            out_of_turn(orders[0]),
            None if len(orders[0]) == total else f"{len(orders[0])} of {total} messages arrived",
        ]
        found = next((text for text in wrong if text is not None), None)
        if found is None:
            what = f"{total} messages of {RACERS} racing publishers: one order for all subscribers"
            return good("order", what)
        why = f"two claims must be seen in one order by both claimers; {_MANY_PROCESSES}"
        return error("order", found, why=why, cure=_ONE_PROCESS)

    def _come_and_go(self, topic: str, racers: list[threading.Thread]) -> list[list[bytes]]:
        segments = []
        while any(racer.is_alive() for racer in racers):
            client = ProbeClient(self._place)
            try:
                client.listen(topic)
                client.wait_for(lambda one: len(one.messages) > RACE_LENGTH // 2, 0.25)
            finally:
                client.close()
            segments.append([message.payload for message in client.messages])
        return segments

    # ---- A2 ----

    def _check_queue(self, connect: Connect, topic: str) -> Finding:
        """A subscriber that stops reading for a while must find everything afterwards."""
        slow, sender = connect(), connect()
        slow.listen(topic)
        slow.pause()
        for number in range(FLOOD):
            sender.publish(topic, b"%d " % number + bytes(200))
        acknowledged = sender.flush(FLOOD_S)
        slow.resume()
        end = time.monotonic() + FLOOD_S
        while not _at_its_end(slow) and time.monotonic() < end:
            sender.publish(topic, b"end")  # dropped, too, as long as the queue is full
            slow.wait_for(_at_its_end, 0.2)
        arrived = len({p for p in slow.payloads(topic) if p != b"end"})
        why = (
            f"it loses messages without telling; a node that falls behind for 2 x lag "
            f"({2 * self._settings.lag_ms} ms) must find all that was said"
        )
        if not acknowledged:
            what = f"it did not take {FLOOD} messages within {FLOOD_S:g} s"
            return error("queue", what, why=why, cure="look at the broker's load and limits")
        if arrived < FLOOD:
            what = f"{FLOOD - arrived} of {FLOOD} messages for a slow subscriber were lost"
            return error("queue", what, why=why, cure=_QUEUE_CURE)
        return good("queue", f"{FLOOD} messages for a slow subscriber: none lost")


def _race(client: ProbeClient, topic: str) -> None:
    for number in range(RACE_LENGTH):
        client.publish(topic, f"{topic[-1]}:{number}".encode())
        time.sleep(0.002)


def _of(client: ProbeClient, topic: str) -> list[bytes]:
    prefix = f"{topic}/"
    return [m.payload for m in list(client.messages) if m.topic.startswith(prefix)]


def _at_its_end(client: ProbeClient) -> bool:
    return bool(client.messages) and client.messages[-1].payload == b"end"


def _text(payload: bytes | None) -> str:
    return "" if payload is None else payload[:200].decode(errors="replace")
