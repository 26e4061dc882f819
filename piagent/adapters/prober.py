"""Health checks of every kind."""

from __future__ import annotations

from collections.abc import Callable

from piagent.adapters.probe import NetworkProber
from piagent.adapters.programs import ProgramProber
from piagent.core.checking import Question
from piagent.core.model import HealthKind
from piagent.ports import ProbeResult


class KindProber:
    """`ports.Prober`: each check by who knows its kind."""

    def __init__(self) -> None:
        self._network = NetworkProber()
        self._programs = ProgramProber()

    def ask(self, question: Question, answered: Callable[[ProbeResult], None]) -> None:
        """Begin a check."""
        by_program = question.check.kind is HealthKind.EXEC
        (self._programs if by_program else self._network).ask(question, answered)

    def close(self) -> None:
        """End all that is under way."""
        self._network.close()
        self._programs.close()
