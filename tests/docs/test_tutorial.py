"""What the tutorial tells people to write is a file that `piagent check` accepts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from piagent.config import load

yaml = pytest.importorskip("yaml", reason="ansible is not installed")

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "ansible/inventory/example/group_vars/all.yml"
TABLES = {"pool": "pools", "service": "services", "gateway": "gateways", "route": "routes"}


def toml(value: Any) -> str:
    """Write a value inline; enough for what people write by hand."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


@pytest.mark.parametrize("page", ["example", "tutorial"])
def test_the_variables_make_a_valid_file(page: str, tmp_path: Path) -> None:
    said = yaml.safe_load(EXAMPLE.read_text())
    if page == "tutorial":
        text = (ROOT / "docs/tutorial/first-cluster.md").read_text()
        blocks = re.findall(r"```yaml\n(.+?)```", text, flags=re.DOTALL)
        said = {"piagent_brokers": said["piagent_brokers"], **yaml.safe_load("".join(blocks))}
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef0123456789abcdef")
    secret.chmod(0o600)
    mqtt = {"brokers": said["piagent_brokers"], **said.get("piagent_mqtt", {})}
    file = tmp_path / "piagent.toml"
    lines = ['node = { name = "pi-1", interface = "lo" }', f"mqtt = {toml(mqtt)}"]
    lines += [f"cluster = {toml({'secret_file': str(secret)})}"]
    lines += [f"{key} = {toml(said.get(f'piagent_{name}', []))}" for key, name in TABLES.items()]
    file.write_text("\n".join(lines))
    loaded = load(file)
    assert [service.name for service in loaded.config.services]
    assert list(loaded.warnings) == []
