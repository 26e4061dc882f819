"""The HTTP gateway beside its peers and the least that a relay can do: `make bench-http`."""
