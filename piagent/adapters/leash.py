"""What programs that the agent starts may not: outlive it, or have its rights."""

from __future__ import annotations

import os
import shutil
from functools import cache


@cache
def leash() -> tuple[str, ...]:
    """The command before the command (setpriv(1)): it dies with us, and has no right of ours.

    As root it stays root, since this interpreter may be where only root can read, but without a
    capability. Only root may empty the bounding set. Empty where there is no setpriv.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return ()
    drop = "--bounding-set=-all" if os.geteuid() == 0 else "--ambient-caps=-all"
    return (setpriv, drop, "--inh-caps=-all", "--no-new-privs", "--pdeathsig=KILL", "--")
