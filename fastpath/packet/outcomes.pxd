"""How the way of a frame through the forwarder ends."""

# What became of a frame; names in verdicts.py.
cdef enum:
    FORWARD_SENT = 0
    FORWARD_PASSED = 1          # for the kernel's stack: not a packet, or no service
    FORWARD_HELD = 2            # a fragment that waits for the first one
    FORWARD_MALFORMED = 3       # see forwarder_t.parsed
    FORWARD_SOURCE = 4          # `allowed_sources` does not have the client, or it is a VIP
    FORWARD_NO_FLOW = 5         # nat: part of nothing that is known
    FORWARD_NO_BACKEND = 6      # none is usable, and reachable from here
    FORWARD_NO_PORT = 7         # nat: no port of ours is left
    FORWARD_DRAINING = 8        # a new flow for a VIP that is about to move
    FORWARD_TOO_BIG = 9         # for the way; the sender was told, or will be: see _narrow
    FORWARD_EXPIRED = 10        # its TTL; likewise
    FORWARD_UNWRITTEN = 11      # it cannot be written as the flow wants it
    FORWARD_UNSENT = 12         # nothing takes it: see transmit_t.dropped for the rest
    FORWARD_SILENT = 13         # nat: the lease on the VIP is over
    FORWARD_COUNT = 14
