"""A checkpoint is its own configuration: what is taken from it, what is named, and the forms it may come in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from folder_world import write_world
from loguru import logger

from core.api import Segmenter
from core.config import Config, load_config
from core.decode import read_json
from core.engine.commands import job_of, read_evaluation, run_folder
from core.engine.evaluation_options import evaluation_parser
from core.engine.exchange.weights import export_weights, import_weights
from core.engine.run.adopted import adopt
from core.engine.run.checkpoint import read_checkpoint
from core.engine.run.context import Context
from core.engine.run.distributed import World
from core.engine.run.run_dir import RunDir
from core.engine.run.trained import TrainedNetwork, read_network
from core.engine.score.jobs import evaluate_checkpoint
from core.engine.score.prediction import predict_checkpoint
from core.engine.score.voting import Votes
from core.engine.train.jobs import build_trainer, train_teacher
from core.engine.train.teacher import load_teacher
from core.errors import UserError

SMALL = ["--num_epochs", "1", "--model.cr", "0.125"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="module")
def run(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for an epoch with other options than the YAML says."""
    folder = tmp_path_factory.mktemp("run")
    options = [*SMALL, "--model.dropout", "0", "--data.voxel_size", "0.5"]
    train_teacher(World(), load_config(config, options), folder)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "net.safetensors"
    export_weights(run, path)
    return path


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    messages: list[str] = []
    handle = logger.add(lambda message: messages.append(message.record["message"]), level="WARNING")
    # jobs begin by taking all handlers away
    monkeypatch.setattr("core.engine.run.context.configure_logging", lambda world: None)
    yield messages
    logger.remove(handle)


def bare(config: Path, **sections: object) -> Config:
    """A configuration that names the scans, and else what is given."""
    dataset = yaml.safe_load(config.read_text())["dataset"]
    given = Config(source="bare.yaml")
    given.merge({"dataset": dataset, "eval": {"pictures": 0}}, "bare.yaml")
    given.merge(sections, "bare.yaml")
    return given


def score(config: Config, checkpoint: Path, out: Path) -> list[list[int]]:
    return evaluate_checkpoint(World(), config, checkpoint, out).confusion


# --- what is taken from it ------------------------------------------------------------------------------------------
def test_network_and_view_come_from_the_checkpoint(config, run, tmp_path, warnings) -> None:
    own = read_json(run / "evaluation-val.json")
    assert score(bare(config), run, tmp_path) == own["confusion"]
    written = read_json(tmp_path / "evaluation-val.json")
    assert not warnings and "other_settings" not in written["extra"]


def test_other_settings_are_applied_and_named_once(config, run, tmp_path, warnings) -> None:
    options = [*SMALL, "--data.intensity_divisor", "2"]  # and the YAML's voxel size
    score(load_config(config, options), run, tmp_path)
    assert warnings == [
        "other settings than the network was trained with: data.voxel_size 0.5 in training, 0.4 now; "
        "data.intensity_divisor 1.0 in training, 2.0 now"
    ]
    assert read_json(tmp_path / "evaluation-val.json")["extra"]["other_settings"] == [
        {"key": "data.voxel_size", "trained": 0.5, "used": 0.4},
        {"key": "data.intensity_divisor", "trained": 1.0, "used": 2.0},
    ]
    predict_checkpoint(World(), load_config(config, options), run, "split:val", tmp_path / "out")
    assert len(warnings) == 2
    made_by = read_json(tmp_path / "out" / "classes.json")["made_by"]
    assert made_by["other_settings"][0]["key"] == "data.voxel_size"


def trained(tree: dict) -> TrainedNetwork:
    return TrainedNetwork(Path("net.pt"), "", {}, tree=tree)


SPFORMER = {"name": "spvcnn_spformer", "cr": 0.5, "legacy_quant": True, "window_origin": "batch"}
CAMERAS = {"name": "lidar_camera", "lidar": SPFORMER, "image": {"normalize": "none"}}
NUSCENES = {"name": "nuscenes", "root": "x", "multisweeps": {"num_sweeps": 5, "only_past": True}}


