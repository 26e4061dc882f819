"""One TOML file a node: read, checked and turned into `piagent.core.model`.

    loaded = load("/etc/piagent/piagent.toml")      # Loaded(config, warnings) or ConfigError

The way of a value: `file` (bytes, TOML) -> `reader` with `schema` and `values` (tables) -> `checks`
(what the tables must be to each other) -> `build` (the model). Every problem goes to one
`problems.Report`, so one run names them all.
"""

from __future__ import annotations

from piagent.config.file import Loaded, load, parse
from piagent.config.problems import ConfigError, Problem

__all__ = ["ConfigError", "Loaded", "Problem", "load", "parse"]
