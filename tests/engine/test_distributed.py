"""Who this process is, and errors that travel to rank 0."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from core.engine.run.distributed import (
    World,
    barrier,
    detect,
    first_host,
    from_rank_zero,
    join_over_ranks,
    rank_zero_first,
    sum_over_ranks,
)
from core.errors import UserError

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "host",
    "MASTER_PORT": "29500",
}
SLURM = {
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "4",
    "SLURM_STEP_NODELIST": "gpu[03-05,9]",
    "SLURM_PROCID": "6",
    "SLURM_LOCALID": "1",
}


# --- detection ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"PATH": "/bin"},
        {"OMPI_COMM_WORLD_SIZE": "1"},
        TORCHRUN | {"WORLD_SIZE": "1", "RANK": "0"},
        {
            "RANK": "1",
            "WORLD_SIZE": "2",
        },  # half of torchrun's variables, as some shells leave behind
        SLURM | {"SLURM_STEP_NUM_TASKS": "1"},
        {
            "SLURM_JOB_ID": "7",
            "SLURM_NTASKS": "8",
            "SLURM_PROCID": "0",
        },  # in sbatch's script, outside any srun
    ],
)
def test_one_process(environment: dict[str, str]) -> None:
    assert detect(environment) == World(0, 1, 0, 1, "single", "")


def test_torchrun() -> None:
    assert detect(TORCHRUN) == World(5, 8, 1, 4, "torchrun", "env://")


def test_torchrun_inside_a_slurm_step() -> None:
    assert detect(SLURM | TORCHRUN).launcher == "torchrun"


def test_srun_over_several_nodes() -> None:
    """The port is 20000 + job % 20000: jobs that share a node do not meet by accident."""
    assert detect(SLURM) == World(6, 8, 1, 2, "slurm", "tcp://gpu03:23456")


def test_srun_with_a_meeting_point_of_ones_own() -> None:
    assert (
        detect(SLURM | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4000"}).init_method
        == "tcp://10.0.0.1:4000"
    )


def test_srun_with_the_job_variables_only() -> None:
    old = {"SLURM_NTASKS": "4", "SLURM_NNODES": "1", "SLURM_NODELIST": "n1", "SLURM_JOB_ID": "1"}
    old["SLURM_PROCID"] = "3"
    environment = {
        key: SLURM[key] for key in ("SLURM_STEP_ID", "SLURM_PROCID", "SLURM_LOCALID")
    } | old
    assert detect(environment) == World(3, 4, 1, 4, "slurm", "tcp://n1:20001")


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [
        ("localhost", "localhost"),
        ("node7", "node7"),
        ("gpu[03-05,9]", "gpu03"),
        ("gpu[9,03-05]", "gpu9"),
        ("a1,b[2-3]", "a1"),
        ("gpu[03-05,9],cpu1", "gpu03"),
        ("gpu-a100-[001-016].cluster", "gpu-a100-001.cluster"),
        ("r[1-2]n[04-07]", "r1n04"),
        ("[12-13]", "12"),
    ],
)
def test_first_host(nodelist: str, host: str) -> None:
    assert first_host(nodelist) == host


@pytest.mark.parametrize("nodelist", ["", ",x"])
def test_node_list_that_cannot_be_read(nodelist: str) -> None:
    with pytest.raises(UserError, match="cannot read the SLURM node list") as caught:
        first_host(nodelist)
    assert "MASTER_ADDR" in caught.value.cure


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (TORCHRUN | {"RANK": "x"}, "RANK: .*it is 'x'"),
        (TORCHRUN | {"WORLD_SIZE": "many"}, "WORLD_SIZE"),
        (TORCHRUN | {"LOCAL_RANK": "-1"}, "LOCAL_RANK"),
        (TORCHRUN | {"MASTER_PORT": ""}, "MASTER_PORT"),
        (TORCHRUN | {"RANK": "8"}, "rank 8 of 8 processes"),
        ({key: SLURM[key] for key in SLURM if key != "SLURM_PROCID"}, "SLURM_PROCID.*missing"),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "8(x2)"}, "SLURM_STEP_NUM_TASKS"),
        (SLURM | {"SLURM_JOB_ID": "7_1"}, "SLURM_JOB_ID"),
        ({"OMPI_COMM_WORLD_SIZE": "two"}, "OMPI_COMM_WORLD_SIZE"),
    ],
)
def test_variables_that_are_no_numbers(changes: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        detect(changes)


# --- one process ----------------------------------------------------------------------------------------------------
def test_collectives_of_one_process_do_nothing() -> None:
    values = torch.tensor([1.0, 2.0])
    barrier()
    assert sum_over_ranks(values) is values and values.tolist() == [1.0, 2.0]
    with rank_zero_first(World()):
        pass  # would wait for ever if it asked for another process


# --- two processes --------------------------------------------------------------------------------------------------
def _worker(rank: int, address: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    world = World(rank, 2, rank, 2, "torchrun", address)
    result = {"sum": sum_over_ranks(torch.tensor([rank + 1.0])).item()}
    result["joined"] = join_over_ranks([["both", "first"], ["second", "both"]][rank])
    marker = Path(folder) / "cache"
    with rank_zero_first(world):
        result["cache_was_there"] = marker.exists()
        if rank == 0:
            time.sleep(0.2)
            marker.touch()
    result["found"] = from_rank_zero(lambda: [rank, "of rank 0"])
    (Path(folder) / f"{rank}.json").write_text(json.dumps(result))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each rank saw."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    mp.start_processes(
        _worker, (address, str(folder)), nprocs=2, start_method="fork"
    )  # spawning imports torch anew
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_what_rank_0_finds_holds_for_all(two_processes: list[dict]) -> None:
    assert [result["found"] for result in two_processes] == [[0, "of rank 0"]] * 2
    assert from_rank_zero(lambda: 5) == 5


def test_sum_over_ranks(two_processes: list[dict]) -> None:
    assert [result["sum"] for result in two_processes] == [3.0, 3.0]


def test_messages_of_all_ranks_are_joined_once(two_processes: list[dict]) -> None:
    assert [r["joined"] for r in two_processes] == [["both", "first", "second"]] * 2
    assert join_over_ranks(["a", "a", "b"]) == ["a", "b"]


def test_rank_zero_goes_first(two_processes: list[dict]) -> None:
    assert [result["cache_was_there"] for result in two_processes] == [False, True]
