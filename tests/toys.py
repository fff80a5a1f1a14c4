"""A reader, a partition, networks and a method that nothing in the package knows: each is added by a registry line.

They stand for what is to come: a range image with a head of its own at the points (CENet), pillars, cylinders on the
sparse engine (Cylinder3D).
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from core.config import Config, Section
from core.contracts import Batch, Output, Points, Scan, Sensor, Stage
from core.data.partitions import PartitionSection
from core.datasets.base import DatasetConfig, ScanDataset, ScanFiles
from core.labels import LabelSpace
from core.models import build_model
from core.sparse import Conv3d, SparseBatchNorm, SparseReLU, SparseStage, SparseTensor

TOY_LABELS = LabelSpace(
    name="toy",
    classes=("ignore", "ground", "wall"),
    colors=np.array([[0, 0, 0], [200, 0, 200], [250, 200, 0]], np.uint8),
    raw_to_train={0: 0, 10: 1, 20: 2},
    train_to_raw=(0, 10, 20),
)


class ToyReader(ScanDataset):
    """Level ground inside a square of walls; every scan another square."""

    class Config(DatasetConfig):
        """``dataset:`` section."""

        name: Literal["toy"] = Field(description="the reader")
        root: Path = Field(Path("."), description="unused: the scans are made")
        scans: int = Field(4, ge=1, description="scans of each split")

    title = "Toy"
    labels = TOY_LABELS
    point_fields = 4
    label_dtype = np.dtype("u1")
    sensor = Sensor(beams=16, intensity_scale=1.0)

    def __init__(self, config: Config, split: str) -> None:
        super().__init__(config, split)
        self.count = config.scans

    def __len__(self) -> int:
        return self.count

    def token(self, index: int) -> str:
        return f"{self.split}{index}"

    def index_of(self, token: str) -> int:
        return int(token.removeprefix(self.split))

    def files(self, index: int) -> ScanFiles:
        return ScanFiles(points=Path(f"{self.token(index)}.bin"), labels=None)

    def read(self, index: int, *, cameras: bool = True) -> Scan:
        rng = np.random.default_rng([index, self.split == "val"])
        ground = np.c_[rng.uniform(-8, 8, (300, 2)), np.full(300, -1.7)]
        side = rng.uniform(6, 8)
        wall = np.c_[np.full(200, side), rng.uniform(-side, side, 200), rng.uniform(-1.5, 0.5, 200)]
        xyz = np.concatenate([ground, wall]).astype(np.float32)
        order = rng.permutation(len(xyz))
        labels = np.repeat(np.array([1, 2], np.uint8), (300, 200))
        points = Points(
            xyz=xyz[order],
            intensity=rng.random(len(xyz)).astype(np.float32),
            label=labels[order] if self.config.use_labels else None,
        )
        return Scan(self.token(index), points, self.sensor, pose=np.eye(4))


class Pillars(PartitionSection):
    """Square columns."""

    axes: ClassVar[int] = 2
    name: Literal["pillars"] = Field(description="square columns")
    size: float = Field(0.5, gt=0, description="m, edge")

    def index(self, xyz: np.ndarray, sensor: Sensor) -> tuple[np.ndarray, None]:
        """Floored, counted from 1000 cells to the left and behind."""
        cells = np.floor(sensor.seen(xyz)[:, :2] / np.float32(self.size)).astype(np.int32)
        return cells + 1000, None

    def centres(self, coords: np.ndarray, sensor: Sensor) -> np.ndarray:
        """Of the columns, at the scanner's height."""
        middle = (coords - 1000 + 0.5) * self.size
        flat = np.column_stack([middle, np.zeros(len(coords))])
        return (flat + sensor.place).astype(np.float32)


class _Toy(nn.Module):
    def stages(self, batch: Batch, feats: Tensor) -> tuple[Stage, ...]:
        """One stage, whose cells are the batch's."""
        rows = torch.arange(len(batch.cells), device=feats.device)
        return (Stage(feats, rows, (1,) * batch.cells.partition.axes),)


