"""The filter compress: what a file may say, and what this machine has for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fastpath.http.encoders import SONAMES

from piagent.config.compress import LIBRARIES
from tests.config.conftest import Load, Problems
from tests.config.test_filters import filters, route

ALL = '{ compress = ["zstd", "br", "gzip"] }'
SONAME = {name: library for name, (library, _) in LIBRARIES.items()}
CHECK = """
import sys
from pathlib import Path
from piagent.config import parse
from piagent.config.host import Host
from fastpath.http.encoders import available
loaded = parse(Path(sys.argv[1]).read_bytes(), sys.argv[1], Host(name="a", interface="b", cpus=1))
print(available())
print(*loaded.warnings, sep="\\n")
"""


def test_codings_stay_in_their_order(load: Load) -> None:
    assert filters(load, '{ compress = ["br", "gzip"] }').compress == ("br", "gzip")
    assert filters(load, ALL).compress == ("zstd", "br", "gzip")


@pytest.mark.parametrize(
    ("text", "what", "cure"),
    [
        ("[]", "compress: ", "gzip"),
        ('"gzip"', "compress: ", ""),
        ('["deflate"]', "compress[0]: ", "one of zstd, br, gzip"),
        ('["gzip", "br", "gzip"]', "compress[2]: ", "once is enough"),
    ],
)
def test_what_cannot_be_is_refused(errors: Problems, text: str, what: str, cure: str) -> None:
    (problem,) = errors(route(f"{{ compress = {text} }}"))
    assert what in f"{problem.key}: {problem.what}"
    assert cure in f"{problem.what} {problem.cure}"
    assert problem.line is not None


def test_without_a_backend_there_is_nothing_to_compress(errors: Problems) -> None:
    (problem,) = errors(route(f'{ALL}, {{ rewrite = {{ path_full = "/x" }} }}', ""))
    assert "the route has no backend" in problem.what
    (problem,) = errors(route(f"{ALL}, {{ respond = {{}} }}", ""))
    assert "respond answers every request" in problem.what


def test_the_engine_loads_the_libraries_that_the_file_asks_for() -> None:
    assert {str(name): library for name, library in SONAME.items()} == SONAMES


@pytest.mark.parametrize("missing", [["br"], ["zstd", "br"], ["zstd", "br", "gzip"]])
def test_a_library_that_is_not_there_is_left_out_and_named(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, missing: list[str]
) -> None:
    broken = tmp_path_factory.mktemp("libraries")
    for name in missing:  # the loader does not go on to look elsewhere
        (broken / SONAME[name]).write_text("no library")  # type: ignore[index]
    (folder / "pi.toml").write_text(route(ALL))
    done = subprocess.run(
        [sys.executable, "-c", CHECK, folder / "pi.toml"],
        env={**os.environ, "LD_LIBRARY_PATH": str(broken)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    available, *warnings = done.stdout.splitlines()
    assert available == repr(tuple(name for name in ("gzip", "br", "zstd") if name not in missing))
    warnings = [line for line in warnings if "compress" in line]
    assert len(warnings) == len(missing) + (len(missing) == len(SONAME))
    for name in missing:
        library, package = LIBRARIES[name]  # type: ignore[index]
        (said,) = (line for line in warnings if f'"{name}"' in line)
        assert library in said
        assert f"apt install {package}" in said
    if len(missing) == len(SONAME):
        assert any("go out as they are" in line for line in warnings)
