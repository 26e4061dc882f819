"""piagent beside its peers on this machine, in one run: `make bench`."""
