"""``python -m core.models CONFIG``: modules, parameters and multiply-accumulates of a network on one sample."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from core.config import Config, load_config
from core.contracts import Batch
from core.data import DataConfig, ScanSamples, collate
from core.data.sampler import SampleKey
from core.datasets import build_dataset, dataset_class
from core.errors import EXIT_USER_ERROR, UserError
from core.models import build_model
from core.models.probe import inputs_of, random_batch
from core.sparse import Conv3d, SparseTensor

__all__ = ["count_macs", "main"]


def sample_batch(config: Config, model: nn.Module) -> tuple[Batch, str]:
    """The first training sample, or a random scan where the data set is not on disk; and which of the two."""
    try:
        samples = ScanSamples(build_dataset(config, "train"), config.parse(DataConfig, "data"))
    except UserError as error:
        return random_batch(inputs=inputs_of(model)), f"a random scan, for {error}"
    sample = samples[SampleKey(0, 0, False)]
    return collate([sample]), f"scan {sample.token}"


@torch.no_grad()
def count_macs(model: nn.Module, batch: Batch) -> dict[str, int]:
    """Multiply-accumulates of each sparse or image convolution and linear layer, by module name."""
    macs: dict[str, int] = {}
    hooks = []

    def watch(name: str) -> None:
        def conv_hook(module: Conv3d, inputs: tuple[SparseTensor], output: SparseTensor) -> None:
            if module.pointwise:
                pairs = output.num_voxels
            else:
                kernel_map, *_ = module.map_of(inputs[0])
                pairs = kernel_map.num_pairs
            macs[name] = pairs * module.in_channels * module.out_channels

        def dense_hook(
            module: nn.Linear | nn.Conv2d, inputs: tuple[torch.Tensor], output: torch.Tensor
        ) -> None:
            macs[name] = output.numel() * module.weight[0].numel()

        module = model.get_submodule(name)
        hook = conv_hook if isinstance(module, Conv3d) else dense_hook
        hooks.append(module.register_forward_hook(hook))

    for name, module in model.named_modules():
        if isinstance(module, Conv3d | nn.Linear | nn.Conv2d):
            watch(name)
    try:
        model.eval()(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return macs


def _rows(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Children with parameters; the members of a module list one by one."""
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{name}.{key}", member) for key, member in child.named_children())
        elif next(child.parameters(), None) is not None:
            yield name, child


def _table(model: nn.Module, macs: dict[str, int]) -> Table:
    table = Table("module", "parameters", "MMAC", title=type(model).__name__)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, module in _rows(model):
        below = 0
        for layer, count in macs.items():
            if layer == name or layer.startswith(name + "."):
                below += count
        table.add_row(name, *_figures(module, below))
    table.add_section()
    table.add_row("total", *_figures(model, sum(macs.values())))
    return table


def _figures(module: nn.Module, macs: int) -> tuple[str, str]:
    """Parameters, and millions of multiply-accumulates, as text."""
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return f"{parameters:,}", f"{macs / 1e6:,.1f}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m core.models", description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--debug", action="store_true")
    args, overrides = parser.parse_known_args()
    try:
        config = load_config(args.config, overrides)
        reader = dataset_class(config)
        num_classes = reader.label_space(config.parse(reader.Config, "dataset")).num_classes
        model = build_model(config, num_classes, pretrained=False)
        batch, what = sample_batch(config, model)
    except UserError as error:
        if args.debug:
            raise
        sys.stderr.write(f"error: {error}\n")
        raise SystemExit(EXIT_USER_ERROR) from None
    console = Console()
    console.print(_table(model, count_macs(model, batch)))
    console.print(f"{len(batch.coords):,} voxels, {num_classes} classes; {what}", highlight=False)


if __name__ == "__main__":
    main()
