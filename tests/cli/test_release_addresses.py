"""`piagent release-addresses` on a real kernel, in a network namespace."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from piagent.adapters import cluster_fence
from piagent.adapters.dsr_backend import DsrBackend, settings_notes
from piagent.adapters.fence import KernelFence
from piagent.adapters.fence_table import TABLE
from piagent.adapters.interface_settings import unfit
from piagent.adapters.local_addresses import LoopbackAddresses
from piagent.adapters.netlink import KernelAddresses
from piagent.adapters.netns import Host, Network, why_not
from piagent.adapters.nftables import NFPROTO_ARP, NFPROTO_INET, Nftables
from piagent.cli import admin, main
from piagent.core.dsr import Accepted

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))

MINIMAL = """\
[node]
name = "n1"
interface = "eth0"
[cluster]
name = "test"
secret_file = "{folder}/secret"
[mqtt]
brokers = ["mqtt://127.0.0.1:1883"]
[admin]
socket = "{socket}"
"""


@pytest.fixture(autouse=True)
def _no_agent_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(admin, "DEFAULT_SOCKET", str(tmp_path / "nobody.sock"))


@pytest.fixture
def host() -> Iterator[Host]:
    with Network("pa-release") as network:
        made = network.add_host("a", "10.9.0.1/24")
        with made.entered():
            add("eth0", "10.9.0.200", "fd09::200")
            add("lo", "10.9.0.201")
        yield made


def add(interface: str, *vips: str) -> None:
    """As an agent would."""
    kernel = KernelAddresses(interface)
    for vip in vips:
        asyncio.run(kernel.add(vip, 60_000))
    kernel.close()


def left(interface: str) -> set[str]:
    """Addresses that carry our mark."""
    kernel = KernelAddresses(interface)
    found = asyncio.run(kernel.leftovers())
    kernel.close()
    return set(found)


def table_stands() -> bool:
    with Nftables() as kernel:
        return kernel.has_chain(TABLE, "ingress")


def local_tables() -> list[bool]:
    places = ((NFPROTO_INET, "postrouting"), (NFPROTO_ARP, "output"))
    with Nftables() as kernel:
        return [kernel.has_chain(cluster_fence.TABLE, chain, family) for family, chain in places]


def without_rights(host: Host) -> subprocess.CompletedProcess[str]:
    rights = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--"]
    argv = [*rights, sys.executable, "-m", "piagent.cli", "release-addresses"]
    return subprocess.run(host.command(argv), cwd=ROOT, capture_output=True, text=True, check=False)


def file(folder: Path, admin_socket: str) -> str:
    (folder / "secret").write_text("a secret for tests, long enough\n")
    (folder / "secret").chmod(0o600)
    path = folder / "node.toml"
    path.write_text(MINIMAL.format(folder=folder, socket=admin_socket))
    return str(path)


def test_everything_goes_and_is_named(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    with host.entered():
        KernelFence().guard("eth0", ["10.9.0.200"])
        assert table_stands()
        assert main(["release-addresses"]) == 0
        assert left("eth0") == left("lo") == set()
        assert not table_stands()
        assert sorted(capsys.readouterr().out.splitlines()) == [
            "eth0: removed 10.9.0.200/32",
            "eth0: removed fd09::200/128",
            "lo: removed 10.9.0.201/32",
            "removed the nftables table netdev piagent",
        ]
        assert "10.9.0.1/24" in subprocess.check_output(["ip", "address"], text=True)
        assert main(["release-addresses"]) == 0
    assert capsys.readouterr().out == ""


def test_an_interface_alone(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    with host.entered():
        KernelFence().guard("eth0", ["10.9.0.200"])
        assert main(["release-addresses", "--interface", "lo"]) == 0
        assert left("lo") == set()
        assert left("eth0") == {"10.9.0.200", "fd09::200"}
        assert table_stands(), "it keeps silent what is still there"
        assert main(["release-addresses", "--interface", "none7"]) == 1
    assert "there is no interface none7 (there are: lo, eth0" in capsys.readouterr().err


def test_service_addresses_go_before_their_fence(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    with host.entered():
        local = LoopbackAddresses()
        assert local.configure(["10.96.0.1", "fd96::1"], ["10.97.0.1"]) == {}
        local.close()
        assert main(["release-addresses", "--interface", "eth0"]) == 0
        assert "10.96.0.1" in left("lo")
        assert local_tables() == [True, True], "they keep silent what is still there"
        capsys.readouterr()
        assert main(["release-addresses", "--interface", "lo"]) == 0
        assert left("lo") == set()
        assert local_tables() == [False, False]
        assert sorted(capsys.readouterr().out.splitlines()) == [
            "lo: removed 10.9.0.201/32",
            "lo: removed 10.96.0.1/32",
            "lo: removed 10.97.0.1/32",
            "lo: removed fd96::1/128",
            "removed the nftables table arp piagent-local",
            "removed the nftables table inet piagent-local",
        ]


def test_what_a_dsr_backend_needs_goes_with_its_vips(
    host: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = settings_notes(str(tmp_path / "nobody.sock"))
    with host.entered():
        local = LoopbackAddresses(dsr=DsrBackend(notes))
        assert local.configure((), (), [Accepted("10.9.0.202")]) == {}
        local.close()  # as if the agent had been killed
        assert unfit() == []
        assert main(["release-addresses", "--interface", "eth0"]) == 0
        assert unfit() == [], "there is a VIP still"
        assert main(["release-addresses"]) == 0
        assert [(interface, value) for interface, _, value in unfit()] == [("eth0", 0)] * 2
    assert not notes.exists()
    assert "lo: removed 10.9.0.202/32" in capsys.readouterr().out


def test_the_file_names_interface_and_socket(
    host: Host, tmp_path: Path, agent_socket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with host.entered():
        argv = ["release-addresses", "-c", file(tmp_path, agent_socket)]
        assert main(argv) == 1
        assert "an agent is running here" in capsys.readouterr().err
        assert left("eth0") != set()
        assert main([*argv, "--force"]) == 0
        assert left("eth0") == set()
        assert left("lo") == {"10.9.0.201"}


def test_an_agent_that_hangs_loses_its_addresses(host: Host, tmp_path: Path) -> None:
    path = str(tmp_path / "hung.sock")
    with socket.socket(socket.AF_UNIX) as hung, host.entered():
        hung.bind(path)
        hung.listen()
        assert main(["release-addresses", "-c", file(tmp_path, path)]) == 0
        assert left("eth0") == set()


def test_what_cannot_be_removed_is_an_error(host: Host) -> None:
    done = without_rights(host)
    assert done.returncode == 1
    assert "Operation not permitted; try as root or with CAP_NET_ADMIN" in done.stderr


def test_a_table_that_cannot_be_removed_is_an_error(host: Host) -> None:
    with host.entered():
        assert main(["release-addresses"]) == 0
        KernelFence().guard("eth0", ["10.9.0.200"])
    done = without_rights(host)
    assert done.returncode == 1
    assert "the nftables table piagent" in done.stderr


def test_the_engine_is_not_needed(host: Host) -> None:
    script = (
        "import sys; sys.modules['fastpath'] = None; from piagent.cli import main;"
        " sys.exit(main(['release-addresses']))"
    )
    subprocess.run(host.command([sys.executable, "-c", script]), cwd=ROOT, check=True)
    with host.entered():
        assert left("eth0") == set()
