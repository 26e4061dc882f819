"""Text from strangers, made fit for a terminal or a line of a log."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""The text with everything that does not print escaped, as \x1b, \u202e or \U000e0001.

    Control characters, line and paragraph separators, marks that turn the direction of writing:
    none of them can begin a new line, hide what stands there or command a terminal.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