@pytest.mark.parametrize(
    ("model", "given", "changes"),
    [
        (SPFORMER, {"model": {"name": "spvcnn_spformer"}}, {}),
        (SPFORMER, {"model": {"name": "spvcnn_spformer", "cr": 0.5}, "data": None}, {}),
        (SPFORMER, {"model": {"drop_path_rate": 0.1}}, {}),
        (SPFORMER, {"model": {"legacy_quant": False}}, {"model.legacy_quant": (True, False)}),
        (
            SPFORMER,
            {"model": {"name": "minkunet"}},
            {"model.name": ("spvcnn_spformer", "minkunet")},
        ),
        (CAMERAS, {"model": {"name": "lidar_camera"}}, {}),
        (
            CAMERAS,
            {"model": {"image": {"normalize": "imagenet"}}},
            {"model.image.normalize": ("none", "imagenet")},
        ),
        (SPFORMER, {"data": {"partition": {"name": "voxels", "size": 0.1}}}, {}),
        (SPFORMER, {"data": {"partition": None, "augment": None}}, {}),
        (SPFORMER, {"data": {"voxel_size": 0.2}}, {"data.voxel_size": (0.1, 0.2)}),
        (
            SPFORMER,
            {"data": {"features": ["xyz", "intensity", "lag"]}},
            {"data.features": (["xyz", "intensity"], ["xyz", "intensity", "lag"])},
        ),
        (SPFORMER, {"dataset": {"name": "nuscenes", "root": "y"}}, {}),
        (
            SPFORMER,
            {"dataset": {"name": "nuscenes", "root": "y", "multisweeps": {"num_sweeps": 0}}},
            {
                "dataset.multisweeps.num_sweeps": (5, 0),
                "dataset.multisweeps.only_past": (True, "not set"),
            },
        ),
        (SPFORMER, {"dataset": {"name": "folder", "root": "y"}}, {}),
    ],
)
def test_what_differs(model: dict, given: dict, changes: dict) -> None:
    tree = {"num_epochs": 3, "batch_size": 1, "model": model, "data": {"voxel_size": 0.1}}
    adopted = adopt(Config(given), trained(tree | {"dataset": NUSCENES}))
    found = {change.key: (change.trained, change.used) for change in adopted.changes}
    assert found == changes


def test_values_keep_the_file_they_come_from() -> None:
    given = Config(source="mine.yaml")
    given.merge({"model": {"cr": 1.0}}, "mine.yaml")
    tree = {"model": SPFORMER, "data": {"voxel_size": 0.1, "mix": 1.0}}
    config = adopt(given, trained(tree)).config
    assert config.tree["model"] == SPFORMER | {"cr": 1.0} and "mix" not in config.tree["data"]
    assert config.origin("model.cr") == "mine.yaml"
    assert config.origin("model.legacy_quant") == "configuration in net.pt"


def test_a_configuration_of_another_version_does_not_count(config, warnings) -> None:
    given = load_config(config)
    adopted = adopt(given, trained({"model": {"name": "spvcnn", "gone": 1}}))
    assert adopted.config is given and "model.gone" in warnings[0]


# --- CONFIG may be left out -----------------------------------------------------------------------------------------
def evaluate(*argv: str) -> Path:
    """As ``evaluate.py``; returns the folder of the run."""
    args, config = read_evaluation(evaluation_parser("about"), argv)
    folder = run_folder(args, config)
    job, targets = job_of(args, folder)
    job(World(), config, args.checkpoint, *targets)
    return folder


def test_a_checkpoint_alone_is_enough(config, run, exported, tmp_path) -> None:
    with_config = tmp_path / "with"
    options = ["--data.voxel_size", "0.5", "--out", str(with_config), "--model.cr", "0.125"]
    evaluate(str(config), "--checkpoint", str(run), "--predict", "split:val", *options)
    best = run / "checkpoints" / "best.pt"
    for name, source in (("run", run), ("best", best), ("exported", exported)):
        root = ["--dataset.root", str(config.parent)]
        out = ["--out", str(tmp_path / name)]
        folder = evaluate("--checkpoint", str(source), "--predict", "split:val", *out, *root)
        assert (folder == run) == (source != exported)
        for label in with_config.glob("*.label"):
            assert (tmp_path / name / label.name).read_bytes() == label.read_bytes()


