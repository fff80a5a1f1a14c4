"""The fast convolutions against their plain twins: values, gradients, statistics, and what they keep."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from core.fast import conv2d, plain
from core.sparse.points import GatherTable

CIN, COUT, HEIGHT, WIDTH = 40, 6, 5, 7  # more channels than are gathered at a time
ORDERS = [torch.contiguous_format, torch.channels_last]
Layer = Callable[[Tensor, nn.Module, nn.Conv2d], Tensor]


def make_map(order: torch.memory_format, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, CIN, HEIGHT, WIDTH, generator=generator, dtype=dtype)
    return x.contiguous(memory_format=order).requires_grad_()


def make_layers(kernel: int, training: bool) -> tuple[nn.BatchNorm2d, nn.Conv2d]:
    """A norm that is not the identity, and a convolution."""
    torch.manual_seed(2)
    norm = nn.BatchNorm2d(CIN).double().train(training)
    for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
        tensor.data.uniform_(0.4, 1.3)
    conv = nn.Conv2d(CIN, COUT, kernel, padding=kernel // 2, bias=False).double()
    return norm, conv


def make_table() -> GatherTable:
    """Nine taps at each of 11 points, each a mean of some pixels."""
    rng = torch.Generator().manual_seed(3)
    rows = torch.arange(11 * 9).repeat_interleave(4)
    pixels = torch.randint(2 * HEIGHT * WIDTH, (len(rows),), generator=rng)
    weights = torch.full((len(rows),), 0.25)
    return GatherTable.from_entries(rows, pixels, weights, 11 * 9, 2 * HEIGHT * WIDTH)


def run(layer: Layer, x: Tensor, norm: nn.Module, conv: nn.Conv2d) -> list[Tensor]:
    """Result, gradients of whatever wants one (twice over: a graph may be walked again), statistics."""
    result = layer(x, norm, conv)
    weight = torch.randn(result.shape, generator=torch.Generator().manual_seed(9)).to(result.dtype)
    wanted = [t for t in (x, *norm.parameters(), *conv.parameters()) if t.requires_grad]
    found = [result]
    for _ in range(2):
        found += torch.autograd.grad((result * weight).sum(), wanted, retain_graph=True)
    return [t.detach().clone() for t in (*found, norm.running_mean, norm.running_var)]


def at_points(module: object) -> Layer:
    return lambda x, norm, conv: module.norm_relu_conv_at_points(x, norm, conv, make_table())


@pytest.mark.parametrize(
    "conv, message",
    [
        (nn.Conv2d(CIN, COUT, 3, padding=1), "no bias"),
        (nn.Conv2d(CIN, COUT, 3, padding=1, stride=2, bias=False), r"stride=\(2, 2\).*stride 1"),
        (nn.Conv2d(CIN, COUT, 3, padding=2, dilation=2, bias=False), r"dilation=\(2, 2\)"),
        (nn.Conv2d(CIN, COUT, 3, bias=False), "padding that keeps"),
        (nn.Conv2d(CIN, COUT, 2, padding=1, bias=False), "odd square"),
        (nn.Conv2d(CIN, COUT, 3, padding=1, groups=2, bias=False), "groups=2"),
        (nn.Conv2d(CIN, COUT, 3, padding=1, padding_mode="circular", bias=False), "circular"),
        (nn.Conv2d(CIN + 8, COUT, 3, padding=1, bias=False), rf"\[2, {CIN}, 5, 7\].*{CIN + 8}"),
    ],
)
@pytest.mark.parametrize("layer", [conv2d.norm_relu_conv, at_points(conv2d)])
def test_other_convolutions_are_refused(layer: Layer, conv: nn.Conv2d, message: str) -> None:
    """Each would be computed as if it were one of the served kind."""
    x = torch.zeros(2, CIN, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match=message):
        layer(x, nn.BatchNorm2d(CIN), conv)


def test_a_table_of_other_taps_is_refused() -> None:
    conv = nn.Conv2d(CIN, COUT, 5, padding=2, bias=False)
    x = torch.zeros(2, CIN, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="99 rows for 25 taps"):
        conv2d.norm_relu_conv_at_points(x, nn.BatchNorm2d(CIN), conv, make_table())
    with pytest.raises(ValueError, match="35 rows of features for a table of 70"):
        conv2d.norm_relu_conv_at_points(
            x[:1], nn.BatchNorm2d(CIN), make_layers(3, True)[1], make_table()
        )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("order", ORDERS)
def test_pointwise(order: torch.memory_format, bias: bool) -> None:
    conv, x = nn.Conv2d(CIN, COUT, 1, bias=bias).double(), make_map(order)
    inputs = [x, *conv.parameters()]
    expected = plain.pointwise_conv(x, conv.weight, conv.bias)
    found = conv2d.pointwise_conv(x, conv.weight, conv.bias)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    wanted = torch.autograd.grad(expected.square().sum(), inputs)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), inputs), wanted)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_map(kernel: int, training: bool, order: torch.memory_format) -> None:
    """The statistics move once, whatever the backward pass computes again."""
    expected = run(plain.norm_relu_conv, make_map(order), *make_layers(kernel, training))
    found = run(conv2d.norm_relu_conv, make_map(order), *make_layers(kernel, training))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("order", ORDERS)
def test_points(training: bool, order: torch.memory_format) -> None:
    expected = run(at_points(plain), make_map(order), *make_layers(3, training))
    found = run(at_points(conv2d), make_map(order), *make_layers(3, training))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("frozen", [("norm",), ("conv",), ("map",), ("map", "norm")])
@pytest.mark.parametrize("kernel", [1, 3])
def test_frozen_parts(kernel: int, frozen: tuple[str, ...]) -> None:
    layers = [(plain.norm_relu_conv, conv2d.norm_relu_conv)]
    if kernel == 3:
        layers.append((at_points(plain), at_points(conv2d)))
    for pair in layers:
        results = []
        for layer in pair:
            x, (norm, conv) = make_map(torch.channels_last), make_layers(kernel, True)
            x.requires_grad_("map" not in frozen)
            norm.requires_grad_("norm" not in frozen)
            conv.requires_grad_("conv" not in frozen)
            results.append(run(layer, x, norm, conv))
        torch.testing.assert_close(results[1], results[0])


class OtherNorm(nn.BatchNorm2d):
    """Stands for one whose output depends on more than its input."""


def test_other_norms_and_evaluation_take_no_short_cut() -> None:
    for norm_type in (OtherNorm, nn.BatchNorm2d):
        norm, conv = make_layers(3, False)
        norm.__class__ = norm_type
        x = make_map(torch.channels_last)
        with torch.set_grad_enabled(norm_type is OtherNorm):
            for name in ("norm_relu_conv", "norm_relu_conv_at_points"):
                table = [make_table()] if name.endswith("points") else []
                expected = getattr(plain, name)(x, norm, conv, *table)
                torch.testing.assert_close(getattr(conv2d, name)(x, norm, conv, *table), expected)


@pytest.mark.parametrize("kernel", [1, 3])
def test_mixed_precision(kernel: int) -> None:
    """The twin's bits, or a matrix product's rounding; other users of the kernel still get their gradient."""
    results = []
    for module in (plain, conv2d):
        norm, conv = (layer.float() for layer in make_layers(kernel, True))
        x = make_map(torch.channels_last, torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            result = module.norm_relu_conv(x, norm, conv)
            again = conv(x.detach())
        result.float().square().sum().backward()
        assert result.dtype == torch.bfloat16 and again.requires_grad
        results.append([result, x.grad, norm.weight.grad, norm.bias.grad, conv.weight.grad])
    for expected, found in zip(*results):
        tolerance = 0.0 if kernel == 3 else 0.01
        scale = expected.abs().max().item()
        torch.testing.assert_close(found, expected, rtol=0.0, atol=tolerance * scale)


@pytest.mark.parametrize("layer", [conv2d.norm_relu_conv, at_points(conv2d)])
def test_the_normalised_map_is_not_kept(layer: Layer) -> None:
    (norm, conv), normal = make_layers(3, True), []
    norm.register_forward_hook(
        lambda _, inputs, output: normal.append(StorageWeakRef(output.untyped_storage()))
    )
    result = layer(make_map(torch.channels_last), norm, conv)
    assert normal[0].expired() and result.grad_fn is not None
