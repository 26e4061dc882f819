"""An arm64 machine in a folder: Debian's Python for arm64, run by qemu-user, and our engine for it.

All of it is in build/arm64. apt gets the packages of the other architecture by a state of its own,
and they are unpacked, not installed: the host's dpkg never hears of arm64. Programs of this machine
that a test starts (`ip`, say) run as they are; qemu emulates the processor and hands system calls
to the kernel that is here. It passes no bpf(2), and knows no AF_PACKET in full.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "build" / "arm64"
SYSTEM = HERE / "root"
COMPILER = "aarch64-linux-gnu-gcc"
EMULATOR = "qemu-aarch64-static"
NEEDED = {COMPILER: "gcc-aarch64-linux-gnu", EMULATOR: "qemu-user-static"}
DEBIAN = ["python3-minimal", "libpython3-stdlib", "libpython3-dev"]
PYTHON = ["h11", "hypothesis", "msgspec", "pyroute2", "pytest", "pytest-timeout"]
"""What the tests import; some of it is C, so it cannot be .venv's."""


class Unavailable(Exception):
    """There is no arm64 to be had here; says why, and the cure."""


def check_tools() -> None:
    """Raise Unavailable when a program is missing."""
    if platform.machine() == "aarch64":
        raise Unavailable("this machine is arm64 itself: make test")
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise Unavailable("the Python for arm64 is Debian's, and there is no apt-get here")
    if missing := [package for tool, package in NEEDED.items() if shutil.which(tool) is None]:
        raise Unavailable(f"apt install --no-install-recommends {' '.join(missing)}")


def get() -> None:
    """Get what the machine is made of, which is the network's work; Unavailable when it fails."""
    check_tools()
    HERE.mkdir(parents=True, exist_ok=True)
    try:
        if not (SYSTEM / "made").exists():
            _make_system()
        if not (HERE / "site" / "made").exists():
            _get_packages()
    except subprocess.CalledProcessError as error:
        said = (error.stderr or error.output or b"").decode(errors="replace").strip()
        raise Unavailable(f"{error.cmd[0]} failed, and the next run tries again: {said}") from error


def prepare(output: int | None = subprocess.DEVNULL) -> None:
    """Make the machine and build the engine, or what changed of it; Unavailable when neither goes.

    `output`: where the compiler's goes. CalledProcessError when our own code does not compile.
    """
    get()
    _build(output)


def _apt(*arguments: str) -> None:
    """apt-get with nothing of the host's but where packages come from and whom to trust."""
    state = HERE / "apt"
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "status").touch()
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures::": "arm64",
        "APT::Sandbox::User": "root",  # who else may write here is not known
        "Acquire::Retries": "1",
        "Acquire::http::Timeout": "20",
        "Dir::Cache": state / "cache",
        "Dir::State": state / "state",
        "Dir::State::status": state / "status",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    subprocess.run(["apt-get", "-q", *words, *arguments], capture_output=True, check=True)


def _make_system() -> None:
    shutil.rmtree(SYSTEM, ignore_errors=True)
    _apt("update")
    _apt("install", "--yes", "--no-install-recommends", "--download-only", *DEBIAN)
    for package in sorted((HERE / "apt/cache/archives").glob("*.deb")):
        subprocess.run(["dpkg", "-x", package, SYSTEM], capture_output=True, check=True)
    if not (SYSTEM / "lib").exists():  # Debian 13: the packages leave that link to the installer
        (SYSTEM / "lib").symlink_to("usr/lib")
    (SYSTEM / "made").touch()
    shutil.rmtree(HERE / "apt")


def _get_packages() -> None:
    """The versions that .venv has, of wheels for arm64."""
    site = HERE / "site"
    shutil.rmtree(site, ignore_errors=True)
    platforms = [f"--platform=manylinux_2_{minor}_aarch64" for minor in (34, 28, 17)]
    subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        + [f"--target={site}", "--only-binary=:all:", *platforms]
        + [f"--python-version={python().name.removeprefix('python')}"]
        + [f"{name}=={version(name)}" for name in PYTHON],
        capture_output=True,
        check=True,
    )
    (site / "made").touch()


def python() -> Path:
    """The interpreter; its name ends in its version."""
    return (SYSTEM / "usr/bin/python3").resolve()


def _build(output: int | None) -> None:
    """Build the engine with its probes, as a wheel's but for the sign of `char`.

    What a wheel has is compiled with -fsigned-char, as on a PC; here `char` is unsigned, as arm64
    has it by itself. So what holds there and here does not hang on it. It has nothing for
    debuggers, which would take GCC a fifth of its time.
    """
    include = SYSTEM / "usr/include"
    compiler = HERE / "cc"
    compiler.write_text(
        f'#!/bin/sh\nexec {COMPILER} --sysroot={SYSTEM} -isystem {include}/aarch64-linux-gnu "$@"'
        " -funsigned-char -g0\n"
    )
    compiler.chmod(0o755)
    settings = "_sysconfigdata__aarch64-linux-gnu"
    (HERE / "sysconfig").mkdir(exist_ok=True)
    shutil.copy(SYSTEM / f"usr/lib/{python().name}/{settings}.py", HERE / "sysconfig")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PIAGENT_")}
    folders = [f"--build-lib={HERE / 'lib'}", f"--build-temp={HERE / 'temp'}"]
    subprocess.run(
        [sys.executable, "setup.py", "build", *folders],
        cwd=ROOT,
        env=kept
        | {
            "CC": str(compiler),
            "LDSHARED": f"{compiler} -shared",
            "CFLAGS": f"-I{include}/{python().name} -I{include}",
            "PIAGENT_PROBE": "1",
            "PYTHONPATH": str(HERE / "sysconfig"),
            "_PYTHON_SYSCONFIGDATA_NAME": settings,
            "_PYTHON_HOST_PLATFORM": "linux-aarch64",
        },
        stdout=output,
        check=True,
    )


def interpreter() -> Path:
    """A program that is Python on arm64."""
    path = HERE / "python"
    path.write_text(f'#!/bin/sh\nexec {EMULATOR} -L {SYSTEM} {python()} "$@"\n')
    path.chmod(0o755)
    return path


def run_python(arguments: Sequence[str]) -> int:
    """Run it with the engine of its own; its exit code."""
    paths = [HERE / "lib", ROOT, HERE / "site"]
    environment = os.environ | {
        "PYTHONPATH": ":".join(map(str, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",
        # The folder of now has a `fastpath` as well.
        "PYTHONSAFEPATH": "1",
    }
    command = [interpreter(), *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def run_pytest(arguments: Sequence[str]) -> int:
    """Run tests there; pytest's exit code."""
    options = ["-p", "tests.arm64.plugin", "-p", "no:cacheprovider", "-o", "timeout=600"]
    return run_python(["-m", "pytest", *options, *arguments])
