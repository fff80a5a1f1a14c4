"""A teacher's outputs kept on disk: one file per scan, so that one pass of the teacher serves many students."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm.auto import tqdm

from core.contracts import Batch
from core.data import ChosenScans, build_loader, keyframe_voxels
from core.data.samples import Digests
from core.datasets.base import ScanDataset
from core.distill import COMPARED_EDGE, TeacherOutput, compared_stage
from core.engine.run.distributed import World, barrier, from_rank_zero, sole_job
from core.engine.run.exported import tensors_hash
from core.engine.train.teacher import FrozenTeacher
from core.errors import UserError
from core.io import write_bytes, write_json
from core.paths import inside
from core.sparse import MapCache, SparseStage, SparseTensor

__all__ = ["TeacherCache"]

_FORMAT = 2  # raise when files of an older version can no longer be used


class TeacherCache:
    """A folder of one teacher under one view; logits and features of one stage in fp16, linked to keyframe points.

    Args:
        root: ``teacher.cache``; the folder inside is named after the teacher, its view and ``made_with``.
        teacher: asked for scans that are not there yet.
        made_with: what else changes its output on a scan: the sweeps, the type of its numbers.
        device: of the outputs that :meth:`read` returns.

    Raises:
        UserError: the teacher's view changes from epoch to epoch.
    """

    def __init__(
        self,
        root: Path,
        teacher: FrozenTeacher,
        made_with: Mapping[str, object],
        device: torch.device,
    ) -> None:
        data = teacher.data
        if data.augment is not None or data.max_voxels is not None:
            raise UserError(
                "the teacher's view is augmented anew in every epoch, so nothing can be kept",
                where="teacher.cache",
                cure="Set teacher.data.augment to null (and teacher.data.max_voxels), or leave teacher.cache out",
            )
        self.teacher, self.device = teacher, device
        self.digests: Digests = "images" if data.uses_images(training=False) else "points"
        self._verified: set[str] = set()
        self.metadata = {
            "format": _FORMAT,
            "teacher": teacher.sha256,
            "data": data.view(),
            **made_with,
        }
        text = json.dumps(self.metadata, sort_keys=True, default=str)
        self.folder = root / hashlib.sha256(text.encode()).hexdigest()[:16]

    def path(self, token: str) -> Path:
        """The file of a scan."""
        return inside(self.folder, f"{token}.safetensors")

    def fill(
        self, dataset: ScanDataset, world: World, workers: int, autocast: Callable[[], Any]
    ) -> None:
        """Run the teacher on every scan that has no file yet; ranks share the work. Collective.

        Args:
            autocast: makes the mixed-precision context.
        """
        missing = from_rank_zero(lambda: self._missing(dataset))
        if missing:
            with sole_job(world, self.folder, "teacher.cache"):
                self._make(dataset, missing, world, workers, autocast)

    def _missing(self, dataset: ScanDataset) -> list[int]:
        return [i for i in range(len(dataset)) if not self.path(dataset.token(i)).is_file()]

    def _make(
        self,
        dataset: ScanDataset,
        missing: list[int],
        world: World,
        workers: int,
        autocast: Callable[[], Any],
    ) -> None:
        if world.rank == 0:
            plain = json.loads(json.dumps(self.metadata, default=str))
            write_json(self.folder / "about.json", plain)
            logger.info("the teacher looks at {} scans once; kept in {}", len(missing), self.folder)
        samples = ChosenScans(dataset, self.teacher.data, missing, self.digests)
        loader = build_loader(
            samples,
            batch_size=1,
            workers=workers,
            training=False,
            rank=world.rank,
            world=world.size,
        )
        loader.set_epoch(1, 0)
        for batch in tqdm(
            loader, desc="teacher", unit="scan", dynamic_ncols=True, disable=not sys.stderr.isatty()
        ):
            assert isinstance(batch, Batch)
            with autocast():
                output = self.teacher.output(batch.to(world.device))
            if not self.path(batch.tokens[0]).is_file():
                self._write(output, keyframe_voxels(batch), batch.contents[0])
        barrier()

    def _write(self, output: TeacherOutput, voxels: Tensor, content: str) -> None:
        """Write one scan's file.

        Args:
            voxels: the row of each of its keyframe points. content: digest of the scan.
        """
        stage = compared_stage(output.stages)
        tensors = {
            "coords": output.coords[:, 1:].contiguous(),
            "keyframe_voxels": voxels.int(),
            "logits": output.logits.half(),
        }
        if stage is not None:
            tensors["features"] = stage.feats.half()
        for name in ("logits", "features"):
            if name in tensors and not bool(tensors[name].isfinite().all()):
                raise UserError(
                    f"the teacher's {name} exceed the range of fp16 on scan {output.tokens[0]}",
                    where="teacher.cache",
                    cure="Leave teacher.cache out",
                )
        stored = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {"scan": content, "sha256": tensors_hash(stored)}
        write_bytes(self.path(output.tokens[0]), save(stored, metadata))

    def read(self, batch: Batch) -> TeacherOutput:
        """The teacher's output for the scans of a batch.

        Raises:
            UserError: a file is missing or damaged, or was made of another scan of that name.
        """
        parts = [self._read(*named) for named in zip(batch.tokens, batch.contents)]
        coords = torch.cat([_numbered(part["coords"], i) for i, part in enumerate(parts)])
        sizes = [len(part["coords"]) for part in parts]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        rows = [part["keyframe_voxels"].long() for part in parts]
        links = torch.cat(
            [torch.where(row < 0, -1, row + start) for row, start in zip(rows, starts)]
        )
        logits = torch.cat([part["logits"].float() for part in parts]).to(self.device)
        coords = coords.to(self.device)
        stages: tuple[SparseStage, ...] = ()
        if all("features" in part for part in parts):
            feats = torch.cat([part["features"].float() for part in parts]).to(self.device)
            cache = MapCache(coords)
            voxels = SparseTensor(feats, cache.level(COMPARED_EDGE).coords, COMPARED_EDGE, cache)
            stages = (SparseStage(voxels),)
        return TeacherOutput(batch.tokens, coords, links.to(self.device), logits, stages)

    def _read(self, token: str, content: str) -> dict[str, Tensor]:
        """One scan's tensors; their hash is compared when this process reads the file for the first time."""
        path = self.path(token)
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        except (SafetensorError, OSError) as error:
            raise self._damaged(token, f"cannot be read ({error})") from error
        if metadata.get("scan") != content:
            raise UserError(
                f"what the teacher said about scan {token} is kept from another scan of that name",
                where=f"{path}, key 'teacher.cache'",
                cure="Give each data set a teacher.cache of its own, or delete this one; the teacher then looks anew",
            )
        if token not in self._verified:
            if metadata.get("sha256") != tensors_hash(tensors):
                raise self._damaged(token, "is damaged (its SHA-256 is another one)")
            self._verified.add(token)
        return tensors

    def _damaged(self, token: str, how: str) -> UserError:
        return UserError(
            f"the teacher's stored output for scan {token} {how}",
            where=str(self.path(token)),
            cure="Delete the file and start the same command again; the teacher then looks at the scan anew",
        )


def _numbered(coords: Tensor, batch: int) -> Tensor:
    """i32 [V, 3] -> [V, 4] with the batch index first."""
    return torch.cat([coords.new_full((len(coords), 1), batch), coords], 1)
