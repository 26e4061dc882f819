"""A process that is told what to do by lines on standard input, and answers each by one."""

from __future__ import annotations

import subprocess


class Commanded:
    """The process; `error` says of what kind it is when it ends before its answer."""

    def __init__(self, process: subprocess.Popen[str], name: str, error: type[Exception]) -> None:
        self._process = process
        self._name = name
        self._error = error
        self.pid = process.pid

    def hear(self, answer: str, what: str) -> list[str]:
        """The words of the next line, behind the `answer` that it must begin with."""
        assert self._process.stdout is not None
        first, *words = self._process.stdout.readline().split() or [""]
        if first != answer:
            raise self._error(f"{self._name} ended at {what}")
        return words

    def say(self, line: str, answer: str) -> list[str]:
        """Say it; the words of the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self.hear(answer, repr(line))
