"""The packet forwarder beside nftables and plain routing: `make bench-forward`."""
