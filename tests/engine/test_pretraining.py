"""pretrain.py on a tiny world: superpixels, an interrupted run, its final file, and a network that begins with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from core.config import Config, load_config
from core.data.superpixels.slic import SlicConfig
from core.data.superpixels.write import write_superpixels
from core.distill.slidr import SLidR
from core.engine.run.checkpoint import read_checkpoint
from core.engine.run.distributed import World
from core.engine.run.run_dir import RunDir
from core.engine.train.jobs import pretrain, train_student, train_teacher
from core.errors import UserError

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "synthetic" / "slidr"
SMALL = {
    "num_epochs": "2",
    "batch_size": "1",
    "workers_per_gpu": "0",
    "amp.enabled": "false",
    "model.cr": "0.125",
    "scheduler.warmup_steps": "0",
    "data.image_augment.resized_crop.size": "[48, 32]",
    "dataset.partial": "true",
}


@pytest.fixture(scope="module")
def superpixels(tiny_nuscenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("superpixels")
    write_superpixels(world(tiny_nuscenes, "ppkt"), out, SlicConfig(segments=20, sigma=1.0))
    return out


def world(root: Path, name: str, **keys: str) -> Config:
    """A shipped configuration on the tiny world."""
    options = {"dataset.root": str(root), **SMALL, **keys}
    if name in ("finetune", "probe", "probe_decoder"):
        del options["data.image_augment.resized_crop.size"]
    words = [word for key, value in options.items() for word in (f"--{key}", value)]
    return load_config(str(CONFIGS / f"{name}.yaml"), words)


def shas(folder: Path) -> dict[str, str]:
    manifest = json.loads((folder / "checkpoints" / "manifest.json").read_text())
    return {name: entry["sha256"] for name, entry in manifest.items()}


@pytest.fixture(scope="module")
def straight(
    tiny_nuscenes: Path, superpixels: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    options = {"dataset.planes.superpixels": str(superpixels)}
    pretrain(World(), world(tiny_nuscenes, "minkunet", **options), folder)
    return folder


def test_the_last_weights_count_and_their_loss_is_measured(straight: Path) -> None:
    records = RunDir(straight).history()
    losses = [r["val_loss/contrast"] for r in records if "val_loss/contrast" in r]
    assert len(losses) == 2 and all(0 < loss < 10 for loss in losses)
    assert all(r["loss/contrast"] > 0 for r in records if "loss/contrast" in r)
    folder = straight / "checkpoints"
    assert (folder / "best.pt").samefile(folder / "last.pt")
    final, last = read_checkpoint(straight / "model.pt"), read_checkpoint(folder / "last.pt")
    assert final["global_step"] == 4 and "optimizer" not in final
    for part in ("model", "training_only"):
        assert final[part].keys() == last[part].keys()
        assert all(torch.equal(value, last[part][key]) for key, value in final[part].items())
    assert final["identity"]["config"]["distill"]["name"] == "slidr"


class Stop(Exception):
    """Stands for the end of the process."""


def test_interrupted_and_continued_it_ends_with_the_same_bytes(
    straight: Path, tiny_nuscenes: Path, superpixels: Path, tmp_path: Path, monkeypatch
) -> None:
    forward = SLidR.forward
    calls = 0

    def until(self: SLidR, *batch: object) -> object:
        nonlocal calls
        calls += self.training
        if calls == 4:  # in the middle of the second epoch
            raise Stop
        return forward(self, *batch)

    keys = {"dataset.planes.superpixels": str(superpixels), "train.save_every": "1"}
    config = world(tiny_nuscenes, "minkunet", **keys)
    monkeypatch.setattr(SLidR, "forward", until)
    with pytest.raises(Stop):
        pretrain(World(), config, tmp_path)
    assert not (tmp_path / "model.pt").exists()
    monkeypatch.setattr(SLidR, "forward", forward)
    pretrain(World(), config, tmp_path)
    ours, theirs = (read_checkpoint(f / "model.pt") for f in (tmp_path, straight))
    for part in ("model", "training_only"):
        assert all(torch.equal(value, theirs[part][key]) for key, value in ours[part].items())
    (tmp_path / "model.pt").unlink()
    pretrain(
        World(), config, tmp_path
    )  # there is nothing left to train, and the file is made again
    assert (tmp_path / "model.pt").is_file()


def test_the_encoder_is_the_one_it_began_with(straight: Path, tiny_nuscenes: Path) -> None:
    state = read_checkpoint(straight / "model.pt")["training_only"]
    encoder = [key for key in state if key.startswith("image.encoder.")]
    means = [state[key] for key in encoder if key.endswith("running_mean")]
    assert len(means) == 20 and all((mean == 0).all() for mean in means)  # as new
    assert state["image.decoder.weight"].shape == (64, 512, 1, 1)


@pytest.mark.parametrize("weights", ["", "model.pt"])
def test_segmentation_begins_with_its_weights(
    straight: Path, tiny_nuscenes: Path, tmp_path: Path, weights: str
) -> None:
    keys = {"train.init_from": str(straight / weights), "optimizer.lr": "1e-12", "num_epochs": "1"}
    train_teacher(World(), world(tiny_nuscenes, "finetune", **keys), tmp_path)
    before = read_checkpoint(straight / "model.pt")["model"]
    after = read_checkpoint(tmp_path / "checkpoints" / "last.pt")["model"]
    assert after["final.weight"].shape == (17, 12) and before["final.weight"].shape == (64, 12)
    for name, value in after.items():
        if name.endswith("kernel"):
            torch.testing.assert_close(value, before[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "learning"), [("probe", ("final.",)), ("probe_decoder", ("ups.", "final."))]
)
def test_probes_leave_the_rest_of_the_network_alone(
    straight: Path, tiny_nuscenes: Path, tmp_path: Path, name: str, learning: tuple[str, ...]
) -> None:
    """Not even statistics move; what learns began anew."""
    keys = {"train.init_from": str(straight), "num_epochs": "1"}
    train_teacher(World(), world(tiny_nuscenes, name, **keys), tmp_path)
    before = read_checkpoint(straight / "model.pt")["model"]
    after = read_checkpoint(tmp_path / "checkpoints" / "last.pt")["model"]
    moved = set()
    for key, value in after.items():
        if value.shape != before[key].shape or not torch.equal(value, before[key]):
            moved.add(key)
    learnt = {key for key in after if key.startswith(learning)}
    assert moved <= learnt and {key for key in learnt if key.endswith("kernel")} <= moved
    assert {"final.weight", "final.bias"} <= moved


def test_other_cells_than_in_the_pretraining_are_told(
    straight: Path, tiny_nuscenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    keys = {
        "train.init_from": str(straight),
        "num_epochs": "1",
        "data.partition.cell": "[0.5, 2.0, 0.2]",
    }
    train_teacher(World(), world(tiny_nuscenes, "finetune", **keys), tmp_path)
    told = [line for line in capsys.readouterr().err.splitlines() if "was trained with:" in line]
    assert len(told) == 1 and "data.partition" in told[0] and "0.5" in told[0]


@pytest.mark.parametrize("name", ["ppkt", "scalr"])
def test_other_methods_on_the_same_trainer(tiny_nuscenes: Path, tmp_path: Path, name: str) -> None:
    pretrain(World(), world(tiny_nuscenes, name, num_epochs="1"), tmp_path)
    assert (tmp_path / "model.pt").is_file()


def test_each_command_says_which_other_one_it_is_for(tiny_nuscenes: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'ppkt' learns without labels.*pretrain.py"):
        train_student(World(), world(tiny_nuscenes, "ppkt"), tmp_path)
    with pytest.raises(UserError, match=r"'supervised' learns from labels.*train_student.py"):
        pretrain(World(), world(tiny_nuscenes, "finetune"), tmp_path)


def test_superpixels_that_are_not_there_are_said(tiny_nuscenes: Path, tmp_path: Path) -> None:
    missing = {"dataset.planes.superpixels": str(tmp_path / "none")}
    with pytest.raises(UserError, match=r"has no map 'superpixels'.*prepare_superpixels.py"):
        pretrain(World(), world(tiny_nuscenes, "minkunet", **missing), tmp_path / "run")
