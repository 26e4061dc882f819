"""The playbook, run for real on this host under a path prefix: no root, no systemd, no network."""

from __future__ import annotations

import getpass
import grp
import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli

from tests import wheelhouse

pytestmark = [
    pytest.mark.timeout(700),
    pytest.mark.skipif(
        importlib.util.find_spec("ansible") is None, reason="ansible-core is not installed"
    ),
]

COLLECTION = Path(__file__).parents[2] / "ansible"
ANSIBLE = (sys.executable, "-m", "ansible")
SECRET = "0123456789abcdef-not-a-secret"
RECAP = re.compile(r"ok=(\d+) +changed=(\d+) +unreachable=(\d+) +failed=(\d+)")


@dataclass(frozen=True)
class Run:
    code: int
    output: str
    changed: int


@dataclass(frozen=True)
class Controller:
    """Where ansible-playbook runs, and the root that it believes to be the node's."""

    folder: Path
    root: Path

    def play(self, *options: str, playbook: str = "playbooks/site.yml", **variables: Any) -> Run:
        """Run the playbook with the example's variables and those given."""
        command = [
            *ANSIBLE, "playbook", "-i", str(self.folder / "hosts.json"),
            "-e", f"@{COLLECTION}/inventory/example/group_vars/all.yml",
            "-e", json.dumps({"piagent_cluster_secret": SECRET} | variables),
            *options, playbook,
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=COLLECTION, env=self.environment(), check=False, timeout=200,
            capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        output = done.stdout + done.stderr
        recap = RECAP.search(output)
        return Run(done.returncode, output, int(recap[2]) if recap else -1)

    def environment(self) -> dict[str, str]:
        """Keep everything that Ansible writes out of the user's home."""
        own = {
            "HOME": self.folder,
            "ANSIBLE_HOME": self.folder / "ansible-home",
            "ANSIBLE_COLLECTIONS_PATH": self.folder / "collections",
        }
        return os.environ | {name: str(path) for name, path in own.items()}


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Controller:
    try:
        wheels = wheelhouse.build()
    except wheelhouse.NoIndexError as error:
        pytest.skip(f"no package index: {error}")
    folder = tmp_path_factory.mktemp("controller")
    node = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "ansible_remote_tmp": str(folder / "remote-tmp"),
        "piagent_python": sys.executable,
        "piagent_root": str(folder / "root"),
        "piagent_wheelhouse": str(wheels),
        "piagent_become": False,
        "piagent_owner": getpass.getuser(),
        "piagent_group": grp.getgrgid(os.getgid()).gr_name,
        "piagent_manage_packages": False,
        "piagent_manage_user": False,
        "piagent_manage_service": False,
        # The host that runs the tests need not have the interface that is the default.
        "piagent_node": {"interface": "lo"},
    }
    hosts = {"piagent": {"hosts": {"pi-1": node}}}
    (folder / "hosts.json").write_text(json.dumps(hosts))
    return Controller(folder, folder / "root")


@pytest.fixture(scope="module")
def installed(controller: Controller) -> Run:
    run = controller.play()
    assert run.code == 0, run.output
    return run


def test_the_first_run_installs_a_release_that_works(
    controller: Controller, installed: Run
) -> None:
    assert installed.changed > 0
    current = controller.root / "opt/piagent/current"
    assert os.readlink(current) == "releases/0.1.0"
    file = controller.root / "etc/piagent/piagent.toml"
    check = subprocess.run(
        [current / "bin/piagent", "check", file],
        check=False, capture_output=True, text=True, cwd="/", timeout=60,
    )  # fmt: skip
    assert check.returncode == 0, check.stderr
    written = tomli.loads(file.read_text())
    assert written["node"]["name"] == "pi-1"
    assert [service["name"] for service in written["service"]] == ["postgres", "blog"]


@pytest.mark.usefixtures("installed")
def test_only_owner_and_group_can_read_the_secret(controller: Controller) -> None:
    secret = controller.root / "etc/piagent/cluster.secret"
    assert secret.read_text().strip() == SECRET
    assert stat.S_IMODE(secret.stat().st_mode) == 0o640
    assert stat.S_IMODE(secret.parent.stat().st_mode) == 0o750


@pytest.mark.usefixtures("installed")
def test_a_second_run_changes_nothing(controller: Controller) -> None:
    run = controller.play()
    assert (run.code, run.changed) == (0, 0), run.output


@pytest.mark.usefixtures("installed")
def test_a_dry_run_shows_what_would_change_but_no_secret_and_changes_nothing(
    controller: Controller,
) -> None:
    file = controller.root / "etc/piagent/piagent.toml"
    before = file.read_text()
    other = {"piagent_cluster_name": "other-home", "piagent_cluster_secret": SECRET[::-1]}
    run = controller.play("--check", "--diff", "-vvv", **other)
    assert run.code == 0, run.output
    assert '+name = "other-home"' in run.output
    assert run.output.count(SECRET[::-1]) == 0
    assert run.output.count(SECRET) == 0
    assert file.read_text() == before


def test_the_installed_collection_goes_through_a_dry_run_on_a_new_node(
    controller: Controller,
) -> None:
    subprocess.run(
        [*ANSIBLE, "galaxy", "collection", "install", "--offline", COLLECTION],
        check=True, capture_output=True, env=controller.environment(), timeout=60,
    )  # fmt: skip
    root = controller.folder / "new"
    run = controller.play("--check", playbook="piagent.cluster.site", piagent_root=str(root))
    assert run.code == 0, run.output
    assert "piagent.cluster.piagent : " in run.output, "it is the installed role that ran"
    assert not root.exists()


@pytest.mark.usefixtures("installed")
def test_a_file_that_check_refuses_leaves_the_old_one_in_place(controller: Controller) -> None:
    file = controller.root / "etc/piagent/piagent.toml"
    before = file.read_text()
    run = controller.play(piagent_routes=[{"name": "lost", "gateway": "wbe", "path_prefix": "/"}])
    assert run.code != 0
    assert "wbe" in run.output, "the reason is shown"
    assert file.read_text() == before


def test_a_variable_of_the_wrong_type_is_named_before_anything_is_done(
    controller: Controller,
) -> None:
    root = controller.folder / "untouched"
    run = controller.play(piagent_root=str(root), piagent_verify_seconds="soon")
    assert run.code != 0
    assert "piagent_verify_seconds" in run.output
    assert not root.exists()


@pytest.mark.usefixtures("installed")
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing")
def test_systemd_understands_the_unit(controller: Controller) -> None:
    unit = controller.root / "etc/systemd/system/piagent.service"
    verify = subprocess.run(
        ["systemd-analyze", "verify", unit],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    complaints = [line for line in verify.stderr.splitlines() if "piagent" in line]
    assert (complaints, verify.returncode) == ([], 0), verify.stderr


@pytest.mark.usefixtures("installed")
def test_the_unit_grants_four_capabilities(controller: Controller) -> None:
    unit = (controller.root / "etc/systemd/system/piagent.service").read_text()
    needed = "CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_BPF"
    assert re.findall(r"^(\w+)=(.*CAP_.*)$", unit, re.MULTILINE) == [
        ("AmbientCapabilities", needed),
        ("CapabilityBoundingSet", needed),
    ]
