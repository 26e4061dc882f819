"""The commands of docs/how-to/rotate-the-secret.md do what they are said to do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from piagent.agent.reload import rotates
from piagent.config.key_files import read_secrets
from piagent.config.problems import Report

PAGE = Path("docs/how-to/rotate-the-secret.md").read_text()
STEPS = re.findall(r"^    sudo sh -c '(.+)'$", PAGE, re.MULTILINE)
OLD, NEW = b"0" * 64, b"1" * 64


def secrets(folder: Path) -> tuple[bytes, ...]:
    report = Report("pi.toml", "")
    found = read_secrets("cluster.secret", folder, ("cluster", "secret_file"), report)
    assert report.warnings() == ()
    return found


@pytest.mark.parametrize("end", [b"\n", b""])
def test_each_step_is_one_that_a_reload_takes(tmp_path: Path, end: bytes) -> None:
    (tmp_path / "cluster.secret").write_bytes(OLD + end)
    (tmp_path / "cluster.secret").chmod(0o640)
    (tmp_path / "new.secret").write_bytes(NEW + b"\n")
    seen = [secrets(tmp_path)]
    for step in STEPS:
        subprocess.run(["sh", "-c", step], cwd=tmp_path, check=True)
        seen.append(secrets(tmp_path))
        assert rotates(seen[-2], seen[-1])
    assert seen == [(OLD,), (OLD, NEW), (NEW, OLD), (NEW,)]
    assert [file.name for file in tmp_path.iterdir()] == ["cluster.secret"]
    assert (tmp_path / "cluster.secret").stat().st_mode & 0o777 == 0o640
