"""Finding files in folders of other people: links, hidden files, numbers in names.

Every place that lists such a folder does it with :func:`find_files`, so that all agree on what is in it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from core.errors import UserError

__all__ = [
    "check_pattern",
    "contents",
    "find_files",
    "is_hidden",
    "natural_order",
]

_ANY_FOLDERS = "**"
_MAGIC = "*?["
# A number; after nine digits or more, as in a time stamp in seconds, a point begins its decimals.
_NUMBER = re.compile(r"(\d{9,}\.)(\d+)|(\d+)")
Identity = tuple[int, int]  # device and inode of a folder


def find_files(root: Path, pattern: str) -> list[Path]:
    """Find the files below ``root`` that match a glob.

    As in a shell, ``*`` stands for no hidden name; ``**`` stands for any folders, linked ones too. The last suffix may
    be in upper case. A link to nothing is listed, so that whoever reads it says so.

    Args:
        pattern: relative to ``root``, e.g. ``*.bin`` or ``**/velodyne/*.bin``.

    Returns:
        Paths that begin with ``root``, by folders and names, numbers in their natural order (1, 2, 10).

    Raises:
        UserError: a folder may not be read.
    """
    found = set(_matching(root, pattern.split("/"), _identity(root)))
    return sorted(found, key=natural_order)


def natural_order(path: Path) -> tuple[tuple[str, str], ...]:
    """Key to sort paths by, folder by folder; numbers count by their value, and 01 stands before 1."""
    parts = []
    for part in path.parts:
        parts.append((_NUMBER.sub(_padded, part), part))
    return tuple(parts)


def is_hidden(name: str) -> bool:
    """Whether a name is none of the user's: ``.DS_Store``, ``._000000.bin`` and the like."""
    return name.startswith(".")


def contents(folder: Path) -> str:
    """What lies in a folder, for a person: ``it holds 2 folders, 12 .pcd files and 1 .txt file``."""
    counts: dict[str, int] = {}
    folders = 0
    for entry in _entries(folder):
        suffix = os.path.splitext(entry.name)[1].lower()
        if is_hidden(entry.name):
            continue
        if os.path.isdir(entry.path):
            folders += 1
        else:
            counts[suffix] = counts.get(suffix, 0) + 1
    found = []
    if folders:
        found.append(_counted(folders, "folder"))
    for suffix, count in sorted(counts.items(), key=lambda item: -item[1])[:5]:
        found.append(_counted(count, f"{suffix or 'suffixless'} file"))
    if not found:
        return "it is empty"
    *first, last = found
    return f"it holds {', '.join(first)} and {last}" if first else f"it holds {last}"


def _counted(count: int, noun: str) -> str:
    plural = "" if count == 1 else "s"
    return f"{count} {noun}{plural}"


def _with_low_suffix(name: str) -> str:
    """The name with its last suffix in lower case: ``A.PCD`` is ``A.pcd``."""
    stem, suffix = os.path.splitext(name)
    return stem + suffix.lower()


def check_pattern(pattern: str) -> str:
    """The pattern, where it can match files below a root.

    Raises:
        ValueError: it is empty or absolute.
    """
    if not pattern.strip() or pattern.startswith("/") or pattern.endswith("/"):
        raise ValueError("must be a pattern of files below dataset.root, e.g. '*.bin'")
    return pattern


def _matching(folder: Path, parts: list[str], above: tuple[Identity, ...]) -> Iterator[Path]:
    """Files of a folder that match the rest of a pattern.

    Args:
        above: the folders that led here; one that is met again is a loop of links.
    """
    part, rest = parts[0], parts[1:]
    if part == _ANY_FOLDERS:
        yield from _matching(folder, rest or ["*"], above)
        yield from _in_folders(folder, "*", parts, above)
    elif rest and not any(sign in part for sign in _MAGIC):
        yield from _matching(folder / part, rest, above)
    elif rest:
        yield from _in_folders(folder, part, rest, above)
    else:
        for entry in _entries(folder):
            if _fits(entry.name, part) and _is_listed(entry.path):
                yield folder / entry.name


def _in_folders(
    folder: Path, part: str, rest: list[str], above: tuple[Identity, ...]
) -> Iterator[Path]:
    """Files that match ``rest`` in the folders of ``folder`` whose names match ``part``."""
    for entry in _entries(folder):
        if not _fits(entry.name, part) or not os.path.isdir(entry.path):
            continue
        identity = _identity(entry.path)
        if identity and identity[0] not in above:
            yield from _matching(folder / entry.name, rest, above + identity)


def _identity(folder: Path | str) -> tuple[Identity, ...]:
    """Of a folder, whatever links lead to it; nothing where it does not exist."""
    try:
        status = os.stat(folder)
    except OSError:
        return ()
    return ((status.st_dev, status.st_ino),)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(
            f"this folder cannot be read ({error.strerror})",
            where=str(folder),
            cure="Change its permissions, or choose another pattern of files",
        ) from error


def _is_listed(path: str) -> bool:
    """An ordinary file, or a link to nothing; a pipe is none, whoever opens it waits for ever."""
    return os.path.isfile(path) or not os.path.exists(path)


def _fits(name: str, part: str) -> bool:
    if is_hidden(name) and not is_hidden(part):
        return False
    return fnmatchcase(name, part) or fnmatchcase(_with_low_suffix(name), part)


def _padded(number: re.Match[str]) -> str:
    """A number as text that sorts by value: how many digits it has, then these."""
    stamp, decimals, whole = number.groups()
    if stamp is None:
        return _by_value(whole)
    return f"{_by_value(stamp[:-1])}.{decimals}"


def _by_value(digits: str) -> str:
    significant = digits.lstrip("0")
    return f"{len(significant):03d}{significant}"
