"""Weights of U2MKD: the teacher of stage 1, teacher and student of stage 2.

Kernels, offset order and most names agree on both sides, so importing is renaming. LiDAR layers, the learner and the
adapter are renamed one by one. Inside the gates of the fusion blocks and in the image decoder only the blocks' names
are published, so their layers are matched in order by kind and shape. Whatever finds no partner keeps its name, and
:func:`core.engine.run.checkpoint.load_weights` reports it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from core.engine.exchange.families import Family, Target, Translated
from core.engine.exchange.foreign import Weights
from core.errors import UserError

__all__ = ["U2MKDWeights", "rename"]

_ADAPTER = "adapt_layer."  # of the distillation, absent from the deployed network
_PARTS = {"teacher": "model_t.", "student": "model_s."}
_STUDENT = "lidar_camera"
_NORM_OF_GATE = re.compile(r"(c2l_fusion_blocks\.\d+\.ai_layer)\.(norm|fc1)$")
_ANCHOR = "layer1.0.conv1"  # of the encoder; what stands before it is the prefix of all its layers
_ENCODER = re.compile(r"(conv1|bn1|layer[1-4])\.")

Layers = dict[str, dict[str, Tensor]]  # path of a layer -> its tensors by name


class U2MKDWeights(Family):
    """Checkpoints of U2MKD's trainer, whose names are ours but for fusion gates and the image network."""

    title: ClassVar[str] = "U2MKD"
    networks: ClassVar[tuple[str, ...]] = ("spvcnn_spformer", "spvcnn", "minkunet", _STUDENT)
    parts: ClassVar[tuple[str, ...]] = tuple(_PARTS)
    needed: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "spvcnn_spformer": {"legacy_quant": True, "window_origin": "batch"},
        "image": {"normalize": "none"},
    }

    @classmethod
    def recognises(cls, names: Collection[str]) -> bool:
        """By the names of encoder and head, below the prefixes of stage 2 or without."""
        parts = _by_part(names)
        return any("vox_downs.0.0.net.0.kernel" in found.values() for found in parts.values())

    def translate(self, weights: Weights, target: Target) -> Translated:
        """Take one part of the file, and rename it; the adapter is what learns beside a student."""
        part = target.part or ("student" if target.name == _STUDENT else "teacher")
        parts = _by_part(weights)
        _check_part(part, parts, target)
        made = Translated()
        chosen = {}
        for published in weights:
            if published in parts[part]:
                chosen[parts[part][published]] = weights[published]
            else:
                made.unused[published] = f"of the other network in the file, not the {part}"
        made.network = rename(chosen, target.network)
        if part == "student":
            for name in [name for name in made.network if name.startswith(_ADAPTER)]:
                made.training[name] = made.network.pop(name)
        return made


def _by_part(names: Collection[str]) -> dict[str, dict[str, str]]:
    """The parts in a file: published name -> name without the part's prefix.

    ``teacher`` and ``student`` in one of stage 2, ``teacher`` alone in one of stage 1. Names without a prefix are of
    every part.
    """
    parts: dict[str, dict[str, str]] = {part: {} for part in _PARTS}
    rest = {}
    for name in names:
        for part, prefix in _PARTS.items():
            if name.startswith(prefix):
                parts[part][name] = name.removeprefix(prefix)
                break
        else:
            rest[name] = name
    found = {part: tensors | rest for part, tensors in parts.items() if tensors}
    return found or {"teacher": rest}


def _check_part(part: str, parts: Collection[str], target: Target) -> None:
    """Refuse a part that the file does not hold, or that the network is not."""
    if part not in parts:
        raise UserError(
            f"this file holds no {part}, only a {' and a '.join(parts)}",
            where=target.file,
            cure="Choose with --part, and give a configuration of that network",
        )
    if (target.name == _STUDENT) != (part == "student"):
        raise UserError(
            f"model.name is '{target.name}', which is not a {part}",
            where=target.origin,
            cure=f"Students are '{_STUDENT}', teachers LiDAR networks such as 'spvcnn_spformer'",
        )


