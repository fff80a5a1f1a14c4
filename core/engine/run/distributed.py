"""Starting up: one process, MPI (torchpack dist-run), torchrun or srun, told apart by the environment alone."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from core.decode import reason
from core.engine.run.torchpack_api import context as torchpack_context
from core.errors import UserError
from core.locks import sole_writer
from core.machine import patience, usable_cores

__all__ = [
    "World",
    "barrier",
    "detect",
    "first_host",
    "from_rank_zero",
    "join_over_ranks",
    "rank_zero_first",
    "sole_job",
    "start",
    "sum_over_ranks",
]

T = TypeVar("T")


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


def detect(environment: Mapping[str, str] | None = None) -> World:
    """Read the launcher's variables: Open MPI, then torchrun, then a SLURM step, else one process."""
    env: Mapping[str, str] = os.environ if environment is None else environment
    if _number(env, "OMPI_COMM_WORLD_SIZE", default=1) > 1:
        return _detect_mpi(env)
    of_torchrun = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= env.keys()
    if of_torchrun and _number(env, "WORLD_SIZE") > 1:
        return _detect_torchrun(env)
    if "SLURM_STEP_ID" in env and _slurm_number(env, "NUM_TASKS", "NTASKS") > 1:
        return _detect_slurm(env)
    return World()


def _number(env: Mapping[str, str], name: str, default: int | None = None) -> int:
    """A launcher's variable, a whole number of at least 0.

    Raises:
        UserError: it is something else, or missing without a default.
    """
    text = env.get(name)
    if text is None and default is not None:
        return default
    if text is not None and text.strip().isdecimal():
        return int(text)
    found = "it is missing" if text is None else f"it is '{text}'"
    raise UserError(
        f"a launcher gives its number here, and {found}",
        where=f"environment variable {name}",
        cure="Unset what an earlier job left in this shell (env | grep -E 'RANK|WORLD_SIZE|SLURM|OMPI'), or start "
        "with torchrun, torchpack dist-run or srun",
    )


def _check(world: World) -> World:
    """Refuse a rank that does not exist; the others would wait for it."""
    for what, rank, size in (
        ("rank", world.rank, world.size),
        ("local rank", world.local_rank, world.local_size),
    ):
        if rank >= size:
            raise UserError(
                f"the launcher's variables say {what} {rank} of {size} processes",
                where=f"environment of {world.launcher}",
                cure="Unset what an earlier job left in this shell, or start with the launcher itself",
            )
    return world


def _detect_torchrun(env: Mapping[str, str]) -> World:
    _number(env, "MASTER_PORT")
    return _check(
        World(
            rank=_number(env, "RANK"),
            size=_number(env, "WORLD_SIZE"),
            local_rank=_number(env, "LOCAL_RANK", default=0),
            local_size=max(1, _number(env, "LOCAL_WORLD_SIZE", default=1)),
            launcher="torchrun",
            init_method="env://",
        )
    )


def _slurm_number(env: Mapping[str, str], of_step: str, of_job: str) -> int:
    """A variable of the SLURM step, else of the job, else 1."""
    name = f"SLURM_STEP_{of_step}"
    return _number(env, name if name in env else f"SLURM_{of_job}", default=1)


def _detect_mpi(env: Mapping[str, str]) -> World:
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


def _detect_slurm(env: Mapping[str, str]) -> World:
    size = _slurm_number(env, "NUM_TASKS", "NTASKS")
    nodes = max(1, _slurm_number(env, "NUM_NODES", "NNODES"))
    host = env.get("MASTER_ADDR") or first_host(
        env.get("SLURM_STEP_NODELIST", env.get("SLURM_NODELIST", "localhost"))
    )
    of_job = 20000 + _number(env, "SLURM_JOB_ID", default=0) % 20000
    port = _number(env, "MASTER_PORT", default=of_job)
    local = _number(env, "SLURM_LOCALID", default=0)
    return _check(
        World(
            rank=_number(env, "SLURM_PROCID"),
            size=size,
            local_rank=local,
            local_size=max(1, size // nodes, local + 1),
            launcher="slurm",
            init_method=f"tcp://{host}:{port}",
        )
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


def start() -> tuple[World, dist.Store | None]:
    """Join the other processes (gloo on CPU, NCCL on GPU), pick the device, share the cores fairly.

    Returns:
        who this process is, and the key-value store that all share; None with one process.

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
    return world, _meet(world) if world.size > 1 else None


def _meet(world: World) -> dist.Store:
    """Make the process group of all."""
    limit = patience()
    try:
        store, _, _ = next(rendezvous(world.init_method, world.rank, world.size, timeout=limit))
        dist.init_process_group(
            backend="nccl" if torch.cuda.is_available() else "gloo",
            store=store,
            rank=world.rank,
            world_size=world.size,
            timeout=limit,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the {world.size} processes could not meet at {world.init_method} ({reason(error)})",
            cure="Check that the hosts reach each other and the port is free; `make doctor` checks the MPI flavour",
        ) from error
    return store


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


def from_rank_zero(find: Callable[[], T]) -> T:
    """What ``find`` returns on rank 0, on all ranks. Every process must call.

    For whatever is read from a disk and decides what comes next: another process may see it a moment later.
    """
    if not dist.is_initialized():
        return find()
    box: list[Any] = [find() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box)
    found: T = box[0]
    return found


@contextmanager
def rank_zero_first(world: World) -> Iterator[None]:
    """Run the block on rank 0 first, then on the others: for caches built once on a shared disk."""
    if world.rank != 0:
        barrier()
    yield
    if world.rank == 0:
        barrier()


@contextmanager
def sole_job(world: World, folder: Path, option: str) -> Iterator[None]:
    """Keep other jobs from writing into a folder; the ranks of this one share it. Every process must call.

    Raises:
        UserError: see :func:`core.locks.sole_writer`.
    """
    if world.rank != 0:
        barrier()
        yield
        return
    with sole_writer(folder, option):
        barrier()
        yield
