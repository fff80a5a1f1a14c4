"""Exported networks: safetensors with one metadata entry that says in JSON what they are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from torch import Tensor

from core.decode import decoding, parse_json
from core.errors import UserError

__all__ = ["METADATA", "read_exported", "tensors_hash"]

METADATA = "lidistill"


class _Identity(BaseModel):
    """What the metadata entry holds at least."""

    model_config = ConfigDict(extra="allow")

    config: dict[str, Any]
    classes: list[str]
    fingerprint: str
    weights_sha256: str | None = None  # of tensors_hash; files of earlier versions have none


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of tensors on the CPU: their names, types, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_exported(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights by name, and the metadata: at least ``config``, ``classes`` and ``fingerprint``.

    Raises:
        UserError: the file is missing, damaged, or was not exported by this project.
    """
    try:
        with (
            decoding(path, "file of weights", "Copy or export it again"),
            safe_open(path, "pt") as file,
        ):
            entry = (file.metadata() or {}).get(METADATA)
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
    except SafetensorError as error:
        raise UserError(
            f"this file is damaged ({error})", where=str(path), cure="Copy or export it again"
        ) from error
    if entry is None:
        raise UserError(
            f"this file has no metadata entry '{METADATA}', so it was not exported by this project",
            where=str(path),
            cure="Write it with: python -m core.engine.exchange export",
        )
    where = f"{path}, metadata entry '{METADATA}'"
    identity = parse_json(entry, where, _Identity, cure="Export it again")
    if identity.weights_sha256 not in (None, tensors_hash(weights)):
        raise UserError(
            "this file is damaged (its weights are not those that its metadata was written for)",
            where=str(path),
            cure="Copy or export it again",
        )
    return weights, identity.model_dump()
