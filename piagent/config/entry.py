"""What a gateway lets in: the table of its limits, and the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct

from piagent.config.filter_values import BodySize, size
from piagent.config.key_files import STDOUT, log_path
from piagent.config.problems import elements, unique
from piagent.config.values import Connections, Leaf, PositiveDuration, UnfitError
from piagent.core.entry import Entry, LogFormat, Underscores

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from piagent.config.lines import KeyPath
    from piagent.config.problems import Report
    from piagent.config.schema import Gateway

HEAD_SIZE_MAX: Final = 16384
TARGET_SIZE_MAX: Final = 8192
FIELDS_MAX: Final = 100


def _up_to(most: int, shown: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        found = size(text)
        if found > most:
            raise UnfitError(f'"{text}" is more than {shown}, which there is room for')
        return found

    return read


def _size(most: int, shown: str) -> Leaf:
    return Leaf(
        source=str,
        wants=f"a size of at most {shown}",
        example=f'"{shown}"',
        read=_up_to(most, shown),
        blank=0,
    )


HeaderSize = Annotated[int, _size(HEAD_SIZE_MAX, "16KiB")]
TargetSize = Annotated[int, _size(TARGET_SIZE_MAX, "8KiB")]
HeaderCount = Annotated[
    int,
    Leaf(
        source=Annotated[int, Meta(ge=1, le=FIELDS_MAX)],
        wants=f"a number of header fields, 1 to {FIELDS_MAX}",
        example=str(FIELDS_MAX),
        blank=0,
    ),
]
UnderscoreHeaders = Annotated[
    Underscores,
    Leaf(source=Underscores, wants="one of drop, keep, reject", example='"drop"'),
]


AccessLogFormat = Annotated[
    LogFormat,
    Leaf(source=LogFormat, wants="one of json, combined", example='"json"'),
]


class GatewayLimits(Struct, frozen=True, kw_only=True):
    """How much a gateway takes."""

    header_size: HeaderSize = HEAD_SIZE_MAX
    header_count: HeaderCount = FIELDS_MAX
    target_size: TargetSize = TARGET_SIZE_MAX
    body_size: BodySize | None = None
    connections: Connections | None = None
    connections_per_source: Connections | None = None
    header_time: PositiveDuration = 10_000
    idle_time: PositiveDuration = 75_000


def check_entry(gateway: Gateway, path: KeyPath, report: Report) -> None:
    """Check what one gateway lets in."""
    unique(report, elements((*path, "trusted_proxies"), gateway.trusted_proxies), "once is enough")
    limits = gateway.limits
    if gateway.access_log is None and gateway.access_log_format is not LogFormat.JSON:
        what = "a format, and no access_log that it would count for"
        report.warn((*path, "access_log_format"), what, 'access_log = "-"')
    if limits.connections and (limits.connections_per_source or 0) > limits.connections:
        what = f"one client would have more than the {limits.connections} of all together"
        report.warn((*path, "limits", "connections_per_source"), what, "a lower one")


def check_applied_entry(gateway: Gateway, path: KeyPath, report: Report) -> None:
    """Check that what is applied, which counts on every node, takes nothing that is a node's."""
    if gateway.access_log not in {None, "", STDOUT}:
        what = "who may apply gateways may not write to files of every node"
        report.error((*path, "access_log"), what, 'write "-", or keep it in the nodes\' files')


def build_entry(gateway: Gateway, folder: Path | None) -> Entry:
    """What a gateway without problems lets in; `folder`: what the log's path is relative to."""
    limits = gateway.limits
    return Entry(
        trusted=gateway.trusted_proxies,
        underscores=gateway.underscore_headers,
        head_size=limits.header_size,
        fields=limits.header_count,
        target_size=limits.target_size,
        body_size=limits.body_size or 0,
        connections=limits.connections or 0,
        connections_per_source=limits.connections_per_source or 0,
        header_ms=limits.header_time,
        idle_ms=limits.idle_time,
        access_log=log_path(gateway.access_log, folder),
        log_format=gateway.access_log_format,
    )
