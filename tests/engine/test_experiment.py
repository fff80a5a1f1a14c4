"""The configuration of a run: every section is typed before anything is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.config import Config, load_config
from core.data import DataConfig
from core.datasets.nuscenes import NuScenes
from core.distill.u2mkd import U2MKD
from core.engine.run import experiment as module
from core.engine.run.cli import config_parser
from core.engine.run.distributed import World
from core.engine.run.experiment import CriterionConfig, Experiment, check_config
from core.engine.train.jobs import train_student
from core.errors import UserError
from core.models.fusion.student import LidarCamera

ROOT = Path(__file__).resolve().parents[2]
STUDENT = ROOT / "configs/nuscenes/u2mkd/a.yaml"


def test_each_section_is_that_of_the_component_its_name_picks() -> None:
    experiment = Experiment.from_config(load_config(STUDENT))
    assert isinstance(experiment.dataset, NuScenes.Config)
    assert isinstance(experiment.data, DataConfig)
    assert isinstance(experiment.model, LidarCamera.Config)
    assert isinstance(experiment.distill, U2MKD.Config)
    assert isinstance(experiment, Experiment)


MISTAKES = [
    ("dataset.versoin=v1.0-mini", "unknown key 'dataset.versoin'; did you mean 'version'?"),
    ("dataset.name=nuscene", "key 'dataset.name' has the unknown value 'nuscene'"),
    ("data.voxel_sise=1", "unknown key 'data.voxel_sise'; did you mean 'voxel_size'?"),
    ("data.partition.name=voxls", "key 'data.partition.name' has the unknown value 'voxls'"),
    (
        "data.partition={name: voxels, siez: 1}",
        "unknown key 'data.partition.siez'; did you mean 'size'?",
    ),
    ("model.l2d=true", "unknown key 'model.l2d'; did you mean 'l2c'?"),
    ("model.lidar.drop_out=0", "unknown key 'model.lidar.drop_out'; did you mean 'dropout'?"),
    ("model.name=lidar_kamera", "key 'model.name' has the unknown value 'lidar_kamera'"),
    ("distill.w_kll=1", "unknown key 'distill.w_kll'; did you mean 'w_kl'?"),
    ("distill.name=u2mk", "key 'distill.name' has the unknown value 'u2mk'"),
    ("teacher.data.agument=null", "unknown key 'teacher.data.agument'; did you mean 'augment'?"),
    ("teacher.model.crr=1", "unknown key 'teacher.model.crr'; did you mean 'cr'?"),
]


@pytest.mark.parametrize(("override", "message"), MISTAKES)
def test_a_mistake_is_found_before_the_data_set_and_the_teacher_are_missed(
    override: str, message: str, tmp_path: Path
) -> None:
    """Neither exists here; the mistake is what the command speaks of."""
    absent = [f"dataset.root={tmp_path / 'no'}", f"teacher_pretrain={tmp_path / 'no'}"]
    config = load_config(STUDENT, [*absent, override])
    with pytest.raises(UserError) as caught:
        train_student(World(), config, tmp_path / "run")
    assert f"command line: {message}" in str(caught.value)


@pytest.mark.parametrize(("override", "message"), MISTAKES)
def test_a_command_that_needs_the_data_set_alone_finds_it_too(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        check_config(load_config(STUDENT, [override]))
    assert f"command line: {message}" in str(caught.value)


def test_all_mistakes_of_all_sections_are_named_at_once() -> None:
    config = load_config(STUDENT, ["data.mixx=1", "model.l2d=1", "optimiser.lr=1"])
    with pytest.raises(UserError) as caught:
        Experiment.from_config(config)
    for key in ("data.mixx", "model.l2d", "optimiser"):
        assert f"unknown key '{key}'" in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.features=[xyz, colour]", "key 'data.features' names 'colour'"),
        ("model.lidar.in_channel=7", "key 'in_channel' is 7"),
        ("data.partition.name=range_image", "does not read the partition 'range_image'"),
    ],
)
def test_a_network_that_cannot_read_what_the_data_section_gives(
    override: str, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        Experiment.from_config(load_config(STUDENT, [override]))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("enabled", "dtype", "device", "native", "expected"),
    [
        (False, "bf16", "cpu", True, "fp32"),
        (True, "bf16", "cpu", False, "bf16"),
        (True, "fp16", "cuda", False, "fp16"),
        ("auto", "bf16", "cpu", True, "bf16"),
        ("auto", "bf16", "cpu", False, "fp32"),
        ("auto", "fp16", "cpu", True, "fp32"),
        ("auto", "bf16", "cuda", True, "bf16"),
        ("auto", "bf16", "cuda", False, "fp32"),
        ("auto", "fp16", "cuda", False, "fp16"),
    ],
)
def test_auto_computes_in_half_precision_where_there_are_instructions_for_it(
    enabled, dtype, device, native, expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "native_bf16", lambda: native)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: native)
    assert module.AmpConfig(enabled=enabled, dtype=dtype).number_type(device) == expected


def test_auto_is_the_only_word_beside_true_and_false() -> None:
    tree = load_config(STUDENT, ["--amp.enabled", "maybe"])
    with pytest.raises(UserError, match=r"key 'amp.enabled' has the value 'maybe'"):
        Experiment.from_config(tree)


def test_a_data_set_alone_is_enough_where_no_network_is_trained() -> None:
    config = load_config(ROOT / "configs/nuscenes/default.yaml")
    check_config(config)
    with pytest.raises(UserError, match=r"key 'model\.name' is missing"):
        Experiment.from_config(config)


def test_what_is_there_has_to_be_right_where_no_network_is_trained() -> None:
    config = load_config(ROOT / "configs/nuscenes/default.yaml", ["num_epochs=0"])
    with pytest.raises(UserError, match="key 'num_epochs' has the value 0"):
        check_config(config)


def test_no_data_set() -> None:
    for check in (check_config, Experiment.from_config):
        with pytest.raises(UserError, match=r"key 'dataset\.name' is missing"):
            check(Config())


def test_examples_in_help_keep_their_lines() -> None:
    parser = config_parser("What it does.\n\n    python a.py CONFIG\n    python b.py CONFIG\n")
    assert (
        "What it does.\n\n    python a.py CONFIG\n    python b.py CONFIG\n" in parser.format_help()
    )


@pytest.mark.parametrize(
    ("key", "values"),
    [("class_weight", [1.0, 0.0, 0.0]), ("class_counts", [9, 0, 0]), ("class_counts", [0, -1, 5])],
)
def test_class_weights_of_no_class_are_no_loss(key: str, values: list[float]) -> None:
    criterion = CriterionConfig.model_validate({key: values})
    with pytest.raises(UserError, match=rf"criterion\.{key}: the .* one class above it"):
        criterion.check(3)
    CriterionConfig.model_validate({key: [0, 0, 2]}).check(3)
