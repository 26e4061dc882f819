"""Checks by real programs, well-behaved and otherwise."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from piagent.adapters import leash as leash_module
from piagent.adapters.leash import leash
from piagent.adapters.prober import KindProber
from piagent.adapters.programs import MAX_LINE, MAX_RUNNING, PATH, ProgramProber
from piagent.core.checking import Question
from piagent.core.model import HealthCheck, HealthKind
from piagent.ports import ProbeResult
from tests.waiting import until, wait_until

Script = Callable[[str], str]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Return what makes a program of the lines of a shell script."""

    def write(lines: str) -> str:
        file = tmp_path / f"check-{len(list(tmp_path.iterdir()))}"
        file.write_text(f"#!/bin/sh\n{lines}\n")
        file.chmod(0o755)
        return str(file)

    return write


def question(*command: str, timeout_ms: int = 20_000) -> Question:
    check = HealthCheck(kind=HealthKind.EXEC, command=command, timeout_ms=timeout_ms)
    return Question("web", "10.0.0.1:81", "10.0.0.1", 81, check)


async def ask(prober: ProgramProber | KindProber, asked: Question) -> ProbeResult:
    answer: asyncio.Future[ProbeResult] = asyncio.get_running_loop().create_future()
    prober.ask(asked, answer.set_result)
    return await answer


def run(*command: str, timeout_ms: int = 20_000) -> ProbeResult:
    async def main() -> ProbeResult:
        prober = KindProber()
        result = await ask(prober, question(*command, timeout_ms=timeout_ms))
        await until(lambda: not prober._programs._running, "nothing is left of it")
        return result

    return asyncio.run(main())


