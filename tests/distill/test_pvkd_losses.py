"""PVKD's terms against dense evaluations in float64, item by item."""

from __future__ import annotations

import math
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from made_samples import with_labels
from pvkd_world import CLASSES, Net, kl, made_batch
from torch import Tensor

from core.contracts import Batch, Output
from core.distill import Needs, TeacherOutput
from core.distill.affinity import affinity, affinity_loss
from core.distill.pvkd import PVKD
from core.errors import UserError
from core.losses import CrossEntropyLovasz

SIZES = {"cylinder": (6, 6, 2), "voxels": (12, 12, 4)}  # cells of a supervoxel
TERMS = ("out_point", "out_voxel", "aff_point", "aff_voxel")


def made_method(student: Net | None = None, **options: object) -> PVKD:
    settings = {"supervoxel": SIZES["cylinder"], "k": 3, "n_point": 8, "n_voxel": 6, **options}
    config = PVKD.Config(name="pvkd", **settings)
    student = student or Net(3, 1)
    return PVKD(config, student, Net(7, 2), CrossEntropyLovasz(w_lovasz=0.0))


def taught_by(batch: Batch, at_points: bool = False) -> TeacherOutput:
    with torch.no_grad():
        return TeacherOutput.shared(batch, Net(7, 2, at_points)(batch))


def distance(own: Tensor, target: Tensor, rows: Tensor, padded: bool) -> float:
    """The affinity term of features [N, C] by rows [R, N], pair by pair."""
    groups = []
    for row in rows.tolist():
        items = [i for i in row if i >= 0]
        if not items:
            continue
        total = 0.0
        for i in items:
            for j in items:
                a = torch.cosine_similarity(own[i].double(), own[j].double(), 0)
                b = torch.cosine_similarity(target[i].double(), target[j].double(), 0)
                total += float(a - b) ** 2
        groups.append(total / (len(row) if padded else len(items)) ** 2)
    return sum(groups) / len(groups)


# --- affinities -----------------------------------------------------------------------------------------------------
def test_affinities_are_cosines_and_zero_for_padding() -> None:
    features = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    features[1, 3] = 0
    found = affinity(features)
    for r in range(2):
        for i in range(4):
            for j in range(4):
                a, b = features[r, i].double(), features[r, j].double()
                size = float(a.norm() * b.norm())
                expected = float(a @ b) / size if size else 0.0
                assert float(found[r, i, j]) == pytest.approx(expected, abs=1e-6)


def test_affinities_are_computed_in_fp32_under_autocast() -> None:
    features = torch.randn(1, 9, 5, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(affinity(features), affinity(features.clone()))
        inside = affinity(features)
    assert inside.dtype == torch.float32 and torch.equal(inside, affinity(features))


def test_a_rotation_of_the_features_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))
    valid = torch.ones(2, 6, dtype=torch.bool)
    loss = affinity_loss(own, own @ turn, valid, mask_padding=True, scope="global")
    assert float(loss) < 1e-28
    assert float(affinity_loss(own, own.abs(), valid, mask_padding=True, scope="global")) > 0.01


def test_nothing_to_compare_is_no_loss() -> None:
    own = torch.zeros(2, 3, 4, requires_grad=True)
    valid = torch.zeros(2, 3, dtype=torch.bool)
    loss = affinity_loss(own, torch.zeros(2, 3, 5), valid, mask_padding=True, scope="global")
    loss.backward()
    assert float(loss.detach()) == 0 and own.grad.abs().max() == 0


# --- all terms ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("at_points", [False, True])
@pytest.mark.parametrize("mask_padding", [True, False])
@pytest.mark.parametrize("partition", SIZES)
def test_every_term_is_its_formula(partition: str, mask_padding: bool, at_points: bool) -> None:
    weights = {name: 0.5 + i for i, name in enumerate(TERMS)}
    student = Net(3, 1, at_points)
    settings = {"mask_padding": mask_padding, "supervoxel": SIZES[partition]}
    method = made_method(student, **settings, **weights)
    batch = made_batch(partition)
    taught = taught_by(batch, at_points)
    losses = {name: loss.detach() for name, loss in method(batch, taught).items()}
    with torch.no_grad():
        output = student(batch)
    of_point = batch.cells.of_point
    own, target = output.stages[1].feats, taught.stages[1].feats
    logits = [output.logits[of_point], taught.logits[of_point]]
    features = [own[of_point], target[of_point]]
    if at_points:
        logits = [output.point_logits, taught.point_logits]
        features = [output.point_features, taught.point_features]
        labels = batch.point_labels
        log_p = output.point_logits.double().log_softmax(1)
        wrong = [-float(log_p[i, c]) for i, c in enumerate(labels.tolist()) if c != 0]
        assert float(losses["points"]) == pytest.approx(sum(wrong) / len(wrong), rel=1e-5)
    drawn = method.drawn(batch, taught.logits)
    assert (drawn.cells == -1).any() and (drawn.cells >= 0).all(1).any()
    expected = {
        "out_point": float(kl(logits[1], logits[0]).mean()),
        "out_voxel": float(kl(taught.logits, output.logits).mean()),
        "aff_point": distance(*features, drawn.points, not mask_padding),
        "aff_voxel": distance(own, target, drawn.cells, not mask_padding),
    }
    assert losses.keys() == {"ce", *expected, *(["points"] if at_points else [])}
    for name, value in expected.items():
        assert float(losses[name]) == pytest.approx(weights[name] * value, rel=1e-4), name


