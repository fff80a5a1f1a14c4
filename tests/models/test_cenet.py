"""CENet: published sizes, shapes, its input and its answers for points, its losses beside a voxel teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data_fakes import make_scan
from torch import nn

from core.config import Config
from core.contracts import Batch, Points, Scan
from core.data import DataConfig, collate, make_sample
from core.distill.base import TeacherOutput
from core.distill.cenet import CENetTraining
from core.distill.u2mkd import U2MKD
from core.engine.run.forward import infer
from core.engine.score.evaluation import decided_points, predict_points
from core.engine.train.teacher import FrozenTeacher
from core.errors import UserError
from core.losses import CrossEntropyLovasz, kl_divergence
from core.models import build_model
from core.models.lidar.cenet import CENet
from core.models.lidar.range_image import NeighbourConfig

IMAGE = {"name": "range_image", "height": 16, "width": 24, "elevation": [-40, 20]}
PLAIN = {"augment": None}


def tree(model: dict, partition: dict = IMAGE) -> Config:
    return Config({"model": {"name": "cenet", **model}, "data": {"partition": partition, **PLAIN}})


def make(classes: int = 5, **model: object) -> CENet:
    torch.manual_seed(0)
    network = build_model(tree({"width": 8} | model), classes)
    assert isinstance(network, CENet)
    return network


def cloud(seed: int, count: int = 300) -> Scan:
    rng = np.random.default_rng(seed)
    points = rng.uniform((-12, -12, -3), (12, 12, 1.5), (count, 3))
    scan = make_scan(points, labels=rng.integers(0, 5, count), token=f"s{seed}")
    return scan.having(intensity=rng.random(count).astype(np.float32))


def batch_of(partition: dict, *seeds: int, **data: object) -> Batch:
    config = DataConfig(partition=partition, **PLAIN, **data)
    return collate([make_sample(cloud(seed), seed, config) for seed in seeds])


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- the network ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("variant", "millions"), [("res", 6.774), ("fid", 6.05)])
def test_published_sizes(variant: str, millions: float) -> None:
    """Cheng et al.: 6.77 M, 6.78 M with auxiliary heads; Zhao et al.: 6.05 M."""
    with torch.device("meta"):
        network = build_model(tree({"variant": variant}), 20)
    assert size(network) / 1e6 == pytest.approx(millions, abs=0.006)
    if variant == "res":
        assert size(network) / 1e6 == pytest.approx(6.774, abs=5e-4)
        config = CENetTraining.Config(name="cenet")
        method = CENetTraining(config, network, None, CrossEntropyLovasz())
        assert size(method) / 1e6 == pytest.approx(6.782, abs=5e-4)


def test_shapes_of_the_stages() -> None:
    network, batch = make(), batch_of(IMAGE, 0, 1)
    output = network.train()(batch)
    assert [tuple(stage.image.shape[2:]) for stage in output.encoder_stages] == [
        (16, 24), (8, 12), (4, 6), (2, 3),
    ]  # fmt: skip
    assert [stage.edge for stage in output.stages] == [(1, 1), (2, 2), (4, 4), (8, 8), (1, 1)]
    assert output.logits.shape == (len(batch.cells), 5) and output.point_logits is None
    b, row, column = batch.coords.long().unbind(1)
    for stage in output.stages:
        direct = stage.image[b, :, row // stage.edge[0], column // stage.edge[1]]
        assert stage.at_cells().equal(direct)
        assert stage.feats.index_select(0, stage.rows).equal(direct)
    assert output.logits.equal(output.scores[b, :, row, column])
    assert [scale.shape for scale in output.scales] == [(2, 8, 16, 24)] * 3


def test_input_by_hand() -> None:
    """(range, x, y, z, remission), normalised where there is a point, else 0; point 0 counts like any other."""
    mean, std = (1.0, 2.0, 3.0, 4.0, 0.5), (2.0, 4.0, 5.0, 8.0, 0.25)
    network = make(mean=mean, std=std)
    points = Points(
        xyz=np.array([[3, 4, -1], [0, -6, 1]], np.float32),
        intensity=np.array([0.75, 0], np.float32),
    )
    data = DataConfig(partition=IMAGE, **PLAIN)
    batch = collate([make_sample(Scan("s", points), 0, data)])
    image = network._image(batch)
    assert image.shape == (1, 5, 16, 24)
    expected = np.array([[np.sqrt(26), 3, 4, -1, 0.75], [np.sqrt(37), 0, -6, 1, 0]])
    expected = (expected - np.array(mean)) / np.array(std)
    for (b, row, column), point in zip(batch.coords.tolist(), batch.cells.point.tolist()):
        assert image[b, :, row, column].numpy() == pytest.approx(expected[point], abs=1e-6)
    assert (image != 0).any(1).sum() == 2


def test_statistics_have_a_number_per_channel() -> None:
    config = Config(
        {
            "model": {"name": "cenet"},
            "data": {"partition": IMAGE, "features": ["xyz", "intensity", "lag"]},
        }
    )
    with pytest.raises(UserError, match=r"model\.mean' has 5 numbers for 6 channels"):
        build_model(config, 5)


def test_a_points_class_is_that_of_its_neighbours() -> None:
    """Two points of one pixel, the farther one among three pixels of another class at its own range."""
    network = make(knn={"search": 3, "neighbours": 3}).eval()
    angle = np.radians(360 / 24)
    at = np.array([0.5, 0.5, 1.5, 2.5, -0.5]) * angle
    far = np.array([3.0, 20.0, 20.0, 20.0, 20.0])
    points = np.c_[far * np.cos(at), -far * np.sin(at), np.zeros(5)]
    batch = collate([make_sample(make_scan(points), 0, DataConfig(partition=IMAGE, **PLAIN))])
    assert batch.cells.of_point[0] == batch.cells.of_point[1] and len(batch.cells) == 4
    scores = torch.zeros(1, 5, 16, 24)
    scores[0, 0] = 9  # "ignore" is never predicted
    scores[0, 2] = 1
    row, column = batch.coords[batch.cells.of_point[0], 1:].tolist()
    scores[0, 3, row, column] = 2
    logits = network.config.knn.point_logits(batch, scores)
    found = logits[:, 1:].argmax(1) + 1
    assert found.tolist() == [3, 2, 2, 2, 2]
    # The farther point: its own pixel's class 3 at distance 0, and both neighbours.
    assert logits[1].softmax(0)[[2, 3]].tolist() == pytest.approx([2 / 3, 1 / 3], abs=2e-3)


def test_points_of_no_cell_have_no_class() -> None:
    network = make().eval()
    batch = batch_of(IMAGE, 0, point_range=[-8, -8, -3, 8, 8, 2])
    output = network(batch)
    outside = batch.cells.of_point < 0
    assert outside.any() and not outside.all()
    assert decided_points(output, batch).equal(~outside)
    predicted = predict_points(output, batch)
    assert (predicted[outside] == 0).all() and (predicted[~outside] > 0).all()


def test_neighbours_vote_for_scores_and_for_no_student(monkeypatch) -> None:
    """A teacher, with its own view or the student's, and an average that teaches give logits of pixels."""
    asked: list[int] = []
    votes = NeighbourConfig.point_logits

    def counted(config: NeighbourConfig, batch: Batch, scores: torch.Tensor) -> torch.Tensor:
        asked.append(len(batch))
        return votes(config, batch, scores)

    monkeypatch.setattr(NeighbourConfig, "point_logits", counted)
    network, batch = make().eval(), batch_of(IMAGE, 0, 1)
    teacher = FrozenTeacher(network, DataConfig(partition=IMAGE), found=None)
    for output in (teacher.output(batch), teacher.output_on(batch)):
        assert output.point_logits is None
        assert output.logits.shape == (len(batch.cells), 5)
    method = CENetTraining(CENetTraining.Config(name="cenet"), network, None, CrossEntropyLovasz())
    TeacherOutput.shared(batch, method.eval().teach(batch))
    assert asked == []
    output = infer(network, batch)
    predicted = predict_points(output, batch)
    assert decided_points(output, batch).all() and asked == [2]
    best = votes(network.config.knn, batch, output.scores)[:, 1:].argmax(1) + 1
    assert predicted.equal(best)


