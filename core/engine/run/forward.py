"""The one place where a trained network's logits come out: they are finite, or the scan is named."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.contracts import Batch, Output
from core.errors import UserError

__all__ = ["infer"]


def infer(network: nn.Module, batch: Batch) -> Output:
    """Run a network that is not being trained.

    Raises:
        UserError: some logits are NaN or infinite; it names the scan.
    """
    output: Output = network(batch)
    _demand_finite(output.logits, batch.cells.offsets, batch)
    if output.point_logits is not None:
        _demand_finite(output.point_logits, batch.point_offsets, batch)
    return output


def _demand_finite(logits: Tensor, offsets: Tensor, batch: Batch) -> None:
    """Refuse rows with a value that is not finite; ``offsets`` i64 [B + 1] are the rows of each scan."""
    if bool(logits.isfinite().all()):
        return
    rows = (~logits.isfinite().all(1)).nonzero()[:, 0]
    scan = int(torch.searchsorted(offsets, rows[0], right=True)) - 1
    cure = "Look at the scan with 'python -m core.check_data CONFIG'"
    if logits.dtype == torch.float16 or torch.is_autocast_enabled(logits.device.type):
        cure += "; or compute with --amp.enabled false, if numbers outgrew the type"
    raise UserError(
        f"the network's logits are NaN or infinite at {len(rows)} of {len(logits)} places, "
        f"so there is no prediction for scan {batch.tokens[scan]}",
        cure=cure,
    )
