"""Families of published weights. A new one is a file here, with a table of names, and a line in :mod:`core.names`."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from core.engine.exchange.foreign import Weights
from core.errors import UserError
from core.names import FAMILIES
from core.registry import load_entry, named_entry

__all__ = ["FAMILIES", "Family", "Table", "Target", "Translated", "chosen_family", "sparse_kernel"]

HEAD = "classifier_vox.0."  # last layer of our sparse U-Nets


@dataclass(frozen=True)
class Target:
    """What weights are translated for.

    Attributes:
        name: of the network, ``model.name``. network: of that name; its values are not looked at.
        classes: its outputs, class 0 (ignore) included.
        part: one of the family's ``parts``, or None.
        file, origin: for errors, where the weights and where ``model.name`` come from.
        settings: plain values of the file's entry ``config``.
    """

    name: str
    network: nn.Module
    classes: int
    part: str | None = None
    file: str = ""
    origin: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass
class Translated:
    """Published weights under our names.

    Attributes:
        network: of the network to be deployed. training: of what learns beside it, by the method's names.
        unused: published names of tensors that have no place here -> why.
        notes: what a person should know of the translation.
    """

    network: Weights = field(default_factory=dict)
    training: Weights = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Family(ABC):
    """Weights that one project has published.

    Attributes:
        title: of the project.
        networks: the values of ``model.name`` that its weights can become.
        parts: networks that one file may hold, chosen with ``--part``; empty = one alone.
        needed: keys of ``model:`` that its weights were trained with and tensors do not show, and their values, by the
            section that has them: the name of a network, or ``image``.
    """

    title: ClassVar[str]
    networks: ClassVar[tuple[str, ...]]
    parts: ClassVar[tuple[str, ...]] = ()
    needed: ClassVar[Mapping[str, Mapping[str, object]]] = {}

    @classmethod
    @abstractmethod
    def recognises(cls, names: Collection[str]) -> bool:
        """Whether a file with tensors of these names is of this family."""

    @abstractmethod
    def translate(self, weights: Weights, target: Target) -> Translated:
        """Rename and reorder the weights of a file for one of our networks.

        Names and shapes are compared with the network's by whoever loads them.

        Raises:
            UserError: the file does not hold this part.
        """


def chosen_family(name: str | None, weights: Collection[str], where: str) -> tuple[str, Family]:
    """The family of a name, or the one that recognises the names of weights.

    Raises:
        UserError: no family has the name, or none recognises the weights.
    """
    if name is not None:
        found: type[Family] = named_entry(FAMILIES, name, "family of published weights")
        return name, found()
    for known, entry in FAMILIES.items():
        kind: type[Family] = load_entry(entry)
        if kind.recognises(weights):
            return known, kind()
    raise UserError(
        f"whose weights these are is not to be seen; they begin with {', '.join(sorted(weights)[:3])}",
        where=where,
        cure=f"If they come from one of them, name it: --from {' | '.join(FAMILIES)}",
    )


# --- tables of names --------------------------------------------------------------------------------------------------
Replacement = str | Callable[[re.Match[str]], str]


@dataclass(frozen=True)
class Table:
    """How names of one family become ours.

    Attributes:
        rules: (regular expression of a name's beginning, what stands there here); the first that fits counts. A name
            that fits none stays as it is, and belongs nowhere.
        unused: (regular expression of a beginning, why such a tensor has no place here).
    """

    rules: Sequence[tuple[str, Replacement]]
    unused: Sequence[tuple[str, str]] = ()

    def reason(self, name: str) -> str | None:
        """Why a tensor is not used, None if it is."""
        for beginning, why in self.unused:
            if re.match(beginning, name):
                return why
        return None

    def rename(self, name: str) -> str:
        """Our name of a tensor."""
        for beginning, ours in self.rules:
            if re.match(beginning, name):
                return re.sub(beginning, ours, name, count=1)
        return name

    def translate(self, weights: Weights, classes: int, axes: str | None = None) -> Translated:
        """Sort, rename and bring to our shapes.

        Args:
            classes: outputs of our network; where the file's head has one less, class 0 (ignore) gets a row of zeros.
            axes: of spconv's kernels, slowest first; None = kernels are torchsparse's.

        Raises:
            UserError: two tensors would have one name.
        """
        made = Translated()
        for name, tensor in weights.items():
            why = self.reason(name)
            if why is not None:
                made.unused[name] = why
                continue
            ours = self.rename(name)
            if axes is not None and tensor.dim() == 5:
                ours = ours.removesuffix("weight") + "kernel"
                tensor = sparse_kernel(tensor, axes)
            if ours in made.network:
                raise UserError(f"'{name}' is there twice: another tensor already is '{ours}'")
            made.network[ours] = tensor
        _add_ignored_class(made, classes)
        return made


def sparse_kernel(weight: Tensor, axes: str) -> Tensor:
    """A kernel of spconv in the layout of torchsparse, which is ours.

    Args:
        weight: [out, k, k, k, in].
        axes: what the three middle axes are, e.g. "zyx".

    Returns:
        [k^3, in, out], [in, out] for k = 1. In odd kernels x runs fastest, in even ones z.
    """
    order = "zyx" if weight.shape[1] % 2 else "xyz"
    places = [1 + axes.index(axis) for axis in order]
    kernel = weight.permute(*places, 4, 0).contiguous()
    volume = weight.shape[1] * weight.shape[2] * weight.shape[3]
    return kernel.view(weight.shape[4], weight.shape[0]) if volume == 1 else kernel.flatten(0, 2)


def _add_ignored_class(made: Translated, classes: int) -> None:
    """Give class 0 a row of zeros in front, where the head has one output less than ours."""
    for name, tensor in made.network.items():
        if name.startswith(HEAD) and len(tensor) == classes - 1:
            made.network[name] = torch.cat([torch.zeros_like(tensor[:1]), tensor])
