"""Builds the Cython engine; everything else about the package is in pyproject.toml."""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("PIAGENT_DEBUG") == "1"
PROBE = os.environ.get("PIAGENT_PROBE") == "1"

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
FLAGS += ["-O1", "-g3", "-DFP_DEBUG"] if DEBUG else ["-O3", "-g"]


def extensions() -> list[Extension]:
    """One extension a .pyx file, named by its path; `_probe.pyx` files only for the tests."""
    return [
        Extension(
            ".".join(source.with_suffix("").parts),
            [str(source)],
            extra_compile_args=FLAGS,
        )
        for source in sorted(Path("fastpath").rglob("*.pyx"))
        if PROBE or source.stem != "_probe"
    ]


def forget_others(modules: list[Extension]) -> None:
    """A wheel takes all that build/lib* holds; so only what is built now may be there."""
    names = {module.name for module in modules}
    for built in Path("build").glob("lib*"):
        for library in built.rglob("*.so"):
            module = library.relative_to(built).as_posix().split(".")[0].replace("/", ".")
            if module not in names:
                library.unlink()


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
    options={"build_ext": {"parallel": JOBS}},
)
