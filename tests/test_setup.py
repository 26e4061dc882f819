"""What setup.py builds, and what it must not leave for a wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("Cython")

ROOT = Path(__file__).resolve().parents[1]


def run_setup(folder: Path, **environment: str) -> None:
    """Copy the build files there and let setup.py prepare its modules, without compiling C."""
    (folder / "piagent").mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "piagent/__init__.py"):
        shutil.copy(ROOT / name, folder / name)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PIAGENT_")}
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "--version"],
        cwd=folder,
        env=kept | environment,
        check=True,
        capture_output=True,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An engine of one module and one probe, both built before."""
    for name in ("fastpath", "build/lib.linux-x86_64-cpython-311/fastpath"):
        (tmp_path / name).mkdir(parents=True)
    for stem in ("one", "_probe"):
        (tmp_path / "fastpath" / f"{stem}.pyx").write_text("cdef int f():\n    return 1\n")
        library = f"{stem}.cpython-311-x86_64-linux-gnu.so"
        (tmp_path / "build/lib.linux-x86_64-cpython-311/fastpath" / library).touch()
    return tmp_path


def built(folder: Path) -> set[str]:
    return {path.name.split(".")[0] for path in (folder / "build").rglob("*.so")}


def translated(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "build/cython").rglob("*.c")}


def test_a_plain_build_leaves_no_probe_for_a_wheel_to_take(project: Path) -> None:
    run_setup(project)
    assert built(project) == {"one"}
    assert translated(project) == {"one"}


def test_a_build_for_tests_has_the_probes(project: Path) -> None:
    run_setup(project, PIAGENT_PROBE="1")
    assert built(project) == {"one", "_probe"}
    assert translated(project) == {"one", "_probe"}
