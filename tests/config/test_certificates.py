"""The PEM files for TLS to the brokers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import certificates
from tests.certificates import Authority, with_passphrase
from tests.config.conftest import Load, Problems

pytestmark = pytest.mark.skipif(certificates.WHY_NOT is not None, reason=str(certificates.WHY_NOT))
BASE = """
[cluster]
secret_file = "cluster.secret"
[[service]]
name = "dns"
type = "load-balancer"
address = "127.0.0.9"
ports = [{ port = 53 }]
backends = ["192.0.2.21"]
[mqtt]
brokers = ["mqtts://192.0.2.1"]
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("pki"))
    made.issue("pi-1")
    made.issue("pi-2")
    return made


def text(**files: Path | str) -> str:
    return BASE + "".join(f'{key} = "{file}"\n' for key, file in files.items())


def test_files_that_belong_together_are_taken(load: Load, authority: Authority) -> None:
    cert, key = authority.folder / "pi-1.pem", authority.folder / "pi-1.key"
    loaded = load(text(ca_file=authority.ca_file, cert_file=cert, key_file=key))
    assert loaded.warnings == ()
    mqtt = loaded.config.mqtt
    files = (mqtt.ca_file, mqtt.cert_file, mqtt.key_file)
    assert files == tuple(map(str, (authority.ca_file, cert, key)))


def test_tls_by_the_hosts_authorities_needs_no_file(load: Load) -> None:
    loaded = load(BASE)
    assert loaded.warnings == ()
    assert loaded.config.mqtt.brokers[0].tls
    assert loaded.config.mqtt.ca_file is None


def test_files_are_named_relative_to_the_configuration(
    load: Load, folder: Path, authority: Authority
) -> None:
    (folder / "ca.pem").write_bytes(authority.ca_file.read_bytes())
    assert load(text(ca_file="ca.pem")).config.mqtt.ca_file == str(folder / "ca.pem")


def test_what_holds_no_certificate_or_key_is_an_error(
    errors: Problems, folder: Path, authority: Authority
) -> None:
    cert, key = authority.folder / "pi-1.pem", authority.folder / "pi-1.key"
    (folder / "empty").touch(0o600)
    os.mkfifo(folder / "fifo")
    for files, at, what in (
        ({"ca_file": key}, "ca_file", "holds no certificate in PEM"),
        ({"ca_file": "empty"}, "ca_file", "holds no certificate in PEM"),
        ({"ca_file": "none"}, "ca_file", "No such file"),
        ({"ca_file": "fifo"}, "ca_file", "is not a file"),
        ({"cert_file": key, "key_file": key}, "cert_file", "holds no certificate in PEM"),
        ({"cert_file": cert, "key_file": cert}, "key_file", "holds no private key in PEM"),
        ({"cert_file": cert, "key_file": "empty"}, "key_file", "holds no private key in PEM"),
        ({"cert_file": "none", "key_file": key}, "cert_file", "No such file"),
    ):
        (problem,) = errors(text(**files))
        assert problem.key == f"mqtt.{at}"
        assert what in problem.what
        assert problem.cure


def test_a_file_for_tls_without_a_broker_by_tls_is_an_error(
    errors: Problems, authority: Authority
) -> None:
    (problem,) = errors(text(ca_file=authority.ca_file).replace("mqtts://", "mqtt://"))
    assert (problem.key, problem.what) == ("mqtt.ca_file", "no broker is reached by TLS")
    assert "mqtts://host" in problem.cure


def test_a_key_of_another_certificate_is_an_error(errors: Problems, authority: Authority) -> None:
    cert, key = authority.folder / "pi-1.pem", authority.folder / "pi-2.key"
    (problem,) = errors(text(cert_file=cert, key_file=key))
    assert (problem.key, problem.what) == ("mqtt.key_file", f"{key} is not the key of {cert}")


def test_a_key_behind_a_passphrase_is_an_error_and_asks_nobody(
    errors: Problems, authority: Authority
) -> None:
    key = with_passphrase(authority.folder / "pi-1.key")
    (problem,) = errors(text(cert_file=authority.folder / "pi-1.pem", key_file=key))
    assert problem.key == "mqtt.key_file"
    assert "without a passphrase" in problem.what


def test_a_key_that_everybody_can_read_is_a_warning_a_certificate_is_not(
    load: Load, folder: Path, authority: Authority
) -> None:
    for kind in ("pem", "key"):
        (folder / f"open.{kind}").write_bytes((authority.folder / f"pi-1.{kind}").read_bytes())
        (folder / f"open.{kind}").chmod(0o644)
    (warning,) = load(text(cert_file="open.pem", key_file="open.key")).warnings
    assert (warning.key, warning.cure) == ("mqtt.key_file", f"chmod o= {folder / 'open.key'}")


def test_a_configuration_without_these_files_loads_no_tls_library(folder: Path) -> None:
    (folder / "pi.toml").write_text(BASE)
    program = """\
import sys
from piagent.config import load
load(sys.argv[1])
assert "ssl" not in sys.modules, "ssl was imported"
"""
    command = [sys.executable, "-c", program, folder / "pi.toml"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
