"""The collection holds to ansible-lint's strictest profile and documents every variable."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml", reason="ansible is not installed")

COLLECTION = Path(__file__).parents[2] / "ansible"
ROLE = COLLECTION / "roles/piagent"


@pytest.mark.timeout(200)
def test_ansible_lint_finds_nothing_in_the_production_profile(tmp_path: Path) -> None:
    beside = Path(sys.executable).parent
    path = f"{beside}{os.pathsep}{os.environ['PATH']}"
    if shutil.which("ansible-lint", path=path) is None:
        pytest.skip("ansible-lint is not installed")
    # A copy: ansible-lint keeps a cache beside what it reads.
    ignored = shutil.ignore_patterns("wheelhouse", ".ansible")
    copy = shutil.copytree(COLLECTION, tmp_path / "ansible", ignore=ignored)
    own = {"HOME": str(tmp_path), "ANSIBLE_HOME": str(tmp_path / "home"), "PATH": path}
    lint = subprocess.run(
        ["ansible-lint", "--offline", "--nocolor", "--profile", "production"],
        cwd=copy, env=os.environ | own, check=False, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert lint.returncode == 0, lint.stdout + lint.stderr


def options() -> dict[str, dict[str, object]]:
    specs = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())
    return specs["argument_specs"]["main"]["options"]


def test_every_variable_has_either_a_default_or_is_required() -> None:
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    required = {name for name, option in options().items() if option.get("required")}
    assert set(defaults) & required == set()
    assert set(defaults) | required == set(options())


def test_the_example_sets_every_required_variable_and_no_unknown_one() -> None:
    example = yaml.safe_load((COLLECTION / "inventory/example/group_vars/all.yml").read_text())
    required = {name for name, option in options().items() if option.get("required")}
    assert required <= set(example)
    assert set(example) <= set(options())
