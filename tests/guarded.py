"""A child for the guardian: does what is read from its input, line by line, until it dies.

The argument is the configuration of its brokers in JSON.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import msgspec

from piagent.adapters.guardian_line import line_from_environment
from piagent.core.model import Mqtt
from piagent.ports import Letter, Will

NODE, INTERFACE, TOPIC = "pi-1", "eth0", "piagent/home/l/vips/pi-1"

mqtt = msgspec.json.decode(sys.argv[1], type=Mqtt)
line = line_from_environment(mqtt, NODE)
seen: list[str] = []


def will(*vips: str, payload: str = "yield", interface: str | None = INTERFACE) -> None:
    """Entrust these VIPs and one letter a broker."""
    assert line is not None, "no guardian"
    letters = [Letter(broker.label, TOPIC, payload.encode()) for broker in mqtt.brokers]
    line.entrust(Will(interface, vips, tuple(letters)))


def send(data: bytes) -> None:
    """Anything at all to the guardian."""
    assert line is not None, "no guardian"
    line._line.send(data)


def note_signals(*names: str) -> None:
    """Let `seen` have them."""
    for name in names:
        signal.signal(getattr(signal, name), lambda *_, name=name: seen.append(name))


def leave_child() -> int:
    """Start a process that keeps the line to the guardian open; its id."""
    assert line is not None, "no guardian"
    return subprocess.Popen(["sleep", "60"], pass_fds=[line._line.fileno()]).pid


def die(number: int = signal.SIGKILL) -> None:
    """By a signal."""
    os.kill(os.getpid(), number)


for command in iter(sys.stdin.readline, ""):
    value = eval(command)
    print(value, flush=True)
