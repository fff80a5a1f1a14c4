"""One inference and one training step of Cylinder3D, with losses on occupied cells or on the dense grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.contracts import IGNORE, Batch
from core.data.partitions.cylinder import Cylinder
from core.errors import UserError
from core.losses import CrossEntropyLovasz, lovasz_softmax

__all__ = ["LOSSES", "check_losses", "dense_loss", "infer", "occupied_loss", "train"]

_CRITERION = CrossEntropyLovasz()
_TINY = 1e-30  # keeps logarithms finite
_TOLERANCE = 1e-4  # relative


def occupied_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross entropy and Lovász-softmax of the occupied cells, as the project computes them."""
    losses = _CRITERION(logits, batch.labels)
    return torch.stack(list(losses.values())).sum()


def dense_loss(logits: Tensor, batch: Batch) -> Tensor:
    """The same from logits of every cell of the grid, [B, C, range, azimuth, height].

    Empty cells have the logit 0 and carry the ignored label, as in the published code.
    """
    grid = batch.cells.partition
    assert isinstance(grid, Cylinder)
    places = tuple(batch.coords.long().unbind(1))
    shape = (len(batch), *grid.bins)
    rows = logits.new_zeros(*shape, logits.shape[1]).index_put(places, logits)
    volume = rows.permute(0, 4, 1, 2, 3).float().contiguous()
    labels = torch.full(shape, IGNORE).index_put(places, batch.labels)
    entropy = F.cross_entropy(volume, labels, ignore_index=IGNORE)
    shares = F.softmax(volume, 1).permute(0, 2, 3, 4, 1).flatten(0, 3)
    known = labels.flatten() != IGNORE
    return entropy + lovasz_softmax(shares[known].clamp_min(_TINY).log(), labels.flatten()[known])


LOSSES = {"occupied": occupied_loss, "dense": dense_loss}


def infer(network: nn.Module, batch: Batch, dtype: str) -> Tensor:
    """Logits per cell; kernel maps are built anew."""
    batch.cells.tables.clear()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
        logits: Tensor = network(batch).logits
    return logits


def train(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    dtype: str,
    loss: str = "occupied",
) -> None:
    """One optimiser step; kernel maps are built anew.

    Args:
        loss: of :data:`LOSSES`.
    """
    batch.cells.tables.clear()
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
        logits = network(batch).logits
    LOSSES[loss](logits, batch).backward()
    optimizer.step()


def check_losses(network: nn.Module, batch: Batch) -> None:
    """Make sure that both losses are the same number.

    Raises:
        UserError: they are not.
    """
    logits = infer(network, batch, "fp32")
    ours, dense = (float(loss(logits, batch)) for loss in LOSSES.values())
    if abs(ours - dense) > _TOLERANCE * abs(dense):
        raise UserError(
            f"losses of occupied cells are {ours:.6g}, those of the dense grid {dense:.6g}",
            where="benchmark",
        )