@pytest.mark.parametrize(
    ("argv", "command", "source"),
    [
        (["--checkpoint", "RUN"], "score", None),
        (["score", "--checkpoint", "RUN", "data.voxel_size=0.1"], "score", None),
        (["--data.voxel_size", "0.1", "--checkpoint", "RUN"], "score", None),
        (["--checkpoint", "RUN", "CONFIG"], "score", None),
        (["predict", "scans", "--checkpoint", "RUN", "--out", "o"], "predict", "scans"),
        (["predict", "--checkpoint", "RUN", "--out", "o", "scans"], "predict", "scans"),
        (
            ["predict", "CONFIG", "--checkpoint", "RUN", "scans", "--out", "o"],
            "predict",
            "scans",
        ),
        (
            ["--checkpoint", "RUN", "--predict", "scans", "--preview", "--out", "o"],
            "predict",
            "scans",
        ),
        (["--checkpoint", "RUN", "--submit", "o"], "submit", None),
        (
            ["--checkpoint", "RUN", "--robustness", "robo3d", "--kinds", "fog", "snow"],
            "robustness",
            None,
        ),
    ],
)
def test_command_lines_without_a_configuration(config, run, argv, command, source) -> None:
    given = {"RUN": str(run), "CONFIG": str(config)}
    args, tree = read_evaluation(evaluation_parser("about"), [given.get(w, w) for w in argv])
    assert args.command == command and getattr(args, "source", None) == source
    assert (args.config is not None) == ("CONFIG" in argv)
    changed = "data.voxel_size" in " ".join(argv)
    if args.config is None:
        assert tree.get("data.voxel_size") == (0.1 if changed else 0.5)


# --- the forms it may come in ---------------------------------------------------------------------------------------
def teacher_of(config: Path, source: Path) -> torch.nn.Module:
    given = load_config(config, ["--teacher_pretrain", str(source)])
    labels = Context.open(given, World()).dataset("train").labels
    return load_teacher(given, labels, torch.device("cpu")).network


def begun_with(config: Path, source: Path, folder: Path) -> torch.nn.Module:
    given = load_config(config, [*SMALL, "--train.init_from", str(source)])
    context = Context.open(given, World())
    return build_trainer(context, context.dataset("train"), RunDir(folder), None).method.deployed


@pytest.mark.parametrize("source", ["run", "checkpoints", "best", "exported"])
def test_every_form_is_taken_everywhere(config, run, exported, tmp_path, source) -> None:
    best = run / "checkpoints" / "best.pt"
    forms = {"run": run, "checkpoints": best.parent, "best": best, "exported": exported}
    path, weights = forms[source], read_checkpoint(best)["model"]
    again = export_weights(path, tmp_path / "again.safetensors")
    assert again["classes"][0] == "ignore" and again["sensor"]["points"] > 0
    networks = {
        "teacher_pretrain": teacher_of(config, path),
        "train.init_from": begun_with(config, path, tmp_path / "begun"),
        "Segmenter": Segmenter.load(path, device="cpu").network,
    }
    for name, network in networks.items():
        state = network.state_dict()
        assert state.keys() == weights.keys(), name
        assert all(torch.equal(state[key], value) for key, value in weights.items()), name


def test_what_came_in_knows_its_scans(config, exported, tmp_path) -> None:
    given = load_config(config, [*SMALL, "--data.voxel_size", "0.5"])
    import_weights(exported, given, tmp_path / "in.pt")
    assert read_network(tmp_path / "in.pt", "test").sensor == read_network(exported, "test").sensor


def test_a_run_folder_is_a_configuration_too(run) -> None:
    assert load_config(run).tree == load_config(run / "config.yaml").tree


