"""Weights out of files that other projects' ``torch.save`` wrote, with whatever else their trainers put beside them.

Optimisers, callbacks and hyper-parameters may be objects of any class. Nothing of them is made, see
:mod:`core.engine.exchange.pickled`; tensors are read at the places that the pickle names, within the file.
"""

from __future__ import annotations

import math
import mmap
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from core.decode import decoding
from core.engine.exchange.pickled import Pickle, Storage, StoredTensor
from core.errors import UserError

__all__ = ["Foreign", "Weights", "read_foreign", "read_weights"]

Weights = dict[str, Tensor]
_ENTRIES = (  # of a checkpoint, those that may be weights
    *("model", "state_dict", "model_state_dict"),
    "model_points",  # SLidR's, beside its image network
    "model_state",  # OpenPCDet's
)
_SETTINGS = "config"  # of a checkpoint, what its trainer was configured with
_CURE = (
    "Copy or download the file again; it must be what its author's training wrote with torch.save"
)
_ZIP = b"PK\x03\x04"
_ENCRYPTED = 1  # of a zip entry's flags
_MOST_AXES = 8
_LONGEST = 1 << 40  # values along an axis
_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of what torch wrote before 1.6
_MODULE = "module."  # before each name of a network that several GPUs trained


class _Archive(ABC):
    """A file of torch.save: one value, and storages by key.

    Attributes:
        value: what was saved; tensors are :class:`StoredTensor`.
    """

    value: object

    def __init__(self) -> None:
        self._flat: dict[str, Tensor] = {}

    @abstractmethod
    def content(self, storage: Storage, size: int) -> bytearray:
        """The bytes of a storage, which should be ``size``."""

    def tensor(self, stored: StoredTensor) -> Tensor:
        """Read a tensor; one of its own, contiguous.

        Raises:
            ValueError: it would reach beyond its storage.
        """
        if len(stored.size) > _MOST_AXES or max(stored.size, default=0) > _LONGEST:
            raise ValueError("a tensor has an impossible shape")
        flat = self._storage(stored.storage)
        last = stored.offset
        for length, step in zip(stored.size, stored.stride, strict=True):
            last += max(length - 1, 0) * step
        count = math.prod(stored.size)
        if count and (last >= len(flat) or count > len(flat)):
            raise ValueError("a tensor reaches beyond its storage")
        if not count:
            return flat.new_empty(stored.size)
        return flat.as_strided(stored.size, stored.stride, stored.offset).clone().contiguous()

    def _storage(self, storage: Storage) -> Tensor:
        if storage.key not in self._flat:
            if storage.dtype is None:
                raise ValueError("a tensor has values of an unknown kind")
            size = storage.count * storage.dtype.itemsize
            content = self.content(storage, size)
            if len(content) != size:
                raise ValueError(f"a storage of {size} bytes has {len(content)}")
            flat = torch.empty(0, dtype=storage.dtype)
            if content:
                flat = torch.frombuffer(content, dtype=storage.dtype)
            self._flat[storage.key] = flat
        return self._flat[storage.key]


