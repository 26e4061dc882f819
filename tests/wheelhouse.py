"""Builds the wheel and collects those it depends on, once a run for all tests that need them."""

from __future__ import annotations

import atexit
import fcntl
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("fastpath", "piagent")
SHARED = ROOT / "build" / "wheelhouse"
C = ROOT / "build" / "cython"
FILES = ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py")


class NoIndexError(Exception):
    """The dependencies' wheels cannot be had here."""


@functools.cache
def project_copy() -> Path:
    """Copy the sources, so that a build writes nothing into the tree other tests run from.

    With them goes the C that Cython made of them here, if it still is what it would make there:
    Cython knows what changed in a source, by the times that a copy keeps, but not in setup.py.
    """
    copy = _folder("source")
    for folder in FOLDERS:
        built = shutil.ignore_patterns("*.so", "*.c", "__pycache__")
        shutil.copytree(ROOT / folder, copy / folder, ignore=built)
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    made = [path.stat().st_mtime for path in C.rglob("*.c")]
    if made and min(made) > (ROOT / "setup.py").stat().st_mtime:
        shutil.copytree(C, copy / C.relative_to(ROOT))
    (copy / "setup.cfg").write_text(f"[build_ext]\nparallel = {os.cpu_count() or 1}\n")
    return copy


@functools.cache
def build() -> Path:
    """Make a folder of wheels: the project's and those of all that it needs to run.

    It takes minutes of computing, so the processes of one run of the tests share it.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"process {os.getpid()}")
    SHARED.mkdir(parents=True, exist_ok=True)
    wheels, made_by = SHARED / "wheels", SHARED / "run"
    with (SHARED / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made_by.exists() or made_by.read_text() != run:
            made_by.unlink(missing_ok=True)
            shutil.rmtree(wheels, ignore_errors=True)
            wheels.mkdir()
            _collect(wheels)
            made_by.write_text(run)
    return wheels


def _collect(wheels: Path) -> None:
    _pip_wheel(wheels, str(project_copy()), "--no-deps")
    project = next(wheels.glob("piagent-*.whl"))
    try:
        _pip_wheel(wheels, str(project), "--find-links", str(wheels))
    except subprocess.CalledProcessError as error:
        raise NoIndexError(error.stderr[-500:]) from error


def _folder(name: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"piagent-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _pip_wheel(wheels: Path, what: str, *options: str) -> None:
    # No isolation: Cython and setuptools are here already, and an isolated build fetches its own.
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", *options]
    environment = {k: v for k, v in os.environ.items() if k != "PIAGENT_PROBE"}
    subprocess.run(
        [*command, "--wheel-dir", str(wheels), what],
        check=True, capture_output=True, text=True, env=environment, cwd=wheels, timeout=600,
    )  # fmt: skip
