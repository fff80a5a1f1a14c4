"""Weights by a table of names: full-size networks under names made up here, and what a table may not be."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from core.config import Config, load_config
from core.engine.exchange.command import main
from core.engine.exchange.families import Target
from core.engine.exchange.named import NamedWeights, read_table
from core.engine.exchange.weights import import_weights
from core.errors import UserError
from core.models import build_model

Weights = dict[str, Tensor]
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "semantickitti"
# How a made-up project calls the parts of MotionBEV.
PARTS = {
    "points": "pn",
    "compression": "squeeze",
    "appearance": "enc_a",
    "motion": "enc_m",
    "gates": "fuse",
    "ups": "dec",
    "head": "out_conv",
}
TABLE = {
    "title": "made up",
    "rules": [
        {"theirs": rf"net\.{theirs}\.", "ours": f"{ours}."} for ours, theirs in PARTS.items()
    ],
    "unused": [{"theirs": r"loss\.", "why": "weights of the loss"}],
}


def written(path: Path, table: dict[str, object]) -> Path:
    path.write_text(yaml.safe_dump(table))
    return path


def motionbev_file(own: Weights, head: Callable[[Tensor], Tensor]) -> Weights:
    """The network's values as another project would keep them: other names, a 1x1 convolution as its head."""
    theirs = {"module.loss.weight": torch.ones(3)}
    for name, value in own.items():
        part, _, rest = name.partition(".")
        tensor = value
        if part == "head":
            tensor = head(value)
        if name == "head.weight":
            tensor = tensor[:, :, None, None]
        theirs[f"module.net.{PARTS[part]}.{rest}"] = tensor.clone()
    return theirs


def random_state(config: Config, outputs: int) -> Weights:
    torch.manual_seed(0)
    state = build_model(config, outputs, pretrained=False).state_dict()
    for value in state.values():
        if value.is_floating_point():
            value.uniform_(0.1, 1.0)
    return state


def without_ignored(value: Tensor) -> Tensor:
    """Rows height by height, without the first of three classes; ours are zero there."""
    rows = value.view(32, 3, *value.shape[1:])
    rows[:, 0] = 0
    return rows[:, 1:].flatten(0, 1)


@pytest.mark.parametrize(
    ("name", "outputs", "head", "parameters"),
    [
        ("published_kdmos", 4, lambda value: value, 4_031_366),
        ("published_motionbev", 3, without_ignored, 4_362_406),
    ],
)
def test_full_size_weights_come_in(
    name: str,
    outputs: int,
    head: Callable[[Tensor], Tensor],
    parameters: int,
    tmp_path: Path,
) -> None:
    config = load_config(CONFIGS / "motionbev" / f"{name}.yaml")
    own = random_state(config, outputs)
    theirs = motionbev_file(own, head)
    statistics = re.compile(r"running_|num_batches|module\.loss")
    counted = {key: value for key, value in theirs.items() if not statistics.search(key)}
    assert sum(value.numel() for value in counted.values()) == parameters
    torch.save(theirs, tmp_path / "file.pt")
    table = written(tmp_path / "names.yaml", TABLE)
    made = import_weights(tmp_path / "file.pt", config, tmp_path / "own.pt", names=table)
    assert made["model"].keys() == own.keys()
    for key, value in own.items():
        assert torch.equal(made["model"][key], value), key
    assert made["identity"]["imported"]["family"] == "made up"
    assert made["identity"]["imported"]["unused"] == {"weights of the loss": ["loss.weight"]}


