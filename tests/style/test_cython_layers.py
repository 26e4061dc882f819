"""Inside fastpath, cimports run downward; import-linter does not see them."""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from tests.style.cython_source import imports
from tests.style.sources import CYTHON, Finding, files, read, report

# From the top; a name is a folder or a module right under fastpath.
LAYERS = (
    {
        *("checking", "engine", "explain", "filter_tables", "forward_tables", "forwarding", "log"),
        *("option_tables", "snapshot", "totals", "trial"),
    },
    {"worker"},
    {"http", "packet", "proxy"},
    {"loop", "table_parts"},
    {"hashing", "memory"},
    {"outgoing"},
    {"rate"},
    {"abi", "address", "atomics", "ranges", "sys_linux"},
)
FOR_TESTS = ("_probe", "_fuzz")

Edges = dict[str, list[tuple[int, str, str]]]
"""By module: line and file of each cimport, and the module that it names."""


def edges(sources: dict[Path, str]) -> Edges:
    """Which module of fastpath needs which other; a .pyx and its .pxd are one."""
    modules = sorted({".".join(path.with_suffix("").parts) for path in sources})
    result: Edges = {module: [] for module in modules}
    for path, text in sources.items():
        module = ".".join(path.with_suffix("").parts)
        for each in imports(text):
            target = f"{each.module}.{each.name}"
            target = target if target in modules else each.module
            if target.startswith("fastpath.") and target != module:
                result[module].append((each.line, str(path), target))
    return result


def rank(module: str) -> int | None:
    """How far from the top; None when nobody has said where it belongs."""
    part = module.split(".")[1]
    return next((at for at, layer in enumerate(LAYERS) if part in layer), None)


def check(sources: dict[Path, str]) -> list[Finding]:
    """Imports that run upward, into a probe, or in a circle."""
    graph = edges(sources)
    findings = []
    for module, needed in graph.items():
        own = rank(module)
        is_probe = module.endswith(FOR_TESTS)
        if own is None and not is_probe:
            path = f"{module.replace('.', '/')}.pyx"
            findings.append(Finding(path, 1, f"{module} is in no layer of {Path(__file__).name}"))
            continue
        for line, path, target in needed:
            other = rank(target)
            if target.endswith(FOR_TESTS) and not is_probe:
                findings.append(Finding(path, line, f"{target} is for tests only"))
            elif own is not None and not is_probe and other is not None and other < own:
                findings.append(Finding(path, line, f"{target} is in a layer above {module}"))
    try:
        TopologicalSorter(
            {module: {target for _, _, target in needed} for module, needed in graph.items()}
        ).prepare()
    except CycleError as error:
        findings.append(Finding("fastpath", 1, f"a circle: {' -> '.join(error.args[1])}"))
    return findings


# `from package cimport module as name`: Cython, when it looks what to build again, does not know
# that this needs the module.
RENAMED = re.compile(r"^from (fastpath[\w.]*) cimport (\w+) as ", re.MULTILINE)


def renamed_modules(sources: dict[Path, str]) -> list[Finding]:
    """Modules under another name."""
    modules = {".".join(path.with_suffix("").parts) for path in sources}
    return [
        Finding(str(path), text.count("\n", 0, found.start()) + 1, f"{found[2]} by another name")
        for path, text in sources.items()
        for found in RENAMED.finditer(text)
        if f"{found[1]}.{found[2]}" in modules
    ]


def test_no_module_goes_by_another_name() -> None:
    report(renamed_modules({path: read(path) for path in files(*CYTHON)}))


def test_a_module_by_another_name_is_found() -> None:
    bad = {
        Path("fastpath/memory/slab.pxd"): "",
        Path("fastpath/a.pyx"): "from x cimport y\nfrom fastpath.memory cimport slab as c_slab\n",
        Path("fastpath/b.pyx"): "from fastpath.memory.slab cimport slab_put as put\n",
    }
    assert [(each.path, each.line) for each in renamed_modules(bad)] == [("fastpath/a.pyx", 2)]


def test_cimports_run_downward() -> None:
    sources = {path: read(path) for path in files(*CYTHON)}
    report(check(sources))


def test_what_runs_upward_is_found() -> None:
    bad = {
        Path("fastpath/memory/slab.pyx"): "x = 1\nfrom fastpath.engine cimport (\n    a,\n)\n",
        Path("fastpath/engine.pyx"): "from fastpath.memory cimport slab\n",
        Path("fastpath/http/path.pyx"): "cimport fastpath.hashing._probe\n",
        Path("fastpath/hashing/_fuzz.pyx"): "cimport fastpath.hashing._probe\n",
        Path("fastpath/hashing/_probe.pyx"): "from fastpath.hashing.maglev cimport b\n",
        Path("fastpath/hashing/maglev.pxd"): "cdef int b\n",
        Path("fastpath/other.pyx"): "",
    }
    assert sorted(str(finding) for finding in check(bad)) == [
        "fastpath/http/path.pyx:1: fastpath.hashing._probe is for tests only",
        "fastpath/memory/slab.pyx:2: fastpath.engine is in a layer above fastpath.memory.slab",
        "fastpath/other.pyx:1: fastpath.other is in no layer of test_cython_layers.py",
        "fastpath:1: a circle: fastpath.engine -> fastpath.memory.slab -> fastpath.engine",
    ]
