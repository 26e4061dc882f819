"""Each rule of a structure broken once: what the drivers notice. `make fuzz-mutants`.

A copy of the engine is made, one place of it changed, the module that it is in built anew, and the
structure driven there. Exit 0 when every break was found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.structures import STRUCTURES

ROOT = Path(__file__).resolve().parents[2]
STEPS = 2_000_000
SLOW = {"exchanges": 200_000}
"""The steps of what takes more time for each."""
PATIENCE_S = 120


class Mutant(NamedTuple):
    """One break."""

    structure: str
    path: str
    """Of the file under fastpath; what is inline in a .pxd file is built into the driver."""
    right: str
    wrong: str
    users: tuple[str, ...] = ()
    """Where what is inline in a .pxd file is built into, beside the driver."""


SLAB, RING, PIPES = "memory/slab.pxd", "memory/ring.pxd", "memory/pipes.pyx"
WHEEL, DISARM = "memory/wheel.pyx", "memory/wheel.pxd"
SESSIONS, CLIENTS = "proxy/sessions.pyx", "proxy/clients.pyx"
ADDRESS = "address.pxd"
HEADS, FRAMING, REQUEST = "http/http1.pyx", "http/framing.pyx", "http/request.pyx"
FORWARD, PATH, FLOW = "http/forward.pyx", "http/path.pyx", "http/flow.pyx"
PARSE, REWRITE = "packet/parse.pyx", "packet/rewrite.pyx"
ENCAPSULATE, ANSWER = "packet/encapsulate.pyx", "packet/answer.pyx"
SEGMENT = "packet/segment.pyx"
FLOWS, FRAGMENTS = "packet/flows.pyx", "packet/fragments.pyx"
NAT_PORTS = "packet/nat_ports.pyx"
MUTANTS = (
    Mutant("slab", SLAB, "self.n_fresh < self.n_objects", "self.n_fresh <= self.n_objects"),
    Mutant("slab", SLAB, "self.n_fresh * self.stride", "self.n_fresh * 16"),
    Mutant("slab", SLAB, "self.free_first = (<void **>taken)[0]", "self.free_first = NULL"),
    Mutant("slab", SLAB, "self.n_used -= 1", "pass"),
    Mutant("ring", RING, "if put.n_put - put.n_taken == self", "if put.n_put - put.n_taken > self"),
    Mutant("ring", RING, "(take.n_taken & (self", "(take.n_put & (self"),
    Mutant("ring", RING, "        put.n_taken = load_acquire(&self.take.n_taken)\n", ""),
    Mutant("wheel", WHEEL, "if position & (WHEEL_SLOTS - 1):", "if False:"),
    Mutant("wheel", WHEEL, "if timeout.due <= self.now:", "if timeout.due <= self.now + 1:"),
    Mutant("wheel", WHEEL, "self.occupied[level] |=", "self.occupied[level] ="),
    Mutant("wheel", WHEEL, "if best == 0 or tick < best", "if True"),
    Mutant("wheel", WHEEL, "due > self.now else self.now + 1", "due > self.now else self.now"),
    Mutant("wheel", DISARM, "            self.next.back = self.back\n", "            pass\n"),
    Mutant("pipes", PIPES, "pipe.held == 0 and self.n_made", "self.n_made"),
    Mutant("pipes", PIPES, "pipe.held == 0 and self.n_made <= self.n_max", "pipe.held == 0"),
    Mutant("pipes", PIPES, "    _close(pipe)\n    self.n_made -= 1", "    _close(pipe)"),
    Mutant("sessions", SESSIONS, "session.listener_slot == listener_slot", "True"),
    Mutant("sessions", SESSIONS, "session.hash == hash", "True"),
    Mutant("sessions", SESSIONS, "    place[0] = session.chain\n", "    place[0] = NULL\n"),
    Mutant("sessions", SESSIONS, "ages.oldest = links.newer", "ages.oldest = NULL"),
    Mutant("sessions", SESSIONS, "_due_ms(oldest) <= now_ms", "_due_ms(oldest) < now_ms"),
    Mutant("sessions", SESSIONS, "if ages[age].oldest != NULL", "if age and ages[age].oldest"),
    Mutant("sessions", SESSIONS, "else AGE_ASSURED", "else AGE_REPLIED"),
    Mutant("sessions", SESSIONS, "session.client.ages[age].newest != session", "False"),
    Mutant("sessions", ADDRESS, "memset(ip + 8, 0, 8)", "pass", (SESSIONS,)),
    Mutant("clients", CLIENTS, "known.n_open >= limit", "known.n_open > limit"),
    Mutant("clients", CLIENTS, "    place[0] = known.chain\n", "    place[0] = NULL\n"),
    Mutant("clients", ADDRESS, "memset(ip + 8, 0, 8)", "pass", (CLIENTS,)),
    Mutant("clients", CLIENTS, "    known = self.oldest\n", "    known = self.newest\n"),
    Mutant("clients", CLIENTS, "used_ms < timeout_ms", "used_ms <= timeout_ms"),
    Mutant("clients", CLIENTS, "self.oldest = known.newer", "pass"),
    Mutant("messages", FRAMING, "if has_length or last !=", "if last !="),
    Mutant("messages", FRAMING, 'if byte == c"\\r" else -REFUSE_CHUNK', "if True else -1"),
    Mutant(
        "messages",
        FRAMING,
        "if self.remaining == 0:\n                self.state",
        "if False:\n                self.state",
    ),
    Mutant(
        "messages",
        HEADS,
        '    if data[pos] != c"\\r":\n        return -REFUSE_FIELD',
        "    if False:\n        return -1",
    ),
    Mutant("messages", FRAMING, "self.remaining << 4 | digit", "self.remaining << 3 | digit"),
    Mutant("messages", FRAMING, "        self.line_size = 0\n", ""),
    Mutant("messages", HEADS, 'if data[pos] != c" " or pos == self.mark:', 'if data[pos] != c" ":'),
    Mutant("messages", HEADS, 'if data[pos] != c":" or pos == self.mark:', 'if data[pos] != c":":'),
    Mutant(
        "messages",
        HEADS,
        '    if data[self.pos] != c"\\n":\n        if self.fields',
        "    if False:\n        if self.fields",
    ),
    Mutant(
        "messages",
        HEADS,
        "self.pos = self.mark = pos + 1\n    self.state = SCAN_VALUE",
        "self.pos = pos + 1\n    self.state = SCAN_VALUE",
    ),
    Mutant("messages", HEADS, "    self.fields[self.fields_count].kind = FIELD_OTHER\n", ""),
    Mutant("messages", REQUEST, "    if count == 1:", "    if count >= 1:"),
    Mutant("messages", PATH, ' or used == 1 and out[n] == c"."', ""),
    Mutant("messages", PATH, "digits[byte & 15]", "digits[byte & 7]"),
    Mutant(
        "messages",
        FORWARD,
        "field.kind == FIELD_OTHER or field.kind == FIELD_EXPECT",
        "field.kind != FIELD_TE",
    ),
    Mutant("exchanges", FLOW, "        self.body.remaining -= <size_t>n\n", ""),
    Mutant("exchanges", FLOW, "memcpy(loop.scratch + size, parts", "memcpy(loop.scratch, parts"),
    Mutant("exchanges", FLOW, "self.tail_end = TAIL_CHUNK", "self.tail_end = 0"),
    Mutant("packets", REWRITE, "ports + outer + quoted if", "ports + quoted if"),
    Mutant("packets", PARSE, "if total > size:", "if False:"),
    Mutant("packets", PARSE, "if end - chain.at < EXTENSION_SIZE:", "if False:"),
    Mutant("packets", PARSE, "if size > end - chain.at:", "if False:"),
    Mutant("packets", PARSE, "if size < TCP_SIZE:", "if False:"),
    Mutant("packets", PARSE, "if own_size > size:", "if False:"),
    Mutant("packets", PARSE, "if size < UDP_SIZE:", "if False:"),
    Mutant("packets", PARSE, "min(packet.end, packet.quoted_l3 + total)", "packet.end + 99"),
    Mutant("packets", REWRITE, "packet.quoted_l4 + at + 2 <= packet.quoted_end", "True"),
    Mutant("packets", REWRITE, "checksum_fold(quoted + ports)", "checksum_fold(ports)"),
    Mutant("packets", REWRITE, "if packet.fragment == FRAGMENT_LATER:", "if False:"),
    Mutant("packets", REWRITE, "    return checksum_update_udp(", "    return checksum_update("),
    Mutant("packets", REWRITE, "load16(checksum), rewrite.l4_delta", "load16(checksum), 0"),
    Mutant("packets", REWRITE, "if packet.ttl <= 1:", "if packet.ttl == 0:"),
    Mutant("packets", ENCAPSULATE, "memmove(frame - added, frame, packet.l3)", "pass"),
    Mutant("packets", ENCAPSULATE, "(V4_SIZE + inner_size)", "(inner_size)"),
    Mutant("packets", ANSWER, "if packet.verdict != PARSE_FLOW and", "if False and"),
    Mutant("packets", ANSWER, "min(packet_size(packet), quoted_max)", "packet_size(packet) + 1"),
    Mutant("packets", SEGMENT, "packet.payload - offset", "packet.payload"),
    Mutant("packets", SEGMENT, "packet.payload - packet.l4 + size", "packet.payload - packet.l4"),
    Mutant(
        "flows",
        FLOWS,
        "        if ((place - self.slots[place].hash)",
        "        if True or ((place - self.slots[place].hash)",
    ),
    Mutant("flows", FLOWS, "            hole = place\n", "            break\n"),
    Mutant(
        "flows",
        FLOWS,
        "key, sizeof(flow_key_t)) == 0:\n                way",
        "key, 15) == 0:\n                way",
    ),
    Mutant("flows", FLOWS, "flows.oldest = flow.newer", "flows.oldest = 0"),
    Mutant("flows", FLOWS, "_flow(self, flow.older).newer = flow.newer", "pass"),
    Mutant("flows", FLOWS, "    flow.seen_ms = seen_ms\n    if flow.newer", "    if flow.newer"),
    Mutant("flows", FLOWS, "n_new >= self.new_max", "n_new > self.new_max"),
    Mutant("flows", FLOWS, "if state >= FLOW_CLOSED and not was_confirmed:", "if True:"),
    Mutant("flows", FLOWS, "n_confirmed >= self.confirmed_max", "n_confirmed > self.confirmed_max"),
    Mutant(
        "flows",
        FLOWS,
        "_to_evict(self, FLOW_ABORTED, FLOW_UNREPLIED)",
        "_to_evict(self, FLOW_ABORTED, FLOW_STREAM)",
    ),
    Mutant("flows", FLOWS, "other.seen_ms < one.seen_ms", "other.seen_ms > one.seen_ms"),
    Mutant(
        "flows", FLOWS, "            if not _kernel_renews(self, flow):", "            if True:"
    ),
    Mutant("flows", FLOWS, "range(flow.n_ways):\n        used_ms", "range(1):\n        used_ms"),
    Mutant("flows", FLOWS, "+ REFRESH_MS <= now_ms:", "<= now_ms:"),
    Mutant("flows", FLOWS, "and state != FLOW_CLOSED and", "and"),
    Mutant("flows", FLOWS, "backend.first = flow.next_of_backend", "backend.first = 0"),
    Mutant("flows", FLOWS, "&= ~(<uint64_t>1 << (number % WORD_BITS))", "&= ~<uint64_t>0"),
    Mutant("flows", FLOWS, "and flow.n_ways == WAYS", "and True"),
    Mutant("flows", FLOWS, "flow.seen_ms < longest.seen_ms", "flow.seen_ms > longest.seen_ms"),
    Mutant("fragments", FRAGMENTS, "place[way].seen_ms < taken", "place[way].seen_ms > taken"),
    Mutant("fragments", FRAGMENTS, "now_ms >= place", "now_ms > place"),
    Mutant(
        "fragments",
        FRAGMENTS,
        "            taken = &place[way]\n            break",
        "            break",
    ),
    Mutant("fragments", FRAGMENTS, "sizeof(fragment_key_t)) == 0", "36) == 0"),
    Mutant("nat_ports", NAT_PORTS, "& ~(_bit(start) - 1)", "& ~_bit(start)"),
    Mutant("nat_ports", NAT_PORTS, "at + 1 if at + 1 < n_words else 0", "at + 1"),
    Mutant("nat_ports", NAT_PORTS, "        pool.hurrying[at] &= ~word\n", ""),
    Mutant("nat_ports", NAT_PORTS, "span + PORT_SPANS <= pool", "span + PORT_SPANS < pool"),
    Mutant(
        "nat_ports",
        NAT_PORTS,
        "        pool.span += 1\n        left",
        "        pool.span = span\n        left",
    ),
    Mutant("nat_ports", NAT_PORTS, "    if may_hurry:", "    if True:"),
    Mutant("nat_ports", NAT_PORTS, "        _end_rest(pool, at)\n", ""),
    Mutant("nat_ports", NAT_PORTS, "if self.n_ports % WORD_BITS != 0:", "if False:"),
)


def build(mutant: Mutant, root: Path) -> None:
    """Copy the engine as it is built here to `root`, with the break in it."""
    path = Path("fastpath", mutant.path)
    shutil.copytree(ROOT / "fastpath", root / "fastpath", ignore=shutil.ignore_patterns("*.pyx"))
    shutil.copy(ROOT / "setup.py", root)
    if path.suffix == ".pxd":
        driver = Path(*STRUCTURES[mutant.structure].module.split(".")).with_suffix(".pyx")
        for user in (driver, *(Path("fastpath", name) for name in mutant.users)):
            shutil.copy(ROOT / user, root / user)
    text = (ROOT / path).read_text()
    if mutant.right not in text:
        raise SystemExit(f"{path} has no more {mutant.right!r}: tests/fuzz/mutants.py")
    (root / path).write_text(text.replace(mutant.right, mutant.wrong))
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=root,
        env=os.environ | {"PIAGENT_PROBE": "1"},
        capture_output=True,
        check=True,
    )


def what_is_found(mutant: Mutant) -> str:
    """The difference that driving it shows, or how its process ended; empty: nothing."""
    with tempfile.TemporaryDirectory() as folder:
        build(mutant, Path(folder))
        command = ["--here", f"--steps={SLOW.get(mutant.structure, STEPS)}", mutant.structure]
        try:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "tests.fuzz", *command],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": f"{folder}:{ROOT}"},
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return "it hangs"
    if done.returncode < 0:
        return f"it ends by signal {-done.returncode}"
    return done.stdout.partition("FAILED: ")[2].splitlines()[0] if done.returncode else ""


def main() -> int:
    """A line for each break, of the structures that are named or of all."""
    n_missed = 0
    mutants = [each for each in MUTANTS if each.structure in (sys.argv[1:] or (*STRUCTURES, *SLOW))]
    for mutant in mutants:
        found = what_is_found(mutant)
        n_missed += not found
        place = f"{mutant.structure:10}{mutant.right.strip()!r} -> {mutant.wrong.strip()!r}"
        print(f"{place}: {found or 'NOT FOUND'}", flush=True)
    print(f"{len(mutants) - n_missed} of {len(mutants)} found")
    return 1 if n_missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
