"""The PEM files for TLS to the brokers: there, readable, and made for each other.

A broker's certificate is checked when it shows it, not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from piagent.config import key_files

if TYPE_CHECKING:
    from pathlib import Path

    from piagent.config.problems import Report
    from piagent.config.schema import Mqtt

PEM_SIZE_MAX: Final = 4 * 1024 * 1024
KEYS: Final = ("ca_file", "cert_file", "key_file")


def check_files(mqtt: Mqtt, folder: Path, report: Report) -> dict[str, str | None]:
    """Return the files' paths, by key; whatever is wrong with their content is reported."""
    paths: dict[str, str | None] = dict.fromkeys(KEYS)
    readable = set()
    for key in KEYS:
        name = getattr(mqtt, key)
        if not name:
            continue
        file = key_files.resolve(name, folder)
        paths[key] = str(file)
        place, private = ("mqtt", key), key == "key_file"
        if key_files.read(file, place, report, size_max=PEM_SIZE_MAX, private=private) is not None:
            readable.add(key)
    for key in ("ca_file", "cert_file"):
        if key in readable and not _has_certificate(paths[key]):
            readable.remove(key)
            what = f"{paths[key]} holds no certificate in PEM"
            report.error(("mqtt", key), what, "a file with -----BEGIN CERTIFICATE----- in it")
    if {"cert_file", "key_file"} <= readable:
        _check_pair(str(paths["cert_file"]), str(paths["key_file"]), report)
    return paths


def _has_certificate(file: str | None) -> bool:
    import ssl  # a few MiB, and most files need none of it

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except OSError:  # SSLError is one
        return False
    return True


def _check_pair(cert: str, key: str, report: Report) -> None:
    import ssl

    try:
        # Without `password` it would ask for one on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            what, cure = f"{key} is not the key of {cert}", "name the two that belong together"
        else:
            what = f"{key} holds no private key in PEM that can be used without a passphrase"
            cure = "a file with -----BEGIN PRIVATE KEY----- in it"
        report.error(("mqtt", "key_file"), what, cure)
