"""The filter compress: what it needs of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from piagent.config.filter_values import Encoding
from piagent.config.host import has_library
from piagent.config.problems import elements, unique

if TYPE_CHECKING:
    from piagent.config.lines import KeyPath
    from piagent.config.problems import Report

LIBRARIES: Final = {
    Encoding.ZSTD: ("libzstd.so.1", "libzstd1"),
    Encoding.BR: ("libbrotlienc.so.1", "libbrotli1"),
    Encoding.GZIP: ("libz.so.1", "zlib1g"),
}
"""What each needs, as the engine loads it (fastpath.http.encoders), and whose it is in Debian."""


def check_compress(value: tuple[Encoding, ...], place: KeyPath, report: Report) -> None:
    """Check the filter of one route."""
    unique(report, elements(place, value), "once is enough")
    found = 0
    for i, name in enumerate(value):
        if not name:
            continue
        library, package = LIBRARIES[name]
        if has_library(library):
            found += 1
        else:
            what = f'"{name}" needs {library}, which this machine does not have; it is left out'
            report.warn((*place, i), what, f"apt install {package}, then restart the agent")
    if not found and not report.has_errors_in(place):
        what = "none of these can be here, so responses go out as they are"
        report.warn(place, what, "install one of the libraries")