# --- training ---------------------------------------------------------------------------------------------------------
def voxel_teacher() -> tuple[nn.Module, dict]:
    torch.manual_seed(1)
    config = Config({"model": {"name": "minkunet", "cr": 0.125}, "data": {"voxel_size": 0.5}})
    return build_model(config, 5).eval(), {"name": "voxels", "size": 0.5}


def test_every_output_has_its_losses() -> None:
    method = CENetTraining(CENetTraining.Config(name="cenet"), make(), None, CrossEntropyLovasz())
    method.train()
    losses = method(batch_of(IMAGE, 0, 1))
    names = ["ce", "lovasz", "boundary"]
    assert sorted(losses) == sorted([*names, *(f"aux_{name}" for name in names)])
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert {name.split(".")[0] for name in method.training_state()} == {"heads"}
    with pytest.raises(UserError, match="trains the network 'cenet' alone"):
        CENetTraining(
            CENetTraining.Config(name="cenet"), nn.Linear(1, 1), None, CrossEntropyLovasz()
        )


@pytest.mark.parametrize("kind", ["u2mkd", "cenet"])
def test_a_network_of_voxels_teaches_pixels(kind: str) -> None:
    """A pixel follows the voxel of its nearest point: the divergence row by row, and one step lowers it."""
    teacher, voxels = voxel_teacher()
    student, batch, seen = make(), batch_of(IMAGE, 0, 1), batch_of(voxels, 0, 1)
    with torch.no_grad():
        knowledge = TeacherOutput.of(seen, teacher(seen))
    if kind == "u2mkd":
        settings = U2MKD.Config(name="u2mkd", w_feat=0)
        method, name = U2MKD(settings, student, teacher, CrossEntropyLovasz()), "kl"
    else:
        settings = CENetTraining.Config(name="cenet", w_teacher=1, w_auxiliary=0, w_boundary=0)
        method = CENetTraining(settings, student, teacher, CrossEntropyLovasz())
        name = "teacher_kl"
    assert settings.needs.teacher == ("logits",)
    method.train()
    first = method(batch, knowledge)[name]
    rows = [int(seen.cells.of_point[point]) for point in batch.cells.point.tolist()]
    expected = kl_divergence(student(batch).logits, knowledge.logits[rows])
    assert first.item() == pytest.approx(expected.item(), rel=1e-5)
    optimizer = torch.optim.SGD(method.parameters(), 0.05)
    first.backward()
    optimizer.step()
    assert method(batch, knowledge)[name] < first
