"""What sysfs says of a wireless interface."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

SYSFS = Path("/sys")
BRCMFMAC_ADDRESSES_MAX = 7
"""The firmware's table has 8 entries (ARPOL_MAX_ENTRIES); the host's own address takes one."""


def is_wireless(interface: str, sysfs: Path = SYSFS) -> bool:
    """Whether it is Wi-Fi: by the old wireless extensions or by cfg80211."""
    folder = sysfs / "class/net" / interface
    return any((folder / name).exists() for name in ("wireless", "phy80211"))


def crowded(interface: str, vips: Collection[str], sysfs: Path = SYSFS) -> str | None:
    """A warning when there are more VIPs than the Wi-Fi chip of a Pi can answer ARP for.

    brcmfmac copies the interface's IPv4 addresses into a table of the firmware, which drops ARP
    for addresses that did not fit (drivers/net/wireless/broadcom/brcm80211/brcmfmac/core.c).
    """
    driver = (sysfs / "class/net" / interface / "device/driver").resolve().name
    count = sum(":" not in vip for vip in vips)
    if driver != "brcmfmac" or count <= BRCMFMAC_ADDRESSES_MAX:
        return None
    return (
        f"{interface}: {count} IPv4 VIPs, but its firmware (brcmfmac) answers ARP for"
        f" {BRCMFMAC_ADDRESSES_MAX} besides this host's own address: use Ethernet, spread them over"
        f" more nodes, or 'ip link set {interface} promisc on'"
    )
