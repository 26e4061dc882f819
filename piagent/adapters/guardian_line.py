"""The agent's side of the guardian: hands over, again and again, what to do when the agent dies."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
from ipaddress import ip_address

from piagent import guardian
from piagent.core.model import Broker, Mqtt
from piagent.ports import Will

SEND_TIMEOUT_S = 0.1
"""How long a guardian may be behind; it reads within a millisecond unless somebody stopped it."""

_PR_SET_PDEATHSIG = 1

_log = logging.getLogger(__name__)


class GuardianLine:
    """`ports.Guardian` over the socket that the guardian gave its child.

    A will has to be there before what it speaks of: entrust it before an address is added, and
    again, without that address, when its removal is confirmed.
    """

    def __init__(self, line: socket.socket, mqtt: Mqtt, node: str) -> None:
        """`mqtt` and `node` say where, and in whose name, the letters are to be delivered."""
        self._line = line
        self._line.settimeout(SEND_TIMEOUT_S)
        self._node = node
        self._brokers = {broker.label: _row(broker, mqtt) for broker in mqtt.brokers}
        self._entrusted = b""

    def entrust(self, will: Will) -> None:
        """Replace the will; what was entrusted already is not sent again.

        Returns when the kernel has the whole message. Raises OSError when the guardian has ended
        or does not read: then nobody takes the VIPs down when this process dies, and they fall
        silent only by their lease.
        """
        message = self._packed(will)
        if message == self._entrusted:
            return
        self._entrusted = b""
        try:
            self._line.send(message, socket.MSG_NOSIGNAL)
        except TimeoutError:
            raise TimeoutError(
                f"the guardian did not read for {SEND_TIMEOUT_S:g} s: is it stopped?"
            ) from None
        except OSError as error:
            raise ConnectionError(f"the guardian has ended: {error.strerror}") from error
        self._entrusted = message

    def close(self) -> None:
        """Nothing can be entrusted afterwards; the last will stays valid."""
        self._line.close()

    def _packed(self, will: Will) -> bytes:
        letters: guardian.Letters = {}
        for letter in will.letters:
            message = (letter.topic.encode(), letter.payload)
            letters.setdefault(self._brokers[letter.broker], []).append(message)
        # A loopback address is on no interface because of us: there is nothing to remove.
        vips = sorted(vip.encode() for vip in will.vips if not ip_address(vip).is_loopback)
        return guardian.pack(self._node.encode(), (will.interface or "").encode(), vips, letters)


def line_from_environment(mqtt: Mqtt, node: str) -> GuardianLine | None:
    """The line to the guardian that started this process; None when none did.

    To be called once, before other processes are started. From then on this process gets SIGTERM
    when its guardian dies, so that it hands over and ends instead of going on unguarded. Raises
    OSError when the guardian that started it has died already.
    """
    number = os.environ.pop(guardian.LINE, None)
    if number is None:
        return None
    line = _line(number)
    if line is None:
        _log.warning("%s=%s leads to no guardian: ignored", guardian.LINE, number)
        return None
    return GuardianLine(line, mqtt, node)


def _line(number: str) -> socket.socket | None:
    """The socket, if its other end is that of our parent, and the parent lives."""
    try:
        line = socket.socket(fileno=int(number))
    except (OSError, ValueError):
        return None
    guardian_id = _maker(line)
    if guardian_id == os.getppid():
        # Our children must not have it: the guardian is to see when we end it.
        line.set_inheritable(False)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if guardian_id == os.getppid():  # it has not died before prctl
            return line
    line.detach()  # not ours to close
    if guardian_id > 0:
        raise OSError("the guardian has ended: nobody would take the VIPs down after this agent")
    return None


def _maker(line: socket.socket) -> int:
    """The process that made a pair of Unix sockets (unix(7), SO_PEERCRED); -1: it is none."""
    try:
        credentials = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    except OSError:
        return -1
    return int.from_bytes(credentials[:4], sys.byteorder)


def _row(broker: Broker, mqtt: Mqtt) -> guardian.Broker:
    password = mqtt.password if broker.username is not None else None
    files = (mqtt.ca_file, mqtt.cert_file, mqtt.key_file) if broker.tls else (None, None, None)
    parts = (
        broker.label,
        broker.host,
        str(broker.port),
        broker.username,
        password,
        "tls" if broker.tls else "",
        *files,
    )
    return tuple(os.fsencode(part or "") for part in parts)
