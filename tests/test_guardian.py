"""The guardian with a child that dies: a real kernel in namespaces, real brokers."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from piagent import guardian
from piagent.adapters.netlink import IFA_PROTO_PIAGENT, KernelAddresses
from piagent.adapters.netns import INTERFACE, Host, Network, why_not
from piagent.adapters.rtnetlink import RTM_GETADDR, Rtnetlink, ifaddrmsg
from piagent.cli.run import _GUARDIAN
from piagent.core.model import Broker, Mqtt
from tests.mosquitto import WHY_NOT, Mosquitto
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[1]
OWN, VIP, VIP6 = "10.9.0.1", "10.9.0.200", "fd09::200"
NO_BROKER = Mqtt(brokers=())
WITHOUT_RIGHTS = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--")

with_brokers = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
with_namespaces = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


class Guarded:
    """A guardian with `tests/guarded.py` as its child; a context manager."""

    def __init__(self, folder: Path, mqtt: Mqtt, prefix: Sequence[str] = ()) -> None:
        self._log = folder / "guardian.log"
        child = [sys.executable, str(ROOT / "tests/guarded.py"), msgspec.json.encode(mqtt).decode()]
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*prefix, *guarding(child)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )

    def tell(self, expression: str) -> None:
        """Have the child evaluate it."""
        assert self.process.stdin is not None
        self.process.stdin.write(expression.encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, expression: str) -> str:
        """And its value."""
        self.tell(expression)
        assert self.process.stdout is not None
        answer = self.process.stdout.readline().decode().strip()
        assert answer, self.output
        return answer

    def wait(self) -> int:
        """The guardian's exit code."""
        return self.process.wait(30)

    @property
    def output(self) -> str:
        return self._log.read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


def guarding(command: Sequence[str]) -> list[str]:
    """The command line of a guardian with this child."""
    return [sys.executable, "-I", "-S", "-c", _GUARDIAN, str(ROOT), *command]


class Subscriber:
    """Everything that a broker fans out; a context manager."""

    def __init__(self, port: int) -> None:
        self.heard: list[tuple[str, str]] = []
        self._ready = False
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_subscribe = lambda *_: setattr(self, "_ready", True)
        self._client.on_message = lambda _c, _u, message: self.heard.append(
            (message.topic, message.payload.decode())
        )
        self._port = port

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._port)
        self._client.subscribe("#", qos=1)
        self._client.loop_start()
        wait_until(lambda: self._ready, "SUBACK")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Setting:
    """A host with three brokers and a subscriber at each."""

    def __init__(self, folder: Path, host: Host, stack: ExitStack) -> None:
        self.folder, self.host = folder, host
        self._stack = stack
        self.brokers: list[Mosquitto] = []
        self.subscribers: list[Subscriber] = []
        for _ in range(3):
            self.add_broker()

    def add_broker(self) -> None:
        """The brokers are on the host's own loopback."""
        prefix = self.host.command([])
        broker = Mosquitto(port=1883 + len(self.brokers), prefix=prefix)
        self.brokers.append(self._stack.enter_context(broker))
        with self.host.entered():
            subscriber = Subscriber(broker.port)
            self.subscribers.append(self._stack.enter_context(subscriber))

    @property
    def mqtt(self) -> Mqtt:
        return mqtt_at(*(broker.port for broker in self.brokers))

    def guard(self, mqtt: Mqtt | None = None, prefix: Sequence[str] = ()) -> Guarded:
        command = self.host.command(prefix)
        return self._stack.enter_context(Guarded(self.folder, mqtt or self.mqtt, command))

    def add(self, *addresses: str, interface: str = INTERFACE) -> None:
        """As an agent adds its VIPs."""
        with self.host.entered():
            kernel = KernelAddresses(interface)
            for address in addresses:
                asyncio.run(kernel.add(address, 60_000))
            kernel.close()

    def addresses(self) -> set[str]:
        """All addresses of global scope, with a `*` when they carry our mark."""
        with self.host.entered(), Rtnetlink() as rtnetlink:
            return {
                str(entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS"))
                + ("*" if entry.get_attr("IFA_PROTO") == IFA_PROTO_PIAGENT else "")
                for entry in rtnetlink.dump(ifaddrmsg(), RTM_GETADDR)
                if entry["scope"] == 0
            }

    def heard(self) -> list[list[tuple[str, str]]]:
        return [subscriber.heard for subscriber in self.subscribers]


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    with Network("pa-guardian") as network, ExitStack() as stack:
        yield Setting(tmp_path, network.add_host("a", f"{OWN}/24", "fd09::1/64"), stack)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Guarded]:
    """Without brokers and addresses."""
    with Guarded(tmp_path, NO_BROKER) as guarded:
        yield guarded


