"""A program: translate Cython sources to C as setup.py does, with warnings on and taken as errors.

`translate.py SETUP FOLDER SOURCE...` writes FOLDER/<source>.c; what is there and newer is kept. It
is a program of its own because Cython's options belong to the whole process.
"""

from __future__ import annotations

import ast
import os
import sys
from pathlib import Path
from typing import Any

from Cython.Build import cythonize
from Cython.Compiler import Options
from Cython.Compiler.Errors import CompileError
from setuptools import Extension

WARNINGS = {
    "warn.deprecated.DEF": True,
    "warn.deprecated.IF": True,
    "warn.maybe_uninitialized": True,
    "warn.multiple_declarators": True,
    "warn.unreachable": True,
}


def constant(setup: Path, name: str) -> Any:
    """What setup.py calls so; it cannot be imported without building."""
    for node in ast.parse(setup.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise SystemExit(f"{setup}: no {name}")


def stale(folder: Path, setup: Path) -> bool:
    """Whether there is C that was made before setup.py changed."""
    made = [path.stat().st_mtime for path in folder.rglob("*.c")]
    return bool(made) and min(made) < max(setup.stat().st_mtime, Path(__file__).stat().st_mtime)


def main(setup: str, folder: str, *sources: str) -> None:
    """Translate; a message and exit code 1 when Cython has anything to say."""
    Options.warning_errors = True
    try:
        cythonize(
            [Extension(".".join(Path(each).with_suffix("").parts), [each]) for each in sources],
            build_dir=folder,
            compiler_directives=constant(Path(setup), "DIRECTIVES") | WARNINGS,
            force=stale(Path(folder), Path(setup)),
            nthreads=os.cpu_count() or 1,
            quiet=True,
        )
    except CompileError:
        sys.exit(1)  # Cython has said why


if __name__ == "__main__":
    main(*sys.argv[1:])
