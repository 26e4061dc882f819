"""TLS to a broker: the certificate is always checked, against the authorities and the host's name.

The files are read again when they have changed, so that a renewed certificate needs no restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from msgspec import Struct

HANDSHAKE_TIMEOUT_S = 2.0

_NO_TLS = "it speaks no TLS there: write mqtt://, or the port that has TLS"
_WANTS_OURS = "it wants a certificate of this node: write cert_file and key_file"
_MEANING = {
    "WRONG_VERSION_NUMBER": _NO_TLS,
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _WANTS_OURS,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": f"it refuses the TLS handshake; perhaps {_WANTS_OURS}",
}
"""OpenSSL's reason -> what it means here."""
_OURS_REFUSED = (
    "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE_EXPIRED",
    "ALERT_CERTIFICATE_REVOKED",
    "ALERT_CERTIFICATE_UNKNOWN",
    "ALERT_UNKNOWN_CA",
    "ALERT_UNSUPPORTED_CERTIFICATE",
)


class Certificates(Struct, frozen=True):
    """PEM files: who may sign a broker's certificate (None: the host's), and this node's own."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


class TlsStream(ssl.SSLSocket):
    """The encrypted counterpart of `mqtt_connection.Stream`; OpenSSL reads ahead, a record each."""

    failure: str | None = None
    """Why the connection failed, in words for people."""

    def recv(self, size: int = 1024, flags: int = 0) -> bytes:
        """Up to `size` bytes; remembers what a broker says when it ends the connection."""
        try:
            return super().recv(size, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self.failure = in_words(error)
            raise

    def send(self, data: Any, flags: int = 0) -> int:
        """As much as fits; when the broker has ended the connection, what it said before counts."""
        try:
            return super().send(data, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError:
            with contextlib.suppress(OSError):
                self.recv(1)
            raise

    def more(self) -> bool:
        """Whether something is here that was not asked for yet."""
        return self.fileno() >= 0 and self.pending() > 0


class Tls:
    """Makes connected sockets secure."""

    def __init__(self, certificates: Certificates) -> None:
        """Read nothing yet: only a broker with TLS needs it."""
        self._files = certificates
        self._context: ssl.SSLContext | None = None
        self._stamp: object = None
        self._loading = asyncio.Lock()

    async def secure(self, connected: socket.socket, host: str, broker: str) -> TlsStream:
        """Shake hands over a non-blocking socket, which then belongs to the stream.

        Raises ConnectionError with the reason in words; the socket is closed then.
        """
        try:
            context = await self._current_context()
            stream = cast(
                "TlsStream",  # as the context's sslsocket_class says
                context.wrap_socket(connected, server_hostname=host, do_handshake_on_connect=False),
            )
        except BaseException as error:
            connected.close()
            if isinstance(error, OSError | ValueError):
                raise ConnectionError(f"TLS cannot begin: {_plain(error)}") from None
            raise
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                await _shake_hands(stream)
        except BaseException as error:
            stream.close()
            if isinstance(error, OSError | ValueError):  # TimeoutError is one
                raise ConnectionError(_handshake_in_words(error, broker)) from None
            raise
        return stream

    async def _current_context(self) -> ssl.SSLContext:
        async with self._loading:
            stamp = [_stamp(file) for file in _named(self._files)]
            if self._context is None or stamp != self._stamp:
                # A host's hundred authorities keep a Pi busy for longer than an echo may take.
                self._context = await asyncio.to_thread(make_context, self._files)
                self._stamp = stamp
            return self._context


def make_context(files: Certificates) -> ssl.SSLContext:
    """A client's context that trusts these authorities only; OSError when a file is no good."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and host name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.sslsocket_class = TlsStream
    if files.ca_file is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cafile=files.ca_file)
    if files.cert_file is not None:
        # Without `password` a locked key would be asked for on the terminal.
        context.load_cert_chain(files.cert_file, files.key_file, password="")
    return context


async def _shake_hands(stream: TlsStream) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            stream.do_handshake()
        except ssl.SSLWantReadError:
            await _ready(stream, loop.add_reader, loop.remove_reader)
        except ssl.SSLWantWriteError:
            await _ready(stream, loop.add_writer, loop.remove_writer)
        else:
            return


async def _ready(
    stream: TlsStream, watch: Callable[..., Any], unwatch: Callable[[TlsStream], Any]
) -> None:
    ready = asyncio.Event()
    watch(stream, ready.set)
    try:
        await ready.wait()
    finally:
        unwatch(stream)


def _handshake_in_words(error: OSError | ValueError, broker: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".")
        named = "mismatch" in why
        cure = "the URL must have a name or address of the certificate" if named else (
            "ca_file must hold who signed it"
        )  # fmt: skip
        return f"certificate of {broker} not accepted: {why}; {cure}"
    if isinstance(error, TimeoutError):
        return f"no answer to the TLS handshake within {HANDSHAKE_TIMEOUT_S:g} s"
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return in_words(error)
    return "it ended the connection within the TLS handshake"


def in_words(error: ssl.SSLError) -> str:
    """Say what an error of TLS means; without OpenSSL's numbers and file names."""
    reason = error.reason or ""
    if reason in _MEANING:
        return _MEANING[reason]
    if reason.endswith(_OURS_REFUSED):
        said = reason.partition("_ALERT_")[2].lower().replace("_", " ")
        return f"it does not accept this node's certificate ({said}): check cert_file"
    return f"TLS failed: {_plain(error)}"


def _plain(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)


def _named(files: Certificates) -> list[str]:
    return [one for one in (files.ca_file, files.cert_file, files.key_file) if one is not None]


def _stamp(file: str) -> tuple[int, int]:
    found = Path(file).stat()
    return found.st_ino, found.st_mtime_ns