def mqtt_at(*ports: int, host: str = "127.0.0.1") -> Mqtt:
    """Brokers b1, b2 … on these ports."""
    brokers = [
        Broker(label=f"b{number}", host=host, port=port) for number, port in enumerate(ports, 1)
    ]
    return Mqtt(brokers=tuple(brokers))


TOPIC = "piagent/home/l/vips/pi-1"
YIELD = [(TOPIC, "yield")]


# ---- the agent dies ------------------------------------------------------------------------------


@with_namespaces
@with_brokers
def test_vips_go_and_are_yielded_at_every_broker_when_the_agent_is_killed(setting: Setting) -> None:
    guarded = setting.guard()
    guarded.ask(f"will('{VIP}', '{VIP6}')")
    setting.add(VIP, VIP6)
    setting.add("10.9.0.201")  # the agent has not said anything about it
    setting.add("10.9.0.202", interface="lo")  # another agent's
    guarded.tell("die()")
    assert guarded.wait() == 128 + signal.SIGKILL
    assert setting.addresses() == {OWN, "fd09::1", "10.9.0.202*"}
    wait_until(lambda: setting.heard() == [YIELD] * 3, lambda: str(setting.heard()))
    assert re.search(
        r"WARNING  guardian: agent died \(signal 9\), 3 VIPs removed,"
        r" yielded at 3 of 3 brokers in \d+ ms\n$",
        guarded.output,
    )


@with_namespaces
@with_brokers
def test_nothing_is_yielded_while_an_address_is_there(setting: Setting) -> None:
    setting.host.add_address(f"{VIP}/24")  # somebody else's, who would have to remove it
    guarded = setting.guard()
    guarded.ask(f"will('{VIP}', '10.9.0.201')")
    setting.add("10.9.0.201")
    guarded.tell("die()")
    assert guarded.wait() == 128 + signal.SIGKILL
    assert f"{VIP}/24 is there, and piagent did not put it there" in guarded.output
    assert "not confirmed removed, so not yielded" in guarded.output
    assert setting.addresses() == {OWN, "fd09::1", VIP}
    assert setting.heard() == [[], [], []]


@with_namespaces
@with_brokers
def test_nothing_is_yielded_when_the_kernel_does_not_let_the_guardian(setting: Setting) -> None:
    guarded = setting.guard(prefix=WITHOUT_RIGHTS)
    guarded.ask(f"will('{VIP}')")
    setting.add(VIP)
    guarded.tell("die()")
    assert guarded.wait() == 128 + signal.SIGKILL
    assert "not confirmed removed, so not yielded" in guarded.output
    assert f"{VIP}/32: Operation not permitted" in guarded.output
    assert setting.heard() == [[], [], []]


@with_namespaces
@with_brokers
def test_a_vip_is_found_on_an_interface_that_was_renamed(setting: Setting) -> None:
    guarded = setting.guard()
    guarded.ask(f"will('{VIP}')")
    setting.add(VIP)
    for words in ("down", "name other0", "up"):
        name = "other0" if words == "up" else INTERFACE
        subprocess.run(
            setting.host.command(["ip", "link", "set", name, *words.split()]), check=True
        )
    assert f"{VIP}*" in setting.addresses()
    guarded.tell("die()")
    guarded.wait()
    assert f"{VIP}*" not in setting.addresses()
    wait_until(lambda: setting.heard() == [YIELD] * 3, lambda: str(setting.heard()))


@with_namespaces
@with_brokers
def test_one_good_broker_gets_its_letter_whatever_the_others_do(setting: Setting) -> None:
    with setting.host.entered():
        silent = socket.create_server(("127.0.0.1", 2000))
        rude = socket.create_server(("127.0.0.1", 2001))
    guarded = setting.guard(mqtt_at(2000, 1, setting.brokers[0].port, 2001))
    guarded.ask(f"will('{VIP}')")
    guarded.tell("die()")
    wait_until(lambda: setting.subscribers[0].heard == YIELD, "the letter comes meanwhile")
    with rude.accept()[0] as connection:
        connection.sendall(b"\xff\xff\xff\xff\xff\xff")
        guarded.wait()
    silent.close()
    rude.close()
    lines = guarded.output.splitlines()
    assert [line.partition("guardian: ")[2] for line in lines[:-1]] == [
        "broker b1: not yielded: no answer",
        "broker b2: not yielded: Connection refused",
        "broker b4: not yielded: it sent nonsense",
    ]
    assert "yielded at 1 of 4 brokers" in lines[-1]


