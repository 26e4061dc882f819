"""Builds the Cython engine; everything else about the package is in pyproject.toml."""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("PIAGENT_DEBUG") == "1"
PROBE = os.environ.get("PIAGENT_PROBE") == "1"
FOR_TESTS = ("_probe", "_fuzz")  # how the names of modules end that are for tests only
# Where Python objects are at home: off the fast path. Optimised less they are compiled in half the
# time, which on a Pi is minutes.
WITH_PYTHON = (
    "checking", "engine", "explain", "filter_tables", "flow_cache", "forward_tables", "forwarding",
    "log", "option_tables", "route_index", "route_tables", "snapshot", "table_parts", "totals",
    "trial",
)  # fmt: skip
# "address" or "thread": an engine that watches itself, in build/<name>/lib, never in place.
SANITIZE = os.environ.get("PIAGENT_SANITIZE", "")

# A compiler takes up to 200 MiB; a Pi Zero 2 W has four cores and 512 MiB.
MEMORY_MIB = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
JOBS = max(1, min(os.cpu_count() or 1, MEMORY_MIB // 300))

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": True,
    "binding": True,
    "auto_pickle": False,
}

# -fsigned-char: plain char is unsigned on ARM; the same code must mean the same everywhere.
FLAGS = ["-fsigned-char", "-fvisibility=hidden", "-fno-semantic-interposition", "-Wall"]
SANITIZERS = {
    "": [],
    "address": [
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        "-fno-omit-frame-pointer",
    ],
    "thread": ["-fsanitize=thread", "-fno-omit-frame-pointer"],
}
if SANITIZE not in SANITIZERS:
    raise SystemExit(f"PIAGENT_SANITIZE={SANITIZE}: address or thread")
if SANITIZE and "--inplace" in sys.argv:
    raise SystemExit("PIAGENT_SANITIZE: setup.py build, without --inplace")


def optimised(module: str) -> list[str]:
    """How the C of a module is compiled."""
    is_slow = module in WITH_PYTHON or module.endswith("_probe")
    if SANITIZE:  # what GCC adds to Cython's Python takes it half a minute a module to optimise
        return ["-O0" if is_slow else "-O1", "-g1", "-DFP_DEBUG"]
    if DEBUG:
        return ["-O1", "-g3", "-DFP_DEBUG"]
    return ["-O1" if is_slow or module.endswith("_fuzz") else "-O3", "-g"]


def extensions() -> list[Extension]:
    """One extension a .pyx file, named by its path; some only for the tests."""
    return [
        Extension(
            ".".join(source.with_suffix("").parts),
            [str(source)],
            include_dirs=[str(source.parent)],  # for headers beside it
            extra_compile_args=FLAGS + optimised(source.stem) + SANITIZERS[SANITIZE],
            extra_link_args=SANITIZERS[SANITIZE],
        )
        for source in sorted(Path("fastpath").rglob("*.pyx"))
        if PROBE or not source.stem.endswith(FOR_TESTS)
    ]


def forget_others(modules: list[Extension]) -> None:
    """A wheel takes all that build/lib* holds; so only what is built now may be there."""
    names = {module.name for module in modules}
    for built in Path("build").glob("lib*"):
        for library in built.rglob("*.so"):
            module = library.relative_to(built).as_posix().split(".")[0].replace("/", ".")
            if module not in names:
                library.unlink()


OPTIONS: dict[str, dict[str, object]] = {"build_ext": {"parallel": JOBS}}
if SANITIZE:
    folder = f"build/{SANITIZE}"
    OPTIONS["build"] = {"build_lib": f"{folder}/lib", "build_temp": f"{folder}/temp"}

MODULES = extensions()
forget_others(MODULES)
setup(
    ext_modules=cythonize(
        MODULES,
        compiler_directives=DIRECTIVES,
        build_dir="build/cython",
        annotate=bool(os.environ.get("PIAGENT_ANNOTATE")),
        nthreads=JOBS,
    ),
    options=OPTIONS,
)
