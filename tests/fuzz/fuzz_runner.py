"""Runs a target on damaged files in forked processes with limits on time and memory, and counts what comes of it."""

from __future__ import annotations

import atexit
import hashlib
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from fuzz_mutations import BYTES, Mutation
from loguru import logger

from core.errors import UserError

__all__ = ["OUTCOMES", "Finding", "Tally", "Target", "run_target", "table"]

USER, NOTHING, OTHER_DATA, EXCEPTION, CRASH = OUTCOMES = (
    "clean UserError",
    "no effect",
    "accepted, other data",
    "other exception",
    "crash / hang",
)
T = TypeVar("T")
SECONDS = 20.0  # of processor time per input; longer is a hang
MAKING = 1200.0  # s by the clock, for a world and for an undamaged input
PATIENCE = 6  # times as long by the clock: the machine may be busy, an input may sleep
MEMORY = 3 << 30  # bytes that an input may ask for beyond what the process has


@dataclass(frozen=True)
class Target:
    """Files that a person brings, and the code that reads them.

    Attributes:
        name: unique. group: row of the table.
        make: writes a small right world into a folder; worlds of one function are written once.
        files: pattern of the files to damage, below that folder.
        use: reads them as a command does; what it returns tells other data from the right ones.
        mutations: ways of damage, all equally likely.
    """

    name: str
    group: str
    make: Callable[[Path], None]
    files: str
    use: Callable[[Path], object]
    mutations: Sequence[Mutation] = BYTES


@dataclass(frozen=True)
class Finding:
    """An input that neither worked nor ended in a UserError; its number and the seed make it again."""

    target: str
    number: int
    outcome: str
    file: str
    mutation: str
    detail: str


@dataclass
class Tally:
    """What became of the inputs of a group of targets."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)


# --- what a target returned -------------------------------------------------------------------------------------------
def digest(value: object, root: Path) -> str:
    """SHA-256 of nested plain values, arrays, tensors and dataclasses; ``root`` has another name in every process."""
    state = hashlib.sha256()
    _feed(state, value, str(root))
    return state.hexdigest()


def _feed(state: Any, value: object, root: str) -> None:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        state.update(f"{value.dtype}{value.shape}".encode())
        state.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            _feed(state, key, root)
            _feed(state, value[key], root)
    elif is_dataclass(value) and not isinstance(value, type):
        for item in fields(value):
            if item.compare:
                _feed(state, getattr(value, item.name), root)
    elif isinstance(value, list | tuple):
        state.update(f"{len(value)}".encode())
        for item in value:
            _feed(state, item, root)
    else:
        state.update(str(value).replace(root, "").encode("utf-8", "surrogatepass"))


# --- one process ------------------------------------------------------------------------------------------------------
@cache
def _world(make: Callable[[Path], None]) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-world-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _apart(lambda: make(folder))
    return folder


def _apart(work: Callable[[], T]) -> T:
    """Work in a process of its own: one that has started threads cannot be forked into others."""
    context = multiprocessing.get_context("fork")
    source, sink = context.Pipe(duplex=False)

    def run() -> None:
        _be_quiet()
        try:
            sink.send((work(), None))
        except BaseException:  # noqa: BLE001  (it is raised again)
            sink.send((None, traceback.format_exc()))
        os._exit(0)

    worker = context.Process(target=run)
    worker.start()
    sink.close()
    if not source.poll(MAKING):
        worker.kill()
        raise RuntimeError(f"a world, or what is in it undamaged, took more than {MAKING:g} s")
    found, failure = source.recv()
    worker.join()
    if failure is not None:
        raise RuntimeError(failure)
    return found  # type: ignore[no-any-return]


def _be_quiet() -> None:
    """Nothing is printed, and no thread is started for a sum."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (as long as the process)
    logger.remove()
    torch.set_num_threads(1)


def _link(source: str, target: str) -> None:
    os.link(source, target)


def _damage(target: Target, world: Path, root: Path, seed: int, number: int) -> tuple[str, str]:
    """Copy the world to ``root`` with one file damaged; returns the file and the mutation's name."""
    rng = np.random.default_rng([seed, zlib.crc32(target.name.encode()), number])
    shutil.copytree(world, root, copy_function=_link)
    files = sorted(path for path in root.glob(target.files) if path.is_file())
    path = files[rng.integers(len(files))]
    content = path.read_bytes()
    mutation = target.mutations[rng.integers(len(target.mutations))]
    try:
        damaged = mutation(content, rng)
    except Exception:  # noqa: BLE001  (a value that cannot be written)
        damaged = BYTES[0](content, rng)
    path.unlink()
    path.write_bytes(damaged)
    return path.relative_to(root).as_posix(), mutation.__name__