def rename(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Published weights of one part under the names of ``model``, a LiDAR network or a :class:`LidarCamera`.

    Tensors without a counterpart keep their published name; shapes are only changed from 1x1 convolutions to linear
    layers.
    """
    ours = _layers(model.state_dict())
    given = _layers(weights)
    pairs: dict[str, str] = {}  # published path -> our path
    for path in ours:
        published = _published_path(path)
        if published in given and not published.startswith("pix_branch."):
            pairs[published] = path
    pairs |= _gates(ours, given, pairs)
    pairs |= _image_branch(ours, given)
    renamed: dict[str, Tensor] = {}
    for path, tensors in given.items():
        target = pairs.get(path, path)
        shapes = ours.get(target, {})
        for name, tensor in tensors.items():
            if name in shapes:
                tensor = _linear(tensor, shapes[name])
            renamed[_join(target, name)] = tensor
    return renamed


def _published_path(path: str) -> str:
    """The published name of one of our layers, where only its beginning or a single name differs."""
    published = path.removeprefix("lidar.")
    if published == "classifier_pix.linear":
        return "classifier_pix.conv"
    return published


def _gates(ours: Layers, given: Layers, taken: Mapping[str, str]) -> dict[str, str]:
    """Layers below ``…ai_layer.{conv1,fc1,fc2,fc3}``, wherever the block keeps its normalisation."""
    pairs: dict[str, str] = {}
    for path, tensors in ours.items():
        if "ai_layer." not in path or path in taken.values():
            continue
        roots = _roots_of_gate(path)
        for candidate, found in given.items():
            below = any(_below(candidate, root) for root in roots)
            free = candidate not in pairs and candidate not in taken
            if below and free and _signature(found) == _signature(tensors):
                pairs[candidate] = path
                break
    return pairs


def _roots_of_gate(path: str) -> list[str]:
    """Published layers below which the partner of a gate's layer may lie."""
    gate, _, name = path.partition("ai_layer.")
    names = [name.split(".")[0]]
    if _NORM_OF_GATE.match(path) is not None:
        names = ["fc1", "norm"]
    return [f"{gate}ai_layer.{name}" for name in names]


def _image_branch(ours: Layers, given: Layers) -> dict[str, str]:
    """Encoder by torchvision's names below a prefix of its own; pooling and decoder in order, by kind and shape."""
    branch = [path for path in given if path.startswith("pix_branch.")]
    anchors = [path for path in branch if path.endswith(_ANCHOR)]
    if not anchors:
        return {}
    root = anchors[0].removesuffix(_ANCHOR)
    pairs = {}
    for path in branch:
        name = path.removeprefix(root)
        if path.startswith(root) and _ENCODER.match(name + "."):
            pairs[path] = "pix_branch.encoder." + name
    rest = [path for path in branch if path not in pairs]
    wanted = [_signature(given[path]) for path in rest]
    for order in _decoder_orders(ours):
        if [_signature(ours[path]) for path in order] == wanted:
            return pairs | dict(zip(rest, order))
    return pairs


def _decoder_orders(ours: Layers) -> list[list[str]]:
    """Layers of pooling and decoder in the orders a file may list them: pooling first or last, units from coarse to
    fine or back, lateral convolution first or last."""
    pooling = [path for path in ours if path.startswith("pix_branch.spp.")]
    decoder = [path for path in ours if path.startswith("pix_branch.decoder.")]
    coarse_to_fine = sorted({int(path.split(".")[2]) for path in decoder})
    blocks = ("skip", "blend")
    orders = []
    for units, names in itertools.product(
        (coarse_to_fine, coarse_to_fine[::-1]), (blocks, blocks[::-1])
    ):
        layers: list[str] = []
        for unit, name in itertools.product(units, names):
            root = f"pix_branch.decoder.{unit}.{name}"
            layers += [path for path in decoder if _below(path, root)]
        orders.append(layers)
    pooling_first = [pooling + layers for layers in orders]
    pooling_last = [layers + pooling for layers in orders]
    return pooling_first + pooling_last


def _layers(weights: Mapping[str, Tensor]) -> Layers:
    layers: Layers = {}
    for key, value in weights.items():
        path, _, name = key.rpartition(".")
        layers.setdefault(path, {})[name] = value
    return layers


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _below(path: str, root: str) -> bool:
    return path == root or path.startswith(root + ".")


def _signature(tensors: Mapping[str, Tensor]) -> frozenset[tuple[str, Sequence[int]]]:
    """Names and shapes; a 1x1 convolution equals the linear layer it is."""
    return frozenset((name, _squeezed(tensor)) for name, tensor in tensors.items())


def _squeezed(tensor: Tensor) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    if len(shape) > 2 and set(shape[2:]) == {1}:
        return shape[:2]
    return shape


def _linear(tensor: Tensor, wanted: Tensor) -> Tensor:
    """``tensor`` in the shape of ``wanted`` where the two differ in 1x1 axes alone."""
    if tensor.shape != wanted.shape and _squeezed(tensor) == _squeezed(wanted):
        return tensor.reshape(wanted.shape)
    return tensor
