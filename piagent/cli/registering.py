"""The work of `piagent endpoint register`: say it again and again, and take it back at the end."""

from __future__ import annotations

import json
import signal
from typing import Final

from piagent.admin.client import TIMEOUT_S, AskError, Where, ask
from piagent.admin.status import Done, EndpointStatus, RegisterEndpoint, RemoveEndpoint
from piagent.cli.output import Failure, say, warn
from piagent.core.text import printable

RENEWALS: Final = 3
"""Within a ttl: two may be lost."""
RETRY_S: Final = 1.0
"""A restarted agent knows nothing of who registered itself with the one before."""
_STOP: Final = (signal.SIGINT, signal.SIGTERM)
_NO_ANSWER: Final = 0
_NOT_DONE: Final = 409
_FAULT: Final = 500


class Registration:
    """One endpoint, registered until SIGINT or SIGTERM."""

    def __init__(self, where: Where, asked: RegisterEndpoint, *, json: bool) -> None:
        """`json`: print the answer as it is."""
        self._where = where
        self._asked = asked
        self._json = json
        self._registered: EndpointStatus | None = None  # the last answer
        self._trouble = False  # since then

    def run(self) -> int:
        """Register, renew and remove; Failure when the agent refuses."""
        # Both wait until they are asked for, so none can come between two steps.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
        pause_s = self._asked.ttl_ms / 1000 / RENEWALS
        try:
            while True:
                self._renew(min(TIMEOUT_S, pause_s))
                wait_s = min(RETRY_S, pause_s) if self._trouble else pause_s
                if signal.sigtimedwait(_STOP, wait_s) is not None:
                    self._remove()
                    return 0
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _renew(self, timeout_s: float) -> None:
        try:
            said = ask(
                self._where,
                "/api/v1/endpoints/register",
                EndpointStatus,
                self._asked,
                timeout_s=timeout_s,
            )
        except AskError as error:
            if not self._may_pass(error):
                raise Failure(printable(str(error))) from None
            if not self._trouble:
                warn(f"{error}; trying on")
            self._trouble = True
            return
        if self._trouble or self._registered != said:
            self._say(said)
        self._registered, self._trouble = said, False

    def _may_pass(self, error: AskError) -> bool:
        """Whether it may be otherwise in a while.

        An agent that was just restarted may not know yet what is applied.
        """
        known = self._registered is not None
        return (
            error.status == _NO_ANSWER
            or error.status >= _FAULT
            or (known and error.status == _NOT_DONE)
        )

    def _say(self, said: EndpointStatus) -> None:
        again = " again" if self._registered == said else ""
        if self._json:
            line = json.dumps({"node": said.node, "service": said.service, "address": said.address})
        else:
            line = f"{said.address} is registered{again} for {said.service}, at {said.node}"
        say(line)

    def _remove(self) -> None:
        """Take it back; what cannot be taken back ends by itself."""
        if self._registered is None:
            return
        address, _, port = self._registered.address.rpartition(":")
        gone = RemoveEndpoint(self._asked.service, int(port), address.strip("[]"))
        try:
            ask(self._where, "/api/v1/endpoints/remove", Done, gone, timeout_s=TIMEOUT_S)
        except AskError as error:
            if not self._trouble:
                warn(f"{error}; it ends by itself in {self._asked.ttl_ms / 1000:g} s")
