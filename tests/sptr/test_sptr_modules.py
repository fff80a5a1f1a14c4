"""Modules on sparse tensors of tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor


def tokens(channels: int = 32, n: int = 90):
    from sptr import SparseTrTensor

    generator = torch.Generator().manual_seed(0)
    xyz = torch.rand(n, 3, generator=generator) * 2
    indices = torch.cat([torch.arange(n)[:, None] % 2 * 1.0, xyz], 1)
    return SparseTrTensor(torch.randn(n, channels, generator=generator), indices, batch_size=2)


@pytest.mark.parametrize("pe_type", ["none", "contextual", "sine", "fourier"])
def test_fused_and_unfused_agree(pe_type):
    from sptr import VarLengthMultiheadSA

    torch.manual_seed(0)
    module = VarLengthMultiheadSA(32, 2, "w", 1.0, pe_type=pe_type, levels=4)
    grads = []
    for fused in (True, False):
        module.fused = fused
        module.zero_grad()
        out = module(tokens()).query_feats
        out.square().sum().backward()
        grads.append([out.detach(), *(p.grad.clone() for p in module.parameters())])
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_one_window_without_position_equals_torch_attention():
    from sptr import VarLengthMultiheadSA

    torch.manual_seed(0)
    module = VarLengthMultiheadSA(32, 4, "w", 100.0)
    x = tokens()
    x.query_indices[:, 0] = 0

    def split(y: Tensor) -> Tensor:
        return y.view(-1, 4, 8).transpose(0, 1)

    feats = x.query_feats
    dense = torch.nn.functional.scaled_dot_product_attention(
        *(split(f(feats)) for f in (module.q, module.k, module.v))
    )
    expected = module.proj(dense.transpose(0, 1).reshape(-1, 32))
    torch.testing.assert_close(module(x).query_feats, expected, rtol=1e-4, atol=1e-5)


def test_indices_are_computed_once_and_not_shared_by_different_windows():
    from sptr import VarLengthMultiheadSA

    x = tokens()
    y = VarLengthMultiheadSA(32, 2, "a", 1.0)(x)
    stored = dict(x.indice_dict)
    VarLengthMultiheadSA(32, 2, "a", 1.0)(y)
    assert len(stored) == 1 and y.indice_dict == stored
    VarLengthMultiheadSA(32, 2, "a", 0.5)(y)
    VarLengthMultiheadSA(32, 2, "a", 1.0, shift_win=True)(y)
    assert len(x.indice_dict) == 3


def test_relative_tables_are_optional():
    from sptr import VarLengthMultiheadSA

    module = VarLengthMultiheadSA(32, 2, "w", 1.0, pe_type="contextual", levels=4, rel_key=False)
    assert module.query_table.shape == (7, 3, 2, 16) and module.key_table is None


def test_position_embedding_is_normalised_per_sample():
    """Moving or scaling a whole sample changes nothing."""
    from sptr import PositionEmbeddingCoordsSine

    torch.manual_seed(0)
    xyz, batch = torch.rand(40, 3), torch.arange(40) % 2
    moved = torch.where(batch[:, None] == 1, xyz * 3 + 7, xyz)
    for kind, channels in (("sine", 32), ("fourier", 32)):
        module = PositionEmbeddingCoordsSine(pos_type=kind, d_pos=channels)
        assert module(xyz, batch).shape == (40, channels) and module(xyz[:0], batch[:0]).shape == (
            0,
            channels,
        )
        torch.testing.assert_close(module(xyz, batch), module(moved, batch), rtol=1e-3, atol=1e-4)
        assert module(xyz, batch).std(0).min() > 0.01 or kind == "sine"


@pytest.mark.parametrize(
    ("arguments", "word"), [((30, 4), "divide"), ((32, 4, "w", 1.0, False, "rope"), "rope")]
)
def test_bad_arguments_are_named(arguments, word):
    from sptr import VarLengthMultiheadSA

    with pytest.raises(ValueError, match=word):
        VarLengthMultiheadSA(*arguments, *(["w", 1.0] if len(arguments) == 2 else []))
