"""Targets: weights, run folders, caches, submissions and instance databases."""

from __future__ import annotations

import shutil
import zipfile
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from folder_world import write_scan, write_world
from fuzz_data import kitti
from fuzz_mutations import (
    BYTES,
    JSON,
    YAML,
    checkpoint_values,
    json_line,
    npy_header,
    safetensors_header,
    yaml_values,
    zipped,
)
from fuzz_runner import Target
from instance_fakes import CAR, PEDESTRIAN, box_of_points, toy_database

from core.api import Segmenter
from core.config import Config, load_config
from core.data import ChosenScans, build_loader
from core.data.instances.database import Database
from core.datasets import build_dataset
from core.engine.exchange.foreign import read_weights
from core.engine.exchange.weights import export_weights, import_weights
from core.engine.report.page import write_report
from core.engine.run.distributed import World
from core.engine.run.run_dir import RunDir
from core.engine.run.store import CheckpointStore
from core.engine.score.submission import remap
from core.engine.score.submission_check import check_submission, open_split
from core.engine.train.jobs import train
from core.engine.train.teacher import load_teacher
from core.engine.train.teacher_cache import TeacherCache
from core.labels import SEMANTICKITTI
from core.metrics import EvaluationResult

SMALL = (
    "model.name=minkunet",
    "model.cr=0.1",
    "num_epochs=2",
    "batch_size=1",
    "data.voxel_size=1.0",
    "data.augment=null",
    "dataset.split={train: [0, 1], val: [2, 3]}",
    "train.save_every=1",
)


def run(folder: Path) -> None:
    """A training of a few steps, its export, and the same weights as another project would write them."""
    config = load_config(write_world(folder / "scans", 4), SMALL)
    config.dump(folder / "job.yaml")
    train(World(), config, folder / "run")
    for name in ("report.html", "preview.png"):
        (folder / "run" / name).unlink(missing_ok=True)
    shutil.copy(folder / "run" / "checkpoints" / "best.pt", folder / "net.pt")
    export_weights(folder / "net.pt", folder / "net.safetensors")
    state = torch.load(folder / "net.pt", weights_only=True)
    torch.save({"state_dict": state["model"], "epoch": np.float64(3)}, folder / "foreign.ckpt")
    torch.save({"model": state["model"]}, folder / "old.pt", _use_new_zipfile_serialization=False)
    cache, batch = _teacher_cache(folder)
    cache.read(batch)


def _job(root: Path) -> Config:
    config = load_config(root / "job.yaml")
    config.merge({"root": str(root / "scans")}, "fuzz", "dataset")
    return config


def _scan(root: Path) -> np.ndarray:
    write_scan(root, 99, 120)
    return np.fromfile(root / "099.bin", "<f4").reshape(-1, 4)


def use_network(name: str, root: Path) -> object:
    """Label a scan, and export."""
    predicted = Segmenter.load(root / name, device="cpu").predict(_scan(root))
    export_weights(root / name, root / "again.safetensors")
    return predicted.labels


def use_import(root: Path) -> object:
    state = import_weights(root / "net.safetensors", _job(root), root / "imported.pt")
    return state["model"]


def use_foreign(name: str, root: Path) -> object:
    return read_weights(root / name)


def use_store(root: Path) -> object:
    """What a continuation, and an evaluation, would take."""
    newest = CheckpointStore(root / "run" / "checkpoints").newest()
    assert newest is not None, "the run was lost without a word"
    best = RunDir(root / "run").best()
    return newest[0], newest[1]["model"], best


def use_run(root: Path) -> object:
    """Start the finished run again; look at its curves."""
    train(World(), _job(root), root / "run")
    result = EvaluationResult.read(root / "run" / "evaluation-val.json")
    return result.confusion, (root / "run" / "report.html").is_file()


def use_scores(root: Path) -> object:
    """Compare with the score of another run, as ``--compare`` does."""
    result = EvaluationResult.read(root / "run" / "evaluation-val.json")
    history = RunDir(root / "run").history()
    page = write_report(
        root / "run", result, [], title="x", command="y", config_text="", history=history,
        extra_results=[("other", result)],
    )  # fmt: skip
    return result, page.stat().st_size > 0


def _teacher_cache(root: Path) -> tuple[TeacherCache, object]:
    config = _job(root)
    config.merge({"teacher_pretrain": str(root / "net.pt")}, "fuzz")
    teacher = load_teacher(config, SEMANTICKITTI, torch.device("cpu"))
    cache = TeacherCache(root / "cache", teacher, {}, torch.device("cpu"))
    dataset = build_dataset(config, "val")
    cache.fill(dataset, World(), 0, nullcontext)
    samples = ChosenScans(dataset, teacher.data, [0, 1], cache.digests)
    loader = build_loader(samples, batch_size=2, workers=0, training=False, rank=0, world=1)
    loader.set_epoch(1, 0)
    return cache, next(iter(loader))


def use_cache(root: Path) -> object:
    cache, batch = _teacher_cache(root)
    output = cache.read(batch)  # type: ignore[arg-type]
    return output.logits, output.coords


