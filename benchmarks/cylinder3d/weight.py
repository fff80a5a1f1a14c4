"""Memory of training steps of Cylinder3D, each in a process of its own."""

from __future__ import annotations

import multiprocessing

import numpy as np
import torch

from benchmarks.cylinder3d.scene import cylinder_batch, network_of
from benchmarks.cylinder3d.steps import train
from benchmarks.timing import measured_peak_mib, resident_kib
from core.engine.run.memory import keep_freed_memory

__all__ = ["peak_gb"]

_STEPS = 3  # the first one makes the optimiser's state
_KIB, _MIB = 1024 / 1e9, 2**20 / 1e9  # in GB


def peak_gb(name: str, points: np.ndarray, dtype: str, loss: str, threads: int) -> dict[str, float]:
    """GB (1e9 bytes) of training at batch 1: ``process``, and ``training``, above what it held before the network.

    Args:
        name: of a width. loss: "occupied" or "dense".
    """
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(_peak, (name, points, dtype, loss, threads))


def _peak(name: str, points: np.ndarray, dtype: str, loss: str, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    keep_freed_memory()  # as every training of the project
    batch = cylinder_batch(points)

    def work() -> None:
        network = network_of(name).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        for _ in range(_STEPS):
            train(network, optimizer, batch, dtype, loss)

    training = measured_peak_mib(work) * _MIB
    return {"process": resident_kib("VmHWM") * _KIB, "training": training}
