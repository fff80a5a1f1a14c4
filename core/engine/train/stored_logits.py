"""Looks at a teacher's logits on disk before the first step: all there, of these scans and classes, of one teacher."""

from __future__ import annotations

from pathlib import Path

from core.datasets.base import ScanDataset
from core.datasets.stored_logits import LOGITS, check_scan, logits_header
from core.distill.base import Needs
from core.engine.run.trained import read_network
from core.errors import UserError, counted

__all__ = ["check_stored_logits"]

_WRITE = "python prepare_teacher_logits.py CONFIG --checkpoint RUN"


def check_stored_logits(needs: Needs, scans: ScanDataset) -> None:
    """Refuse logits that a training would miss or mistake.

    Args:
        needs: of the method; ``stored`` names the column, ``stored_by`` the teacher.
        scans: the training split.

    Raises:
        UserError: a file is missing or damaged, or holds logits of another scan, other classes or another teacher.
    """
    column = None if needs.stored is None else scans.columns.get(needs.stored)
    if column is None or column.key != LOGITS or not column.file.endswith(".npz"):
        return  # numbers of another program; reading counts their rows
    wanted, known_as = "", ""
    if needs.stored_by is not None:
        wanted = read_network(needs.stored_by, "key 'distill.logits_of'").sha256
        known_as = f"{needs.stored_by} ({wanted[:8]})"
    for path, token in _files(scans, str(needs.stored)):
        check_scan(path, token)
        header = logits_header(path)
        if not header and not wanted:
            continue
        _check_classes(path, header, scans)
        found = str(header.get("checkpoint", ""))
        wanted, known_as = wanted or found, known_as or f"{path.name} ({found[:8]})"
        if found != wanted:
            raise UserError(
                f"these logits are of another teacher ({found[:8] or 'not said'}) than {known_as}",
                where=str(path),
                cure=f"Delete the files of the other teacher and write them again: {_WRITE}",
            )


def _files(scans: ScanDataset, name: str) -> list[tuple[Path, str]]:
    """The file and the token of each scan.

    Raises:
        UserError: some files are not there.
    """
    found, missing = [], []
    for index in range(len(scans)):
        reader, row = scans.member(index)
        path = reader.column_files(row)[name]
        found.append((path, reader.token(row)))
        if not path.is_file():
            missing.append(path)
    if missing:
        raise UserError(
            f"{counted(len(missing), 'scan')} of {len(found):,} have no logits, this one first",
            where=str(missing[0]),
            cure=f"Write them: {_WRITE}",
        )
    return found


def _check_classes(path: Path, header: dict[str, object], scans: ScanDataset) -> None:
    classes = list(scans.labels.classes)
    found = header.get("classes", classes)
    if found != classes:
        raise UserError(
            f"these logits are of the classes {found}; the labels have {classes}",
            where=str(path),
            cure="Correct dataset.labels, or write the logits of a teacher of these classes",
        )