def test_a_wrong_path_is_answered_with_what_is_there(run) -> None:
    with pytest.raises(UserError) as caught:
        read_network(run / "checkpoints" / "bset.pt", "--checkpoint")
    step = read_checkpoint(run / "checkpoints" / "last.pt")["global_step"]
    miou = read_json(run / "evaluation-val.json")["miou"]
    assert f"Did you mean best.pt? {run}/checkpoints has best.pt (step" in str(caught.value)
    assert f"last.pt (step {step}, {miou:.2f} mIoU)" in str(caught.value)
    with pytest.raises(UserError, match=r"checkpoints has best\.pt"):
        read_network(run / "net.pt", "--checkpoint")


# --- scans in other units ------------------------------------------------------------------------------------------
@pytest.fixture
def bright(config: Path, tmp_path: Path) -> Path:
    """The scans with intensities of 8 bits."""
    folder = tmp_path / "bright"
    shutil.copytree(config.parent, folder)
    for path in folder.glob("*.bin"):
        points = np.fromfile(path, np.float32).reshape(-1, 4) * np.float32([1, 1, 1, 255])
        points.tofile(path)
    return folder


CURE = "set data.intensity_divisor to 255 (it is 1)"


def test_scans_in_another_unit_are_told(config, run, bright, tmp_path, warnings) -> None:
    there = {"root": str(bright)}
    for folder, scans in enumerate((f"{bright}", "split:val")):
        out = tmp_path / str(folder)
        predict_checkpoint(World(), bare(config, dataset=there), run, scans, out)
    score(bare(config, dataset=there), run, tmp_path)
    assert len(warnings) == 3 and all(CURE in text and "(scan 0" in text for text in warnings)
    right = bare(config, dataset=there, data={"intensity_divisor": 255})
    score(right, run, tmp_path)
    assert len(warnings) == 4 and "data.intensity_divisor 1.0 in training" in warnings[3]


def test_a_teacher_and_a_beginning_of_other_scans_are_told(
    config, run, bright, tmp_path, warnings
) -> None:
    given = [*SMALL, "--dataset.root", str(bright), "--data.voxel_size", "0.5"]
    begun = load_config(config, [*given, "--train.init_from", str(run)])
    context = Context.open(begun, World())
    build_trainer(context, context.dataset("train"), RunDir(tmp_path / "a"), None)
    taught = load_config(
        config, [*given, "--distill.name", "u2mkd", "--teacher_pretrain", str(run)]
    )
    context = Context.open(taught, World())
    train_set = context.dataset("train")
    teacher = load_teacher(taught, train_set.labels, World().device)
    build_trainer(context, train_set, RunDir(tmp_path / "b"), teacher)
    assert [CURE in text for text in warnings] == [True, True]
    assert "the network to begin with knows other scans" in warnings[0]
    assert "the teacher knows other scans" in warnings[1]


# --- values that are not finite -------------------------------------------------------------------------------------
def changed(run: Path, path: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> Path:
    """A copy of the best checkpoint with another classifier."""
    state = read_checkpoint(run / "checkpoints" / "best.pt")
    name = next(key for key in state["model"] if key.startswith("classifier_vox"))
    state["model"][name] = change(state["model"][name])
    torch.save(state, path)
    return path


def test_weights_that_are_not_finite_are_named(config, run, tmp_path) -> None:
    path = changed(run, tmp_path / "nan.pt", lambda weight: weight * float("nan"))
    for job in (lambda: score(bare(config), path, tmp_path), lambda: Segmenter.load(path)):
        with pytest.raises(UserError, match=r"nan\.pt: some weights are NaN.*1 of them \(classif"):
            job()


def test_logits_that_are_not_finite_name_the_scan(config, run, tmp_path) -> None:
    path = changed(run, tmp_path / "huge.pt", lambda weight: weight.sign() * 3e38)
    scan = np.fromfile(config.parent / "008.bin", np.float32).reshape(-1, 4)
    jobs = {
        "008": lambda: score(bare(config), path, tmp_path),
        "scan": lambda: Segmenter.load(path, device="cpu").predict(scan),
    }
    jobs["008."] = lambda: evaluate_checkpoint(
        World(), bare(config), path, tmp_path, votes=Votes(2)
    )
    for token, job in jobs.items():
        with pytest.raises(UserError, match=f"logits are NaN or infinite.*for scan {token}"):
            job()
