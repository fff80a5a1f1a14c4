"""What must be true of tensors before compiled code gets their addresses, in one place for every engine.

Sizes, dtypes and devices are compared at every call. The range of integers takes a pass over them, so it is proven
once: where a map or table is made, or at the first call of a registered operator with tensors that come from no map
(:class:`Proofs`). Nobody may write into a map or table afterwards.
"""

from __future__ import annotations

from typing import Any
from weakref import ref

import torch
from torch import Tensor

from core.errors import UserError

__all__ = [
    "InvalidInput",
    "Proofs",
    "check_ascending",
    "check_channels",
    "check_device",
    "check_features",
    "check_range",
    "check_tensor",
    "describe",
]

Shape = tuple[int | None, ...]  # None: any length


class InvalidInput(UserError, ValueError):
    """A tensor does not fit where it was passed: its shape, dtype, device or values."""


def describe(tensor: Tensor) -> str:
    """Write the dtype and shape of a tensor: ``float32 [27, 8, 16]``."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def check_tensor(
    name: str, tensor: Tensor, dtype: torch.dtype | None, shape: Shape, where: str
) -> None:
    """Refuse a tensor of another dtype or shape.

    Args:
        dtype: None = any floating type.
        shape: with None for an axis of any length.

    Raises:
        InvalidInput: naming what is there and what was expected.
    """
    if dtype is None:
        fits = tensor.is_floating_point()
    else:
        fits = tensor.dtype == dtype
    if fits and _has_shape(tensor, shape):
        return
    kind = "floating" if dtype is None else str(dtype).removeprefix("torch.")
    axes = ", ".join("any" if length is None else str(length) for length in shape)
    raise InvalidInput(f"{name} is {describe(tensor)}; expected {kind} [{axes}]", where=where)


def _has_shape(tensor: Tensor, shape: Shape) -> bool:
    if tensor.dim() != len(shape):
        return False
    return all(wanted is None or wanted == length for wanted, length in zip(shape, tensor.shape))


def check_device(device: torch.device, where: str, **tensors: Tensor | None) -> None:
    """Refuse tensors on another device than the first one's.

    Raises:
        InvalidInput: naming both devices.
    """
    for name, tensor in tensors.items():
        if tensor is not None and tensor.device != device:
            raise InvalidInput(f"{name} is on {tensor.device}, the rest on {device}", where=where)


def check_features(name: str, feats: Tensor, rows: int, source: str, where: str) -> None:
    """Refuse features that are not floating [rows, C].

    Args:
        source: what has that many rows, for the message.

    Raises:
        InvalidInput: naming both numbers of rows.
    """
    if feats.dim() != 2 or not feats.is_floating_point():
        raise InvalidInput(f"{name} is {describe(feats)}; expected floating [rows, C]", where=where)
    if len(feats) != rows:
        raise InvalidInput(f"{len(feats)} rows of features for {source} of {rows}", where=where)


def check_channels(x: Tensor, kernel: Tensor) -> None:
    """Refuse features [n, C] whose C is not the kernel's Cin, [..., Cin, Cout].

    Raises:
        InvalidInput: they differ, or one of them is 0.
    """
    wanted = kernel.shape[-2]
    if x.dim() != 2 or x.shape[1] != wanted:
        raise InvalidInput(
            f"the features are {list(x.shape)}, but the kernel takes {wanted} channels",
            where="sparse convolution",
            cure="Give the network the columns that it was built for (data.features)",
        )
    if 0 in kernel.shape:
        raise InvalidInput(
            f"the kernel is {list(kernel.shape)}; each size must be at least 1",
            where="sparse convolution",
        )


def check_range(name: str, values: Tensor, low: int, high: int, where: str) -> None:
    """Refuse integers outside ``low <= value < high``; a pass over them, and on a GPU a wait.

    Raises:
        InvalidInput: naming the range found and the range allowed.
    """
    if not values.numel():
        return
    least, most = torch.stack(values.aminmax()).tolist()
    if low <= least and most < high:
        return
    raise InvalidInput(
        f"values of {name} run from {least} to {most}; allowed are {low} to {high - 1}", where=where
    )


def check_ascending(name: str, ptr: Tensor, total: int, where: str) -> None:
    """Refuse bounds of groups, int64 [G + 1], that do not run from 0 to ``total`` without going back.

    Raises:
        InvalidInput: naming the ends found and expected.
    """
    if not len(ptr):
        raise InvalidInput(f"{name} is empty; it holds at least one bound", where=where)
    first, last = ptr[[0, -1]].tolist()
    if (first, last) != (0, total):
        raise InvalidInput(
            f"{name} runs from {first} to {last}; expected 0 to {total}", where=where
        )
    if bool((ptr[1:] < ptr[:-1]).any()):
        raise InvalidInput(f"{name} goes back somewhere between 0 and {total}", where=where)


class Proofs:
    """Which tensors were found to fit each other; keeps none of them alive."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, ...]] = {}

    def add(self, key: Tensor, *facts: Tensor | int | str) -> None:
        """Remember that ``key`` fits ``facts``: tensors, told apart by identity, and numbers and names."""
        number = id(key)
        gone = ref(key, lambda _: self._known.pop(number, None))
        self._known[number] = (gone, *map(_weak, facts))

    def has(self, key: Tensor, *facts: Tensor | int | str) -> bool:
        """Tell whether just this was proven."""
        known = self._known.get(id(key), ())
        return len(known) == 1 + len(facts) and all(map(_same, known, (key, *facts)))


def _weak(fact: Tensor | int | str) -> Any:
    return ref(fact) if isinstance(fact, Tensor) else fact


def _same(known: Any, fact: Tensor | int | str) -> bool:
    if isinstance(fact, Tensor):
        return isinstance(known, ref) and known() is fact
    return bool(known == fact)
