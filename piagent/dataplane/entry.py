"""What a gateway lets in, in the engine's form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastpath.options import Options

if TYPE_CHECKING:
    from piagent.core.entry import Entry


def engine_options(entry: Entry) -> Options:
    """The engine's form; its times are the gateway's own."""
    return Options(
        trusted=entry.trusted,
        underscores=entry.underscores.value,
        head_size=entry.head_size,
        fields=entry.fields,
        target_size=entry.target_size,
        body_size=entry.body_size,
        connections=entry.connections,
        connections_per_source=entry.connections_per_source,
        logs=entry.access_log is not None,
    )
