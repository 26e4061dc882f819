"""This host as a backend of `dsr` services: ready for packets to VIPs that another host announces.

Here is what has to be so before a VIP is on `lo`, and as long as it is there; the address itself is
`local_addresses`' business.
"""

from __future__ import annotations

import errno
from collections.abc import Collection
from ipaddress import ip_address
from pathlib import Path

from piagent.adapters import tunnels
from piagent.adapters.interface_settings import InterfaceSettings
from piagent.adapters.tunnels import DEVICES, Tunnels
from piagent.core.dsr import Accepted


def settings_notes(admin_socket: str) -> Path:
    """Where an agent with this socket notes what the host's settings were: gone at a reboot."""
    return Path(f"{admin_socket}.settings")


class DsrBackend:
    """Prepares the host, and puts back what was there when no VIP needs it any more."""

    def __init__(self, notes: Path | None = None) -> None:
        """`notes`: where what was there is noted, so that it is known after a crash."""
        self._settings = InterfaceSettings(notes)
        self._tunnels = Tunnels()
        self._ready = False

    def prepare(self, accepted: Collection[Accepted]) -> dict[str, str]:
        """Be ready for these VIPs; why not, by VIP. Raises nothing, is cheap when all is so.

        One that comes in several ways is refused when one of them cannot be: half of its packets
        would be lost.
        """
        if not accepted:
            return {}
        self._ready = True
        refused: dict[str, str] = {}
        try:
            if any(":" not in one.vip for one in accepted):
                self._settings.hold()
        except OSError as error:
            why = _why(error)
            refused |= {one.vip: why for one in accepted if ":" not in one.vip}
        for version in DEVICES:
            vips = {one.vip for one in accepted if one.tunnel == version}
            try:
                if vips:
                    self._tunnels.open(version, {ip_address(vip).packed for vip in vips})
            except OSError as error:
                refused |= dict.fromkeys(vips, tunnels.why(version, error))
        return refused

    def settle(self, accepted: Collection[Accepted]) -> None:
        """Undo what is not needed for these, when the addresses of all others are gone."""
        if not self._ready:
            return
        if not any(":" not in one.vip for one in accepted):
            self._settings.release()
        for version in DEVICES:
            if not any(one.tunnel == version for one in accepted):
                self._tunnels.close(version)
        self._ready = bool(accepted)

    def undo(self) -> None:
        """Undo all of it, what a former life did, too; raises nothing."""
        self._ready = True
        self.settle(())


def _why(error: OSError) -> str:
    place = f" {error.filename}:" if error.filename else ""
    what = f"ARP settings of the interfaces:{place} {error.strerror or error}"
    return f"{what}: run piagent as root or with CAP_NET_ADMIN" if _is_forbidden(error) else what


def _is_forbidden(error: OSError) -> bool:
    return error.errno in {errno.EPERM, errno.EACCES}
