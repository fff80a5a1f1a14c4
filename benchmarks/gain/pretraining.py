"""Jobs of what arms begin with: superpixels, the image network, pre-trainings without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gain.experiment import Experiment, Overrides, Training
from benchmarks.gain.steps import Job, Made, resolved
from core.names import SUPERPIXELS

__all__ = ["pretraining_job"]

_IMAGE_WEIGHTS = "checkpoints/best.pt"  # in the folder of the run that trained the image network


def pretraining_job(
    experiment: Experiment, name: str, seed: int, alike: Overrides, folder: Path
) -> Job:
    """The pre-training of that name, one for all arms, protocols and label budgets of a seed.

    Args:
        alike: keys of all trainings. folder: of all jobs.
    """
    spec = experiment.pretraining[name]
    world = experiment.world_keys()
    own_seed = seed if spec.seed is None else spec.seed
    settings = world | alike | {"train.seed": own_seed, "train.steps": spec.steps} | spec.set
    uses = []
    tree = resolved(spec.config, settings)
    if SUPERPIXELS in (_section(tree, "data").get("planes") or ()):
        made = _superpixels(spec.config, world, folder)
        uses.append(Made(f"dataset.planes.{SUPERPIXELS}", made, SUPERPIXELS))
    if experiment.image is not None:
        trained = _image_network(experiment, seed, alike, folder)
        uses.append(Made("distill.image.weights", trained, _IMAGE_WEIGHTS))
    title = f"pretraining-{name}-s{own_seed}"
    return _training(title, "pretrain.py", spec, settings, uses, folder)


def _superpixels(config: Path, world: Overrides, folder: Path) -> Job:
    """Of the images that are learned from; a pre-training that selects nothing looks at no others."""
    return Job(
        SUPERPIXELS,
        folder,
        "prepare_superpixels.py",
        config,
        options=("--out", f"{{folder}}/{SUPERPIXELS}", "--splits", "train"),
        settings=tuple(world.items()),
    )


def _image_network(experiment: Experiment, seed: int, alike: Overrides, folder: Path) -> Job:
    """Its world is the one that its YAML names."""
    spec = experiment.image
    assert spec is not None, "the caller looks"
    own_seed = seed if spec.seed is None else spec.seed
    settings = alike | {"train.seed": own_seed, "train.steps": spec.steps} | spec.set
    title = f"image-network-s{own_seed}"
    return _training(title, "train_student.py", spec, settings, (), folder)


def _training(
    title: str,
    script: str,
    spec: Training,
    settings: Overrides,
    uses: Sequence[Made],
    folder: Path,
) -> Job:
    return Job(
        title,
        folder,
        script,
        spec.config,
        options=("--run-dir", "{folder}"),
        settings=tuple(settings.items()),
        uses=tuple(uses),
    )


def _section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return tree.get(name) or {}
