"""The packet code's verdicts by name."""

from typing import Final

VERDICTS: Final = (
    "flow",
    "fragment",
    "icmp-error",
    "echo",
    "not-ip",
    "other-protocol",
    "icmp",
    "hidden",
    "truncated",
    "length",
    "checksum",
    "extensions",
    "source",
    "destination",
    "land",
    "routed",
    "overlap",
    "quote",
    "mtu",
)
"""What frames are, in the order of parse.pxd's PARSE_*."""

UNWRITTEN: Final = ("", "expired", "family", "size")
"""Why packets were not rewritten, in the order of rewrite.pxd's UNWRITTEN_*; the first were."""

FLOW_STATES: Final = (
    "aborted",
    "half-open",
    "unreplied",
    "closed",
    "done",
    "closing",
    "established",
    "stream",
)
"""What is known of flows, in the order of flow_states.pxd's FLOW_*."""

FLOW_ENDS: Final = (
    "expired",
    "evicted-new",
    "evicted-confirmed",
    "backend-down",
    "drained",
    "reselected",
    "refused",
    "stopped",
    "handed-over",
)
"""Why flows ended, in the order of flows.pxd's FLOW_*."""

FORWARDED: Final = (
    "sent",
    "passed",
    "held",
    "malformed",
    "source-not-allowed",
    "no-flow",
    "no-backend",
    "no-port",
    "draining",
    "too-big",
    "expired",
    "unwritten",
    "unsent",
    "lease-over",
)
"""What became of frames, in the order of outcomes.pxd's FORWARD_*."""

ADOPTED: Final = (
    "adopted",
    "malformed",
    "known",
    "no-service",
    "source-not-allowed",
    "no-backend",
    "no-port",
    "full",
)
"""What became of another node's flows, in the order of handover.pxd's ADOPT_*."""

UNSENT: Final = ("queue", "long", "down", "gone", "bad")
"""Why frames were not sent, in the order of transmit.pxd's UNSENT_*."""
