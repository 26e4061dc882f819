"""For pytest under a sanitizer: what the tests start in turn, see tests/sanitizers/watched.py."""

from __future__ import annotations

import os
import sys

import fastpath.engine
from tests.sanitizers.watched import SANITIZERS, folder

SANITIZER = SANITIZERS[os.environ["PIAGENT_SANITIZE"]]
if not str(fastpath.engine.__file__).startswith(str(folder(SANITIZER))):
    raise SystemExit(f"this is not the engine to watch: {fastpath.engine.__file__}")
# Only Python gets the sanitizer: curl, for one, hangs with it.
os.environ.pop("LD_PRELOAD", None)
sys.executable = str(folder(SANITIZER) / "python")
