"""ruff, mypy, cython-lint and import-linter, as configured in pyproject.toml."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.style.sources import ROOT

pytestmark = pytest.mark.timeout(400)  # they compute, on a Pi or a busy machine for minutes

BIN = Path(sys.executable).parent
IMPORT = re.compile(r"(piagent[\w.]*) -> ([\w.]+) \(l\.\s*(\d+)")


def run(*command: str) -> tuple[int, str]:
    """Exit code and output of a tool of the development environment."""
    if not (BIN / command[0]).exists():
        pytest.skip(f"{command[0]} is not installed beside this Python")
    done = subprocess.run(
        [BIN / command[0], *command[1:]],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def located(output: str) -> str:
    """import-linter's output with the file and line of every import that breaks a contract."""
    places = []
    for module, imported, line in IMPORT.findall(output):
        path = ROOT.joinpath(*module.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        places.append(f"{path.relative_to(ROOT)}:{line}: imports {imported}")
    return "\n".join([output, *sorted(set(places))])


def test_ruff_finds_nothing() -> None:
    code, output = run("ruff", "check", "--output-format", "concise", "--quiet")
    assert code == 0, output


def test_mypy_finds_nothing() -> None:
    code, output = run("mypy", "--no-error-summary")
    assert code == 0, output


def test_cython_lint_finds_nothing() -> None:
    code, output = run("cython-lint", "fastpath")
    assert code == 0, output


def test_imports_run_downward_and_the_core_is_pure() -> None:
    code, output = run("lint-imports", "--no-logo")
    assert code == 0, located(output)


def test_the_import_contracts_can_be_broken(tmp_path: Path) -> None:
    for name in ("cli", "agent", "admin", "adapters", "dataplane", "config", "ports", "core"):
        package = tmp_path / "piagent" / name
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
    (tmp_path / "piagent" / "__init__.py").touch()
    (tmp_path / "piagent" / "core" / "bad.py").write_text(
        "import time\nimport fastpath.engine\nimport piagent.ports\n"
    )
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    done = subprocess.run(
        [BIN / "lint-imports", "--no-logo", "--no-cache"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Contracts: 0 kept, 3 broken." in done.stdout
    places = located(done.stdout)
    for place in ("1: imports time", "2: imports fastpath", "3: imports piagent.ports"):
        assert f"piagent/core/bad.py:{place}" in places
