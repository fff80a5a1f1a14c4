"""What all methods share: the score that decides, the split of weights, and what is frozen."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from core.contracts import Batch
from core.distill import (
    LAST,
    LAST_LOSS,
    LOSS,
    METHODS,
    MIOU,
    Method,
    Score,
    TeacherOutput,
    method_class,
)
from core.distill.supervised import Supervised
from core.errors import UserError
from core.losses import CrossEntropyLovasz

CLASSES = ("ignore", "car", "person", "road")


# --- the score ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("select", "score", "scalar"),
    [
        ("miou", MIOU, "iou/val/vox"),
        ("loss", LOSS, "val_loss/total"),
        ("none", LAST, ""),
        ("last", LAST_LOSS, "val_loss/total"),
        ("iou/car", Score("iou", ("car",)), "iou/val/vox/car"),
        (["iou/car", "iou/road"], Score("iou", ("car", "road")), "iou/val/selected"),
    ],
)
def test_selection(select: str | list[str], score: Score, scalar: str) -> None:
    assert Score.parse(select, CLASSES) == score
    assert score.scalar == scalar


@pytest.mark.parametrize(
    ("select", "cure"),
    [
        ("miuo", "Did you mean 'miou'"),
        (["iou/car", "iou/persn"], "Did you mean 'iou/person'"),
        ("iou/ignore", "iou/"),
        ("zzzzzzzz", "iou/car, iou/person, iou/road, last, loss, miou, none"),
        (["iou/car", "loss"], "Did you mean 'loss'"),
        ([], "Name classes"),
    ],
)
def test_what_selects_nothing(select: str | list[str], cure: str) -> None:
    with pytest.raises(UserError) as caught:
        Score.parse(select, CLASSES)
    assert "eval.select" in str(caught.value) and cure in str(caught.value.cure)


def test_which_value_is_better() -> None:
    assert MIOU.improves(1.0, None) and MIOU.improves(2.0, 1.0) and not MIOU.improves(1.0, 1.0)
    assert LOSS.improves(1.0, 2.0) and not LOSS.improves(2.0, 1.0)
    assert MIOU.decides and LOSS.decides and not LAST.decides and not LAST_LOSS.decides
    assert MIOU.improves(1.0, math.nan) and not MIOU.improves(math.nan, 1.0)


# --- the split of weights -------------------------------------------------------------------------------------------
class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        self.head = nn.Sequential(nn.Dropout(), nn.Linear(3, 4))


class Beside(Method):
    frozen = ("encoder.",)

    def __init__(self) -> None:
        super().__init__(
            Method.Config(name="beside"), Net(), None, CrossEntropyLovasz(class_weight=[0.0, 1.0])
        )
        self.encoder = nn.BatchNorm1d(2)
        self.extra = nn.Linear(2, 2)

    def forward(self, batch: Batch, teacher: TeacherOutput | None) -> dict[str, Tensor]:
        raise NotImplementedError


def test_a_checkpoints_parts_make_up_the_whole() -> None:
    method = Beside()
    deployed, training = method.deployed_state(), method.training_state()
    assert deployed.keys() == method.student.state_dict().keys()
    assert {key.split(".")[0] for key in training} == {"encoder", "extra"}
    assert method.joined_state(deployed, training).keys() == method.state_dict().keys()


def test_supervised_checkpoints_name_the_network_alone() -> None:
    net = Net()
    method = Supervised(Supervised.Config(), net, None, CrossEntropyLovasz())
    assert method.training_state() == {}
    assert method.whole_state().keys() == net.state_dict().keys()
    assert method.named_state(method.whole_state()).keys() == method.state_dict().keys()
    assert method.named_state(method.state_dict()).keys() == method.state_dict().keys()


# --- what is frozen -------------------------------------------------------------------------------------------------
def learning(method: Method) -> set[str]:
    return {name for name, parameter in method.named_parameters() if parameter.requires_grad}


def test_a_methods_own_frozen_parts() -> None:
    method = Beside()
    method.freeze()
    method.train()
    assert not any(name.startswith("encoder") for name in learning(method))
    assert "student.stem.1.weight" in learning(method)
    assert not method.encoder.training and method.extra.training and method.student.training


def test_only_the_head_learns_and_the_rest_stays_in_evaluation_mode() -> None:
    method = Beside()
    method.freeze(["head."])
    method.train()
    assert learning(method) == {
        *("extra.weight", "extra.bias", "student.head.1.weight", "student.head.1.bias")
    }
    assert method.student.head[0].training and not method.student.stem[1].training
    method.eval()
    assert not any(module.training for module in method.modules())


@pytest.mark.parametrize(("names", "what"), [(["haed."], "'haed.'"), ([], "nothing would be")])
def test_nothing_to_train_is_said(names: list[str], what: str) -> None:
    with pytest.raises(UserError, match=what):
        Beside().freeze(names)


# --- the registry ---------------------------------------------------------------------------------------------------
def test_every_method_declares_what_it_is() -> None:
    from core.config import Config

    assert method_class(Config()) is Supervised
    for name in METHODS:
        kind = method_class(Config(tree={"distill": {"name": name}}))
        needs = kind.Config(name=name).needs
        assert set(needs.teacher) <= {"logits", "stages"}
        assert needs.labels == kind.predicts_classes() and (needs.labels or needs.images)


def test_rows_of_a_shared_view_are_the_students() -> None:
    coords = torch.zeros(3, 4, dtype=torch.int32)
    output = TeacherOutput(("scan",), coords, None, torch.zeros(3, 2), ())

    class Student:
        tokens = ("scan",)

    assert output.rows_for(Student()).tolist() == [0, 1, 2]
    Student.tokens = ("other",)
    with pytest.raises(UserError, match="different scans"):
        output.rows_for(Student())


def test_a_module_with_a_part_that_learns_is_in_training() -> None:
    """What it does in training alone (LidarCamera decodes its images) must not stop when one head of it is trained."""
    method = Beside()
    method.freeze(["head.1."])
    method.train()
    assert learning(method) == {"student.head.1.weight", "student.head.1.bias"} | {
        "extra.weight",
        "extra.bias",
    }
    assert method.student.training and method.student.head.training
    assert method.student.head[1].training and not method.student.head[0].training
    assert not method.student.stem.training and not method.student.stem[1].training
