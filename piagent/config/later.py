"""Keys that later versions bring; this version names them instead of guessing."""

from __future__ import annotations

from typing import Final

LATER_KEYS: Final[dict[str, dict[str, str]]] = {
    "gateway": {"certificates": "until then gateways speak plain HTTP"},
    "gateway.listen": {"tls": "until then gateways speak plain HTTP"},
}
"""Table -> key -> what holds until then."""

LATER: Final = "comes in a later version"
