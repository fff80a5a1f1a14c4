"""How two processes end: with one code, and one voice that says why. Each rank is a fork of the test's process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from folder_world import write_world
from forked import exit_code, fork

from core.config import load_config
from core.engine.run import distributed, relay
from core.engine.run.cli import run_command, run_distributed
from core.engine.run.distributed import World, barrier
from core.engine.run.stopping import STOP, StopSignals
from core.engine.train.jobs import train_teacher
from core.engine.train.trainer import Trainer
from core.errors import UserError

REPO = Path(__file__).resolve().parents[2]
Job = Callable[[World], None]
INSTALL = StopSignals.install  # the tests' own processes do without


def one_rank(rank: int, port: int, job: Job, said: Path) -> NoReturn:
    """The life of a forked process."""
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
    os.environ.update({name: str(value) for name, value in variables.items()})
    with open(said, "w", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    torch.set_num_threads(1)
    StopSignals.install = INSTALL  # type: ignore[method-assign]
    vars(STOP).update(vars(StopSignals()))  # as in a process of its own
    code = 0
    try:
        run_command(lambda: run_distributed(job))
    except SystemExit as left:
        code = int(left.code or 0)
    sys.stderr.flush()
    os._exit(code)


def ends(job: Job, folder: Path, limit: float = 60.0) -> tuple[list[int], list[str]]:
    """Exit codes (minus the signal for a killed one) and outputs of both ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    paths = [folder / f"{rank}.txt" for rank in range(2)]
    pids = []
    for rank, path in enumerate(paths):
        pids.append(fork(partial(one_rank, rank, port, job, path)))
    codes = [exit_code(pid, limit) for pid in pids]
    return codes, [path.read_text(encoding="utf-8") for path in paths]


# --- outside of a training ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("whom", [{0}, {1}, {0, 1}], ids=["rank 0", "rank 1", "both"])
def test_a_signal_ends_all_ranks_with_75(tmp_path: Path, whom: set[int]) -> None:
    """One rank waits for the other, as while an index is built: the signal is noticed in compiled code too."""

    def job(world: World) -> None:
        STOP.doing = "building an index"
        if world.rank in whom:
            os.kill(os.getpid(), signal.SIGUSR1)
        if world.rank == 0:
            time.sleep(30)
        barrier()

    codes, said = ends(job, tmp_path)
    assert codes == [75, 75]
    text = "stopped by SIGUSR1 while building an index; what was saved stays"
    assert text in said[0] and said[1] == "", "rank 0 speaks for all"


def test_a_signal_before_the_ranks_have_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 would wait half an hour for a rank that left without a word."""

    def start() -> tuple[World, torch.distributed.Store | None]:
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)
        return met()

    met = distributed.start
    monkeypatch.setattr(distributed, "start", start)
    codes, said = ends(lambda _: time.sleep(30), tmp_path)
    assert codes == [75, 75] and "stopped by SIGTERM" in said[0]


def test_a_signal_when_nothing_is_left_to_do(tmp_path: Path) -> None:
    def job(world: World) -> None:
        if world.rank == 0:
            time.sleep(0.5)
            return
        STOP.settle()  # its own work is done
        os.kill(os.getpid(), signal.SIGTERM)

    assert ends(job, tmp_path) == ([0, 0], ["", ""])


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_rank_is_told_once(tmp_path: Path, rank: int) -> None:
    def job(world: World) -> None:
        if world.rank == rank:
            raise UserError("scan 7 is damaged", where="7.bin")
        barrier()

    codes, said = ends(job, tmp_path)
    signed = "[rank 1] " if rank == 1 else ""
    assert codes == [2, 2] and said == [f"\nerror: {signed}7.bin: scan 7 is damaged.\n", ""]


def test_a_defect_of_rank_1_is_shown_by_rank_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "_NEWS", 0.7)

    def job(world: World) -> None:
        if world.rank == 1:
            raise ZeroDivisionError("a defect")
        time.sleep(30)

    codes, said = ends(job, tmp_path)
    assert codes == [1, 1] and "ZeroDivisionError: a defect" in said[0] and said[1] == ""


@pytest.mark.parametrize("rank", [0, 1])
def test_a_dead_rank_is_named(tmp_path: Path, rank: int) -> None:
    """Rank 0 keeps the store of all; with it gone, the other speaks for itself."""

    def job(world: World) -> None:
        barrier()
        if world.rank == rank:
            os.kill(os.getpid(), signal.SIGKILL)
        barrier()

    began = time.monotonic()
    codes, said = ends(job, tmp_path)
    assert codes[rank] == -9 and codes[1 - rank] == 2 and time.monotonic() - began < 15
    text = said[1 - rank]
    assert f"rank {rank}" in text and "has died" in text and "Traceback" not in text
    assert len(text[text.index("error: ") :].strip().splitlines()) == 1


def test_signals_are_ignored_while_python_ends(tmp_path: Path) -> None:
    """A handler would be put back to the default before the process is gone; what is ignored stays so."""
    code = (
        "import signal\n"
        "from core.engine.run.cli import run_command\n"
        "run_command(lambda: None)\n"
        "numbers = (signal.SIGTERM, signal.SIGUSR1)\n"
        "raise SystemExit(any(signal.getsignal(n) != signal.SIG_IGN for n in numbers))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO, check=False).returncode == 0


# --- within a training ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("scans"))


def test_a_signal_behind_the_last_exchange_of_a_step(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rank 0 alone is asked, when the other rank can no longer hear of it in this step: both leave after the next."""
    update = Trainer._update

    def asked_in_step_2(self: Trainer) -> float:
        if self.global_step == 2 and self.world.rank == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(self)

    monkeypatch.setattr(Trainer, "_update", asked_in_step_2)

    def job(world: World) -> None:
        few = ["--batch_size", "1", "--num_epochs", "2", "--train.save_every", "99"]
        train_teacher(world, load_config(config, few), tmp_path / "run")

    codes, said = ends(job, tmp_path)
    assert codes == [75, 75]
    assert "stopped by a signal after step 3" in said[0]
    assert (tmp_path / "run" / "checkpoints" / "step-00000003.pt").is_file()