# --- values of a configuration ----------------------------------------------------------------------------------------
VALUES = """
num_epochs: 1
batch_size: 1
amp: {enabled: false, dtype: bf16}
criterion: {w_ce: 1.0, w_lovasz: 1.0, w_balanced: 0.0}
optimizer: {name: adamw, lr: 0.003, weight_decay: 0.01, betas: [0.9, 0.999], lr_scale: {}}
scheduler: {name: cosine_warmup, warmup_steps: 1, power: 0.9}
train: {seed: 0, accumulate: 1, grad_clip: 10.0, ema: 0.9, save_every: 500, max_nonfinite_steps: 0}
eval: {every: 1, batch_size: 1, pictures: 0}
model: {name: spvcnn, cr: 0.1, dropout: 0.3}
data:
  voxel_size: 1.0
  mix: 0.0
  point_range: [-50, -50, -4, 50, 50, 3]
  max_voxels: 1000
  intensity_divisor: 1.0
  augment: {flip: true, rotate: [-180, 180], scale: [0.9, 1.1], translate_std: [0.1, 0.1, 0.1], dropout: 0.1}
dataset:
  name: folder
  scans: "*.bin"
  label_files: "{stem}.label"
  labels: semantickitti
  point_fields: 4
  label_dtype: uint32
  label_bits: 16
  split: {train: [0, 1], val: [2, 3]}
  sensor: {origin: [0, 0, 0], beams: 64, elevation: [-0.4, 0.05], intensity_scale: 1.0}
"""


def values(folder: Path) -> None:
    write_world(folder / "scans", 4)
    (folder / "job.yaml").write_text(VALUES)


def use_values(root: Path) -> object:
    """Train with it; epochs and workers may be as many as somebody likes."""
    given = {"num_epochs": 1, "workers_per_gpu": 0, "dataset": {"root": str(root / "scans")}}
    config = load_config(root / "job.yaml")
    config.merge(given, "fuzz")
    train(World(), config, root / "run")
    return EvaluationResult.read(root / "run" / "evaluation-val.json").confusion


# --- submissions -----------------------------------------------------------------------------------------------------
def submission(folder: Path) -> None:
    kitti(folder / "data")
    (folder / "data" / "sequences" / "00").rename(folder / "data" / "sequences" / "08")
    with zipfile.ZipFile(folder / "submission.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sequences/", b"")
        archive.writestr("sequences/08/", b"")
        archive.writestr("sequences/08/predictions/", b"")
        for frame in range(3):
            content = np.full(6, 40, "<u4").tobytes()
            archive.writestr(f"sequences/08/predictions/{frame:06d}.label", content)
            _write(folder / "in" / f"{frame:06d}.label", content)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def use_submission(root: Path) -> object:
    scans = open_split("semantickitti", root / "data", "val", "")
    return list(check_submission(root / "submission.zip", scans))


def use_remap(root: Path) -> object:
    count = remap(root / "in", root / "out", "train", SEMANTICKITTI)
    return count, [path.read_bytes() for path in sorted((root / "out").rglob("*.label"))]


# --- instance databases -----------------------------------------------------------------------------------------------
def instances(folder: Path) -> None:
    clouds = [box_of_points(np.array([3.0, 12.0, 0.5]), count) for count in (40, 30, 20)]
    toy_database(folder / "db", list(zip((CAR, CAR, PEDESTRIAN), clouds)))


def use_instances(root: Path) -> object:
    database = Database(root / "db")
    points = [database.points(row) for row in range(len(database))]
    return points, np.array(database.index), database.fingerprint, database.summary()


WEIGHTS = "safetensors (label, export, import)"
FOREIGN = "other projects' checkpoints"
STORE = "manifest, step file"
FOLDER = "config.yaml, scalars, scores in the run folder"
SENT = "submission zip, .label for remap"
DATABASE = "instance database"
CHECKPOINT = (*BYTES, *[checkpoint_values] * 7)
EXPORTED = (*BYTES, *[safetensors_header] * 7)
ARCHIVE = (*BYTES, zipped, zipped)
LOG = (*BYTES, *[json_line] * 7)

use_checkpoint = partial(use_network, "net.pt")
use_exported = partial(use_network, "net.safetensors")

TARGETS = (
    Target("checkpoint", "checkpoint (label, export)", run, "net.pt", use_checkpoint, CHECKPOINT),
    Target("exported", WEIGHTS, run, "net.safetensors", use_exported, EXPORTED),
    Target("imported", WEIGHTS, run, "net.safetensors", use_import, EXPORTED),
    Target("foreign", FOREIGN, run, "foreign.ckpt", partial(use_foreign, "foreign.ckpt"), ARCHIVE),
    Target("foreign.old", FOREIGN, run, "old.pt", partial(use_foreign, "old.pt")),
    Target("manifest", STORE, run, "run/checkpoints/manifest.json", use_store, JSON),
    Target("step", STORE, run, "run/checkpoints/step-*.pt", use_store, CHECKPOINT),
    Target("run.config", FOLDER, run, "run/config.yaml", use_run, YAML),
    Target("run.scalars", FOLDER, run, "run/scalars.jsonl", use_scores, LOG),
    Target("run.scores", FOLDER, run, "run/evaluation-val.json", use_scores, JSON),
    Target("run.finished", FOLDER, run, "run/*.json*", use_run),
    Target("teacher.cache", "teacher's cache", run, "cache/*/*", use_cache, BYTES),
    Target("teacher.values", "teacher's cache", run, "cache/*/*.safetensors", use_cache, EXPORTED),
    Target("values", "values of a configuration", values, "job.yaml", use_values, (yaml_values,)),
    Target("submission", SENT, submission, "submission.zip", use_submission, ARCHIVE),
    Target("remap", SENT, submission, "in/*.label", use_remap),
    Target("instances.points", DATABASE, instances, "db/*.bin", use_instances),
    Target("instances.index", DATABASE, instances, "db/*.npy", use_instances, (*BYTES, npy_header)),
    Target("instances.meta", DATABASE, instances, "db/meta.json", use_instances, JSON),
)
