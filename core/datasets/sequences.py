"""What data sets of numbered frames in named sequences have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from core.datasets.base import Gap, Need, ScanDataset
from core.datasets.files import listing
from core.datasets.find import is_hidden
from core.datasets.numbered import first_names, holes, numbered_files
from core.paths import name_fault

__all__ = ["SequenceDataset", "sequence_names"]


class SequenceDataset(ScanDataset):
    """A data set whose scans are numbered frames of named sequences: ``<sequence>/<frame>``."""

    frame_digits: ClassVar[int]
    sequences: tuple[str, ...]
    _frames: list[tuple[str, int]]

    def __len__(self) -> int:
        return len(self._frames)

    def token(self, index: int) -> str:
        """``<sequence>/<frame>``, the frame with ``frame_digits`` digits."""
        sequence, frame = self._frames[index]
        return f"{sequence}/{self.frame_name(frame)}"

    def frame_name(self, frame: int) -> str:
        """A frame's number with ``frame_digits`` digits."""
        return f"{frame:0{self.frame_digits}d}"

    @cached_property
    def _positions(self) -> dict[tuple[str, int], int]:
        return {frame: i for i, frame in enumerate(self._frames)}

    def index_of(self, token: str) -> int:
        """Position of ``<sequence>/<frame>``; the frame may lack leading zeros."""
        sequence, _, frame = token.partition("/")
        try:
            return self._positions[sequence, int(frame)]
        except (KeyError, ValueError) as error:
            raise self._unknown_token(token) from error

    def _numbers(
        self, folder: Path, part: str, suffix: str, known: Sequence[str] = ()
    ) -> tuple[int, ...]:
        """Frames whose files lie in a folder, ascending; notes files that no frame's name leads to.

        Args:
            part: the folder, for a person. known: names of other files that belong there.
        """
        files = numbered_files(folder, self.frame_digits, (suffix,), known)
        pattern = "N" * self.frame_digits + suffix
        if files.misnamed:
            what = f"{len(files.misnamed)} files are not named {pattern} and are not read"
            self._note_unread(f"{part}: {what}", files.misnamed, "lidar")
        if files.strays:
            what = f"{len(files.strays)} other files are not read"
            self._note_unread(f"{part}: {what}", files.strays, "nothing")
        return files.numbers

    def _note_folders(self, folder: Path, part: str, is_named: Callable[[str], bool]) -> None:
        """Note what lies among the sequences and is none, such as ``8`` in place of ``08``."""
        names = []
        for name in sorted(listing(folder)):
            if not is_named(name) and not is_hidden(name) and name not in self.sequences:
                names.append(name)
        if names:
            what = f"{len(names)} entries are not named like a sequence and are not read"
            self._note_unread(f"{part}: {what}", names, "nothing")

    def _note_alone(self, part: str, suffix: str, labels: Iterable[int], scans: set[int]) -> None:
        """Note label files of frames that have no scan."""
        alone = [self.frame_name(n) + suffix for n in labels if n not in scans]
        if alone:
            self._note_unread(
                f"{part}: {len(alone)} label files are without a scan", alone, "lidar"
            )

    def _note_unread(self, text: str, names: Sequence[str], needed_for: Need) -> None:
        self._gaps.append(Gap(f"{text} ({first_names(names)})", needed_for, unread=True))

    def _lacking(self, scans: Sequence[int]) -> str | None:
        """Which frames are lacking between others, as a sentence; None = none."""
        lacking = [self.frame_name(n) for n in holes(scans)]
        if not lacking:
            return None
        return f"{len(lacking)} frames are lacking between others ({first_names(lacking)})"


def sequence_names(value: object, digits: int) -> object:
    """Names of sequences, alone or as keys: YAML reads an unquoted 8 as a number, which gets its zeros back.

    Raises:
        ValueError: a name is none of a folder below the root.
    """
    if isinstance(value, Mapping):
        return {_with_zeros(name, digits): item for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_zeros(name, digits) for name in value]
    return value


def _with_zeros(name: object, digits: int) -> object:
    if isinstance(name, int) or (isinstance(name, str) and name.isdecimal()):
        return f"{int(name):0{digits}d}"
    if isinstance(name, str) and (name_fault(name) is not None or "/" in name):
        raise ValueError(f"{name!a:.60} cannot be the name of a sequence's folder")
    return name
