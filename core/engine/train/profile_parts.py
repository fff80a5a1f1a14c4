"""From a profiler's events to a table: every moment of the measured steps belongs to one part.

A moment belongs to the innermost enclosing event that names a part. Names of this project's ranges win over operators,
and an operator over the operators it is made of. A gradient belongs to the part of the forward operator with its
autograd sequence number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch.autograd import DeviceType

__all__ = ["PARTS", "Parts", "parts_of"]

DATA, MAPS, CONV, ATTENTION, NORM, MATRIX = (
    "data loading", "kernel maps", "convolution", "attention", "batch norm", "matrix products"
)  # fmt: skip
LAYERS, LOSS, OPTIMISER, COMMUNICATION, OTHER = (
    "other layers",
    "loss",
    "optimiser",
    "communication",
    "other",
)
TEACHER = "teacher"  # with all it is made of
IDLE = "GPU waits for the host"
PARTS = (
    DATA,
    MAPS,
    CONV,
    ATTENTION,
    NORM,
    MATRIX,
    LAYERS,
    TEACHER,
    LOSS,
    OPTIMISER,
    COMMUNICATION,
    OTHER,
)

_RANGES = {
    "lidistill::step": OTHER,
    "lidistill::data": DATA,
    "lidistill::kernel_map": MAPS,
    "lidistill::attention_windows": ATTENTION,
    "lidistill::losses": LOSS,
    "lidistill::network": LAYERS,
    "lidistill::teacher": TEACHER,
    "lidistill::backward": OTHER,
    "lidistill::optimizer": OPTIMISER,
}
_OPERATORS = (  # beginnings of names; the first that fits counts
    ("_Convolution", CONV),
    ("lidistill::sparse_conv", CONV),
    ("_WindowAttention", ATTENTION),
    ("sptr::", ATTENTION),
    ("_Normalise", NORM),
    ("aten::batch_norm", NORM),
    ("aten::linear", MATRIX),
    ("aten::matmul", MATRIX),
    ("aten::conv2d", MATRIX),
    ("Optimizer.", OPTIMISER),
)
_COLLECTIVES = ("c10d::", "gloo:", "nccl:", "record_param_comms")
_NODE = "autograd::engine::evaluate_function"
_MAY_WAIT = (
    *(name for name, part in _RANGES.items() if part in (OTHER, LOSS, LAYERS)),
    "_Normalise",
    _NODE,
)


@dataclass(frozen=True)
class Parts:
    """Milliseconds per step.

    Attributes:
        step: mean duration of a step. rows: part -> (forward or without direction, backward).
    """

    step: float
    rows: dict[str, tuple[float, float]]

    def total(self, part: str) -> float:
        """Both directions of a part; 0 if it never ran."""
        return sum(self.rows.get(part, (0.0, 0.0)))

    def lines(self) -> list[str]:
        """The table as text."""
        lines = [f"{'part':<24}{'forward':>10}{'backward':>10}{'ms/step':>10}{'share':>9}"]
        for part, (forward, backward) in self.rows.items():
            both = forward + backward
            shown = f"{backward:>10.2f}" if backward else f"{'-':>10}"
            lines.append(
                f"{part:<24}{forward:>10.2f}{shown}{both:>10.2f}{100 * both / self.step:>7.1f} %"
            )
        return [*lines, f"{'step':<24}{'':>20}{self.step:>10.2f}{100:>7.1f} %"]


@dataclass
class _Frame:
    """An event on the stack of its thread."""

    event: Any
    part: str
    operator: bool  # the part was named by an operator: those it is made of do not rename it
    backward: bool
    end: float = field(init=False)

    def __post_init__(self) -> None:
        self.end = self.event.time_range.end


def _is_host(event: Any) -> bool:
    return event.device_type == DeviceType.CPU and not event.is_async


def parts_of(events: Iterable[Any]) -> Parts:
    """Divide the ranges ``lidistill::step`` among the parts.

    Args:
        events: ``torch.profiler.profile.events()``.
    """
    by_thread: dict[int, list[Any]] = defaultdict(list)
    pending, kernels = [], False
    for event in events:
        if _is_host(event):
            by_thread[event.thread].append(event)
            kernels = kernels or bool(event.kernels)
        elif event.name.startswith(_COLLECTIVES):
            pending.append((event.time_range.start, event.time_range.end))
    main = next(
        t for t, found in by_thread.items() if any(e.name == "lidistill::step" for e in found)
    )
    forward: dict[int, str] = {}  # autograd sequence number -> part
    clock = _Walk(forward, pending)
    clock.walk(by_thread.pop(main))
    steps = [e.time_range for e in clock.steps]
    duration = sum(s.elapsed_us() for s in steps)
    times = clock.times
    if kernels:
        times = _device_times(
            clock, [_walked(forward, found) for found in by_thread.values()], duration
        )
    scale = 1e-3 / len(steps)
    rows = {
        part: (scale * times.get((part, False), 0.0), scale * times.get((part, True), 0.0))
        for part in (*PARTS, IDLE)
        if any((part, backward) in times for backward in (False, True))
    }
    return Parts(scale * duration, rows)


def _walked(forward: dict[int, str], events: list[Any]) -> _Walk:
    walk = _Walk(forward, [])
    walk.walk(events)
    return walk


class _Walk:
    """One thread's events in order, with the stack of those that enclose the present moment.

    Attributes:
        times: (part, backward) -> µs of this thread's clock inside steps.
        kernel_times: (part, backward) -> µs of the GPU kernels the thread asked for.
        steps: the ranges of whole steps.
    """

    def __init__(self, forward: dict[int, str], pending: list[tuple[float, float]]) -> None:
        self.forward = forward
        self.pending = _union(pending)
        self.times: dict[tuple[str, bool], float] = defaultdict(float)
        self.kernel_times: dict[tuple[str, bool], float] = defaultdict(float)
        self.steps: list[Any] = []
        self._stack: list[_Frame] = []
        self._now = 0.0

    def walk(self, events: list[Any]) -> None:
        """Go through all events of the thread."""
        for event in sorted(events, key=lambda e: (e.time_range.start, -e.time_range.end)):
            start = event.time_range.start
            self._leave_until(start)
            self._spend(start)
            frame = self._frame(event)
            if (
                self._stack
            ):  # clocks of events are rounded: a child ends with its parent at the latest
                frame.end = min(frame.end, self._stack[-1].end)
            self._stack.append(frame)
            self._count_kernels(frame)
        self._leave_until(float("inf"))

    def _leave_until(self, time: float) -> None:
        while self._stack and self._stack[-1].end <= time:
            self._spend(self._stack[-1].end)
            self._stack.pop()

    def _spend(self, until: float) -> None:
        if self._stack and self._stack[0].event.name == "lidistill::step" and until > self._now:
            frame, amount = self._stack[-1], until - self._now
            idle = frame.event.name.startswith(
                _MAY_WAIT
            )  # between operators a collective under way is waited for
            if idle and (waited := _overlap(self.pending, self._now, until)):
                self.times[COMMUNICATION, False] += waited
                amount -= waited
            self.times[frame.part, frame.backward] += amount
        self._now = max(self._now, until)

    def _frame(self, event: Any) -> _Frame:
        parent = self._stack[-1] if self._stack else None
        part, operator, backward = (
            (parent.part, parent.operator, parent.backward) if parent else (OTHER, False, False)
        )
        name = event.name
        if part == TEACHER:
            return _Frame(event, part, True, backward)
        if name in _RANGES:
            part, operator = _RANGES[name], False
            if name == "lidistill::step":
                self.steps.append(event)
        elif name.startswith(_COLLECTIVES):
            part, operator = COMMUNICATION, True
        elif name.startswith(_NODE):
            part, operator, backward = self.forward.get(event.sequence_nr, LAYERS), True, True
        elif not operator:
            part, operator = next(
                ((p, True) for start, p in _OPERATORS if name.startswith(start)), (part, False)
            )
        if event.sequence_nr >= 0 and not backward:
            self.forward[event.sequence_nr] = part
        return _Frame(event, part, operator, backward)

    def _count_kernels(self, frame: _Frame) -> None:
        for kernel in frame.event.kernels:
            part = COMMUNICATION if "nccl" in kernel.name.lower() else frame.part
            self.kernel_times[part, frame.backward and part != COMMUNICATION] += kernel.duration


def _device_times(
    main: _Walk, others: list[_Walk], duration: float
) -> dict[tuple[str, bool], float]:
    """Kernels' time by part; what is left of the steps is data loading (as far as it was waited for) or idle."""
    times: dict[tuple[str, bool], float] = defaultdict(float)
    for walk in (main, *others):
        for key, amount in walk.kernel_times.items():
            times[key] += amount
    waited = main.times.get((DATA, False), 0.0)
    times[DATA, False] += waited
    times[IDLE, False] = max(duration - sum(times.values()), 0.0)
    return times


def _union(intervals: list[tuple[float, float]]) -> np.ndarray:
    """Disjoint sorted intervals f64 [N, 2] that cover the same moments."""
    merged: list[list[float]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return np.array(merged, np.float64).reshape(-1, 2)


def _overlap(intervals: np.ndarray, start: float, end: float) -> float:
    """Length of ``start..end`` that disjoint sorted intervals cover."""
    near = intervals[
        np.searchsorted(intervals[:, 1], start) : np.searchsorted(intervals[:, 0], end)
    ]
    return float((np.minimum(near[:, 1], end) - np.maximum(near[:, 0], start)).sum())
