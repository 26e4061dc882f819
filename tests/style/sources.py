"""What the style checks read: the project's own text files, and how a finding is reported."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (
    ".ci",
    "ansible",
    "benchmarks",
    "docs",
    "examples",
    "fastpath",
    "firmware-notes",
    "piagent",
    "tests",
)
CYTHON = (".pyx", ".pxd")
PYTHON = (".py", ".pyi")
CODE = (*CYTHON, *PYTHON, ".c", ".h", ".sh")
TEXT = (*CODE, ".cfg", ".j2", ".md", ".toml", ".yaml", ".yml")


class Finding(NamedTuple):
    """One thing that is not as it should be; prints as editors and CI like it."""

    path: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def files(*suffixes: str) -> list[Path]:
    """Every file of ours with one of the suffixes, by path from the root."""
    found = [path for path in ROOT.iterdir() if path.suffix in suffixes and path.is_file()]
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    return sorted(path.relative_to(ROOT) for path in found)


def read(path: Path) -> str:
    """The text of a file that `files` named."""
    return (ROOT / path).read_text(encoding="utf-8")


def report(findings: list[Finding]) -> None:
    """Fail with all of them, one a line."""
    assert not findings, "\n" + "\n".join(str(finding) for finding in sorted(findings))
