"""Whose a file of logits is: ``prepare_teacher_logits.py`` writes scan, classes and network beside the numbers.

Files of other programs say nothing of it, and nothing is asked of them but their number of rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from core.decode import parse_json, read_arrays
from core.errors import UserError

__all__ = ["LOGITS", "check_scan", "logits_header"]

LOGITS = "logits"  # of the arrays
_AGAIN = "Delete the file and start prepare_teacher_logits.py again"


def logits_header(path: Path) -> dict[str, Any]:
    """``scan``, ``classes`` and ``checkpoint`` (SHA-256) of a file of logits; empty where it does not say it.

    Raises:
        UserError: the file is missing or damaged.
    """
    header = read_arrays(path, "file of logits", only="header", cure=_AGAIN).get("header")
    if header is None or header.dtype != np.uint8:
        return {}
    return parse_json(header.tobytes(), str(path), dict[str, Any], cure=_AGAIN)


def check_scan(path: Path, token: str) -> None:
    """Refuse logits of another scan than ``token``.

    Raises:
        UserError: they are.
    """
    found = logits_header(path).get("scan", token)
    if found != token:
        raise UserError(
            f"these logits are of scan {found}; those of scan {token} are asked for",
            where=str(path),
            cure=_AGAIN,
        )
