"""Who answers and asks by ARP for addresses on `lo`: two settings of each interface, for a time.

By itself Linux answers ARP on every interface for all its addresses, and asks for neighbours in the
name of any of them (ip-sysctl, arp_ignore and arp_announce). A backend of `dsr` services has VIPs
that another host answers for, so it must do neither.

They are set by rtnetlink, interface by interface, which needs CAP_NET_ADMIN and no writable
/proc/sys; the kernel goes by an interface's own value or that of all of them, whichever is greater.
"""

from __future__ import annotations

import errno
import json
import logging
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

from piagent.adapters.nftables import attribute, nested
from piagent.adapters.rtnetlink import NLM_F_ACK, NLM_F_REQUEST, Rtnetlink

SYSCTLS: Final = Path("/proc/sys/net/ipv4/conf")
"""Of the namespace of the thread that reads it."""
RP_FILTER, ARP_ANNOUNCE, ARP_IGNORE = 8, 18, 19
"""enum of linux/ip.h, IPV4_DEVCONF_."""

_NAMESPACE = Path("/proc/thread-self/ns/net")
_RTM_SETLINK = 19
_HEADER = struct.Struct("=IHHII")
_IFINFOMSG = struct.Struct("=BxHiII")
_IFLA_AF_SPEC, _IFLA_INET_CONF = 26, 1

_log = logging.getLogger(__name__)


class Setting(Struct, frozen=True):
    """What an interface needs."""

    name: str
    number: int
    value: int
    good: tuple[int, ...]
    """Values that do as well."""


SETTINGS: Final = (
    Setting("arp_ignore", ARP_IGNORE, 1, (1, 2)),
    Setting("arp_announce", ARP_ANNOUNCE, 2, (2,)),
)

Noted = dict[str, dict[str, int]]
"""By interface: what its settings were."""


class InterfaceSettings:
    """Holds the settings on all interfaces but `lo`, and puts back what was there.

    What was there is written to a file first, which outlives a crash of the agent but not a reboot,
    as the settings do. Whoever changed one meanwhile has his way.
    """

    def __init__(self, notes: Path | None) -> None:
        """`notes`: the file, in a folder under /run; None: it is known in this life only."""
        self._notes = notes
        self._noted: Noted | None = None

    def hold(self) -> None:
        """Have them on every interface that there is now; OSError, and then some may be."""
        noted = self._known()
        for interface, missing in _missing():
            its = noted.setdefault(interface, {})
            for setting in missing:
                its.setdefault(setting.name, _value(interface, setting.name))
            self._write(noted)
            try:
                set_ipv4(interface, {setting.number: setting.value for setting in missing})
            except OSError as error:
                if error.errno != errno.ENODEV:  # gone meanwhile
                    raise

    def release(self) -> None:
        """Put back what was there; raises nothing."""
        noted = self._known()
        if not noted:
            return
        for interface, its in noted.items():
            try:
                _put_back(interface, its)
            except OSError as error:
                _log.warning("%s: its ARP settings stay as they are: %s", interface, error)
        self._noted = {}
        if self._notes is not None:
            self._notes.unlink(missing_ok=True)

    def _known(self) -> Noted:
        if self._noted is None:
            self._noted = {} if self._notes is None else _read(self._notes)
        return self._noted

    def _write(self, noted: Noted) -> None:
        if self._notes is not None:
            text = json.dumps({"namespace": _namespace(), "interfaces": noted})
            new = self._notes.with_name(f"{self._notes.name}.new")
            new.write_text(text, encoding="utf-8")
            new.replace(self._notes)


def unfit(root: Path = SYSCTLS) -> list[tuple[str, str, int]]:
    """(interface, name of the setting, its value) of each that is not as a backend needs it."""
    return [
        (interface, setting.name, _effective(interface, setting.name, root))
        for interface, missing in _missing(root)
        for setting in missing
    ]


def set_ipv4(interface: str, values: dict[int, int]) -> None:
    """Set an interface's own values, by their numbers; OSError."""
    conf = b"".join(attribute(number, struct.pack("=I", v)) for number, v in values.items())
    spec = nested(_IFLA_AF_SPEC, nested(socket.AF_INET, nested(_IFLA_INET_CONF, conf)))
    with Rtnetlink() as kernel:
        body = _IFINFOMSG.pack(0, 0, kernel.link(interface).index, 0, 0) + spec
        size, flags = _HEADER.size + len(body), NLM_F_REQUEST | NLM_F_ACK
        kernel.repeat(bytearray(_HEADER.pack(size, _RTM_SETLINK, flags, 0, 0) + body))


def _missing(root: Path = SYSCTLS) -> Iterator[tuple[str, list[Setting]]]:
    for folder in sorted(root.iterdir()):
        if folder.name in {"all", "default", "lo"}:
            continue
        try:
            missing = [
                setting
                for setting in SETTINGS
                if _effective(folder.name, setting.name, root) not in setting.good
            ]
        except FileNotFoundError:
            continue  # gone meanwhile
        if missing:
            yield folder.name, missing


def _effective(interface: str, name: str, root: Path = SYSCTLS) -> int:
    return max(_value(interface, name, root), _value("all", name, root))


def _value(interface: str, name: str, root: Path = SYSCTLS) -> int:
    return int((root / interface / name).read_text(encoding="ascii"))


def _put_back(interface: str, its: dict[str, int]) -> None:
    if not (SYSCTLS / interface).exists():
        return
    ours = {
        setting.number: its[setting.name]
        for setting in SETTINGS
        if setting.name in its and _value(interface, setting.name) == setting.value
    }
    if ours:
        set_ipv4(interface, ours)


def _namespace() -> int:
    return _NAMESPACE.stat().st_ino


def _read(notes: Path) -> Noted:
    """What a former life noted; nothing when it is not ours, or no notes at all."""
    try:
        found = json.loads(notes.read_text(encoding="utf-8"))
        noted = found["interfaces"] if found["namespace"] == _namespace() else {}
        return {
            str(interface): {str(name): int(value) for name, value in its.items()}
            for interface, its in noted.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("%s cannot be read, so what it notes stays as it is: %s", notes, error)
        return {}