def is_there(pid: int) -> bool:
    """Whether a process is there that is not just waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def pid_in(file: Path) -> int:
    wait_until(lambda: file.exists() and file.read_text().endswith("\n"), f"{file} is written")
    return int(file.read_text())


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("exit 0", ProbeResult(True, "exit 0")),
        ("echo all is well", ProbeResult(True, "all is well")),
        ("echo first; echo second >&2; echo", ProbeResult(True, "second")),
        ("exit 3", ProbeResult(False, "exit 3")),
        ("echo no room; exit 1", ProbeResult(False, "exit 1: no room")),
        ("kill -TERM $$", ProbeResult(False, "killed by signal 15")),
        ("printf 'a\\033[2Jb'", ProbeResult(True, "a\\x1b[2Jb")),
        ("printf '\\377'", ProbeResult(True, "\ufffd")),
        (f"printf '%0{MAX_LINE + 9}d' 0", ProbeResult(True, "0" * MAX_LINE)),
    ],
)
def test_exit_status_decides_and_the_last_line_says_why(
    script: Script, lines: str, expected: ProbeResult
) -> None:
    assert run(script(lines)) == expected


def test_words_of_the_command_reach_the_program_as_they_are(script: Script) -> None:
    words = ("a b", "", "$HOME", "*", "; exit 1", "é")
    program = script("""for word in "$@"; do printf '<%s>' "$word"; done""")
    assert run(program, *words).reason == "".join(f"<{word}>" for word in words)


def test_a_program_knows_what_it_is_to_check_and_nothing_of_the_agents_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIAGENT_TOKEN", "secret")
    program = "import json, os, sys; json.dump(dict(os.environ), open(sys.argv[1], 'w'))"
    written = tmp_path / "environment"
    assert run(sys.executable, "-c", program, str(written)).good
    environment = json.loads(written.read_text())
    environment.pop("LC_CTYPE", None)  # Python's own
    assert environment == {
        "PATH": PATH,
        "PIAGENT_SERVICE": "web",
        "PIAGENT_BACKEND": "10.0.0.1:81",
        "PIAGENT_ADDRESS": "10.0.0.1",
        "PIAGENT_PORT": "81",
    }


def test_a_program_has_no_descriptor_of_the_agents_and_no_input() -> None:
    held = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(held, True)
    program = "import os, sys; print(sorted(os.listdir('/proc/self/fd')), repr(sys.stdin.read()))"
    try:
        result = run(sys.executable, "-c", program)
    finally:
        os.close(held)
    assert result.reason == "['0', '1', '2', '3'] ''"  # 3: the directory that it lists


def test_a_program_has_none_of_the_agents_rights(script: Script) -> None:
    if not leash():
        pytest.skip("there is no setpriv here")
    result = run(script("echo $(grep -E '^(CapEff|CapAmb|NoNewPrivs)' /proc/self/status)"))
    assert result.reason == ("CapEff: 0000000000000000 CapAmb: 0000000000000000 NoNewPrivs: 1")


def test_a_program_that_is_not_there_is_a_failed_check_that_names_it() -> None:
    result = run("/nowhere/check")
    assert result.good is False
    assert "/nowhere/check" in result.reason
    assert "No such file" in result.reason


def test_without_setpriv_a_program_that_is_not_there_is_a_failed_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(leash_module.shutil, "which", lambda _: None)
    leash.cache_clear()
    try:
        assert run("/nowhere/check") == ProbeResult(
            False, "cannot be run: No such file or directory"
        )
        assert run("/bin/true") == ProbeResult(True, "exit 0")
    finally:
        leash.cache_clear()


def test_at_the_timeout_the_whole_group_is_killed(script: Script, tmp_path: Path) -> None:
    child = tmp_path / "pid"
    program = script(f"sleep 600 & echo $! > {child}.new; mv {child}.new {child}; wait")
    started = time.monotonic()
    assert run(program, timeout_ms=1000) == ProbeResult(False, "timeout")
    assert time.monotonic() - started < 60
    wait_until(lambda: not is_there(pid_in(child)), "the program's child is gone")


def test_what_a_program_leaves_in_the_background_ends_with_it(
    script: Script, tmp_path: Path
) -> None:
    child = tmp_path / "pid"
    program = script(f"sleep 600 & echo $! > {child}; echo fine")
    assert run(program) == ProbeResult(True, "fine")
    wait_until(lambda: not is_there(pid_in(child)), "the program's child is gone")


def test_a_program_that_ignores_everything_but_sigkill_is_gone_at_the_timeout(
    script: Script,
) -> None:
    program = script("trap '' TERM INT HUP; while :; do sleep 0.1; done")
    assert run(program, timeout_ms=300) == ProbeResult(False, "timeout")


def test_a_program_that_writes_without_end_is_killed() -> None:
    assert run("/usr/bin/yes") == ProbeResult(False, "wrote more than 64 KiB")


def test_much_output_within_the_limit_is_read_and_its_last_line_counts(script: Script) -> None:
    assert run(script("head -c 60000 /dev/zero | tr '\\0' x; echo; echo end")).reason == "end"


def test_only_so_many_programs_run_at_a_time_and_the_others_have_their_turn(
    script: Script, tmp_path: Path
) -> None:
    async def main() -> None:
        gate = tmp_path / "gate"
        gate.mkdir()
        program = script(f"touch {gate}/$$; while [ ! -e {gate}/open ]; do sleep 0.02; done")
        prober, answers = ProgramProber(), list[ProbeResult]()
        for _ in range(MAX_RUNNING + 3):
            prober.ask(question(program), answers.append)
        await until(lambda: len(os.listdir(gate)) == MAX_RUNNING, "the first ones run")
        await asyncio.sleep(0.2)
        assert len(os.listdir(gate)) == MAX_RUNNING
        (gate / "open").touch()
        await until(lambda: len(answers) == MAX_RUNNING + 3, "all answers")
        assert set(answers) == {ProbeResult(True, "exit 0")}

    asyncio.run(main())


def test_a_check_that_waits_too_long_for_its_turn_says_nothing_of_the_backend(
    script: Script,
) -> None:
    async def main() -> None:
        prober, answers = ProgramProber(), list[ProbeResult]()
        hung = script("exec sleep 600")
        for _ in range(MAX_RUNNING):
            prober.ask(question(hung), answers.append)
        late = await ask(prober, question("/bin/true", timeout_ms=200))
        reason = f"not checked: {MAX_RUNNING} other programs are still running"
        assert late == ProbeResult(None, reason)
        assert answers == []
        prober.close()

    asyncio.run(main())


def test_after_close_no_program_is_left_and_nothing_is_answered(
    script: Script, tmp_path: Path
) -> None:
    written = tmp_path / "pid"

    async def main() -> None:
        prober, answers = ProgramProber(), list[ProbeResult]()
        program = script(f"echo $$ > {written}; sleep 600")
        for _ in range(MAX_RUNNING + 1):
            prober.ask(question(program), answers.append)
        await until(written.exists, "one of them runs")
        group = pid_in(written)
        prober.close()
        wait_until(lambda: not is_there(group), "it is gone")
        await asyncio.sleep(0.1)
        assert answers == []

    asyncio.run(main())


def test_the_agents_other_work_goes_on_while_a_program_runs(script: Script) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(ask(ProgramProber(), question(script("sleep 0.5"))))
        turns = 0
        while not task.done():
            turns += 1
            await asyncio.sleep(0.01)
        assert turns > 5
        assert (await task).good

    asyncio.run(main())


def test_a_signal_that_the_agent_ignores_ends_a_program_as_usual(script: Script) -> None:
    """Python ignores SIGPIPE, and children inherit that."""
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
    assert run(script("kill -PIPE $$; exit 0")) == ProbeResult(False, "killed by signal 13")
