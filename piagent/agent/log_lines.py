"""What ended -> a line of an access log (docs/reference/access-log.md)."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import msgspec

from piagent.core.entry import LogFormat
from piagent.core.model import host_port
from piagent.ports import ConnectionEnd, RequestEnd

_encode = msgspec.json.Encoder().encode


def connection_line(end: ConnectionEnd) -> bytes:
    """Write down a connection of a service."""
    said = {
        "time": _time(end.started),
        "service": end.service,
        "client": host_port(end.client, end.client_port),
        "address": host_port(end.address, end.port),
        "backend": end.backend,
        "connect_ms": _ms(end.connect_s),
        "duration_ms": _ms(end.duration_s),
        "bytes_in": end.bytes_in,
        "bytes_out": end.bytes_out,
        "end": end.end,
    }
    return _encode(said) + b"\n"


def request_line(end: RequestEnd, form: LogFormat) -> bytes:
    """Write down a request to a gateway. Nothing that a client sent begins a new line."""
    return _combined(end) if form is LogFormat.COMBINED else _json(end)


def _json(end: RequestEnd) -> bytes:
    said = {
        "time": _time(end.started),
        "gateway": end.gateway,
        "route": end.route,
        "service": end.service,
        "backend": end.backend,
        "client": end.client,
        "method": end.method,
        "host": _plain(end.host),
        "path": _plain(end.path),
        "version": end.version,
        "status": end.status or None,
        "bytes_in": end.bytes_in,
        "bytes_out": end.bytes_out,
        "head_ms": _ms(end.head_s),
        "queue_ms": _ms(end.queue_s),
        "connect_ms": _ms(end.connect_s),
        "response_ms": _ms(end.response_s),
        "duration_ms": _ms(end.duration_s),
        "retries": end.retries,
        "end": end.end,
        "request_id": end.id,
        "referer": _plain(_anonymous(end.referer)),
        "user_agent": _plain(end.agent),
    }
    return _encode(said) + b"\n"


def _combined(end: RequestEnd) -> bytes:
    started = datetime.fromtimestamp(end.started, UTC)
    time = f"{started.day:02}/{_MONTHS[started.month - 1]}/{started:%Y:%H:%M:%S} +0000"
    request = _quoted(f"{end.method} {end.path or '-'} {end.version}")
    line = (
        f"{end.client} - - [{time}] {request} {end.status or '-'} {end.bytes_out or '-'}"
        f" {_quoted(_anonymous(end.referer) or '-')} {_quoted(end.agent or '-')}\n"
    )
    return line.encode("ascii")


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ESCAPES = {
    **{code: f"\\x{code:02x}" for code in (*range(32), *range(127, 256))},
    ord("\t"): "\\t",
    ord('"'): '\\"',
    ord("\\"): "\\\\",
}
"""As Apache's mod_log_config escapes what clients send."""


_CREDENTIALS = re.compile(r"//[^/]*(?:@|\.\.\.$)")
"""Also when it was cut before their end."""


def _anonymous(url: str | None) -> str | None:
    """Without user and password."""
    return url if url is None else _CREDENTIALS.sub("//", url, count=1)


def _quoted(text: str) -> str:
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return f'"{text.translate(_ESCAPES)}"'


def _plain(text: str | None) -> str | None:
    """ASCII, for readers to whom other characters end a line; JSON escapes the others itself."""
    if text is None or (text.isascii() and "\x7f" not in text):
        return text
    return text.encode("ascii", "backslashreplace").decode("ascii").replace("\x7f", "\\x7f")


def _time(unix_s: float) -> str:
    time = datetime.fromtimestamp(unix_s, UTC)
    return time.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
