"""Weights of U2MKD's own checkpoints under this project's names.

Kernels, offset order and most names agree on both sides, so importing is renaming. LiDAR layers, the learner and the
adapter are renamed one by one. Inside the gates of the fusion blocks and in the image decoder only the blocks' names
are published, so their layers are matched in order by kind and shape. Whatever finds no partner keeps its name, and
:func:`core.engine.run.checkpoint.load_weights` reports it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

__all__ = ["ADAPTER", "parts_of", "rename"]

ADAPTER = "adapt_layer."  # of the distillation, absent from the deployed network
_PARTS = {"teacher": "model_t.", "student": "model_s."}
_NORM_OF_GATE = re.compile(r"(c2l_fusion_blocks\.\d+\.ai_layer)\.(norm|fc1)$")
_ENCODER = re.compile(r"(conv1|bn1|layer[1-4])\.")

Layers = dict[str, dict[str, Tensor]]  # path of a layer -> its tensors by name


def parts_of(weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """``teacher`` and ``student`` of a stage-2 file, ``teacher`` alone of a stage-1 file; without prefixes."""
    plain = {key.removeprefix("module."): value for key, value in weights.items()}
    parts = {
        part: {
            key.removeprefix(prefix): value
            for key, value in plain.items()
            if key.startswith(prefix)
        }
        for part, prefix in _PARTS.items()
    }
    found = {part: tensors for part, tensors in parts.items() if tensors}
    if not found:
        return {"teacher": plain}
    rest = {
        key: value for key, value in plain.items() if not key.startswith(tuple(_PARTS.values()))
    }
    return {part: tensors | rest for part, tensors in found.items()}


def rename(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Published weights of one part under the names of ``model``, a LiDAR network or a :class:`LidarCamera`.

    Tensors without a counterpart keep their published name; shapes are only changed from 1x1 convolutions to linear
    layers.
    """
    own, given = _layers(model.state_dict()), _layers(weights)
    nested = any(path.startswith("lidar.") for path in own)
    pairs: dict[str, str] = {}  # published path -> own path
    for path in own:
        published = path.removeprefix("lidar.") if nested else path
        published = {"classifier_pix.linear": "classifier_pix.conv"}.get(published, published)
        if published in given and not published.startswith("pix_branch."):
            pairs[published] = path
    pairs |= _gates(own, given, pairs)
    pairs |= _image_branch(own, given)
    renamed: dict[str, Tensor] = {}
    for path, tensors in given.items():
        target = pairs.get(path, path)
        for name, tensor in tensors.items():
            wanted = own.get(target, {}).get(name)
            renamed[_join(target, name)] = tensor if wanted is None else _linear(tensor, wanted)
    return renamed


def _gates(own: Layers, given: Layers, taken: Mapping[str, str]) -> dict[str, str]:
    """Layers below ``…ai_layer.{conv1,fc1,fc2,fc3}``, wherever the block keeps its normalisation."""
    pairs: dict[str, str] = {}
    for path, tensors in own.items():
        if "ai_layer." not in path or path in taken.values():
            continue
        gate, _, name = path.partition("ai_layer.")
        roots = (name.split(".")[0],) if _NORM_OF_GATE.match(path) is None else ("fc1", "norm")
        for candidate, found in given.items():
            below = any(_below(candidate, f"{gate}ai_layer.{root}") for root in roots)
            free = candidate not in pairs and candidate not in taken
            if below and free and _signature(found) == _signature(tensors):
                pairs[candidate] = path
                break
    return pairs


def _image_branch(own: Layers, given: Layers) -> dict[str, str]:
    """Encoder by torchvision's names below a prefix of its own; pooling and decoder in order, by kind and shape."""
    branch = [path for path in given if path.startswith("pix_branch.")]
    anchor = next((path for path in branch if path.endswith("layer1.0.conv1")), None)
    if anchor is None:
        return {}
    root = anchor.removesuffix("layer1.0.conv1")
    encoder = [
        path
        for path in branch
        if path.startswith(root) and _ENCODER.match(path.removeprefix(root) + ".")
    ]
    pairs = {path: "pix_branch.encoder." + path.removeprefix(root) for path in encoder}
    rest = [path for path in branch if path not in pairs]
    wanted = [_signature(given[path]) for path in rest]
    for order in _decoder_orders(own):
        if [_signature(own[path]) for path in order] == wanted:
            return pairs | dict(zip(rest, order))
    return pairs


def _decoder_orders(own: Layers) -> list[list[str]]:
    """Layers of pooling and decoder in the orders a file may list them: pooling first or last, units from coarse to
    fine or back, lateral convolution first or last."""
    spp = [path for path in own if path.startswith("pix_branch.spp.")]
    count = len({path.split(".")[2] for path in own if path.startswith("pix_branch.decoder.")})
    orders = []
    for late, back, swapped in itertools.product((False, True), repeat=3):
        units: list[str] = []
        for unit in reversed(range(count)) if back else range(count):
            for block in ("blend", "skip") if swapped else ("skip", "blend"):
                units += [
                    path for path in own if _below(path, f"pix_branch.decoder.{unit}.{block}")
                ]
        orders.append(units + spp if late else spp + units)
    return orders


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
    return shape[:2] if len(shape) > 2 and set(shape[2:]) == {1} else shape


def _linear(tensor: Tensor, wanted: Tensor) -> Tensor:
    """``tensor`` in the shape of ``wanted`` where the two differ in 1x1 axes alone."""
    same = tensor.shape != wanted.shape and _squeezed(tensor) == _squeezed(wanted)
    return tensor.reshape(wanted.shape) if same else tensor
