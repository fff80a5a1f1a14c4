"""A reader, partitions and networks that the package has never heard of: by a registry line alone they go through
training, scoring, votes, prediction and the report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from toys import TOY_LABELS, ToyReader

from core.api import Segmenter
from core.config import load_config
from core.data.partitions import PARTITIONS
from core.datasets import DATASETS
from core.engine.run.distributed import World
from core.engine.score.jobs import evaluate_checkpoint
from core.engine.score.prediction import predict_checkpoint
from core.engine.score.voting import Votes
from core.engine.train.jobs import train_teacher
from core.errors import UserError
from core.models import MODELS

CONFIG = """
num_epochs: 10
batch_size: 2
workers_per_gpu: 0
dataset: {name: toy, scans: 4}
data: {partition: {name: PARTITION}, augment: null}
model: {name: MODEL}
optimizer: {name: adamw, lr: 0.05}
eval: {pictures: 1}
"""
TOYS = {
    "pillarnet": "{name: pillars, size: 0.4}",
    "rangenet": "{name: range_image, height: 16, width: 64, elevation: [-60, 20]}",
    "cylindernet": "{name: cylinder, bins: [40, 36, 8], high: [12, 180, 2]}",
}


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setitem(DATASETS, "toy", "toys:ToyReader")
    patch.setitem(PARTITIONS, "pillars", "toys:Pillars")
    patch.setitem(MODELS, "pillarnet", "toys:PillarNet")
    patch.setitem(MODELS, "rangenet", "toys:RangeNet")
    patch.setitem(MODELS, "cylindernet", "toys:CylinderNet")
    yield
    patch.undo()


def write_config(folder: Path, model: str, partition: str) -> Path:
    path = folder / "config.yaml"
    text = CONFIG.replace("{name: PARTITION}", partition).replace("MODEL", model)
    path.write_text(text)
    return path


@pytest.mark.parametrize("model", list(TOYS))
def test_through_every_job(model: str, tmp_path: Path) -> None:
    path, run = write_config(tmp_path, model, TOYS[model]), tmp_path / "run"
    train_teacher(World(), load_config(path), run)
    scores = json.loads((run / "evaluation-val.json").read_text())
    assert scores["num_scans"] == 4 and scores["num_points"] == 2000
    assert (run / "report.html").stat().st_size > 10_000

    best = run / "checkpoints" / "best.pt"
    voted = evaluate_checkpoint(World(), load_config(path), best, run, votes=Votes(3))
    assert voted.votes == 3 and voted.num_points == 2000

    predict_checkpoint(World(), load_config(path), best, "split:val", tmp_path / "labels")
    reader = ToyReader(ToyReader.Config(name="toy"), "val")
    segmenter = Segmenter.load(run, device="cpu")
    truth, found = [], []
    for index in range(4):
        scan = reader.load(index)
        written = np.load(tmp_path / "labels" / f"val{index}.npy")
        result = segmenter.predict(scan.points.having(label=None), sensor=scan.sensor)
        assert np.array_equal(written, result.labels) and written.min() > 0
        truth.append(scan.labels)
        found.append(written)
    right = np.concatenate(truth) == np.concatenate(found)
    assert right.mean() > 0.8, "ground and walls are told apart by height alone"


def test_a_network_reads_the_partitions_it_declares(tmp_path: Path) -> None:
    path = write_config(tmp_path, "rangenet", TOYS["cylindernet"])
    with pytest.raises(UserError, match="'rangenet' does not read the partition 'cylinder'"):
        train_teacher(World(), load_config(path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_input_width_follows_from_the_features(tmp_path: Path) -> None:
    path = write_config(tmp_path, "pillarnet", TOYS["pillarnet"])
    more = ["--data.features", "[xyz, intensity, distance]", "--num_epochs", "1"]
    train_teacher(World(), load_config(path, more), tmp_path / "run")
    segmenter = Segmenter.load(tmp_path / "run", device="cpu")
    assert segmenter.network.points[0].in_features == 5
    with pytest.raises(UserError, match=r"in_channel' is 4, but data\.features has 5"):
        train_teacher(
            World(), load_config(path, [*more, "--model.in_channel", "4"]), tmp_path / "b"
        )
    with pytest.raises(UserError, match="names 'height', which no point has"):
        wrong = ["--data.features", "[xyz, height]"]
        train_teacher(World(), load_config(path, wrong), tmp_path / "c")


def test_the_label_space_is_the_readers() -> None:
    assert ToyReader.label_space(ToyReader.Config(name="toy")) is TOY_LABELS
