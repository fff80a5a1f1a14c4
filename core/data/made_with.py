"""A note in a folder of files that a command makes: what they were made with, so that no others are mixed in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.decode import read_json
from core.errors import UserError
from core.io import write_json

__all__ = ["note_settings"]


def note_settings(path: Path, made_with: Mapping[str, Any], what: str) -> None:
    """Write down what files are made with, or compare it with what was written down.

    Args:
        path: of the note. made_with: plain values. what: the files, for the error.

    Raises:
        UserError: the folder holds files that were made otherwise.
    """
    if not path.is_file():
        write_json(path, made_with)
        return
    found = read_json(path, dict[str, Any])
    differing = [key for key in made_with if found.get(key) != made_with[key]]
    if differing:
        raise UserError(
            f"this folder holds {what} that were made otherwise ({', '.join(differing)})",
            where=str(path),
            cure="Give another folder with --out, or delete this one",
        )