# ---- the will ------------------------------------------------------------------------------------


@with_namespaces
@with_brokers
def test_the_last_will_counts_even_if_the_agent_dies_with_its_last_word(setting: Setting) -> None:
    guarded = setting.guard()
    setting.add(VIP, "10.9.0.201")
    last = f"will('{VIP}', payload='last')"
    guarded.tell(f"[will(payload=str(n)) for n in range(1000)], {last}, die()")
    guarded.wait()
    wait_until(lambda: setting.heard() == [[(TOPIC, "last")]] * 3, lambda: str(setting.heard()))


@with_namespaces
@with_brokers
def test_garbage_leaves_the_will_as_it_was_and_is_said_once(setting: Setting) -> None:
    guarded = setting.guard()
    guarded.ask(f"will('{VIP}')")
    setting.add(VIP)
    for data in (b"garbage", os.urandom(50_000), whole_will()[:-1], whole_will() + b"x"):
        guarded.ask(f"send({data!r})")
    guarded.tell("die()")
    guarded.wait()
    assert setting.addresses() == {OWN, "fd09::1"}
    assert guarded.output.count("is no will") == 1
    wait_until(lambda: setting.heard() == [YIELD] * 3, lambda: str(setting.heard()))


@with_namespaces
@with_brokers
def test_an_orderly_end_is_silent(setting: Setting) -> None:
    guarded = setting.guard()
    guarded.ask(f"will('{VIP}')")
    guarded.ask("line.entrust(Will(INTERFACE, (), ()))")
    guarded.tell("sys.exit()")
    assert guarded.wait() == 0
    assert guarded.output == ""
    assert setting.heard() == [[], [], []]


@with_brokers
def test_a_loopback_vip_is_yielded_without_an_interface(tmp_path: Path) -> None:
    with Mosquitto() as broker, Subscriber(broker.port) as subscriber:
        with Guarded(tmp_path, mqtt_at(broker.port, host="localhost")) as guarded:
            guarded.ask("will('127.7.7.7', interface=None)")
            guarded.tell("sys.exit(3)")
            assert guarded.wait() == 3
        wait_until(lambda: subscriber.heard == YIELD, lambda: str(subscriber.heard))
        assert "agent ended (exit code 3), 0 VIPs removed, yielded at 1 of 1" in guarded.output


def whole_will() -> bytes:
    return guardian.pack(
        b"pi-1", b"eth0", [b"10.0.0.1"], {(b"b",) * 2 + (b"1",) * 7: [(b"t", b"p")]}
    )


def test_a_will_comes_back_as_it_was_packed() -> None:
    will = guardian.unpack(whole_will())
    assert (will.node, will.interface, will.vips) == (b"pi-1", b"eth0", {b"\x0a\0\0\x01"})
    assert list(will.letters.values()) == [[(b"t", b"p")]]


@given(st.integers(0, 10_000), st.binary(max_size=20), st.integers(0, 20))
def test_garbage_is_a_value_error_and_nothing_else(at: int, noise: bytes, cut: int) -> None:
    whole = whole_will()
    at %= len(whole)
    for data in (noise, whole[:at], whole[:at] + noise + whole[at + cut :]):
        with suppress(ValueError):
            guardian.unpack(data)


# ---- passwords and TLS ---------------------------------------------------------------------------


@with_brokers
def test_the_broker_is_told_who_we_are(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", str(passwords), "pi", "right"], check=True,
        capture_output=True,
    )  # fmt: skip
    for password, says in (
        ("right", "yielded at 1 of 1"),
        ("wrong", "broker b1: not yielded: refused: not authorized"),
    ):
        lines = ("allow_anonymous false", f"password_file {passwords}")
        with Mosquitto(lines=lines) as broker:
            b1 = Broker(label="b1", host="127.0.0.1", port=broker.port, username="pi")
            mqtt = Mqtt(brokers=(b1,), password=password)
            with Guarded(tmp_path, mqtt) as guarded:
                guarded.ask("will(interface=None)")
                guarded.tell("die()")
                guarded.wait()
            assert says in guarded.output, password