def _judge(target: Target, root: Path, right: str) -> tuple[str, str]:
    try:
        found = digest(target.use(root), root)
    except UserError:
        return USER, ""
    except BaseException as error:  # noqa: BLE001  (each of them is a finding)
        frames = traceback.extract_tb(error.__traceback__)
        place = next((f for f in reversed(frames) if "/core/" in f.filename), frames[-1])
        where = f"{Path(place.filename).name}:{place.lineno} {place.name}"
        return EXCEPTION, f"{type(error).__name__}: {str(error)[:160]} at {where}"
    return (NOTHING, "") if found == right else (OTHER_DATA, "")


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _work(target: Target, right: str, seed: int, numbers: Sequence[int], sink: Connection) -> None:
    """Send (number, outcome, detail, file, mutation) for each input; its number alone before it is read."""
    _be_quiet()
    _limit_memory()
    for number in numbers:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            root = Path(folder, "data")
            damage = _damage(target, _world(target.make), root, seed, number)
            sink.send((number, *damage))
            sink.send(_judge(target, root, right))
    sink.close()
    os._exit(0)


def _right(target: Target) -> str:
    """What the undamaged world gives."""
    world = _world(target.make)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        root = Path(folder, "data")
        shutil.copytree(world, root, copy_function=_link)
        return _apart(lambda: digest(target.use(root), root))


# --- all of them ------------------------------------------------------------------------------------------------------
def run_target(
    target: Target, count: int, *, seed: int = 0, first: int = 0, seconds: float = SECONDS
) -> Tally:
    """Damage ``count`` inputs, from number ``first`` on, and see what the target makes of each."""
    right = _right(target)
    tally = Tally()
    numbers = list(range(first, first + count))
    context = multiprocessing.get_context("fork")
    while numbers:
        source, sink = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(target, right, seed, numbers, sink))
        worker.start()
        sink.close()
        numbers = _collect(target, tally, numbers, source, Clock(worker.pid or 0, seconds))
        worker.kill()
        worker.join()
    return tally


@dataclass(frozen=True)
class Clock:
    """How long a process may work on an input, s."""

    process: int
    seconds: float

    def answers(self, source: Connection) -> bool:
        """Wait for an answer until the process has used up its time."""
        start = self._used()
        for _ in range(PATIENCE):
            if source.poll(self.seconds):
                return True
            if self._used() - start > self.seconds:
                return False
        return False

    def _used(self) -> float:
        """Processor time of the process so far."""
        words = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _collect(
    target: Target, tally: Tally, numbers: list[int], source: Connection, clock: Clock
) -> list[int]:
    """Count what a process sends; returns the inputs it left when it died or took too long."""
    while numbers:
        number, file, mutation = numbers[0], "?", "?"
        try:
            if clock.answers(source):
                number, file, mutation = source.recv()
            outcome, detail = CRASH, f"no answer in {clock.seconds:g} s"
            if clock.answers(source):
                outcome, detail = source.recv()
        except EOFError:
            outcome, detail = CRASH, "the process died"
        numbers = numbers[1:]
        tally.counts[outcome] += 1
        if outcome in (EXCEPTION, CRASH):
            tally.findings.append(Finding(target.name, number, outcome, file, mutation, detail))
        if outcome == CRASH:
            return numbers
    return []


def table(tallies: Mapping[str, Tally]) -> str:
    """A row per group, as Markdown."""
    lines = [f"| what | inputs | {' | '.join(OUTCOMES)} |", f"|---|{'---|' * (1 + len(OUTCOMES))}"]
    total: Counter[str] = Counter()
    for group, tally in tallies.items():
        lines.append(_row(group, tally.counts))
        total += tally.counts
    return "\n".join([*lines, _row("**sum**", total)])


def _row(name: str, counts: Counter[str]) -> str:
    cells = [str(counts.total()), *(str(counts[outcome]) for outcome in OUTCOMES)]
    return f"| {name} | {' | '.join(cells)} |"


def as_json(tallies: Mapping[str, Tally]) -> str:
    """Counts and findings by group."""
    groups = {}
    for group, tally in tallies.items():
        found = [vars(finding) for finding in tally.findings]
        groups[group] = {"counts": dict(tally.counts), "findings": found}
    return json.dumps(groups, indent=2)
