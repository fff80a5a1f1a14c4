"""Folders whose files are named by their frames' numbers: which frames there are, and what else lies there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.datasets.files import listing
from core.datasets.find import is_hidden

__all__ = ["Numbered", "first_names", "holes", "numbered_files"]


@dataclass(frozen=True)
class Numbered:
    """What a folder holds; hidden files count as nobody's.

    Attributes:
        numbers: of the frames, ascending.
        misnamed: files of a right suffix under another name, which would be a frame's if they were named like one.
        strays: anything else.
    """

    numbers: tuple[int, ...]
    misnamed: tuple[str, ...]
    strays: tuple[str, ...]


def numbered_files(
    folder: Path, digits: int, suffixes: Sequence[str], known: Sequence[str] = ()
) -> Numbered:
    """Sort what lies in a folder by its names.

    Args:
        digits: of a frame's number. suffixes: of a frame's file, in this case. known: names of other files that belong
            there.
    """
    numbers = set()
    misnamed = []
    strays = []
    for name in sorted(listing(folder)):
        if is_hidden(name) or name in known:
            continue
        suffix = next((s for s in suffixes if name.lower().endswith(s.lower())), None)
        if suffix is None:
            strays.append(name)
            continue
        stem = name[: -len(suffix)]
        if len(stem) == digits and stem.isascii() and stem.isdecimal() and name.endswith(suffix):
            numbers.add(int(stem))
        else:
            misnamed.append(name)
    return Numbered(tuple(sorted(numbers)), tuple(misnamed), tuple(strays))


def holes(numbers: Sequence[int]) -> list[int]:
    """Numbers that are lacking between the first and the last of ascending ones."""
    if not numbers:
        return []
    there = set(numbers)
    return [n for n in range(numbers[0], numbers[-1]) if n not in there]


def first_names(names: Sequence[str], shown: int = 3) -> str:
    """The first few names, and how many more there are."""
    text = ", ".join(names[:shown])
    if len(names) > shown:
        text += f" and {len(names) - shown} more"
    return text
