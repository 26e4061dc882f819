"""Seeds that once went wrong, in the core or in what the agent was thought to do."""

from __future__ import annotations

from msgspec import Struct


class Regression(Struct, frozen=True):
    """One history that has to stay sound."""

    house: str
    seed: int
    what: str
    """What went wrong, and what was changed."""


REGRESSIONS = (
    Regression(
        "same-ids",
        8,
        "stopped for 0.8 s between the clock and the call that opens the fence, the agent gave the "
        "kernel 0.8 s too much, while its lease still ran: after a slow call it tells it again",
    ),
    Regression(
        "sleepy",
        394,
        "killed with its guardian, started again, suspended: what the first life had left in the "
        "kernel answered after the sleep; a new life removes it before anything else",
    ),
    Regression(
        "sleepy",
        528,
        "an address whose removal had failed was there again after a suspend: it is removed at "
        "once when the host wakes up",
    ),
    Regression(
        "placed",
        320,
        "after a stall the broker published the wills of former connections behind the presence of "
        "the present one: a node that hears its own absence says again that it is there",
    ),
    Regression(
        "hold-three-brokers",
        498,
        "stopped while it held without a quorum, its kernel fell silent and another was right to "
        "take over; it must not go on when it runs again, though its lease has not run out",
    ),
    Regression(
        "five-brokers",
        100,
        "a yield waited for its turn at a slow broker; meanwhile the key was owned again and given "
        "up again, and it was said while the address was still there: a release takes it back",
    ),
    Regression(
        "twins",
        204,
        "stopped in the call that opens the fence and once more before the kernel was told again: "
        "a limit that no process can mend, so the simulation stops nobody there any more",
    ),
    Regression(
        "sleepy",
        626,
        "a lease ended 13 ms after its host woke up, and the address was removed slowly: the "
        "kernel's timers had stood still. Who has slept tells the kernel again what is left",
    ),
    Regression(
        "sleepy",
        1383,
        "as 626, and the simulated agent told its kernel again before that had woken up",
    ),
)
