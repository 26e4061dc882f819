"""What is shipped: a wheel that runs, a source distribution that builds, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import PurePosixPath

import pytest

from tests import wheelhouse

pytestmark = pytest.mark.timeout(700)

FOR_TESTS = ("_probe", "_fuzz")  # as in setup.py


@pytest.fixture(scope="module")
def shipped() -> set[PurePosixPath]:
    try:
        wheels = wheelhouse.build()
    except wheelhouse.NoIndexError as error:
        pytest.skip(f"no package index: {error}")
    (wheel,) = wheels.glob("piagent-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {PurePosixPath(name) for name in archive.namelist()}


def test_the_wheel_holds_the_two_packages_and_its_own_metadata_only(
    shipped: set[PurePosixPath],
) -> None:
    tops = {path.parts[0] for path in shipped}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"piagent", "fastpath"}


def test_the_wheel_holds_no_sources_of_the_engine_and_no_probes(
    shipped: set[PurePosixPath],
) -> None:
    assert [path for path in shipped if path.suffix in {".c", ".pyx", ".h"}] == []
    compiled = [p for p in shipped if p.suffix == ".so"]
    assert [p for p in compiled if p.name.split(".")[0].endswith(FOR_TESTS)] == []


def test_every_module_of_the_tree_is_in_the_wheel(shipped: set[PurePosixPath]) -> None:
    root = wheelhouse.ROOT
    python = [p for folder in wheelhouse.FOLDERS for p in (root / folder).rglob("*.py")]
    missing = [p for p in python if PurePosixPath(p.relative_to(root)) not in shipped]
    engine = [p for p in (root / "fastpath").rglob("*.pyx") if not p.stem.endswith(FOR_TESTS)]
    compiled = {PurePosixPath(p.parent, p.name.split(".")[0]) for p in shipped if p.suffix == ".so"}
    missing += [
        p for p in engine if PurePosixPath(p.relative_to(root).with_suffix("")) not in compiled
    ]
    assert missing == []


def test_types_are_shipped_for_both_packages(shipped: set[PurePosixPath]) -> None:
    needed = {"piagent/py.typed", "fastpath/py.typed", "fastpath/engine.pyi"}
    assert {PurePosixPath(name) for name in needed} <= shipped


def test_the_source_distribution_holds_the_engines_sources_and_nothing_built() -> None:
    copy = wheelhouse.project_copy()
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", "sdist"],
        check=True, capture_output=True, cwd=copy, timeout=120,
    )  # fmt: skip
    (sdist,) = (copy / "sdist").iterdir()
    with tarfile.open(sdist) as archive:
        names = {PurePosixPath(*PurePosixPath(m.name).parts[1:]) for m in archive if m.isfile()}
    assert {PurePosixPath("setup.py"), PurePosixPath("LICENSE")} <= names
    sources = {
        PurePosixPath(p.relative_to(wheelhouse.ROOT))
        for p in (wheelhouse.ROOT / "fastpath").rglob("*.p*")
        if p.suffix in {".pyx", ".pxd", ".pyi"}
    }
    assert sources - names == set()
    assert [name for name in names if name.suffix in {".so", ".c", ".pyc"}] == []
