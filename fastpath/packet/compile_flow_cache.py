"""Compiles flow_cache.bpf.c into the table that the engine loads from; needs clang (`make bpf`).

The table, flow_cache_code.h, is checked in: a Pi has no compiler, no libbpf and no types of its
kernel. It says which source and which compiler it is of, so a test can tell when it is out of date.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from sysconfig import get_config_var
from typing import NamedTuple

HERE = Path(__file__).parent
SOURCES = ("flow_cache_packet.h", "flow_cache.bpf.c")
TABLE = HERE / "flow_cache_code.h"
PROGRAMS = ("xdp", "tc", "tap")
"""Sections of the object, each with one program."""
MAPS = ("flows", "uses", "lease")
"""As they are numbered in the table."""
FLAGS = ("-O2", "-g0", "-Wall", "-Wextra", "-Werror", "-target", "bpfel", "-mcpu=v3")
PER_LINE = 5
_ELF_HEADER = struct.Struct("<16x2xH20xQ10xHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QII")
_INSTRUCTION = struct.Struct("<BBhi")
_EM_BPF, _R_BPF_64_64 = 247, 1
_LOAD_64, _MAP_FD = 0x18, 0x10  # the map is named in the upper half of the register byte


class _Part(NamedTuple):
    name: str
    kind: int
    data: bytes
    link: int
    info: int


def main() -> None:
    """Write the table."""
    TABLE.write_text(table(compiled()))


def digest() -> str:
    """Of the source as it is now."""
    whole = b"".join((HERE / name).read_bytes() for name in SOURCES)
    return hashlib.sha256(whole).hexdigest()


def recorded(name: str) -> str:
    """What the table that is checked in says: its SOURCE or its COMPILER."""
    found = re.search(rf'^#define FLOW_CACHE_{name} "(.*)"$', TABLE.read_text(), re.MULTILINE)
    return found[1] if found else ""


def compiler() -> str | None:
    """The first line of `clang --version`; None: there is none."""
    if shutil.which("clang") is None:
        return None
    said = subprocess.run(["clang", "--version"], capture_output=True, text=True, check=True)
    return said.stdout.splitlines()[0]


def compiled() -> bytes:
    """The object file."""
    if compiler() is None:
        sys.exit("no clang here: apt install clang linux-libc-dev")
    # The kernel's headers want asm/types.h, which Debian keeps by architecture.
    include = f"-I/usr/include/{get_config_var('MULTIARCH') or '.'}"
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "flow_cache.o"
        command = ["clang", *FLAGS, include, "-c", str(HERE / SOURCES[-1]), "-o", str(result)]
        subprocess.run(command, check=True)
        return result.read_bytes()


def table(built: bytes) -> str:
    """The C text of the object's programs."""
    lines = [
        f"/* Made by `make bpf` of {' and '.join(SOURCES)}; not to be changed by hand.",
        " *",
        " * Instructions as they lie in a little-endian memory. One that loads a map's descriptor",
        f" * has the map's number instead: {', '.join(f'{n} {m}' for n, m in enumerate(MAPS))}.",
        " */",
        "",
        "#include <stdint.h>",
        "",
        f'#define FLOW_CACHE_SOURCE "{digest()}"',
        f'#define FLOW_CACHE_COMPILER "{compiler()}"',
    ]
    for name in PROGRAMS:
        words = struct.unpack(f"<{len(code := program(built, name)) // 8}Q", code)
        array = f"FLOW_CACHE_{name.upper()}"
        lines += ["", f"#define {array}_SIZE {len(words)}"]
        lines += [f"static const uint64_t {array}[{array}_SIZE] = {{"]
        for start in range(0, len(words), PER_LINE):
            lines.append(" ".join(f"0x{word:016x}," for word in words[start : start + PER_LINE]))
        lines.append("};")
    return "\n".join(lines) + "\n"


def program(built: bytes, name: str) -> bytes:
    """The instructions of a section, with the numbers of maps where their descriptors will be."""
    parts = _parts(built)
    at = next(index for index, part in enumerate(parts) if part.name == name)
    code = bytearray(parts[at].data)
    for part in parts:
        if part.name.startswith(".rel") and part.info == at:
            symbols = parts[part.link]
            for offset, kind, symbol in _RELOCATION.iter_unpack(part.data):
                target = _symbol(parts, symbols, symbol)
                if kind != _R_BPF_64_64 or target not in MAPS:
                    sys.exit(f"{name}: needs {target}, which is no map: inline it")
                operation, registers, _, _ = _INSTRUCTION.unpack_from(code, offset)
                if operation != _LOAD_64:
                    sys.exit(f"{name}: the instruction at {offset} loads no map")
                patched = (operation, registers | _MAP_FD, 0, MAPS.index(target))
                _INSTRUCTION.pack_into(code, offset, *patched)
    return bytes(code)


def _parts(built: bytes) -> list[_Part]:
    machine, table_at, _, n, names = _ELF_HEADER.unpack_from(built)
    if built[:6] != b"\x7fELF\x02\x01" or machine != _EM_BPF:
        sys.exit("clang made no little-endian BPF object")
    rows = [_SECTION.unpack_from(built, table_at + i * _SECTION.size) for i in range(n)]
    _, _, _, _, at, size, _, _, _, _ = rows[names]
    texts = built[at : at + size]
    return [
        _Part(_text(texts, name), kind, built[at : at + size], link, info)
        for name, kind, _, _, at, size, link, info, _, _ in rows
    ]


def _symbol(parts: list[_Part], symbols: _Part, index: int) -> str:
    name, _, _, section, _, _ = _SYMBOL.unpack_from(symbols.data, index * _SYMBOL.size)
    return _text(parts[symbols.link].data, name) or parts[section].name


def _text(table: bytes, at: int) -> str:
    return table[at : table.index(b"\0", at)].decode()


if __name__ == "__main__":
    main()
