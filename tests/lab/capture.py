"""What tcpdump sees on the bridge: which node says that the VIP is its own, in which order."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from typing import Self

from tests.adapters.asker import mac_of
from tests.lab.lab import VIP, Lab
from tests.waiting import wait_until

PROGRAM = shutil.which("tcpdump", path="/usr/bin:/usr/sbin:/bin:/sbin")


class Capture:
    """ARP about the VIP, recorded until the `with` block ends; not without tcpdump."""

    def __init__(self, lab: Lab) -> None:
        self._bridge = lab.network._bridge
        self._file = lab.folder / "arp.txt"
        self._errors = lab.folder / "tcpdump.log"
        self._names = {mac_of(node.host).hex(":"): name for name, node in lab.nodes.items()}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if PROGRAM is not None:
            filters = ["-i", "bridge", "-n", "-e", "-tt", "-l", f"arp and host {VIP}"]
            with self._file.open("wb") as file, self._errors.open("wb") as errors:
                self._process = subprocess.Popen(
                    self._bridge.command([PROGRAM, *filters]), stdout=file, stderr=errors
                )
            wait_until(lambda: "listening on" in self._errors.read_text(), "tcpdump listens")
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def owners(self) -> list[str]:
        """Who said so, by the time stamps; each once until another did."""
        said = [
            (float(line.split()[0]), self._names[line.split()[1]])
            for line in self._file.read_text().splitlines()
            if f"{VIP} is-at" in line
        ]
        return [name for name, _ in itertools.groupby(name for _, name in sorted(said))]
