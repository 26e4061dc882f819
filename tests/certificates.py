"""Certificates for tests, made by the openssl program: an authority and what it signs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

PROGRAM = shutil.which("openssl")
WHY_NOT = None if PROGRAM else "openssl is not installed (apt install openssl)"


class Authority:
    """A certificate authority with its files in a folder of its own."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.ca_file = self.folder / "ca.pem"
        self._key = self.folder / "ca.key"
        _openssl(
            "req", "-x509", *_new_key(self._key), "-out", self.ca_file, "-days", "2",
            "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign",
        )  # fmt: skip

    def issue(self, name: str, alternatives: str = "", days: int = 2) -> tuple[Path, Path]:
        """Certificate and key for a name; `alternatives` like "IP:127.0.0.1,DNS:localhost"."""
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        request, extensions = self.folder / f"{name}.csr", self.folder / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternatives}\n" if alternatives else "")
        _openssl("req", *_new_key(key), "-out", request, "-subj", f"/CN={name}")
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.ca_file, "-CAkey", self._key,
            "-CAcreateserial", "-out", cert, "-days", str(days), "-extfile", extensions,
        )  # fmt: skip
        key.chmod(0o600)
        return cert, key


def with_passphrase(key: Path) -> Path:
    """The same key, encrypted."""
    locked = key.with_suffix(".locked")
    _openssl("pkcs8", "-topk8", "-in", key, "-out", locked, "-passout", "pass:secret")
    locked.chmod(0o600)
    return locked


def _new_key(file: Path) -> tuple[str | Path, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", file)


def _openssl(*arguments: str | Path) -> None:
    assert PROGRAM is not None
    command = [PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