class PillarNet(_Toy):
    """A network of the points of each pillar: mean over points, then a head."""

    partitions: ClassVar[tuple[str, ...]] = ("pillars",)

    class Config(Section):
        """``model:`` section."""

        name: Literal["pillarnet"] = Field(description="the network")
        in_channel: int = Field(4, ge=1, description="values per point")

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        self.points = nn.Sequential(nn.Linear(config.in_channel, 8), nn.ReLU())
        self.head = nn.Linear(8, num_classes)

    def forward(self, batch: Batch) -> Output:
        """Logits [SV, num_classes]."""
        feats = self.points(batch.point_feats)
        rows = batch.cells.of_point
        counts = torch.bincount(rows, minlength=len(batch.cells)).clamp_min(1)
        total = feats.new_zeros(len(batch.cells), feats.shape[1]).index_add(0, rows, feats)
        mean = total / counts[:, None]
        return Output(self.head(mean), self.stages(batch, mean), encoder=1)


class RangeNet(_Toy):
    """Dense convolutions on the range image, and a head that decides for each point."""

    partitions: ClassVar[tuple[str, ...]] = ("range_image",)

    class Config(Section):
        """``model:`` section."""

        name: Literal["rangenet"] = Field(description="the network")
        in_channel: int = Field(4, ge=1, description="values per point")

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(config.in_channel, 8, 3, padding=1), nn.ReLU())
        self.head, self.point_head = (
            nn.Linear(8, num_classes),
            nn.Linear(config.in_channel, num_classes),
        )

    def forward(self, batch: Batch) -> Output:
        """Logits [SV, num_classes] of the pixels, and [SN, num_classes] of the points."""
        image = batch.cells.partition
        b, row, column = batch.coords.long().unbind(1)
        dense = batch.feats.new_zeros(len(batch), image.height, image.width, batch.feats.shape[1])
        dense = dense.index_put((b, row, column), batch.feats)
        feats = self.conv(dense.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)[b, row, column]
        logits = self.head(feats)
        of_points = logits.index_select(0, batch.cells.of_point) + self.point_head(
            batch.point_feats
        )
        return Output(logits, self.stages(batch, feats), encoder=1, point_logits=of_points)


class CylinderNet(nn.Module):
    """Sparse convolutions on cylinders; the batch's cells own the kernel maps."""

    partitions: ClassVar[tuple[str, ...]] = ("cylinder",)

    class Config(Section):
        """``model:`` section."""

        name: Literal["cylindernet"] = Field(description="the network")
        in_channel: int = Field(4, ge=1, description="values per point")

    def __init__(self, config: Config, num_classes: int) -> None:
        super().__init__()
        self.net = nn.Sequential(Conv3d(config.in_channel, 8, 3), SparseBatchNorm(8), SparseReLU())
        self.down = Conv3d(8, 8, 2, 2)
        self.head = nn.Linear(16, num_classes)

    def forward(self, batch: Batch) -> Output:
        """Logits [SV, num_classes]."""
        x = self.net(SparseTensor.of(batch.cells, batch.feats))
        coarse = SparseStage(self.down(x))
        logits = self.head(torch.cat([x.feats, coarse.at_cells()], 1))
        return Output(logits, (SparseStage(x), coarse), encoder=2)


def random_checkpoint(config: Config, labels: LabelSpace, path: Path) -> Path:
    """Random weights, as a training of ``config`` leaves them."""
    torch.manual_seed(0)
    network = build_model(config, labels.num_classes, pretrained=False)
    identity = {
        "fingerprint": labels.fingerprint,
        "classes": list(labels.classes),
        "config": config.tree,
    }
    torch.save({"model": network.state_dict(), "training_only": {}, "identity": identity}, path)
    return path
