"""The selective scan of state-space models (Mamba, Gu and Dao, 2023, algorithm 2), as plain tensor operations.

Over a sequence, with a state [E, N] that begins at 0:

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t,    y_t = C_t h_t + D x_t

The sequence is cut into segments, between which only a state is kept, so that memory does not grow with E N per step;
gradients make the states of a segment again. In a segment, blocks run side by side from 0 and are then joined. Decays
lie in [0, 1], and are multiplied and never divided by, so nothing overflows.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["selective_scan"]

_VALUES = {
    "cpu": 1 << 19,
    "cuda": 1 << 23,
}  # states of a segment: what a cache holds, and what a GPU needs


def selective_scan(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    d: Tensor,
    first: Tensor,
    *,
    segment: int | None = None,
) -> Tensor:
    """Scan sequences that lie one after the other.

    Args:
        x, dt: float [L, E], inputs and steps, the latter not negative.
        a: [E, N], not positive. b, c: [L, N]. d: [E].
        first: bool [L], whether a sequence begins here: the state before it is 0.
        segment: steps between states that are kept; None = as many as 2^19 (on a GPU 2^23) values of states allow.

    Returns:
        [L, E], in the type of ``x``; float32 and float64 are computed in.
    """
    if segment is None:
        values = _VALUES.get(x.device.type, _VALUES["cuda"])
        segment = max(values // a.numel(), 1)
    out: Tensor = _SelectiveScan.apply(x, dt, a, b, c, d, first, segment)
    return out


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        a: Tensor,
        b: Tensor,
        c: Tensor,
        d: Tensor,
        first: Tensor,
        segment: int,
    ) -> Tensor:
        keep = (~first).to(x.dtype)
        state = torch.zeros_like(a)
        starts, outputs = [], []
        for rows in _segments(len(x), segment):
            starts.append(state)
            decay, inputs = _terms(x[rows], dt[rows], a, b[rows], keep[rows])
            states = _scan(decay, inputs, state)
            state = states[-1].clone()
            outputs.append(_over_states(states, c[rows]))
        ctx.save_for_backward(x, dt, a, b, c, d, keep, *starts)
        ctx.segment = segment
        return torch.cat([x.new_zeros(0, x.shape[1]), *outputs]) + d * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, dt, a, b, c, d, keep, *starts = ctx.saved_tensors
        of_x, of_dt, of_b, of_c = (
            d * grad,
            torch.empty_like(dt),
            torch.empty_like(b),
            torch.empty_like(c),
        )
        of_a = torch.zeros_like(a)
        later = torch.zeros_like(a)  # gradient of a segment's last state that comes from behind it
        segments = list(_segments(len(x), ctx.segment))
        for rows, start in zip(reversed(segments), reversed(starts)):
            decay, inputs = _terms(x[rows], dt[rows], a, b[rows], keep[rows])
            states = _scan(decay, inputs, start)
            of_c[rows] = _over_channels(states, grad[rows])
            # Of the states: g_t = C_t dy_t + decay_{t+1} g_{t+1}, the same recurrence from the end.
            ahead = torch.cat([decay[1:], torch.ones_like(decay[:1])]).flip(0)
            own = (grad[rows, :, None] * c[rows, None]).flip(0)
            of_state = _scan(ahead, own, later).flip(0)
            later = decay[0] * of_state[0]
            before = torch.cat([start[None], states[:-1]])
            of_exponent = of_state * before * decay
            of_a += (of_exponent * dt[rows, :, None]).sum(0)
            along_b = _over_states(of_state, b[rows])
            of_dt[rows] = (of_exponent * a).sum(2) + along_b * x[rows]
            of_x[rows] += along_b * dt[rows]
            of_b[rows] = _over_channels(of_state, dt[rows] * x[rows])
        return of_x, of_dt, of_a, of_b, of_c, (grad * x).sum(0), None, None


def _segments(length: int, size: int) -> list[slice]:
    return [slice(low, min(low + size, length)) for low in range(0, length, size)]


def _over_states(values: Tensor, weight: Tensor) -> Tensor:
    """[S, E, N] and [S, N] -> [S, E]."""
    return torch.bmm(values, weight[:, :, None])[:, :, 0]


def _over_channels(values: Tensor, weight: Tensor) -> Tensor:
    """[S, E, N] and [S, E] -> [S, N]."""
    return torch.bmm(weight[:, None], values)[:, 0]


def _terms(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Decay and input [S, E, N] of each step; ``keep`` [S] is 0 where a sequence begins."""
    decay = (dt[:, :, None] * a).exp_() * keep[:, None, None]
    return decay, (dt * x)[:, :, None] * b[:, None]


def _scan(decay: Tensor, inputs: Tensor, start: Tensor) -> Tensor:
    """States [S, E, N] of ``h_t = decay_t h_{t-1} + inputs_t``, the one before the first being ``start`` [E, N].

    Blocks of about the square root of S steps go on side by side. A first pass, from 0, finds where each ends and how
    much is left of what it began with; then the blocks' beginnings are known, and a second pass begins there.
    """
    steps = max(math.isqrt(len(decay)), 1)
    lacking = -len(decay) % steps
    shape = (-1, steps, *start.shape)
    decays = torch.cat([decay, decay.new_ones(lacking, *start.shape)]).view(shape)
    states = torch.cat([inputs, inputs.new_zeros(lacking, *start.shape)]).view(shape)
    end, left = states[:, 0].clone(), decays[:, 0].clone()
    for step in range(1, steps):
        end.mul_(decays[:, step]).add_(states[:, step])
        left.mul_(decays[:, step])
    before = [start]
    for own, share in zip(end[:-1], left[:-1]):
        before.append(torch.addcmul(own, share, before[-1]))
    state = torch.stack(before)
    for step in range(steps):
        state = states[:, step].addcmul_(decays[:, step], state)
    return states.flatten(0, 1)[: len(decay)]
