"""A real router for tests: BIRD 2 in a network namespace, with its kernel's routing table."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from piagent.adapters.netns import Host
from tests.waiting import wait_until

PROGRAM = shutil.which("bird", path="/usr/sbin:/usr/bin:/sbin:/usr/local/sbin")
CONTROL = shutil.which("birdc", path="/usr/sbin:/usr/bin:/sbin:/usr/local/sbin")
WHY_NOT = None if PROGRAM and CONTROL else "BIRD is not installed (apt install bird2)"

COMMON = """\
router id {router_id};
log stderr all;
protocol device {{}}
protocol kernel {{ ipv4 {{ export all; import none; }}; merge paths yes; }}
protocol kernel {{ ipv6 {{ export all; import none; }}; merge paths yes; }}
"""
SESSION = """\
protocol bgp {name} {{
  local {local} as {asn}; neighbor {address} as {peer_asn};
  passive; hold time {hold_s}; {more}
  ipv4 {{ import all; export none; }};
  ipv6 {{ import all; export none; }};
}}
"""


class Bird:
    """One BIRD; a context manager."""

    def __init__(self, host: Host, router_id: str, asn: int, config: str = "") -> None:
        """`config`: a whole one, instead of what `router_id` and sessions make."""
        self._host = host
        self._asn = asn
        self._folder = tempfile.TemporaryDirectory(prefix="piagent-bird-")
        self._config = config or COMMON.format(router_id=router_id)
        self._process: subprocess.Popen[bytes] | None = None

    def add_session(
        self, name: str, *, local: str, address: str, peer_asn: int, hold_s: int = 9, more: str = ""
    ) -> None:
        """A neighbour that it waits for; `more`: statements of its protocol."""
        self._config += SESSION.format(
            name=name,
            local=local,
            asn=self._asn,
            address=address,
            peer_asn=peer_asn,
            hold_s=hold_s,
            more=more,
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        """Returns when it answers."""
        assert PROGRAM is not None
        config = self._path("bird.conf")
        config.write_text(self._config)
        with self._path("log").open("ab") as log:
            argv = [PROGRAM, "-f", "-c", str(config), "-s", str(self._path("control"))]
            self._process = subprocess.Popen(
                self._host.command([*argv, "-P", str(self._path("pid"))]), stderr=log
            )
        wait_until(lambda: "BIRD" in self.ask("show", "status"), lambda: f"BIRD runs: {self.log}")

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def ask(self, *words: str) -> str:
        """What birdc says to a command."""
        assert CONTROL is not None
        argv = [CONTROL, "-s", str(self._path("control")), *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout

    def is_established(self, session: str) -> bool:
        return "Established" in self.ask("show", "protocols", session)

    def next_hops(self, vip: str) -> set[str]:
        """Where the kernel of its host sends what is for the VIP."""
        family = "-6" if ":" in vip else "-4"
        found = _json(self._host.command(["ip", "-j", family, "route", "show", vip]))
        return {
            hop["gateway"]
            for route in found
            for hop in (route.get("nexthops") or [route])
            if "gateway" in hop
        }

    @property
    def log(self) -> str:
        """What it said."""
        return self._path("log").read_text(errors="replace")

    def _path(self, name: str) -> Path:
        return Path(self._folder.name, name)


def _json(argv: Sequence[str]) -> list[dict[str, object]]:
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    found: list[dict[str, object]] = json.loads(done.stdout or "[]")
    return found
