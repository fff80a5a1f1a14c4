"""Plain formulas for the tests of the image branch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def unsettle(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor, low in (
            (norm.running_mean, -0.3),
            (norm.running_var, 0.5),
            (norm.weight, 0.5),
            (norm.bias, -0.3),
        ):
            tensor.data.uniform_(low, low + 0.8, generator=generator)


def gradients(result: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weight = torch.randn(
        result.shape, generator=torch.Generator().manual_seed(9), dtype=result.dtype
    )
    return list(torch.autograd.grad((result * weight).sum(), inputs))


def naive_unit(x: Tensor, unit: nn.Sequential) -> Tensor:
    norm, _, conv = unit
    statistics = (None, None) if norm.training else (norm.running_mean, norm.running_var)
    normal = F.batch_norm(x, *statistics, norm.weight, norm.bias, norm.training)
    return F.conv2d(F.relu(normal), conv.weight, padding=conv.padding)
