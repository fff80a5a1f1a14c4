"""Results are kept under what they were made from: scans, labels, settings and bytes, not names."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from folder_world import write_world

from core.api import Segmenter
from core.config import Config, load_config
from core.decode import read_json
from core.engine.exchange.weights import export_weights
from core.engine.run.checkpoint import read_checkpoint
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.engine.run.exported import read_exported
from core.engine.run.run_dir import RunDir
from core.engine.run.store import CheckpointStore
from core.engine.score.jobs import evaluate_checkpoint
from core.engine.score.prediction import predict_checkpoint
from core.engine.score.robustness import evaluate_robustness
from core.engine.train.jobs import build_trainer, train_teacher
from core.engine.train.teacher import load_teacher, sweeps_of
from core.engine.train.trainer import Trainer
from core.errors import UserError
from core.io import write_json

SMALL = ["--num_epochs", "1", "--model.cr", "0.125"]
MAP = "classes: [ignore, car, road, building]\nmap: {0: 0, 10: 1, 40: 2, 50: 3}\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration whose label space is a file."""
    path = write_world(tmp_path_factory.mktemp("scans"))
    (path.parent / "map.yaml").write_text(MAP)
    text = path.read_text().replace("semantickitti", str(path.parent / "map.yaml"))
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train_teacher(World(), load_config(world, SMALL), folder)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def scans(world: Path, tmp_path: Path) -> Path:
    """A copy of the world; returns the folder."""
    shutil.copytree(world.parent, tmp_path / "scans")
    return tmp_path / "scans"


def reverse(folder: Path, *stems: str) -> None:
    """Points of scans in reverse order: same names, sizes and counts."""
    for path in sorted(folder.glob("*.bin")):
        if not stems or path.stem in stems:
            points = np.fromfile(path, np.float32).reshape(-1, 4)
            points[::-1].tofile(path)


# --- the teacher's outputs ------------------------------------------------------------------------------------------
def student(world: Path, teacher: Path, cache: Path, *options: str) -> Trainer:
    given = ["--teacher_pretrain", str(teacher), "--teacher.cache", str(cache)]
    method = ["--distill.name", "u2mkd", "--distill.w_feat", "0", "--teacher.data.augment", "null"]
    config = load_config(world, [*SMALL, *given, *method, *options])
    context = Context.open(config, World())
    train_set = context.dataset("train")
    network = load_teacher(config, train_set.labels, World().device)
    return build_trainer(context, train_set, RunDir(cache.parent / "student"), network)


def losses(trainer: Trainer) -> dict[str, torch.Tensor]:
    return trainer.losses(next(iter(trainer.steps.loader)))


def test_other_scans_of_the_same_names_are_not_taken_for_these(
    world, finished, scans, tmp_path
) -> None:
    cache = tmp_path / "cache"
    losses(student(world, finished, cache))
    same = student(world, finished, cache, "--dataset.root", str(scans))
    losses(same)  # a copy is the same scans
    reverse(scans)
    with pytest.raises(UserError, match=r"kept from another scan of that name") as caught:
        losses(student(world, finished, cache, "--dataset.root", str(scans)))
    assert "key 'teacher.cache'" in str(caught.value) and str(cache) in str(caught.value)


def test_what_changes_the_teachers_output_is_another_folder(world, finished, tmp_path) -> None:
    cache = tmp_path / "cache"
    options = [
        (),
        ("--amp.enabled", "true"),
        ("--teacher.data.intensity_divisor", "2"),
        ("--teacher.data.label_vote", "majority"),
    ]
    folders = [student(world, finished, cache, *given).source.cache.folder for given in options]
    assert len(set(folders)) == 3 and folders[0] == folders[3]


def test_a_flipped_bit_of_a_stored_output_is_found(world, finished, tmp_path) -> None:
    trainer = student(world, finished, tmp_path / "cache")
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        flip(path, -5)
    with pytest.raises(UserError, match=r"stored output for scan .* is damaged \(its SHA-256"):
        losses(trainer)


# --- the label space ------------------------------------------------------------------------------------------------
@pytest.fixture
def edited(world: Path) -> None:
    """Two classes change places in the label space's file."""
    path = world.parent / "map.yaml"
    path.write_text(MAP.replace("10: 1, 40: 2", "10: 2, 40: 1"))
    yield
    path.write_text(MAP)


@pytest.mark.usefixtures("edited")
def test_a_label_map_that_was_edited_is_another_one(world, run, finished, tmp_path) -> None:
    config = load_config(world, SMALL)
    with pytest.raises(UserError, match=r"dataset\.labels'.*another label space"):
        train_teacher(World(), config, run)  # finished: its score is one of the other map
    jobs = [
        lambda: evaluate_checkpoint(World(), config, run, tmp_path),
        lambda: predict_checkpoint(World(), config, run, "split:val", tmp_path / "out"),
        lambda: student(world, finished, tmp_path / "cache"),
        lambda: Segmenter.load(run),
    ]
    for job in jobs:
        with pytest.raises(UserError, match="another map from ids to the classes of 'map'"):
            job()