class _ZipArchive(_Archive):
    """Since torch 1.6: a zip archive of ``NAME/data.pkl`` and ``NAME/data/KEY``, not compressed."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        super().__init__()
        self.zip = zipfile.ZipFile(stream)
        entries = self.zip.infolist()
        if any(entry.flag_bits & _ENCRYPTED for entry in entries):
            raise ValueError("it is encrypted")
        plain = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not plain or sum(entry.file_size for entry in entries) > size:
            raise ValueError("its entries claim to be larger than the file")
        pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
        if len(pickles) != 1:
            raise ValueError("it is no archive of torch.save")
        self.root = pickles[0].filename.removesuffix("data.pkl")
        if self.root + "byteorder" in self.zip.namelist():
            _check_order(self.zip.read(self.root + "byteorder") == b"little")
        self.value = Pickle(self.zip.read(pickles[0])).value

    def content(self, storage: Storage, size: int) -> bytearray:
        return bytearray(self.zip.read(f"{self.root}data/{storage.key}"))


class _OldArchive(_Archive):
    """Before torch 1.6: five pickles, then each storage's number of values and the values."""

    def __init__(self, content: mmap.mmap) -> None:
        super().__init__()
        if Pickle(content).value != _MAGIC:
            raise ValueError("it is no file of torch.save")
        _, system, saved, keys = (Pickle(content) for _ in range(4))
        if isinstance(system.value, dict):
            _check_order(system.value.get("little_endian", True) is True)
        self.mapped, self.value = content, saved.value
        self.places: dict[str, int] = {}
        if not isinstance(keys.value, list):
            raise ValueError("it has no list of storages")
        place = content.tell()
        for key in keys.value:
            storage = saved.storages[key]
            self.places[storage.key] = place
            place += 8 + storage.count * (storage.dtype or torch.uint8).itemsize

    def content(self, storage: Storage, size: int) -> bytearray:
        place = self.places[storage.key]
        count = int.from_bytes(self.mapped[place : place + 8], "little")
        if count != storage.count:
            raise ValueError(f"a storage of {storage.count} values has {count}")
        return bytearray(self.mapped[place + 8 : place + 8 + size])


def _check_order(little: bool) -> None:
    if not little:
        raise ValueError("it was written on a machine of the other byte order")


@dataclass(frozen=True)
class Foreign:
    """What another project's checkpoint holds.

    Attributes:
        weights: by name. settings: plain values of its entry ``config``, empty where it has none.
    """

    weights: Weights
    settings: Mapping[str, object]


def read_weights(path: Path) -> Weights:
    """Read the weights in another project's checkpoint; see :func:`read_foreign`."""
    return read_foreign(path).weights


def read_foreign(path: Path) -> Foreign:
    """Read the weights in another project's checkpoint by their names, without the prefix of several GPUs.

    They are one of its entries, such as ``model`` or ``state_dict``, or the whole file. Nothing in the file is run.

    Raises:
        UserError: the file is missing, damaged or no checkpoint, is one of this project, or holds no weights.
    """
    with decoding(path, "checkpoint", _CURE), open(path, "rb") as stream:
        beginning = stream.read(len(_ZIP))
        size = path.stat().st_size
        archive: _Archive
        if beginning == _ZIP:
            archive = _ZipArchive(stream, size)
        else:
            stream.seek(0)
            archive = _OldArchive(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        named = _named_tensors(archive.value, path)
        weights = {}
        for name, stored in named.items():
            weights[name.removeprefix(_MODULE)] = archive.tensor(stored)
        return Foreign(weights, _settings(archive.value))


def _settings(value: object) -> dict[str, object]:
    """The plain values of the entry ``config``."""
    config = value.get(_SETTINGS) if isinstance(value, dict) else None
    found: dict[str, object] = {}
    if isinstance(config, dict):
        for key, setting in config.items():
            if isinstance(key, str) and isinstance(setting, bool | int | float | str):
                found[key] = setting
    return found


def _named_tensors(value: object, path: Path) -> dict[str, StoredTensor]:
    """The weights among what a checkpoint holds.

    Raises:
        UserError: it is a checkpoint of this project, or has none.
    """
    if isinstance(value, dict) and isinstance(value.get("identity"), dict):
        raise UserError(
            "this already is a checkpoint of this project", where=str(path), cure="Use it as it is"
        )
    found: list[object] = [value]
    if isinstance(value, dict):
        found = [*(value.get(entry) for entry in _ENTRIES), value]
    for candidate in found:
        if isinstance(candidate, Mapping) and candidate and _all_tensors(candidate):
            return {str(name): stored for name, stored in candidate.items()}
    there = ""
    if isinstance(value, dict):
        there = f"; it has {', '.join(sorted(map(str, value))[:8]) or 'nothing'}"
    raise UserError(
        f"this file holds no weights: no entry {' or '.join(_ENTRIES)} of tensors by name{there}",
        where=str(path),
        cure=_CURE,
    )


def _all_tensors(values: Mapping[object, object]) -> bool:
    return all(isinstance(value, StoredTensor) for value in values.values())
