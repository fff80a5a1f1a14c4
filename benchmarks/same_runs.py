"""How ``benchmarks/same_numbers.py`` runs a job in two checkouts side by side, and the worlds their jobs read."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from same_jobs import WORLDS, Command, Job

__all__ = ["JobError", "Side", "pandaset_root", "prepare", "run_job"]

BIN = Path(sys.executable).parent
KERNELS = (  # as `make setup` builds them: without them another code path would be compared
    ("-c", "from core.sparse.build import build; build()"),
    ("-m", "sptr.build"),
)
SLOW_PATH = re.compile(r"compiled kernels are missing", re.IGNORECASE)
TIME_LIMIT = 600  # s, of one command


class JobError(Exception):
    """A command that did not do what it should."""


@dataclass(frozen=True)
class Side:
    """One of the two checkouts, and the folder its jobs run in; paths in commands are relative to that folder."""

    name: str
    tree: Path
    folder: Path

    def out(self, job: str) -> Path:
        """Folder of a job's outputs."""
        return self.folder / "out" / job

    def written(self, world: str) -> Path:
        """Folder of a world as this checkout wrote it."""
        return self.folder / "written" / world

    def environment(self) -> dict[str, str]:
        """This checkout's code in front, one thread, no GPU, and caches of its own."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("LIDISTILL_")}
        code = (self.tree, self.tree / "third_party" / "SparseTransformer")
        return kept | {
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(map(str, code)),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
        }

    def command(self, line: str, launcher: str | None = None) -> list[str]:
        """A job's command line as it is run."""
        words = shlex.split(line)
        if words[0].endswith(".py"):
            words[0] = str(self.tree / words[0])
        if launcher == "torchrun":
            start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
            return [sys.executable, *start, *words]
        if launcher == "dist-run":
            return [str(BIN / "torchpack"), "dist-run", "-np", "2", sys.executable, *words]
        return [sys.executable, *words]


def run(
    side: Side, words: Sequence[str], log: Path, kill_when: Callable[[], bool] | None = None
) -> None:
    """Run one command in a checkout's folder, its messages appended to ``log``.

    Args:
        kill_when: ask often, and kill the command as soon as this is true.

    Raises:
        JobError: it failed, took too long, ended before it was to be killed, or had no compiled kernels.
    """  # fmt: skip
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as stream:
        stream.write(f"$ {shlex.join(words)}\n")
        stream.flush()
        process = subprocess.Popen(
            words,
            cwd=side.folder,
            env=side.environment(),
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        killed = _wait(process, kill_when)
    text = log.read_text(encoding="utf-8", errors="replace")
    tail = "\n".join(text.splitlines()[-12:])
    if SLOW_PATH.search(text):
        raise JobError(f"{side.name}: the compiled kernels were not found\n{tail}")
    if kill_when is not None and not killed:
        raise JobError(f"{side.name}: the command ended before it could be killed\n{tail}")
    if process.returncode != 0 and not killed:
        raise JobError(f"{side.name}: exit code {process.returncode}\n{tail}")


def _wait(process: subprocess.Popen[bytes], kill_when: Callable[[], bool] | None) -> bool:
    """Wait for the end; whether the command was killed on purpose.

    Raises:
        JobError: it took too long.
    """
    deadline = time.monotonic() + TIME_LIMIT
    while process.poll() is None:
        wanted = kill_when is not None and kill_when()
        late = time.monotonic() > deadline
        if wanted or late:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if wanted:
            return True
        if late:
            raise JobError(f"{shlex.join(process.args)}: stopped after {TIME_LIMIT} s")  # type: ignore[arg-type]
        time.sleep(0.005)
    return False


def run_command(side: Side, job: Job, command: Command) -> None:
    """Run one command of a job."""
    names = {"config": f"jobs/{job.name}.yaml", "out": f"out/{job.name}"}
    words = side.command(command.line.format(**names), command.launcher)
    kill_when = None
    if command.kill_after is not None:
        scalars = side.out(job.name) / "scalars.jsonl"
        enough = command.kill_after

        def kill_when() -> bool:
            return scalars.is_file() and scalars.read_text().count("loss/total") >= enough

    run(side, words, side.folder / "messages" / f"{job.name}.log", kill_when)


def run_job(job: Job, old: Side, new: Side) -> None:
    """Run a job in both checkouts at the same time.

    Raises:
        JobError: a command failed.
    """
    for side in (old, new):
        path = side.folder / "jobs" / f"{job.name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(job.config))
        side.out(job.name).mkdir(parents=True)
        for source in job.given:
            _give(best_checkpoint(old, source), side.folder / "given" / f"{source}.pt")
    commands = list(job.commands)
    if job.handed_over:
        run_command(old, job, commands.pop(0))
        shutil.copytree(old.out(job.name), new.out(job.name), dirs_exist_ok=True)

    def run_all(side: Side) -> None:
        for command in commands:
            run_command(side, job, command)

    in_both(run_all, old, new)


def in_both(work: Callable[[Side], None], old: Side, new: Side) -> None:
    """Do something for both checkouts at the same time; an error comes out when both have ended."""
    with ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(work, side) for side in (old, new)]
    for task in tasks:
        task.result()


