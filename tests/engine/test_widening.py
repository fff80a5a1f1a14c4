"""Wider start points: which channel is whose copy, what is refused, and a training that begins with one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from folder_world import write_world
from spconv1_reference import published_weights

from core.config import Config, load_config
from core.engine.exchange.command import main
from core.engine.exchange.weights import import_weights
from core.engine.exchange.widening import Tiled, tile, widen_checkpoint
from core.engine.run.checkpoint import read_checkpoint
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.engine.run.run_dir import RunDir
from core.engine.train.jobs import build_trainer
from core.errors import UserError

GRID = {
    "partition": {"name": "cylinder", "bins": [17, 12, 9], "low": [0, -180, -2], "high": [8, 180, 2]}
}  # fmt: skip
SINGLE = {"name": "semantickitti", "root": "/nowhere"}
SEVERAL = SINGLE | {"labels": "semantickitti_multiscan"}


def described(width: int, dataset: dict, **model: object) -> Config:
    small = {"width": width, "voxel_features": 4, "point_features": 6, "asym_mode": "released"}
    tree = {
        "num_epochs": 1,
        "batch_size": 1,
        "dataset": dataset,
        "data": GRID,
        "model": {"name": "cylinder3d", **small, **model},
        "optimizer": {"name": "adam", "lr": 0.1},
        "scheduler": {"name": "cosine_warmup", "warmup_steps": 1},
    }
    return Config(tree)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Released weights of 20 classes, imported."""
    folder = tmp_path_factory.mktemp("narrow")
    torch.save(published_weights(2, 4, 6, 20), folder / "cyl.pt")
    import_weights(folder / "cyl.pt", described(2, SINGLE), folder / "own.pt")
    return folder / "own.pt"


def test_channels_by_hand() -> None:
    row = torch.tensor([1.0, 2.0, 3.0])
    assert tile(row, [5]).tolist() == [1, 2, 3, 1, 2], "once, where it is not more than double"
    assert tile(row, [8]).tolist() == [1, 2, 3, 1, 2, 3, 1, 2], "twice, where it is"
    kernel = torch.arange(12.0).reshape(3, 2, 2)
    wide = tile(kernel, [3, 3, 4])
    assert wide[1].tolist() == [[4, 5, 4, 5], [6, 7, 6, 7], [4, 5, 4, 5]]
    assert tile(kernel, [3, 2, 2]) is kernel
    assert str(Tiled("head.kernel", (27, 4, 20), (27, 10, 26))) == (
        "head.kernel [27, 4, 20] -> [27, 10, 26]: axis 1 4..7 are 0..3, 8..9 are 0..1, axis 2 20..25 are 0..5"
    )


@pytest.mark.parametrize(("width", "classes"), [(2, 26), (3, 20), (4, 26), (5, 20)])
def test_all_274_tensors_of_the_wider_network(narrow, tmp_path, width, classes) -> None:
    dataset = SINGLE if classes == 20 else SEVERAL
    tiled = widen_checkpoint(narrow, described(width, dataset), tmp_path / "wide.pt")
    before, state = read_checkpoint(narrow)["model"], read_checkpoint(tmp_path / "wide.pt")
    after = state["model"]
    assert len(after) == 274 and after.keys() == before.keys()
    assert len(state["identity"]["classes"]) == classes and state["training_only"] == {}
    grown = {step.name for step in tiled}
    for name, values in after.items():
        assert (name in grown) == (values.shape != before[name].shape)
        assert not name.startswith("point_network") or torch.equal(values, before[name])
        for place in ([0] * values.dim(), [length - 1 for length in values.shape]):
            source = [i % length for i, length in zip(place, before[name].shape)]
            assert values[tuple(place)] == before[name][tuple(source)], name
    assert after["head.bias"].shape == (classes,)
    assert torch.equal(after["head.bias"][20:], before["head.bias"][: classes - 20])
    assert ("stem.first.0.0.kernel" in grown) == (width > 2)


def test_the_command_says_what_was_tiled(narrow, tmp_path, capsys) -> None:
    text = tmp_path / "wide.yaml"
    text.write_text(yaml.safe_dump(described(2, SEVERAL).tree))
    out = tmp_path / "wide.pt"
    main(["widen", str(narrow), "--config", str(text), "--out", str(out), "--model.width", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert "head.bias [20] -> [26]: axis 0 20..25 are 0..5" in lines
    assert "stem.first.0.0.kernel [9, 4, 2] -> [9, 4, 3]: axis 2 2..2 are 0..0" in lines
    assert lines[-1] == f"{out}: {len(lines) - 1} tensors tiled"


def test_what_is_no_wider_network_is_refused(narrow, tmp_path) -> None:
    out = tmp_path / "wide.pt"
    wide = tmp_path / "wide26.pt"
    widen_checkpoint(narrow, described(4, SEVERAL), wide)
    nuscenes = {"name": "nuscenes", "root": "/nowhere"}
    cases = [
        (narrow, described(2, SINGLE), "is as wide already"),
        (narrow, described(4, SINGLE, voxel_features=8), r"voxels.0.weight' is \[4, 6\] .* no linear layers"),
        (narrow, described(4, SINGLE, point_features=12), r"points.10.weight' .* no linear layers"),
        (narrow, described(4, SINGLE, asym_mode="paper"), r"other numbers of taps.*asym_mode"),
        (narrow, described(4, SINGLE, point_head="mlp"), "another model: .* missing"),
        (narrow, described(4, nuscenes), "not the first ones of .* .17: ignore, barrier"),
        (wide, described(6, SINGLE), "not the first ones"),
        (wide, described(3, SEVERAL), "never shrunk"),
    ]  # fmt: skip
    for source, config, message in cases:
        with pytest.raises(UserError, match=message):
            widen_checkpoint(source, config, out)
    other = described(4, SINGLE)
    other.tree["model"] = {"name": "minkunet", "cr": 0.25}
    with pytest.raises(UserError, match="a 'cylinder3d' is no narrower 'minkunet'"):
        widen_checkpoint(narrow, other, out)
    assert not out.exists()


def test_a_training_begins_with_it(narrow, tmp_path) -> None:
    world = write_world(tmp_path / "world")
    out = tmp_path / "wide.pt"
    config = described(3, SINGLE)
    widen_checkpoint(narrow, config, out)
    given = load_config(world, ["--train.init_from", str(out), "--data.augment", "null"])
    given.tree["model"], given.tree["data"] = config.tree["model"], given.tree["data"] | GRID
    given.tree["data"].pop("voxel_size", None)
    context = Context.open(given, World())
    trainer = build_trainer(context, context.dataset("train"), RunDir(tmp_path / "run"), None)
    begun = trainer.method.deployed.state_dict()
    for name, values in read_checkpoint(out)["model"].items():
        assert torch.equal(begun[name], values), name
