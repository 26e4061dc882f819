"""What .ci/setup.sh promises on machines that lack things; nothing is installed by these tests.

The script sees a PATH of its own, with a Python, an apt-get and a sudo that only note what is
asked of them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("bash", "cat", "chmod", "dirname", "env", "mkdir", "sed")
NEEDED = ["python3-venv", "python3-dev", "build-essential"]

PYTHON = """#!/bin/bash
echo "python3 $*" >>"$NOTES"
case "$*" in {lacks}) exit 1 ;; esac
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p .venv/bin && printf '#!/bin/bash\\necho "venv $*" >>"$NOTES"' >.venv/bin/python
  chmod +x .venv/bin/python
fi
"""
NOTE = '#!/bin/bash\necho "{name} $*" >>"$NOTES"\n'


class Machine:
    """A clone of the project on a machine that has only what it is given."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "bin"
        self._path.mkdir()
        self.clone = folder / "clone"
        (self.clone / ".ci").mkdir(parents=True)
        shutil.copy(ROOT / ".ci/setup.sh", self.clone / ".ci")
        shutil.copy(ROOT / "pyproject.toml", self.clone)
        self._notes = folder / "notes"
        self._notes.touch()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found is not None
            (self._path / tool).symlink_to(found)
        self.has("id", "#!/bin/bash\necho 1000\n")

    def has(self, name: str, text: str | None = None) -> None:
        """Put a program there; by default one that notes how it was called."""
        file = self._path / name
        file.write_text(NOTE.format(name=name) if text is None else text)
        file.chmod(0o755)

    def has_python(self, lacks: str = "nothing") -> None:
        """A Python that fails when its arguments match the shell pattern."""
        self.has("python3", PYTHON.format(lacks=lacks))

    def has_all(self) -> None:
        """Whatever the script looks for."""
        self.has_python()
        for name in ("cc", "mosquitto", "curl", "ip"):
            self.has(name)

    def set_up(self, mode: str = "run") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", ".ci/setup.sh", mode],
            cwd=self.clone, env={"PATH": str(self._path), "NOTES": str(self._notes)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=30, check=False,
        )  # fmt: skip

    def asked_of(self, name: str) -> list[str]:
        lines = self._notes.read_text().splitlines()
        return [line.removeprefix(f"{name} ") for line in lines if line.startswith(f"{name} ")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_root_and_sudo_one_line_names_what_to_install(machine: Machine) -> None:
    machine.has("apt-get")
    machine.has_python(lacks="*ensurepip*|*Python.h*")
    done = machine.set_up()
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1
    words = done.stdout.split()
    assert words[words.index("install") + 1 :][:3] == NEEDED
    assert "sudo" not in words
    assert machine.asked_of("apt-get") == []
    assert not (machine.clone / ".venv").exists()


def test_without_python_it_is_among_what_to_install(machine: Machine) -> None:
    done = machine.set_up()
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1
    assert "apt install python3 python3-venv python3-dev build-essential" in done.stdout


def test_an_old_python_is_refused_with_the_cure(machine: Machine) -> None:
    machine.has_python(lacks="*version_info*")
    done = machine.set_up()
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1
    assert "3.11 or newer" in done.stdout
    assert "PYTHON=" in done.stdout


def test_sudo_without_a_password_installs_what_is_missing(machine: Machine) -> None:
    machine.has("apt-get")
    machine.has("sudo")
    machine.has_python(lacks="*ensurepip*|*Python.h*")
    done = machine.set_up()
    assert done.returncode == 0, done.stdout
    _, update, install = machine.asked_of("sudo")
    assert update.startswith("apt-get update")
    assert re.search(r"apt-get install .*python3-venv python3-dev build-essential", install)


def test_a_sudo_that_refuses_is_the_same_as_none(machine: Machine) -> None:
    machine.has("apt-get")
    machine.has("sudo", "#!/bin/bash\nexit 1\n")
    machine.has_python(lacks="*ensurepip*")
    done = machine.set_up()
    assert done.returncode == 1
    assert "sudo apt install python3-venv build-essential" in done.stdout


def test_it_goes_on_without_what_has_a_substitute(machine: Machine) -> None:
    machine.has_all()
    (machine.clone.parent / "bin/curl").unlink()
    done = machine.set_up()
    assert done.returncode == 0, done.stdout
    assert "going on without" in done.stdout
    assert "curl" in done.stdout


def test_an_apt_that_fails_stops_only_what_cannot_go_on(machine: Machine) -> None:
    machine.has_all()
    machine.has("id", "#!/bin/bash\necho 0\n")
    machine.has("apt-get", "#!/bin/bash\nexit 100\n")
    (machine.clone.parent / "bin/curl").unlink()
    assert machine.set_up().returncode == 0
    (machine.clone.parent / "bin/cc").unlink()
    assert machine.set_up().returncode == 1


def test_a_venv_without_pip_is_made_anew_and_a_whole_one_is_kept(machine: Machine) -> None:
    machine.has_all()
    broken = machine.clone / ".venv/bin/python"
    broken.parent.mkdir(parents=True)
    broken.write_text("#!/bin/bash\nexit 1\n")
    broken.chmod(0o755)
    first, second = machine.set_up(), machine.set_up()
    assert (first.returncode, second.returncode) == (0, 0)
    made = [line for line in machine.asked_of("python3") if line.startswith("-m venv")]
    assert made == ["-m venv --clear .venv"]
    assert "creating .venv" in first.stdout
    assert "creating .venv" not in second.stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_venv_that_somebody_else_made_is_named_with_the_cure(machine: Machine) -> None:
    machine.has_all()
    (machine.clone / ".venv").mkdir(mode=0o555)
    done = machine.set_up()
    assert done.returncode == 1
    assert done.stdout.count("\n") == 1
    assert "sudo make clean" in done.stdout


def test_make_help_names_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    done = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert {line.split()[0] for line in done.stdout.splitlines()} == set(phony[1].split())


def test_ci_runs_what_make_test_runs() -> None:
    assert "exec make test" in (ROOT / ".ci/run").read_text()
