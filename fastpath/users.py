"""Users of routes with basic_auth, and the check of a password."""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Mapping

LIBRARIES = ("libcrypt.so.1", "libcrypt.so.2")
"""Where crypt_rn is: of Debian's libcrypt1, and as other distributions name it."""
_DATA_SIZE = 1 << 16
"""At least sizeof(struct crypt_data)."""


class Crypt:
    """libcrypt's crypt_rn (crypt(3)); one thread at a time. OSError when it is not there."""

    def __init__(self) -> None:
        import ctypes  # half a MiB, and most nodes need none of it

        library = _library()
        self._crypt = library.crypt_rn
        self._crypt.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int]
        self._crypt.restype = ctypes.c_char_p
        self._data = ctypes.create_string_buffer(_DATA_SIZE)

    def matches(self, password: bytes, hashed: bytes) -> bool:
        """Whether it is the password of this hash. Takes as long as the hash wants; no GIL."""
        found = self._crypt(password, hashed, self._data, _DATA_SIZE)
        return found is not None and hmac.compare_digest(found, hashed)


def _library() -> ctypes.CDLL:
    import ctypes

    for name in LIBRARIES[:-1]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return ctypes.CDLL(LIBRARIES[-1])


class Users:
    """Names and the hashes of their passwords. Shows and compares without telling either."""

    __slots__ = ("_hashes", "_unknown", "name")

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self._hashes = {name.encode(): text.encode() for name, text in hashes.items()}
        self._unknown = next(iter(self._hashes.values()), b"")
        lines = (b"%s:%s\n" % pair for pair in sorted(self._hashes.items()))
        self.name = sha256(b"".join(lines)).digest()[:16]
        """Names these users and hashes: others have another one."""

    def has(self, crypt: Crypt, user: bytes, password: bytes) -> bool:
        """Whether it is the user's password. Takes as long for a name that nobody has."""
        known = user in self._hashes
        is_right = crypt.matches(password, self._hashes[user] if known else self._unknown)
        return known and is_right

    def __eq__(self, other: object) -> bool:
        """Whether they are the same users with the same hashes."""
        return isinstance(other, Users) and other.name == self.name

    def __hash__(self) -> int:
        """As __eq__ wants it."""
        return hash(self.name)

    def __repr__(self) -> str:
        """How many there are."""
        return f"<{len(self._hashes)} users>"
