"""Starting up: one process, MPI (torchpack dist-run), torchrun or srun, told apart by the environment alone."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from core.engine.run.torchpack_api import context as torchpack_context
from core.errors import UserError
from core.machine import usable_cores

__all__ = [
    "ErrorRelay",
    "World",
    "barrier",
    "detect",
    "first_host",
    "join_over_ranks",
    "rank_zero_first",
    "start",
    "sum_over_ranks",
]

_TIMEOUT = timedelta(minutes=int(os.environ.get("LIDISTILL_TIMEOUT_MINUTES", "30")))


@dataclass(frozen=True)
class World:
    """Who this process is.

    Attributes:
        rank, size: of all processes. local_rank, local_size: of those on this machine.
        launcher: ``single``, ``mpi``, ``torchrun`` or ``slurm``.
        init_method: where the processes meet (``tcp://host:port``), empty for one process.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launcher: str = "single"
    init_method: str = ""

    @property
    def device(self) -> torch.device:
        """The GPU of this local rank, or the CPU; ``srun --gpus-per-task=1`` shows each task its own GPU as 0."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        alone = self.launcher == "slurm" and torch.cuda.device_count() == 1
        return torch.device("cuda", 0 if alone else self.local_rank)


def detect(environment: dict[str, str] | None = None) -> World:
    """Read the launcher's variables: Open MPI, then torchrun, then a SLURM step, else one process."""
    env = dict(os.environ) if environment is None else environment
    if int(env.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        return _detect_mpi(env)
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= env.keys() and int(
        env["WORLD_SIZE"]
    ) > 1:
        return World(
            rank=int(env["RANK"]),
            size=int(env["WORLD_SIZE"]),
            local_rank=int(env.get("LOCAL_RANK", "0")),
            local_size=int(env.get("LOCAL_WORLD_SIZE", "1")),
            launcher="torchrun",
            init_method="env://",
        )
    if (
        "SLURM_STEP_ID" in env
        and int(env.get("SLURM_STEP_NUM_TASKS", env.get("SLURM_NTASKS", "1"))) > 1
    ):
        return _detect_slurm(env)
    return World()


def _detect_mpi(env: dict[str, str]) -> World:
    from mpi4py import MPI  # starts MPI; only under an MPI launcher

    world = MPI.COMM_WORLD
    local = world.Split_type(MPI.COMM_TYPE_SHARED)
    host = env.get("MASTER_HOST")
    if host is None:  # plain mpirun: rank 0 picks the meeting point
        host = world.bcast(
            f"{socket.gethostname()}:{_free_port()}" if world.Get_rank() == 0 else None
        )
    return World(
        world.Get_rank(),
        world.Get_size(),
        local.Get_rank(),
        local.Get_size(),
        launcher="mpi",
        init_method=f"tcp://{host}",
    )


def _detect_slurm(env: dict[str, str]) -> World:
    size = int(env.get("SLURM_STEP_NUM_TASKS", env.get("SLURM_NTASKS", "1")))
    nodes = int(env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES", "1")))
    host = env.get("MASTER_ADDR") or first_host(
        env.get("SLURM_STEP_NODELIST", env.get("SLURM_NODELIST", "localhost"))
    )
    port = int(env.get("MASTER_PORT", 20000 + int(env.get("SLURM_JOB_ID", "0")) % 20000))
    return World(
        rank=int(env["SLURM_PROCID"]),
        size=size,
        local_rank=int(env.get("SLURM_LOCALID", "0")),
        local_size=max(1, size // nodes),
        launcher="slurm",
        init_method=f"tcp://{host}:{port}",
    )


def first_host(nodelist: str) -> str:
    """First name of a SLURM node list: ``gpu[03-05,9],cpu1`` -> ``gpu03``, ``r[1-2]n[4-7]`` -> ``r1n4``."""
    match = re.match(r"(?:[^\[\],\s]+|\[[^\]]+\])+", nodelist)
    if match is None:
        raise UserError(
            f"cannot read the SLURM node list '{nodelist}'", cure="Set MASTER_ADDR and MASTER_PORT"
        )
    return re.sub(r"\[([^\]\-,]+)[^\]]*\]", r"\1", match.group())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def start() -> World:
    """Join the other processes (gloo on CPU, NCCL on GPU), pick the device, share the cores fairly.

    Raises:
        UserError: more processes on this machine than GPUs, or the others do not answer.
    """
    world = detect()
    if torch.cuda.is_available():
        if world.device.index >= torch.cuda.device_count():
            raise UserError(
                f"process {world.local_rank} of this machine has no GPU: {torch.cuda.device_count()} are visible",
                cure="Start fewer processes per machine, or make more GPUs visible (CUDA_VISIBLE_DEVICES)",
            )
        torch.cuda.set_device(world.device)
    if "OMP_NUM_THREADS" not in os.environ or world.launcher == "torchrun":
        torch.set_num_threads(max(1, usable_cores() // world.local_size))
    torchpack_context._world_size, torchpack_context._world_rank = world.size, world.rank
    torchpack_context._local_size, torchpack_context._local_rank = (
        world.local_size,
        world.local_rank,
    )
    if world.size > 1 and not dist.is_initialized():
        try:
            dist.init_process_group(
                backend="nccl" if torch.cuda.is_available() else "gloo",
                init_method=world.init_method,
                rank=world.rank,
                world_size=world.size,
                timeout=_TIMEOUT,
            )
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"the {world.size} processes could not meet at {world.init_method} ({error})",
                cure="Check that the hosts reach each other and the port is free; `make doctor` checks the MPI flavour",
            ) from error
    return world


def barrier() -> None:
    """Wait for every process; nothing with one."""
    if dist.is_initialized():
        dist.barrier()


def join_over_ranks(messages: Iterable[str]) -> list[str]:
    """All processes' messages in rank order, each once. Every process must call."""
    lists: list[list[str]] = [list(messages)]
    if dist.is_initialized():
        lists = [[]] * dist.get_world_size()
        dist.all_gather_object(lists, list(messages))
    return list(dict.fromkeys(message for part in lists for message in part))


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place; the same tensor with one."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


@contextmanager
def rank_zero_first(world: World) -> Iterator[None]:
    """Run the block on rank 0 first, then on the others: for caches built once on a shared disk."""
    if world.rank != 0:
        barrier()
    yield
    if world.rank == 0:
        barrier()


class ErrorRelay:
    """Carries an error of any rank to rank 0, whose terminal is the only one a launcher may show.

    ``torchpack dist-run`` discards the output of every rank but 0, so without this a damaged scan met by rank 3 would
    end the job without a word. The text travels through the process group's key-value store; a thread of rank 0 looks
    for it twice a second, even while the main thread waits in a collective.
    """

    KEY = "lidistill/error"

    def __init__(self, world: World, on_error: Callable[[str, int], None]) -> None:
        self.world, self._closed = world, threading.Event()
        self.store = dist.distributed_c10d._get_default_store() if world.size > 1 else None
        if self.store is not None:
            self.store.add(self.KEY + "/count", 0)
            if world.rank == 0:
                watch = (self.store, on_error)
                threading.Thread(target=self._watch, args=watch, daemon=True).start()

    def _watch(self, store: dist.Store, on_error: Callable[[str, int], None]) -> None:
        while not self._closed.wait(0.5):
            if store.add(self.KEY + "/count", 0) > 0:
                code, _, text = store.get(self.KEY).decode().partition("\n")
                store.add(self.KEY + "/seen", 1)
                on_error(text, int(code))
                return

    def send(self, text: str, code: int) -> bool:
        """Hand the error to rank 0; True when it has taken it (then this rank need not print)."""
        if self.store is None or self.world.rank == 0:
            return False
        self.store.set(self.KEY, f"{code}\n[rank {self.world.rank}] {text}")
        self.store.add(self.KEY + "/count", 1)
        for _ in range(30):
            if self.store.add(self.KEY + "/seen", 0) > 0:
                return True
            time.sleep(0.1)
        return False

    def close(self) -> None:
        """Stop watching; call before the process group goes."""
        self._closed.set()
