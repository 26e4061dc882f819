"""Lines that are appended to real files, pipes and full disks."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from piagent.adapters import line_file
from piagent.adapters.line_file import WAITING_MAX, LineFile
from tests.waiting import wait_until


def lines(*numbers: int) -> list[bytes]:
    return [b"line %d\n" % number for number in numbers]


def closed(file: LineFile) -> None:
    asyncio.run(file.close())


def test_lines_are_appended_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"before\n")
    file = LineFile(str(path))
    for n in range(200):
        file.write(lines(n))
    closed(file)
    assert path.read_bytes() == b"before\n" + b"".join(lines(*range(200)))
    assert (file.dropped, file.trouble) == (0, None)


def test_a_file_that_is_new_is_not_for_everybody(tmp_path: Path) -> None:
    file = LineFile(str(tmp_path / "a.log"))
    file.write(lines(1))
    closed(file)
    assert (tmp_path / "a.log").stat().st_mode & 0o007 == 0


def test_a_file_without_lines_is_not_opened_and_has_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    file = LineFile(str(tmp_path / "a.log"))
    file.write([])
    file.reopen()
    assert threading.active_count() == before
    closed(file)
    assert not (tmp_path / "a.log").exists()


def test_a_file_that_was_moved_away_is_made_anew_when_it_is_reopened(tmp_path: Path) -> None:
    path, moved = tmp_path / "a.log", tmp_path / "a.log.1"
    file = LineFile(str(path))
    file.write(lines(1))
    wait_until(lambda: path.exists() and path.read_bytes() == b"line 1\n")
    path.rename(moved)
    file.write(lines(2))
    wait_until(lambda: moved.read_bytes() == b"line 1\nline 2\n")
    file.reopen()
    file.write(lines(3))
    closed(file)
    assert path.read_bytes() == b"line 3\n"
    assert moved.read_bytes() == b"line 1\nline 2\n"


def test_a_path_that_cannot_be_opened_is_said_once_and_tried_with_each_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "logs" / "a.log"
    file = LineFile(str(path))
    for n in range(3):
        file.write(lines(n))
        wait_until(lambda n=n: file.dropped == n + 1)
    assert file.trouble == "No such file or directory"
    path.parent.mkdir()
    file.write(lines(9))
    closed(file)
    assert path.read_bytes() == b"line 9\n"
    assert file.trouble is None
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_a_full_disk_drops_lines_and_counts_them() -> None:
    file = LineFile("/dev/full")
    file.write(lines(1, 2, 3))
    wait_until(lambda: file.dropped == 3)
    assert file.trouble == "No space left on device"
    closed(file)


def test_a_line_that_was_torn_by_a_full_disk_ends_before_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.log"
    path.touch()
    room = [10]
    write = os.write

    def limited(fd: int, data: bytes) -> int:
        if room[0] == 0:
            raise OSError(28, "No space left on device")
        n = write(fd, data[: room[0]])
        room[0] -= n
        return n

    monkeypatch.setattr(line_file.os, "write", limited)
    file = LineFile(str(path))
    file.write(lines(1, 2, 3))
    wait_until(lambda: file.dropped == 2)
    assert path.read_bytes() == b"line 1\nlin"
    file.write(lines(4))
    wait_until(lambda: file.dropped == 3)
    room[0] = 1000
    file.write(lines(5))
    file.write(lines(6))
    closed(file)
    assert path.read_bytes() == b"line 1\nlin\nline 5\nline 6\n"


@contextmanager
def fifo(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A FIFO, and its end for who reads it."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        yield path, reader
    finally:
        os.close(reader)


def test_a_reader_that_sleeps_keeps_nobody_waiting_and_what_has_no_room_is_counted(
    tmp_path: Path,
) -> None:
    block = b"x" * 65535 + b"\n"
    with fifo(tmp_path) as (path, reader):
        file = LineFile(str(path))
        begin = time.monotonic()
        for _ in range(100):
            file.write([block])
        assert time.monotonic() - begin < 5, "nobody reads, and this did not wait"
        assert file.dropped >= 100 - 2 * WAITING_MAX // len(block) - 2
        got = b""
        wanted = (100 - file.dropped) * len(block)
        end = time.monotonic() + 20
        while len(got) < wanted and time.monotonic() < end:
            try:
                got += os.read(reader, 1 << 20)
            except BlockingIOError:
                time.sleep(0.01)
        assert got == block * (100 - file.dropped)
        closed(file)


def test_a_reader_that_never_wakes_does_not_keep_the_end_from_coming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_file, "_PATIENCE_S", 0.1)
    with fifo(tmp_path) as (path, _):
        file = LineFile(str(path))
        file.write([b"x" * (WAITING_MAX // 2) + b"\n"])
        closed(file)
        file.write(lines(1))
        wait_until(lambda: file.dropped == 2, "what nobody read, and what came after the end")
        wait_until(lambda: file._thread is not None and not file._thread.is_alive())


def test_a_fifo_without_a_reader_is_trouble(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    file = LineFile(str(tmp_path / "fifo"))
    file.write(lines(1))
    wait_until(lambda: file.dropped == 1)
    assert file.trouble == "No such device or address"
    closed(file)


STDOUT = """
import asyncio
from piagent.adapters.line_file import LineFile
file = LineFile("-")
file.write([b"one\\n"])
file.reopen()
file.write([b"two\\n"])
asyncio.run(file.close())
print("three", flush=True)
"""


def test_a_dash_is_the_standard_output_and_stays_open() -> None:
    done = subprocess.run([sys.executable, "-c", STDOUT], capture_output=True, check=True)
    assert done.stdout == b"one\ntwo\nthree\n"


def test_threads_end_with_their_files(tmp_path: Path) -> None:
    files = [LineFile(str(tmp_path / f"{n}.log")) for n in range(3)]
    for file in files:
        file.write(lines(1))
        closed(file)
        assert file._thread is not None
        assert not file._thread.is_alive()
        assert file._fd == -1
