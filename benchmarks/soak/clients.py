"""`python -m benchmarks.soak.clients ADDRESS PORT RATE NUMBER`: connections, until it is killed.

Prints `<done> <failed>` each second, and what failed on standard error.
"""

from __future__ import annotations

import random
import sys
import threading
import time

from benchmarks.soak.talk import ask

THREADS = 12
FAILURES_SHOWN = 5


class Clients:
    """Threads that each open one connection after the other."""

    def __init__(self, address: str, port: int, rate: float, number: int) -> None:
        """`rate`: connections a second in all. `number`: tells this process from others."""
        self._to = address, port
        self._pause_s = THREADS / rate
        self._number = number
        self.done = [0] * THREADS
        self.failed = 0

    def run(self, index: int) -> None:
        """One thread, for ever. It keeps to its times, so that what is slow is made up for."""
        chance = random.Random(f"{self._number}.{index}")
        due_s = time.monotonic() + self._pause_s * index / THREADS
        while True:
            time.sleep(max(0.0, due_s - time.monotonic()))
            due_s = max(due_s + self._pause_s, time.monotonic() - 1)
            source = f"127.4.{self._number}.{1 + self.done[index] % 8}"
            try:
                if not ask(*self._to, source, chance):
                    self._fail("bytes are missing or wrong")
            except OSError as error:
                self._fail(repr(error))
            self.done[index] += 1

    def _fail(self, what: str) -> None:
        self.failed += 1
        if self.failed <= FAILURES_SHOWN:
            print(f"{time.strftime('%X')} {what}", file=sys.stderr, flush=True)


def main() -> None:
    """See above."""
    address, port, rate, number = sys.argv[1:]
    clients = Clients(address, int(port), float(rate), int(number))
    for index in range(THREADS):
        threading.Thread(target=clients.run, args=(index,), daemon=True).start()
    while True:
        time.sleep(1)
        print(sum(clients.done), clients.failed, flush=True)


if __name__ == "__main__":
    main()