def test_directions_and_means_of_the_divergence() -> None:
    batch = made_batch()
    taught = taught_by(batch)
    method = made_method(direction="student_teacher", kl_reduction="mean", out_voxel=1)
    with torch.no_grad():
        output = method.student(batch)
    there = kl(output.logits, taught.logits)
    found = method(batch, taught)["out_voxel"]
    assert float(found.detach()) == pytest.approx(float(there.mean()) / CLASSES, rel=1e-5)
    grid = made_method(voxel_mean="grid", out_voxel=1, mask="labelled", temperature=2.0)
    back = 4 * kl(taught.logits / 2, output.logits / 2)
    expected = float(back[batch.labels > 0].sum()) / (2 * 24 * 36 * 8)
    assert float(grid(batch, taught)["out_voxel"].detach()) == pytest.approx(expected, rel=1e-5)
    reverse = made_method(voxel_mean="grid", out_voxel=1, direction="student_teacher")
    expected = float(there.sum()) / (2 * 24 * 36 * 8)
    assert float(reverse(batch, taught)["out_voxel"].detach()) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UserError, match=r"distill.voxel_mean.*grid with bounds"):
        grid(made_batch("voxels"), taught_by(made_batch("voxels")))


def test_the_ramp_up_holds_for_all_terms() -> None:
    batch = made_batch()
    taught = taught_by(batch)
    for options in ({}, {"voxel_mean": "grid"}):
        plain, growing = made_method(**options), made_method(rampup=0.5, **options)
        for method in (plain, growing):
            method.begin_step(0.25)
        whole, part = plain(batch, taught), growing(batch, taught)
        assert torch.equal(whole["ce"], part["ce"])
        for name in TERMS:
            share = float((part[name] / whole[name]).detach())
            assert share == pytest.approx(math.exp(-5 / 4), rel=1e-5)


def test_scans_without_labels_are_taught_and_not_supervised() -> None:
    batch = made_batch()
    labelled = batch.coords[:, 0] == 0
    partly = with_labels(batch, torch.where(labelled, batch.labels, 0))
    taught = taught_by(batch)
    method = made_method(sampling="distance")
    found, whole = method(partly, taught), method(batch, taught)
    assert all(torch.equal(found[name], whole[name]) for name in TERMS)
    alone = method.criterion(method.student(batch).logits[labelled], batch.labels[labelled])
    assert float(found["ce"].detach()) == pytest.approx(float(alone["ce"].detach()), rel=1e-6)


# --- what is needed, and what learns --------------------------------------------------------------------------------
def test_a_term_without_weight_needs_nothing() -> None:
    off = dict.fromkeys(TERMS, 0)
    assert PVKD.Config(name="pvkd", **off).needs == Needs()
    logits = Needs(teacher=("logits",), shared=True)
    assert PVKD.Config(name="pvkd", **(off | {"out_point": 1})).needs == logits
    both = Needs(teacher=("logits", "stages"), shared=True)
    assert PVKD.Config(name="pvkd", **(off | {"aff_voxel": 1})).needs == both
    batch = made_batch()
    for name in TERMS:
        only = made_method(**(off | {name: 1}))
        assert only(batch, taught_by(batch)).keys() == {"ce", name}
    assert made_method(**off)(batch, None).keys() == {"ce"}


def test_a_student_like_its_teacher_has_nothing_to_learn() -> None:
    batch = made_batch()
    method = made_method(Net(7, 2))
    losses = method(batch, taught_by(batch))
    torch.stack([losses[name] for name in TERMS]).sum().backward()
    assert all(float(losses[name].detach()) == pytest.approx(0, abs=1e-7) for name in TERMS)
    for parameter in method.student.parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() < 1e-5


def test_gradients_reach_the_student_alone() -> None:
    batch = made_batch()
    network = Net(7, 2, at_points=True)
    output = network(batch)
    taught = TeacherOutput.shared(batch, output)
    for name in TERMS:
        method = made_method(Net(3, 1, at_points=True))
        method(batch, taught)[name].backward()
        assert method.student.features.weight.grad.abs().max() > 0, name
        assert all(parameter.grad is None for parameter in network.parameters())


def test_gradients_against_differences() -> None:
    generator = torch.Generator().manual_seed(3)
    own = torch.randn(2, 3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    valid = torch.ones(2, 3, dtype=torch.bool)
    valid[1, 2] = False

    def loss(features: Tensor) -> Tensor:
        kept = features * valid[..., None]
        taught = target * valid[..., None]
        return affinity_loss(kept, taught, valid, mask_padding=True, scope="global")

    assert torch.autograd.gradcheck(loss, (own,))


def test_other_scans_and_networks_without_stages_are_refused() -> None:
    batch = made_batch()
    with pytest.raises(UserError, match="different scans"):
        made_method()(batch.take([1, 0]), taught_by(batch))

    class Bare(Net):
        def forward(self, batch: Batch) -> Output:
            return Output(super().forward(batch).logits)

    with pytest.raises(UserError, match=r"distill.aff_point.*the student has no stages"):
        made_method(Bare(3, 1))


# --- processes ------------------------------------------------------------------------------------------------------
def gradients(batch: Batch) -> list[Tensor]:
    method = made_method()
    method.begin_step(0.5)
    losses = method(batch, taught_by(batch))
    torch.stack(list(losses.values())).sum().backward()
    return [parameter.grad for parameter in method.parameters()]


def _rank(rank: int, address: str, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.save(gradients(made_batch().take([rank])), folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    mp.start_processes(_rank, (address, tmp_path), nprocs=2, start_method="fork")
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for whole, *shares in zip(gradients(made_batch()), *parts):
        torch.testing.assert_close(sum(shares) / 2, whole, rtol=1e-4, atol=1e-6)
