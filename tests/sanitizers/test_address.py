"""AddressSanitizer and UndefinedBehaviorSanitizer on the engine; all of its tests: `make asan`."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.sanitizers.watched import (
    ROOT,
    SANITIZERS,
    build,
    environment,
    findings,
    forget,
    interpreter,
    run_pytest,
    why_not,
)

ADDRESS = SANITIZERS["address"]
SHORT = (
    "tests/fuzz/test_structures.py::test_a_structure_does_what_its_model_does",
    "tests/fastpath/memory",
    "tests/fastpath/test_engine.py",
    "tests/fastpath/test_storm.py",
)
pytestmark = pytest.mark.timeout(900)  # everything may have to be built first


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    if reason := why_not(ADDRESS):
        pytest.skip(reason)
    build(ADDRESS)


def found_in(program: str) -> str:
    """What is found when Python runs a program over the probes."""
    forget(ADDRESS)
    command = [str(interpreter(ADDRESS)), "-c", f"import fastpath.memory._probe as p\n{program}"]
    subprocess.run(command, cwd=ROOT, env=environment(ADDRESS), capture_output=True, check=False)
    return findings(ADDRESS)


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert found_in("s = p.Slab(4, 64); s.put(s.get()); s.put(s.get())") == ""


@pytest.mark.parametrize(
    ("what", "program"),
    [
        ("an object given back twice", "s = p.Slab(4, 64); s.put(s.get()); s.put(0)"),
        ("one read after it was given back", "s = p.Slab(4, 64); s.put(s.get()); s.peek(0, 8)"),
        ("a byte behind an object", "s = p.Slab(4, 64); s.get(); s.get(); s.peek(0, 64)"),
    ],
    ids=lambda value: value if " = " not in value else "",
)
def test_misuse_of_a_slab_is_found(what: str, program: str) -> None:
    assert "use-after-poison" in found_in(program), what


def test_nothing_is_found_in_the_engine() -> None:
    forget(ADDRESS)
    code = run_pytest(ADDRESS, ["-q", *SHORT])
    assert not findings(ADDRESS), findings(ADDRESS)
    assert code == os.EX_OK
