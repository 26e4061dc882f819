"""For pytest on arm64: it is what it says, and what the tests start in turn is, too."""

from __future__ import annotations

import platform
import sys

import fastpath.engine
from tests.arm64.emulated import HERE

if platform.machine() != "aarch64" or not str(fastpath.engine.__file__).startswith(str(HERE)):
    raise SystemExit(f"this is not arm64: {platform.machine()}, {fastpath.engine.__file__}")
sys.executable = str(HERE / "python")
