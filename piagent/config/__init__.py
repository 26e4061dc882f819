"""One TOML file a node: read, checked and turned into `piagent.core.model`."""
