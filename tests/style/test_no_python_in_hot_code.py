"""The engine knows no Python while it works: shown on the C that Cython makes of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.style import generated_c, translate
from tests.style.cython_source import functions
from tests.style.sources import CYTHON, ROOT, Finding, files, read, report

pytestmark = pytest.mark.timeout(400)  # Cython computes, on a Pi or a busy machine for minutes

# Kept between runs: only what has changed is translated again.
FOLDER = ROOT / "build" / "audit"
# Where Python objects are at home.
FOR_TESTS = ("_probe", "_fuzz")
WITH_PYTHON = set(translate.constant(ROOT / "setup.py", "WITH_PYTHON"))

BAD = '''
"""Samples of how Python gets in."""

cdef int fails(int a) except -1 nogil:
    return a

cdef int divides(int a, int b) noexcept nogil:
    return a + fails(b)

cdef int raises(int a) noexcept nogil:
    if a:
        raise ValueError
    return a

cdef int asserts(int a) noexcept nogil:
    assert a > 1
    return a

cdef int takes_the_gil(int a) noexcept nogil:
    with gil:
        print(a)
    return a

cdef int is_clean(int a, int b) noexcept nogil:
    return a // b if b != 0 else -a

def use(a: int) -> int:
    return divides(a, a) + raises(a) + asserts(a) + takes_the_gil(a) + is_clean(a, a)
'''


def run_translation(folder: Path, root: Path, sources: list[Path]) -> str:
    """Make C of the sources; what Cython has against them, a line each."""
    done = subprocess.run(
        [sys.executable, translate.__file__, ROOT / "setup.py", folder, *sources],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    places = re.findall(r"^(?:warning: |performance hint: )?(\S+?:\d+:\d+: .*)", said, re.MULTILINE)
    return "\n".join(places) if places or done.returncode == 0 else said


def audit(folder: Path, sources: dict[Path, str]) -> tuple[list[Finding], set[str]]:
    """Findings in all the C of the folder; functions that are in none of the C though they must."""
    wanted: dict[str, tuple[str, int]] = {}
    for path, text in sources.items():
        module = ".".join(path.with_suffix("").parts)
        for function in functions(text):
            if generated_c.without_gil(function):
                name = generated_c.mangled(module, function)
                wanted[name] = (str(path), function.line)
    findings, missing = [], {name for name, at in wanted.items() if at[0].endswith(".pyx")}
    for path in sources:
        if path.suffix == ".pyx":
            found, seen = generated_c.audit(folder / path.with_suffix(".c"), wanted)
            findings += found
            missing -= seen
    return findings, missing


@pytest.fixture(scope="module")
def translated() -> Path:
    """The C of the whole engine, made without a word from Cython."""
    said = run_translation(FOLDER, ROOT, files(".pyx"))
    assert not said, said
    return FOLDER


def test_functions_without_the_gil_use_no_python(translated: Path) -> None:
    findings, missing = audit(translated, {path: read(path) for path in files(*CYTHON)})
    report(findings)
    assert not missing, "not found in the generated C, so not checked"


def test_everything_below_the_engine_runs_without_the_gil() -> None:
    findings = [
        Finding(str(path), function.line, f"{function.name} is not `noexcept nogil`")
        for path in files(*CYTHON)
        if path.stem not in WITH_PYTHON and not path.stem.endswith(FOR_TESTS)
        for function in functions(read(path))
        if function.kind != "def" and not generated_c.without_gil(function)
    ]
    report(findings)


def test_the_audit_finds_every_way_in_that_we_know(tmp_path: Path) -> None:
    sample = Path("sample.pyx")
    (tmp_path / sample).write_text(BAD)
    said = run_translation(tmp_path / "c", tmp_path, [sample])
    findings, missing = audit(tmp_path / "c", {sample: BAD})
    assert not missing, said
    guilty = {finding.what.split(" in ")[1].split(",")[0] for finding in findings}
    assert guilty == {
        f"__pyx_f_6sample_{name}" for name in ("divides", "raises", "asserts", "takes_the_gil")
    }
    lines = BAD.splitlines()
    assert {finding.path for finding in findings} == {"sample.pyx"}
    assert any(lines[finding.line - 1] == "    assert a > 1" for finding in findings)


def test_cython_complaints_are_not_lost(tmp_path: Path) -> None:
    sample = Path("sample.pyx")
    (tmp_path / sample).write_text("cdef int f():\n    cdef int a\n    return a\n\nf()\n")
    said = run_translation(tmp_path, tmp_path, [sample])
    assert "sample.pyx:3:11: local variable 'a' referenced before assignment" in said
