"""Pretrained image weights from a local file; nothing is ever downloaded."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from core.errors import UserError

__all__ = ["load_encoder", "read_weights"]

# Entry of the file (None = the file itself), what the encoder's names begin with, and the beginnings of others.
WRAPPINGS = (
    ("state_dict", "module.encoder_q.", ()),  # MoCo v1 and v2: the encoder of queries
    ("model", "module.encoder.", ()),  # PixPro
    ("network", "", ()),  # OBoW
    (
        None,
        "module.",
        ("module.pro",),
    ),  # SwAV and DeepCluster v2, without projection and prototypes
    ("model", "pix_branch.", ()),  # a checkpoint of this project: SwiftNet of lidar_camera
    ("state_dict", "", ()),
)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by key of a ``.safetensors`` file, or of a ``.pth`` file (unpickled without running code).

    Encoders within the files of self-supervised methods (:data:`WRAPPINGS`) are found under their own names.

    Raises:
        UserError: the file is missing, damaged, or no plain dictionary of tensors.
    """
    where = f"{path} (image.weights)"
    if not path.is_file():
        raise UserError(
            "this file of image weights does not exist",
            where=where,
            cure="Download the ImageNet weights of this encoder once, or set image.weights: null to start from scratch",
        )
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        pickle.UnpicklingError,
        _safetensors_error(),
    ) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"cannot read these weights ({reason})", where=where, cure="Download the file again"
        ) from error
    found = _unwrapped(weights)
    if not isinstance(found, Mapping) or not all(
        isinstance(value, Tensor) for value in found.values()
    ):
        raise UserError(
            "expected tensors by layer name, found something else",
            where=where,
            cure="Save the encoder's state_dict() alone, without optimiser or settings",
        )
    return dict(found)


def _unwrapped(content: object) -> object:
    """The encoder's tensors of a file that holds more, or names them otherwise; anything else as it is."""
    if not isinstance(content, Mapping):
        return content
    for entry, beginning, others in WRAPPINGS:
        weights = content if entry is None else content.get(entry)
        if not isinstance(weights, Mapping):
            continue
        found = {}
        for key, value in weights.items():
            if str(key).startswith(beginning) and not (others and str(key).startswith(others)):
                found[str(key).removeprefix(beginning)] = value
        if found:
            return found
    return content


def _safetensors_error() -> type[Exception]:
    from safetensors import SafetensorError

    return SafetensorError


def load_encoder(
    encoder: nn.Module, weights: Mapping[str, Tensor], path: Path, dropped: Iterable[str] = ()
) -> None:
    """Copy ``weights`` into ``encoder``.

    Args:
        dropped: prefixes of keys that the encoder does not need (the classifier).

    Raises:
        UserError: keys are missing, unexpected or of another shape; it names them. Counters of batches may be missing.
    """
    prefixes = tuple(dropped)
    given = {key: value for key, value in weights.items() if not key.startswith(prefixes)}
    wanted = encoder.state_dict()
    missing = [
        key for key in wanted if key not in given and not key.endswith("num_batches_tracked")
    ]
    unexpected = [key for key in given if key not in wanted]
    shapes = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in given and given[key].shape != value.shape
    ]
    faults = [
        f"{n} {_some(keys)}"
        for n, keys in (("missing:", missing), ("unexpected:", unexpected))
        if keys
    ]
    if shapes:
        faults.append(f"of another shape: {_some(shapes)}")
    if faults:
        raise UserError(
            f"these weights are not those of the encoder; {'; '.join(faults)}",
            where=f"{path} (image.weights)",
            cure="Name the ImageNet weights of the very model that image.encoder names",
        )
    encoder.load_state_dict(given, strict=False)


def _some(keys: list[str], limit: int = 5) -> str:
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more
