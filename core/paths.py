"""Names that come out of files, such as a table's tokens and an archive's entries: none leads out of its folder."""

from __future__ import annotations

from pathlib import Path

from core.errors import UserError

__all__ = ["check_name", "inside", "name_fault"]

# Bytes. File systems take 255 for one part and 4095 for a path; suffixes and the folder's own path come on top.
_LONGEST_PART = 200
_LONGEST_NAME = 1024


def name_fault(name: str) -> str | None:
    """Why a name out of a file cannot be that of a file below a folder, None = it can.

    Args:
        name: parts joined by ``/``; the last one may get a suffix.
    """
    if not name:
        return "is empty"
    if "\\" in name or not name.isprintable():
        return "holds a backslash or a character that is not printable"
    parts = name.split("/")
    if not parts[0]:
        return "begins at the root of the file system"
    if any(part in ("", ".", "..") for part in parts):
        return "holds an empty part, '.' or '..'"
    longest = max(len(part.encode(errors="replace")) for part in parts)
    if longest > _LONGEST_PART or len(name) > _LONGEST_NAME:
        return f"is longer than {_LONGEST_PART} bytes in one part or {_LONGEST_NAME} in all"
    return None


def check_name(name: str, where: str, *, folders: bool = True) -> str:
    """The name, where it can be that of a file below a folder.

    Args:
        where: what it was read from, for the error. folders: it may hold ``/``.

    Raises:
        UserError: it leads elsewhere, is too long, or holds what no file name should.
    """
    fault = name_fault(name)
    if fault is None and not folders and "/" in name:
        fault = "holds a '/'"
    if fault is None:
        return name
    raise UserError(
        f"the name {_shown(name)} {fault}",
        where=where,
        cure="Names of scans and files stay below their folder; this file was altered, or written for something else",
    )


def inside(folder: Path, name: str, where: str | None = None) -> Path:
    """``folder / name``, where that lies below ``folder``.

    Args:
        where: what the name was read from, None = the folder itself is named.

    Raises:
        UserError: see :func:`check_name`.
    """
    return folder / check_name(name, where or str(folder))


def _shown(name: str) -> str:
    shown = ascii(name)
    if len(shown) > 80:
        shown = f"{shown[:77]}..."
    return shown