def test_full_size_mambamos_comes_in_with_kernels_of_spconv(tmp_path: Path) -> None:
    """Shapes of all 49.2 M values, on no memory, and one kernel tap by tap."""
    config = load_config(CONFIGS / "moving" / "published_mambamos.yaml")
    with torch.device("meta"):
        network = build_model(config, 4, pretrained=False)
        theirs = {}
        for name, value in network.state_dict().items():
            if name.endswith(".kernel"):
                width = value.shape[1]
                name, value = (
                    name.removesuffix("kernel") + "weight",
                    torch.empty(width, 3, 3, 3, width),
                )
            theirs[f"backbone.{name}"] = value
    kernel = "backbone.blocks.0.0.conv.weight"
    theirs[kernel] = torch.randn(32, 3, 3, 3, 32)
    rules = [{"theirs": r"backbone\.", "ours": ""}]
    table = {"title": "made up", "rules": rules, "axes": "xyz"}
    family = NamedWeights(read_table(written(tmp_path / "names.yaml", table)))
    made = family.translate(theirs, Target("mambamos", network, 4)).network
    own = network.state_dict()
    assert {name: value.shape for name, value in made.items()} == {
        name: value.shape for name, value in own.items()
    }
    for x, y, z in ((0, 0, 0), (2, 0, 1), (1, 2, 0)):
        tap = made["blocks.0.0.conv.kernel"][x + 3 * y + 9 * z]
        assert torch.equal(tap, theirs[kernel][:, x, y, z].T)


# --- what is refused ----------------------------------------------------------------------------------------------
def small() -> Config:
    tree = {
        "num_epochs": 1,
        "batch_size": 1,
        "dataset": {"name": "semantickitti", "root": ".", "labels": "semantickitti_movable"},
        "data": {"voxel_size": 0.2},
        "model": {"name": "minkunet", "cr": 0.1},
    }
    return Config(tree)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    state = random_state(small(), 4)
    torch.save({f"net.{name}": value for name, value in state.items()}, tmp_path / "file.pt")
    return tmp_path / "file.pt"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"title": "t", "rules": [{"theirs": "(net", "ours": ""}]}, "no regular expression"),
        ({"title": "t", "rules": [{"theirs": "net", "ours": r"\1"}]}, "cannot be filled in"),
        ({"title": "t", "rules": []}, "rules"),
        ({"title": "t", "rule": []}, "rule"),
        ({"title": "t", "rules": [{"theirs": "nothing", "ours": ""}]}, "belong to another model"),
        ({"title": "t", "rules": [{"theirs": r"net\..*", "ours": "x"}]}, "is there twice"),
        (["net"], "no table of names"),
    ],
)
def test_a_wrong_table_writes_nothing(table, message: str, file: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "names.yaml", table)
    with pytest.raises(UserError, match=message):
        import_weights(file, small(), tmp_path / "own.pt", names=path)
    assert not (tmp_path / "own.pt").exists()


def test_a_tensor_of_another_shape_is_refused(file: Path, tmp_path: Path) -> None:
    weights = torch.load(file, weights_only=True)
    weights["net.classifier_vox.0.weight"] = torch.ones(2, weights["net.stem.0.kernel"].shape[2])
    torch.save(weights, file)
    table = written(
        tmp_path / "names.yaml", {"title": "t", "rules": [{"theirs": r"net\.", "ours": ""}]}
    )
    with pytest.raises(UserError, match=r"classifier_vox\.0\.weight is \(2"):
        import_weights(file, small(), tmp_path / "own.pt", names=table)


def test_names_and_a_family_are_too_much(file: Path, tmp_path: Path) -> None:
    table = written(tmp_path / "names.yaml", TABLE)
    with pytest.raises(UserError, match="--names and --from"):
        import_weights(file, small(), tmp_path / "own.pt", names=table, family="spvnas")


def test_a_draft_is_a_table_but_for_what_shapes_leave_open(
    file: Path, tmp_path: Path, capsys
) -> None:
    config = tmp_path / "job.yaml"
    config.write_text(yaml.safe_dump(small().tree))
    main(["names", str(file), "--config", str(config)])
    text = capsys.readouterr().out
    found = yaml.safe_load(text)
    own = random_state(small(), 4)
    sizes = [value.numel() for value in own.values()]
    certain = {name for name, value in own.items() if sizes.count(value.numel()) == 1}
    assert certain and {rule["ours"] for rule in found["rules"]} == certain
    for rule in found["rules"]:
        assert re.match(rule["theirs"], f"net.{rule['ours']}")
    for name in own:
        assert text.count(re.escape(f"net.{name}") + "$") == 1
