"""A convolution or linear layer and the rectifier behind it in one pass, for inference.

oneDNN rectifies before it writes. torch calls that from the code that torch.compile makes and from nowhere else, so
where this build or number type has no such call, the rectifier has a pass of its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["leaky_conv", "relu_linear"]


def leaky_conv(
    x: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, int], slope: float
) -> Tensor:
    """Convolve with stride 1 and multiply what is negative by ``slope``; there is no gradient.

    Args:
        x: [B, cin, H, W], best channels last in memory.
        weight: [cout, cin, h, w]. bias: [cout]. padding: zeros above and below, left and right.

    Returns:
        [B, cout, H', W'].
    """
    if _in_one_pass(x, "_convolution_pointwise"):
        once = [1, 1]
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias, list(padding), once, once, 1, "leaky_relu", [slope], ""
        )
        return found
    return F.leaky_relu_(F.conv2d(x, weight, bias, padding=padding), slope)


def relu_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Multiply rows, add, and set what is negative to 0: [N, cin] -> [N, cout]; there is no gradient.

    Args:
        weight: [cout, cin]. bias: [cout].
    """
    if _in_one_pass(x, "_linear_pointwise"):
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu", [], "")
        return found
    return F.relu_(F.linear(x, weight, bias))


def _in_one_pass(x: Tensor, call: str) -> bool:
    if x.device.type != "cpu" or not torch.backends.mkldnn.enabled:
        return False
    if not hasattr(torch.ops.mkldnn, call):
        return False
    if x.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return x.dtype == torch.float32
