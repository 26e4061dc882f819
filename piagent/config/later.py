"""Keys that later versions bring; this version names them instead of guessing."""

from __future__ import annotations

from typing import Final

LATER_KEYS: Final[dict[str, dict[str, str]]] = {
    "gateway": {
        "certificates": "until then gateways speak plain HTTP",
        "default_backend": "until then a route without hosts and path takes the rest",
        "trusted_proxies": "until then nobody's X-Forwarded-* are believed",
        "encoded_slash": "until then it is kept",
        "merge_slashes": "until then slashes are merged",
        "underscore_headers": "until then they are dropped",
        "limits": "",
        "access_log": "",
        "access_log_format": "",
    },
    "gateway.listen": {"tls": "until then gateways speak plain HTTP", "hosts": ""},
    "route": {
        "filters": "",
    },
    "route.backends": {"filters": ""},
}
"""Table -> key -> what holds until then."""

LATER: Final = "comes in a later version"