def best_checkpoint(side: Side, job: str) -> Path:
    """The best checkpoint of a finished training job."""
    return side.out(job) / "checkpoints" / "max-iou-val-vox.pt"


def _give(source: Path, target: Path) -> None:
    if not source.is_file():
        raise JobError(f"{source} is missing: the job that makes it failed")
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)


# --- worlds ---------------------------------------------------------------------------------------------------------
def prepare(old: Side, new: Side) -> None:
    """Build kernels, write the worlds with both checkouts, and give the old one's to both.

    Raises:
        JobError: a checkout cannot be built or cannot write a world.
    """
    in_both(_prepare_side, old, new)
    write_scans(old.written("folder"))
    for side in (old, new):
        shutil.copytree(old.folder / "written", side.folder / "worlds")
        link_pandaset(side.folder / "worlds" / "pandaset")


def _prepare_side(side: Side) -> None:
    for words in KERNELS:
        run(side, [sys.executable, *words], side.folder / "messages" / "build.log")
    for name, options in WORLDS.items():
        line = f"prepare_synthetic.py written/{name} --format {name} --workers 1 {options}"
        run(side, side.command(line), side.folder / "messages" / f"world-{name}.log")


def pandaset_root() -> Path | None:
    """Real PandaSet frames, if there are any."""
    root = os.environ.get("LIDISTILL_REALDATA")
    if root is None or not (Path(root) / "pandaset").is_dir():
        return None
    return (Path(root) / "pandaset").resolve()


def link_pandaset(target: Path) -> None:
    """Make the real frames appear among the worlds."""
    root = pandaset_root()
    if root is not None:
        target.symlink_to(root, target_is_directory=True)


def write_scans(folder: Path, scans: int = 10, points: int = 900) -> None:
    """Write random scans with labels and one camera, as the folder reader wants them."""
    rng = np.random.default_rng(7)
    (folder / "images" / "front").mkdir(parents=True)
    for number in range(scans):
        third = points // 3
        ground = np.c_[rng.uniform(-20, 20, (third, 2)), rng.normal(-1.7, 0.02, third)]
        car = np.array([6.0, 1.0 + number % 3, -1.0]) + rng.uniform(-1, 1, (third, 3))
        wall = np.c_[rng.uniform(-20, 20, third), np.full(third, 10.0), rng.uniform(-1.7, 3, third)]
        xyz = np.concatenate([ground, car, wall])
        scan = np.c_[xyz, rng.uniform(0, 1, len(xyz))]
        scan.astype(np.float32).tofile(folder / f"{number:03d}.bin")
        labels = np.repeat(np.array([40, 10, 50], np.uint32), third)
        labels.tofile(folder / f"{number:03d}.label")
        image = rng.integers(0, 255, (48, 124, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / "images" / "front" / f"{number:03d}.png")
    # looks along x: u = 62 - 60 y / x, v = 24 - 60 z / x
    projection = [[62.0, -60.0, 0.0, 0.0], [24.0, 0.0, -60.0, 0.0], [1.0, 0.0, 0.0, 0.0]]
    camera = {"size": [124, 48], "projection": projection}
    (folder / "calibration.yaml").write_text(yaml.safe_dump({"cameras": {"front": camera}}))
