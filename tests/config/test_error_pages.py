"""The filter error_pages: what a file may say, and the files that it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from piagent.config.applied import parse_applied
from piagent.config.problems import ConfigError
from piagent.core.filters import ErrorPage
from tests.config.conftest import Load, Problems
from tests.config.test_filters import filters, route


def test_pages_are_read_with_the_file(load: Load, folder: Path) -> None:
    (folder / "pages").mkdir()
    (folder / "pages" / "busy.html").write_text("<h1>Busy</h1>")
    (folder / "x.json").write_bytes(b"{}")
    text = '{ error_pages = { 503 = "pages/busy.html", "4xx" = "x.json" } }'
    assert filters(load, text).error_pages == (
        ErrorPage(
            first=503, last=503, body=b"<h1>Busy</h1>", content_type="text/html; charset=utf-8"
        ),
        ErrorPage(first=400, last=499, body=b"{}", content_type="application/json"),
    )


@pytest.mark.parametrize(
    ("text", "what", "cure"),
    [
        ("", "error_pages: names no page", 'error_pages = { 503 = "busy.html" }'),
        ("399 = 'a.html'", '"399" is neither a status', ""),
        ("'6xx' = 'a.html'", '"6xx" is neither a status', ""),
        ("'50x' = 'a.html'", '"50x" is neither a status', ""),
        ("503 = 'a.php'", 'error_pages.503: "a.php" does not say what it is', ".html, .json, .txt"),
        ("503 = 'gone.html'", "error_pages.503: cannot read", "write it, or name the one"),
        ("503 = 'large.html'", "is not a file of at most 16384 bytes", "name another one"),
        ("503 = 'folder.html'", "is not a file of at most", "name another one"),
        ("503 = ''", "an empty path", ""),
    ],
)  # fmt: skip
def test_a_page_that_cannot_be_says_why(
    errors: Problems, folder: Path, text: str, what: str, cure: str
) -> None:
    (folder / "large.html").write_bytes(b"x" * 16385)
    (folder / "folder.html").mkdir()
    (problem,) = errors(route(f"{{ error_pages = {{ {text} }} }}"))
    assert what in f"{problem.key}: {problem.what}"
    assert cure in problem.cure
    assert problem.line is not None


def test_a_route_that_answers_has_pages_for_those_who_may_not_ask(load: Load, folder: Path) -> None:
    (folder / "no.txt").write_text("no")
    text = (
        '{ deny_sources = ["192.0.2.1"] }, { respond = {} }, { error_pages = { 403 = "no.txt" } }'
    )
    assert len(filters(load, text, "").error_pages) == 1


def test_what_is_applied_names_no_files_of_a_node() -> None:
    text = """
    [[route]]
    name = "r"
    gateway = "g"
    filters = [{ error_pages = { 503 = "a.html" } }]
    """
    with pytest.raises(ConfigError) as error:
        parse_applied(text.encode(), "a.toml")
    (problem,) = error.value.errors
    assert "those of one node" in problem.what