# --- scores, predictions --------------------------------------------------------------------------------------------
def test_a_finished_run_shows_its_own_score(scans, world, run) -> None:
    """Not one of other settings, and not one of scans or labels that have changed since."""
    config = load_config(world, [*SMALL, "--dataset.root", str(scans)])
    train_teacher(World(), config, run)
    path = run / "evaluation-val.json"
    own, time = read_json(path), path.stat().st_mtime_ns
    train_teacher(World(), config, run)
    assert path.stat().st_mtime_ns == time, "nothing has changed"
    other = load_config(world, [*SMALL, "--dataset.root", str(scans), "--data.voxel_size", "2"])
    evaluate_checkpoint(World(), other, run, run)
    assert read_json(path)["confusion"] != own["confusion"]
    train_teacher(World(), config, run)
    assert read_json(path)["confusion"] == own["confusion"]
    labels = np.fromfile(scans / "009.label", np.uint32)
    np.full_like(labels, 10).tofile(scans / "009.label")
    train_teacher(World(), config, run)
    assert read_json(path)["confusion"] != own["confusion"]


def test_a_scan_that_changed_is_predicted_again(scans, world, finished, tmp_path) -> None:
    config, out = load_config(world, SMALL), tmp_path / "out"
    predict_checkpoint(World(), config, finished, str(scans), out)
    before = {path.stem: np.load(path) for path in out.glob("*.npy")}
    reverse(scans, "008")
    (scans / "000.bin").unlink()
    predict_checkpoint(World(), config, finished, str(scans), out)
    now = np.load(out / "008.npy")
    assert (now[::-1] == before["008"]).mean() > 0.9 and (now != before["008"]).any()
    assert np.array_equal(np.load(out / "009.npy"), before["009"])


def test_scores_of_corruptions_are_those_of_the_scans(scans, world, finished, tmp_path) -> None:
    config = load_config(world, [*SMALL, "--dataset.root", str(scans)])
    options = {"profile": "robo3d", "kinds": ["incomplete_echo_light"]}
    clean = tmp_path / "robustness-robo3d" / "clean.json"
    evaluate_robustness(World(), config, finished, tmp_path, **options)
    time = clean.stat().st_mtime_ns
    evaluate_robustness(World(), config, finished, tmp_path, **options)
    assert clean.stat().st_mtime_ns == time
    reverse(scans, "010")
    evaluate_robustness(World(), config, finished, tmp_path, **options)
    assert clean.stat().st_mtime_ns > time


# --- hashes ---------------------------------------------------------------------------------------------------------
def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.unlink()  # other names of the file keep what they have
    path.write_bytes(data)


def test_a_damaged_checkpoint_names_those_that_are_whole(run, tmp_path, world) -> None:
    best = run / "checkpoints" / "best.pt"
    flip(best, 5000)
    with pytest.raises(UserError, match=r"best\.pt: .*SHA-256.*Whole and beside it.*last\.pt") as e:
        read_checkpoint(best)
    assert "best.pt (step" not in str(e.value)
    jobs = {
        "evaluate": lambda: evaluate_checkpoint(World(), load_config(world, SMALL), best, tmp_path),
        "export": lambda: export_weights(run, tmp_path / "net.safetensors"),
        "teacher": lambda: student(world, run, tmp_path / "cache"),
        "again": lambda: train_teacher(World(), load_config(world, SMALL), run),
    }
    for name, job in jobs.items():
        with pytest.raises(UserError, match="damaged: its SHA-256"):
            job()
            pytest.fail(name)


def test_a_copy_is_compared_with_its_own_checksums(finished, tmp_path) -> None:
    """A file without a manifest: weights lie in a zip whose parts have a CRC-32, which torch does not read."""
    copy = tmp_path / "copy.pt"
    shutil.copyfile(finished / "checkpoints" / "best.pt", copy)
    read_checkpoint(copy)
    with zipfile.ZipFile(copy) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    flip(copy, largest.header_offset + 1000)
    with pytest.raises(UserError, match=r"damaged: the checksum of its part .*data/"):
        read_checkpoint(copy)


def test_a_kill_between_link_and_manifest_is_no_damage(run) -> None:
    store = CheckpointStore(run / "checkpoints")
    state = read_checkpoint(store.folder / "last.pt")
    manifest = store.manifest()
    store.save(state | {"global_step": state["global_step"] + 1})
    write_json(store.manifest_path, manifest)
    assert read_checkpoint(store.folder / "last.pt")["global_step"] == state["global_step"] + 1


def test_a_damaged_export_is_found(finished, tmp_path) -> None:
    path = tmp_path / "net.safetensors"
    export_weights(finished, path)
    read_exported(path)
    flip(path, -3)
    with pytest.raises(UserError, match="its weights are not those that its metadata"):
        read_exported(path)


# --- a false alarm --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("sweeps", "meant"),
    [
        (None, {}),
        ({"num_sweeps": 0, "only_past": False}, {}),
        ({"num_sweeps": 2}, {"num_sweeps": 2, "only_past": True}),
        ({"num_sweeps": 2, "only_past": True}, {"num_sweeps": 2, "only_past": True}),
    ],
)
def test_sweeps_are_compared_by_what_they_mean(sweeps, meant) -> None:
    tree = {"dataset": {"name": "nuscenes", "root": "x"}}
    if sweeps is not None:
        tree["dataset"]["multisweeps"] = sweeps
    assert sweeps_of(Config(tree)) == meant
    assert sweeps_of(Config({"dataset": {"name": "folder", "root": "x"}})) == {}