@with_brokers
def test_mqtts_with_a_certificate_on_both_sides(tmp_path: Path) -> None:
    make_certificates(tmp_path)
    lines = (
        "allow_anonymous true", "require_certificate true", f"cafile {tmp_path}/ca.pem",
        f"certfile {tmp_path}/broker.pem", f"keyfile {tmp_path}/broker.key",
    )  # fmt: skip
    with Mosquitto(lines=lines) as broker:
        b1 = Broker(label="b1", host="127.0.0.1", port=broker.port, tls=True)
        ours = {"cert_file": f"{tmp_path}/node.pem", "key_file": f"{tmp_path}/node.key"}
        for ca_file, certificate, says in (
            ("ca.pem", ours, r"yielded at 1 of 1"),
            ("other.pem", ours, r"b1: not yielded: .*certificate verify failed"),
            ("ca.pem", {}, r"b1: not yielded: .*"),
        ):
            mqtt = Mqtt(brokers=(b1,), ca_file=f"{tmp_path}/{ca_file}", **certificate)
            with Guarded(tmp_path, mqtt) as guarded:
                guarded.ask("will(interface=None)")
                guarded.tell("die()")
                guarded.wait()
            assert re.search(says, guarded.output), guarded.output


def make_certificates(folder: Path) -> None:
    """Two authorities; a broker and a node with certificates of the first."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name in ("ca", "other"):
        openssl(
            "req", "-x509", *new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out",
            f"{name}.pem", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        )  # fmt: skip
    for name in ("broker", "node"):
        openssl(
            "req", "-x509", *new, "-subj", f"/CN={name}", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=CA:FALSE",
            "-keyout", f"{name}.key", "-out", f"{name}.pem",
        )  # fmt: skip


# ---- the child -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", guardian._PASSED_ON)
def test_a_signal_reaches_the_agent_once(alone: Guarded, name: str) -> None:
    alone.ask(f"note_signals('{name}')")
    # To the group, as a terminal sends it: the agent is not in it.
    os.killpg(alone.process.pid, getattr(signal, name))
    wait_until(lambda: alone.ask("seen") != "[]", "the signal")
    assert alone.ask("seen") == f"['{name}']"
    assert alone.process.poll() is None


@pytest.mark.parametrize(
    ("last_word", "code"), [("sys.exit()", 0), ("sys.exit(2)", 2), ("die(15)", 143), ("die()", 137)]
)
def test_the_exit_code_is_the_agents(alone: Guarded, last_word: str, code: int) -> None:
    alone.ask("will(interface=None)")
    alone.tell(last_word)
    assert alone.wait() == code
    assert ("agent died" in alone.output) == (code > 128)


def test_a_command_that_does_not_start_is_named() -> None:
    done = subprocess.run(guarding(["/no/such/agent"]), capture_output=True, check=False)
    assert done.returncode == guardian.NOT_STARTED
    assert b"cannot start /no/such/agent: No such file or directory" in done.stderr


def test_the_agent_gets_sigterm_when_its_guardian_is_killed(alone: Guarded) -> None:
    assert alone.ask("note_signals('SIGTERM')") == "None"
    alone.process.kill()
    wait_until(lambda: alone.ask("seen") == "['SIGTERM']", "SIGTERM")
    alone.tell("die()")


def test_a_child_of_the_agent_that_has_the_line_delays_nothing(alone: Guarded) -> None:
    child = int(alone.ask("leave_child()"))
    try:
        alone.tell("die()")
        assert alone.wait() == 137
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_stopped_agent_is_not_dead(alone: Guarded) -> None:
    agent = int(alone.ask("os.getpid()"))
    os.kill(agent, signal.SIGSTOP)
    wait_until(lambda: state(agent) == "T", "it has stopped")
    wait_until(lambda: state(alone.process.pid) == "S", "the guardian sleeps again")
    assert alone.process.poll() is None
    os.kill(agent, signal.SIGCONT)
    assert alone.ask("1") == "1"


def test_the_guardian_stays_within_its_memory(alone: Guarded) -> None:
    for number in range(200):
        alone.ask(f"will(payload='{number}' * 1000)")
    status = Path(f"/proc/{alone.process.pid}/status").read_text()
    (resident_kib,) = re.findall(r"(?m)^VmRSS:\s+(\d+) kB$", status)
    assert int(resident_kib) <= 10 * 1024


def test_the_guardian_imports_next_to_nothing() -> None:
    script = (
        "import sys; before = set(sys.modules); sys.path.append(sys.argv[1]);"
        " import piagent.guardian; print(*sorted(set(sys.modules) - before))"
    )
    command = [sys.executable, "-I", "-S", "-c", script, str(ROOT)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    known = "__future__ _collections_abc _socket _stat _struct errno genericpath os os.path piagent"
    known += " piagent.guardian posixpath select stat struct"
    assert set(done.stdout.split()) <= set(known.split())


def state(process: int) -> str:
    """R, S, T …: proc(5)."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
