"""Published input and output facts, kept beside the project: some may not be copied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "vectors"


def load_vectors(name: str) -> Any:
    """The content of one JSON file; skips the test when the file is not there."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip(f"no test vectors at {path}")
    return json.loads(path.read_text())
