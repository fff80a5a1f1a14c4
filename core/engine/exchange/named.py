"""Weights whose names are not known here, by a table of names that a person writes.

    title: KDMOS
    rules:
      - {theirs: 'encoder\\.(\\d)\\.conv\\.', ours: 'appearance.\\1.0.'}
    unused:
      - {theirs: 'loss\\.', why: weights of the loss}
    axes: xyz

Rules are regular expressions of a name's beginning; the first that fits counts. What follows from shapes needs no rule:
1x1 convolutions become linear layers, and class 0 (ignore) gets zeros where a file has one class less.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from core.config import Config, Section
from core.config.strict_yaml import read_yaml
from core.datasets import dataset_class
from core.distill import network_outputs
from core.engine.exchange.families import Family, Table, Target, Translated
from core.engine.exchange.foreign import Weights, read_foreign
from core.errors import UserError
from core.models import MODELS, build_model

__all__ = ["NameTable", "NamedWeights", "draft_names", "read_table"]


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"'{pattern}' is no regular expression: {error}") from error
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]


class Rule(Section):
    """How names that begin in some way begin here."""

    theirs: Pattern = Field(description="regular expression of a name's beginning in the file")
    ours: str = Field(description="what stands there here; \\1 is the first group")


class Unused(Section):
    """Tensors that have no place here."""

    theirs: Pattern = Field(description="regular expression of a name's beginning in the file")
    why: str = Field(description="the reason, which the checkpoint keeps")


class NameTable(Section):
    """What a person knows of a file's names."""

    title: str = Field(description="whose weights they are")
    rules: tuple[Rule, ...] = Field(min_length=1, description="how names become ours")
    unused: tuple[Unused, ...] = Field((), description="tensors that are left out")
    axes: Literal["xyz", "zyx"] | None = Field(
        None,
        description="what the three middle axes of spconv's kernels [out, k, k, k, in] are; null = there are none",
    )


def read_table(path: Path) -> NameTable:
    """Read a table of names.

    Raises:
        UserError: it is missing, no YAML, or has a wrong key or expression.
    """
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise UserError(
            "this file is no table of names",
            where=str(path),
            cure="Write title: NAME and rules: [{theirs: …, ours: …}]",
        )
    return Config(tree, source=str(path)).parse(NameTable)


class NamedWeights(Family):
    """Weights of the names in a table."""

    title: ClassVar[str] = "a table of names"
    networks: ClassVar[tuple[str, ...]] = tuple(MODELS)

    def __init__(self, table: NameTable) -> None:
        self.table = table

    @classmethod
    def recognises(cls, names: Collection[str]) -> bool:
        """Never: somebody has to give the table."""
        return False

    def translate(self, weights: Weights, target: Target) -> Translated:
        """Rename, and bring to the shapes of the network where only a form differs.

        Raises:
            UserError: two tensors would have one name, or a rule speaks of a group that it has not.
        """
        rules = [(rule.theirs, rule.ours) for rule in self.table.rules]
        unused = [(rule.theirs, rule.why) for rule in self.table.unused]
        try:
            made = Table(rules, unused).translate(weights, target.classes, self.table.axes)
        except (re.error, IndexError) as error:
            raise UserError(
                f"a rule's 'ours' cannot be filled in: {error}",
                where=f"table of names of {self.table.title}",
            ) from error
        made.network = _brought_to_shape(made.network, target)
        return made


def _brought_to_shape(weights: Weights, target: Target) -> Weights:
    shaped = {}
    own = target.network.state_dict()
    for name, tensor in weights.items():
        shaped[name] = _shaped(tensor, own[name].shape, target.classes) if name in own else tensor
    return shaped


def _shaped(tensor: Tensor, shape: torch.Size, classes: int) -> Tensor:
    """The tensor in the network's shape, where it is one in another form; else as it is, for the loader to refuse.

    Args:
        classes: outputs of the network, of which a file may lack the first. They run fastest where a layer has several
            rows for each.
    """
    if tensor.shape == shape:
        return tensor
    flat = tensor
    if tensor.dim() > len(shape) and set(tensor.shape[len(shape) :]) == {1}:
        flat = tensor.reshape(tensor.shape[: len(shape)])  # of a convolution of one pixel
    if flat.shape == shape:
        return flat
    lacks_one = len(shape) > 0 and flat.shape[1:] == shape[1:]
    if lacks_one and shape[0] % classes == 0 and len(flat) * classes == shape[0] * (classes - 1):
        known = flat.reshape(-1, classes - 1, *shape[1:])
        return torch.cat([torch.zeros_like(known[:, :1]), known], 1).reshape(shape)
    return tensor


def draft_names(source: Path, config: Config) -> str:
    """A table of names for the tensors of a file and the network of a configuration, as text for a person to complete.

    A tensor whose number of values no other has gets its rule. For the others the tensors of the network that they can
    be stand beside them, in the network's order.

    Raises:
        UserError: the file is damaged or holds no weights, or the configuration has no such network.
    """
    reader = dataset_class(config)
    labels = reader.label_space(config.parse(reader.Config, "dataset"))
    with torch.device("meta"):  # names and shapes are enough
        network = build_model(config, network_outputs(config, labels), pretrained=False)
    weights = read_foreign(source).weights
    ours, theirs = _by_size(network.state_dict()), _by_size(weights)
    lines = ["title: ", "axes: null", "rules:"]
    for name, tensor in weights.items():
        candidates = ours.get(tensor.numel(), [])
        shape = "x".join(map(str, tensor.shape)) or "a number"
        escaped = re.escape(name)
        if len(candidates) == 1 and len(theirs[tensor.numel()]) == 1:
            lines.append(f"  - {{theirs: '{escaped}$', ours: '{candidates[0]}'}}  # {shape}")
            continue
        others = ", ".join(candidates) or "no tensor of the network"
        lines.append(f"  # - {{theirs: '{escaped}$', ours: }}  # {shape}: {others}")
    return "\n".join(lines) + "\n"


def _by_size(tensors: Weights) -> dict[int, list[str]]:
    """Names by number of values."""
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(tensor.numel(), []).append(name)
    return names
