"""Exported networks: safetensors with one metadata entry that says in JSON what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from core.errors import UserError

__all__ = ["METADATA", "read_exported"]

METADATA = "lidistill"


def read_exported(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights by name, and the metadata: at least ``config``, ``classes`` and ``fingerprint``.

    Raises:
        UserError: the file is missing, damaged, or was not exported by this project.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA, "null"))
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a dict)
    except FileNotFoundError as error:
        raise UserError("this file does not exist", where=str(path)) from error
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"this file is damaged ({error})", where=str(path), cure="Copy or export it again"
        ) from error
    if (
        not isinstance(metadata, dict)
        or not {"fingerprint", "classes", "config"} <= metadata.keys()
    ):
        raise UserError(
            f"this file has no metadata entry '{METADATA}', so it was not exported by this project",
            where=str(path),
            cure="Write it with: python -m core.engine.exchange export",
        )
    return weights, metadata
