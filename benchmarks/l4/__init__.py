"""The L4 proxy beside HAProxy, nginx and the least that a relay can do: `make bench-l4`."""
