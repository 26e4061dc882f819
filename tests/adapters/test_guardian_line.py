"""The agent's side of the guardian, with the other end of the socket in the test's hands."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from piagent import guardian
from piagent.adapters.guardian_line import GuardianLine, line_from_environment
from piagent.core.model import Broker, Mqtt
from piagent.ports import Letter, Will

MQTT = Mqtt(
    brokers=(
        Broker(label="b1", host="10.0.0.5", port=1883),
        Broker(label="b2", host="broker.lan", port=8883, username="pi", tls=True),
    ),
    password="secret",
    ca_file="/ca",
    cert_file="/cert",
    key_file="/key",
)
LETTERS = (Letter("b1", "t", b"one"), Letter("b2", "t", b"two"), Letter("b1", "u", b"three"))


@pytest.fixture
def ends() -> Iterator[tuple[GuardianLine, socket.socket]]:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        there.setblocking(False)
        yield GuardianLine(here, MQTT, "pi-1"), there


Ends = tuple[GuardianLine, socket.socket]


def test_a_will_arrives_with_all_that_the_guardian_has_to_know(ends: Ends) -> None:
    line, there = ends
    line.entrust(Will("eth0", ("10.0.0.9", "fd00::9", "127.0.0.9"), LETTERS))
    will = guardian.unpack(there.recv(10_000))
    assert (will.node, will.interface) == (b"pi-1", b"eth0")
    assert sorted(will.vips) == [
        socket.inet_pton(socket.AF_INET, "10.0.0.9"),
        socket.inet_pton(socket.AF_INET6, "fd00::9"),
    ]
    plain = (b"b1", b"10.0.0.5", b"1883", b"", b"", b"", b"", b"", b"")
    safe = (b"b2", b"broker.lan", b"8883", b"pi", b"secret", b"tls", b"/ca", b"/cert", b"/key")
    assert will.letters == {plain: [(b"t", b"one"), (b"u", b"three")], safe: [(b"t", b"two")]}


def test_only_what_is_new_is_sent(ends: Ends) -> None:
    line, there = ends
    first, second = Will("eth0", ("10.0.0.9",), ()), Will(None, (), ())
    for will in (first, first, second, first):
        line.entrust(will)
    assert [len(guardian.unpack(there.recv(10_000)).vips) for _ in range(3)] == [1, 0, 1]
    with pytest.raises(BlockingIOError):
        there.recv(1)


def test_a_guardian_that_has_ended_is_said(ends: Ends) -> None:
    line, there = ends
    there.close()
    for _ in range(2):
        with pytest.raises(OSError, match=r"^the guardian has ended: Broken pipe$"):
            line.entrust(Will("eth0", ("10.0.0.9",), ()))


def test_a_guardian_that_does_not_read_is_said_and_gets_the_will_later(ends: Ends) -> None:
    line, there = ends
    last = Will("eth0", ("10.0.0.9",), ())
    with contextlib.suppress(TimeoutError):
        for number in range(100_000):
            line.entrust(Will(f"eth{number}", (), ()))
    with pytest.raises(TimeoutError, match="did not read"):
        line.entrust(last)
    there.recv(10_000)
    line.entrust(last)


def test_a_will_of_the_largest_size_arrives_whole() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    brokers = tuple(Broker(label=f"b{n}", host="10.0.0.5", port=n) for n in range(1, 6))
    letters = tuple(Letter(broker.label, "t" * 200, b"x" * 16 * 1024) for broker in brokers)
    with here, there:
        GuardianLine(here, Mqtt(brokers=brokers), "pi-1").entrust(Will("eth0", (), letters))
        assert len(guardian.unpack(there.recv(500_000)).letters) == 5


# ---- the environment -----------------------------------------------------------------------------


def test_without_a_guardian_there_is_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(guardian.LINE, raising=False)
    assert line_from_environment(MQTT, "pi-1") is None


@pytest.mark.parametrize("kind", ["nonsense", "-1", "99999", "file", "tcp"])
def test_what_is_no_guardians_is_left_alone(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        open(os.devnull) as file,
        socket.create_server(("127.0.0.1", 0)) as tcp,
    ):
        opened = {"file": file, "tcp": tcp}
        number = str(opened[kind].fileno()) if kind in opened else kind
        monkeypatch.setenv(guardian.LINE, number)
        with caplog.at_level(logging.WARNING):
            assert line_from_environment(MQTT, "pi-1") is None
        assert f"{guardian.LINE}={number} leads to no guardian: ignored" in caplog.text
        assert guardian.LINE not in os.environ
        for each in opened.values():
            os.fstat(each.fileno())
        assert signal_at_parents_death() == 0


def test_who_was_started_by_a_guardian_that_has_ended_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)[0] as ours:  # not our parent's
        monkeypatch.setenv(guardian.LINE, str(ours.fileno()))
        with pytest.raises(OSError, match="the guardian has ended"):
            line_from_environment(MQTT, "pi-1")
    assert guardian.LINE not in os.environ
    assert signal_at_parents_death() == 0


def signal_at_parents_death() -> int:
    """prctl(2), PR_GET_PDEATHSIG."""
    number = ctypes.c_int()
    assert ctypes.CDLL(None).prctl(2, ctypes.byref(number)) == 0
    return number.value


def test_a_child_finds_its_parent_and_passes_the_line_on_to_nobody() -> None:
    script = (
        "import os\n"
        "from piagent.adapters.guardian_line import line_from_environment\n"
        "from piagent.core.model import Mqtt\n"
        "line = line_from_environment(Mqtt(brokers=()), 'n')\n"
        "assert line is not None\n"
        "assert 'PIAGENT_GUARDIAN_FD' not in os.environ\n"
        "assert not os.get_inheritable(line._line.fileno())\n"
    )
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        environment = {**os.environ, guardian.LINE: str(there.fileno())}
        subprocess.run(
            [sys.executable, "-c", script], env=environment, pass_fds=[there.fileno()], check=True
        )
