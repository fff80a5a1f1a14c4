"""The two benchmarks: which corruptions, and how severe.

``semantickitti-c`` is Yan et al.'s (arXiv 2301.00970): 6 types, 16 corruptions, severities from its table. Not
published, and chosen here: the box and the intensities of outliers (the scan's own box, uniform), which rings stay (0,
2, 4, …), the flakes' velocity (1.6 m/s at all rates, so that severity rises), and that shaken points become "ignore".

``robo3d`` is Kong et al.'s (arXiv 2303.17597), whose data go by the name SemanticKITTI-C as well: 8 types of 3
severities. Known of its released data: snow (rates and velocities) and cross-sensor (16, 32, 48 of 64 lasers out, then
every second point). The other severities could not be checked against the released files, nor could the spread of
crosstalk: scores on points made here are near the published ones at best, and the baseline of mCE was scored on the
published points. :func:`core.data.corruptions.published` reads those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from core.data.corruptions.base import Corrupt, Returns
from core.data.corruptions.beams import beam_missing, cross_sensor, thin_beams
from core.data.corruptions.fog import fog
from core.data.corruptions.ground import wet_ground
from core.data.corruptions.noise import (
    crosstalk,
    global_outliers,
    incomplete_echo,
    local_distortion,
    motion_blur,
)
from core.data.corruptions.snow import snow
from core.errors import UserError

__all__ = ["PROFILES", "SEVERITIES", "Corruption", "chosen"]

SEVERITIES = ("light", "moderate", "heavy")


@dataclass(frozen=True)
class Corruption:
    """One corruption of one severity.

    Attributes:
        profile: key of ``PROFILES``. kind: its type, e.g. ``fog``. level: its severity, e.g. ``heavy``.
        apply: what it does.
        folder: of its scans in the published data set. description: severity in words.
    """

    profile: str
    kind: str
    level: str
    apply: Corrupt
    folder: str
    description: str

    @property
    def name(self) -> str:
        """Unique within the profile, e.g. ``fog_heavy``."""
        return self.folder.replace("/", "_")


def _yan(
    kind: str, level: str, description: str, function: Callable[..., Returns], **parameters: object
) -> Corruption:
    folder = f"{kind}_{level}"
    if kind.endswith("beam"):
        folder = f"{level}_{kind}"
    return Corruption(
        profile="semantickitti-c",
        kind=kind,
        level=level,
        apply=partial(function, **parameters),
        folder=folder,
        description=description,
    )


def _kong(
    kind: str, function: Callable[..., Returns], unit: str, levels: Iterable[dict[str, float]]
) -> list[Corruption]:
    """Make a type of ``robo3d``: parameters of each severity, and ``unit``, which puts them into words."""
    corruptions = []
    for level, parameters in zip(SEVERITIES, levels):
        corruption = Corruption(
            profile="robo3d",
            kind=kind,
            level=level,
            apply=partial(function, **parameters),
            folder=f"{kind}/{level}",
            description=unit.format(**parameters),
        )
        corruptions.append(corruption)
    return corruptions


def _same(key: str, values: Iterable[float], **fixed: float) -> list[dict[str, float]]:
    return [{key: value} | fixed for value in values]


_LOCAL_SHARE = 0.2
_LOCAL_STD = {"light": 0.05, "moderate": 0.1, "heavy": 0.2}  # m


def _semantickitti_c() -> Iterator[Corruption]:
    for level, alpha in zip(SEVERITIES, (0.005, 0.06, 0.2)):
        yield _yan("fog", level, f"alpha {alpha}/m", fog, alpha=alpha)
    for level, rate in zip(SEVERITIES, (0.5, 1.5, 2.5)):
        yield _yan("snowfall", level, f"{rate} mm/h", snow, rate=rate, velocity=1.6)
    for level, std in _LOCAL_STD.items():
        description = f"20 % of points, {std} m"
        yield _yan("local", level, description, local_distortion, share=_LOCAL_SHARE, std=std)
    for level, share in zip(SEVERITIES, (0.001, 0.05, 0.5)):
        yield _yan("global", level, f"{100 * share:g} % outliers", global_outliers, share=share)
    for beams, every in ((32, 2), (16, 4)):
        kind = f"{beams}beam"
        rings = f"1/{every} of rings"
        yield _yan(kind, "dense", rings, thin_beams, every=every, sparse=False)
        rings += ", 1/2 of points"
        yield _yan(kind, "sparse", rings, thin_beams, every=every, sparse=True)


_SNOW = (
    {"rate": 0.5, "velocity": 2.0},
    {"rate": 1.0, "velocity": 1.6},
    {"rate": 2.5, "velocity": 1.6},
)
_ROBO3D = (
    *_kong(
        "fog",
        fog,
        "alpha {alpha}/m",
        _same("alpha", (0.008, 0.05, 0.2), counts=False),
    ),
    *_kong(
        "wet_ground",
        wet_ground,
        "{water} mm of water",
        _same("water", (0.2, 1.0, 1.2), texture=1.2),
    ),
    *_kong(
        "snow",
        snow,
        "{rate} mm/h, {velocity} m/s",
        _SNOW,
    ),
    *_kong(
        "motion_blur",
        motion_blur,
        "{std} m",
        _same("std", (0.2, 0.25, 0.3)),
    ),
    *_kong(
        "beam_missing",
        beam_missing,
        "{share:.0%} of lasers",
        _same("share", (0.25, 0.5, 0.75)),
    ),
    *_kong(
        "crosstalk",
        crosstalk,
        "{share:.1%} of points",
        _same("share", (0.006, 0.008, 0.01), std=3.0),
    ),
    *_kong(
        "incomplete_echo",
        incomplete_echo,
        "{share:.0%} of vehicles",
        _same("share", (0.75, 0.85, 0.95)),
    ),
    *_kong(
        "cross_sensor",
        cross_sensor,
        "{share:.0%} of lasers, 1/2 of points",
        _same("share", (0.25, 0.5, 0.75)),
    ),
)
PROFILES: dict[str, tuple[Corruption, ...]] = {
    "semantickitti-c": tuple(_semantickitti_c()),
    "robo3d": _ROBO3D,
}


def chosen(
    profile: str, kinds: Iterable[str] | None = None, *, keep_labels: bool = False
) -> tuple[Corruption, ...]:
    """Choose corruptions of a profile, all or those named by name (``fog_heavy``) or by type (``fog``), in its order.

    Args:
        keep_labels: points shaken by local distortion keep their class.

    Raises:
        UserError: an unknown profile or name.
    """
    if profile not in PROFILES:
        raise UserError(
            f"unknown robustness profile '{profile}'", cure=f"Profiles are {', '.join(PROFILES)}"
        )
    every = PROFILES[profile]
    picked = list(every)
    if kinds is not None:
        wanted = set(kinds)
        _check_names(profile, wanted)
        picked = [c for c in every if wanted & {c.name, c.kind}]
    if keep_labels:
        picked = [_keeping_labels(c) for c in picked]
    return tuple(picked)


def _check_names(profile: str, wanted: set[str]) -> None:
    every = PROFILES[profile]
    types = list(dict.fromkeys(c.kind for c in every))
    unknown = sorted(wanted.difference(types, (c.name for c in every)))
    if unknown:
        raise UserError(
            f"{profile} has no corruption {', '.join(unknown)}",
            where="--kinds",
            cure=f"Types are {', '.join(types)}; single corruptions are named like {every[0].name}",
        )


def _keeping_labels(corruption: Corruption) -> Corruption:
    """The same, but points shaken by local distortion keep their class."""
    if corruption.kind != "local":
        return corruption
    std = _LOCAL_STD[corruption.level]
    apply = partial(local_distortion, share=_LOCAL_SHARE, std=std, keep_labels=True)
    return replace(corruption, apply=apply)
