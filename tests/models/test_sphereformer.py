"""SphereFormer models: published sizes and key names, window geometry, batch invariance, gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from made_samples import doubled

from core.config import Config
from core.contracts import Batch
from core.models import build_model
from core.models.probe import random_batch
from core.sparse import SparseTensor

SMALL = {"spvcnn_spformer": {"cr": 0.5}, "sphereformer": {"layers": [16, 32, 48]}}


def model(name: str, classes: int = 17, **options):
    torch.manual_seed(0)
    return build_model(Config({"model": {"name": name, **options}}), classes)


@pytest.mark.parametrize("cr, total, attention", [(1.0, 23.0, 1.26), (2.0, 91.7, 4.6)])
def test_sizes_of_the_published_teacher(cr, total, attention):
    with torch.device("meta"):
        net = model("spvcnn_spformer", cr=cr)
    millions = sum(p.numel() for p in net.parameters()) / 1e6
    blocks = sum(p.numel() for p in net.transformer_blocks.parameters()) / 1e6
    assert round(millions, 1) == total and abs(blocks - attention) < 0.005


def test_published_key_names():
    keys = model("spvcnn_spformer").state_dict().keys()
    block = "transformer_blocks.3."
    tables = [
        f"attn.relative_pos_{k}_table{s}"
        for k in ("query", "key", "value")
        for s in ("", "_sphere")
    ]
    layers = [
        f"{n}.{w}"
        for n in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        for w in ("weight", "bias")
    ]
    assert {k.removeprefix(block) for k in keys if k.startswith(block)} == {*tables, *layers}


def test_window_geometry_per_stage():
    """Table of the teacher's blocks: edge 0.3-2.4 m, cones 2-16 degrees, bins = window / 24, drop path 0.05-0.2."""
    blocks = model("spvcnn_spformer").transformer_blocks
    assert [round(b.cubic_window, 6) for b in blocks] == [0.3, 0.6, 1.2, 2.4]
    assert [b.sphere_window for b in blocks] == [
        (2, 2, 120),
        (4, 4, 120),
        (8, 8, 120),
        (16, 16, 120),
    ]
    assert [round(b.sphere_quant[0], 6) for b in blocks] == [
        round(x, 6) for x in (1 / 12, 1 / 6, 1 / 3, 2 / 3)
    ]
    assert [round(b.drop_path.p, 6) for b in blocks] == [0.05, 0.1, 0.15, 0.2]
    legacy = model("spvcnn_spformer", legacy_quant=True).transformer_blocks
    assert {b.sphere_quant for b in legacy} == {(4 / 3, 4 / 3, 5.0)}
    assert model("sphereformer").transformer_blocks[0].drop_path.p == 0


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_parameter_gets_a_gradient(name, checkpointing):
    net = model(name, **SMALL[name], checkpointing=checkpointing).train()
    output = net(random_batch(300))
    assert output.logits.shape == (len(random_batch(300).coords), 17)
    output.logits.square().mean().backward()
    missing = [
        key
        for key, p in net.named_parameters()
        if p.grad is None or not torch.isfinite(p.grad).all()
    ]
    assert not missing


def join(a: Batch, b: Batch) -> Batch:
    """Two scans in one batch, the second moved far away so that a shared window origin would show."""
    cells = replace(
        a.cells,
        coords=torch.cat([a.coords, b.coords + torch.tensor([1, 0, 0, 0], dtype=torch.int32)]),
        point=torch.cat([a.cells.point, b.cells.point + len(a.points["xyz"])]),
    )
    moved = {
        "xyz": b.points["xyz"] + torch.tensor([7.3, -4.1, 0.7]),
        "intensity": b.points["intensity"],
    }
    points = {name: torch.cat([a.points[name], moved[name]]) for name in moved}
    return replace(a, cells=cells, points=points, origins=torch.cat([a.origins, b.origins]))


@pytest.mark.parametrize("name", SMALL)
def test_batch_composition_does_not_change_a_prediction(name):
    net = model(name, **SMALL[name]).double().eval()
    first, second = (random_batch(300, seed=s) for s in (0, 1))
    first, second = (doubled(b) for b in (first, second))
    with torch.no_grad():
        alone, together = net(first).logits, net(join(first, second)).logits
    torch.testing.assert_close(together[: len(alone)], alone, rtol=1e-5, atol=1e-6)


def linear_row_by_row(x, weight, bias):
    """``F.linear``; BLAS libraries choose their order of summation by the number of rows."""
    return (x[:, None] * weight).sum(-1) + bias


@pytest.mark.parametrize("stage", [0, 1])
def test_a_block_gives_a_scan_the_same_bits_alone_and_in_a_batch_of_four(stage, monkeypatch):
    """Windows, attention, normalisation and activation in fp32, all but the matrix products of BLAS; gradients too."""
    monkeypatch.setattr(torch.nn.functional, "linear", linear_row_by_row)
    torch.manual_seed(0)
    block = model("spvcnn_spformer").transformer_blocks[stage].train()
    block.drop_path.p = 0.0
    generator = torch.Generator().manual_seed(1)
    sizes = [700, 64, 1, 333]
    batch = torch.repeat_interleave(torch.tensor(sizes)).int()
    xyz = torch.randn(len(batch), 3, generator=generator) * 6 + 11 * batch[:, None]
    feats = torch.randn(len(batch), *block.norm1.normalized_shape, generator=generator)

    def run(rows, samples):
        coords = torch.cat(
            [
                samples[:, None],
                torch.arange(len(samples), dtype=torch.int32)[:, None].expand(-1, 3),
            ],
            1,
        )
        x = feats[rows].clone().requires_grad_()
        out = block(SparseTensor.from_batch(x, coords), xyz[rows]).feats
        out.square().sum().backward()
        return out.detach(), x.grad

    together = run(torch.arange(len(batch)), batch)
    for sample in range(len(sizes)):
        rows = (batch == sample).nonzero()[:, 0]
        for alone, joined in zip(run(rows, torch.zeros(len(rows), dtype=torch.int32)), together):
            assert torch.equal(alone, joined[rows])


def test_drop_path_keeps_the_expectation():
    from core.models.layers import DropPath

    torch.manual_seed(0)
    dropped = DropPath(0.25).train()(torch.ones(20_000, 2))
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert float(dropped.mean()) == pytest.approx(1, abs=0.02)
    assert torch.equal(dropped[:, 0], dropped[:, 1])  # a token's branch goes or stays as a whole
    assert torch.equal(DropPath(0.25).eval()(torch.ones(3, 2)), torch.ones(3, 2))
