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
