"""What a method of distillation brings, at equal budgets: mIoU on held-out scenes of the synthetic world.

    python benchmarks/distillation_gain.py [--method u2mkd|2dpass] [--seeds 0 1 2] [--epochs N] [--folder DIR]
        [--variants lidar fusion full …] [--json FILE] [-- --section.key VALUE …]

``u2mkd``: (a) ``lidar``, the student's LiDAR backbone alone; (b) ``fusion``, LiDAR and cameras, no teacher, and as a
control ``balanced_labels``, where in the teacher's place the labels speak once more, class by class; (c) ``full``. Each
is scored with six, three and no cameras, over all points and by whether a camera sees them.
``2dpass``: (a) ``baseline``, the LiDAR network alone; (b) ``aux_only``, with classifiers at its scales and no image;
(c) ``full``. What runs is one network for all three, which is checked.

Other variants by the names of the files in configs/synthetic/METHOD. All train as many steps on the same scans with the
same augmentation. What follows ``--`` goes to every training. The folder keeps finished runs: the same command goes on
where it stopped.
"""

from __future__ import annotations

import project  # noqa: F401  isort: skip

import argparse
import math
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.timing import write_measurement
from core.decode import read_json
from core.engine.run.checkpoint import read_checkpoint
from core.engine.run.cli import run_command
from core.errors import UserError
from core.metrics import EvaluationResult

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs" / "synthetic"
TEACHER_EPOCHS = 48  # one of 18 (65.8 mIoU) takes from its student instead of giving
THREE = "[CAM_FRONT, CAM_BACK_LEFT, CAM_BACK_RIGHT]"
CAMERAS = {  # by their number: how evaluate.py is told
    6: (),
    3: ("--dataset.cameras", THREE),
    0: ("--data.images", "false"),
}


@dataclass(frozen=True)
class Variant:
    """How one network is trained, and what evaluate.py has to be told of it."""

    config: Path
    script: str = "train_student.py"
    scored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """How a method is measured.

    Attributes:
        special: variants that are more than a file in configs/synthetic/METHOD.
        compared: the usual variants; ``full`` is compared with the others.
        cameras: numbers of cameras at test, the first for the comparison.
        epochs: of every network. teacher: YAML of the method's teacher.
        one_network: what is deployed is the same network for all variants.
    """

    compared: tuple[str, ...]
    cameras: tuple[int, ...]
    epochs: int
    special: dict[str, Variant] = field(default_factory=dict)
    teacher: Path | None = None
    one_network: bool = False


IN_VIEW = (
    "--data.images",
    "true",
    "--data.image_size",
    "[160, 90]",
)  # so that points in view are told apart
PLANS = {
    "u2mkd": Plan(
        compared=("lidar", "fusion", "balanced_labels", "full"),
        cameras=(6, 3, 0),
        epochs=12,
        special={
            "lidar": Variant(CONFIGS / "student_lidar.yaml", "train_teacher.py", IN_VIEW),
            "fusion": Variant(CONFIGS / "u2mkd" / "no_teacher.yaml"),
        },
        teacher=CONFIGS / "teacher.yaml",
    ),
    "2dpass": Plan(
        compared=("baseline", "aux_only", "full"), cameras=(0,), epochs=12, one_network=True
    ),
}


@dataclass
class Score:
    """mIoU in percent of one network under one number of cameras; None where there are no such points."""

    variant: str
    seed: int
    cameras: int
    overall: float
    in_view: float | None
    out_of_view: float | None


def variant_of(name: str, args: argparse.Namespace) -> Variant:
    """By its name.

    Raises:
        UserError: no such variant.
    """
    variant = args.plan.special.get(name, Variant(CONFIGS / args.method / f"{name}.yaml"))
    if not variant.config.is_file():
        known = ", ".join(args.plan.special) or "nothing else"
        where, cure = str(variant.config), f"Take the name of a file in that folder, or {known}"
        raise UserError(f"unknown variant '{name}'", where=where, cure=cure)
    return variant


def run(script: str, *arguments: object) -> None:
    """One command of the project, its messages on stderr."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    if subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False).returncode:
        raise UserError(
            f"this command failed: {' '.join(command)}", cure="Its own message stands above"
        )


def train(name: str, seed: int, args: argparse.Namespace) -> Path:
    """Train (or find trained) one network; returns its run folder."""
    folder, variant = args.folder / f"{name}-{seed}", variant_of(name, args)
    options = [
        "--run-dir",
        folder,
        "--num_epochs",
        args.epochs,
        "--train.seed",
        seed,
        "--eval.every",
        args.epochs,
    ]
    if args.teacher and variant.script == "train_student.py":
        options += [
            "--teacher_pretrain",
            args.teacher,
            "--teacher.cache",
            args.folder / "knowledge",
        ]
    run(variant.script, variant.config, *options, *args.overrides)
    return folder


def score(name: str, seed: int, folder: Path, cameras: int, args: argparse.Namespace) -> Score:
    """Score the last weights (equal budgets: no choice of the best epoch) under a number of cameras."""
    path, variant = folder / f"cameras-{cameras}.json", variant_of(name, args)
    if not path.is_file():
        targets = [
            "--checkpoint",
            folder / "checkpoints" / "last.pt",
            "--run-dir",
            folder,
            "--json",
            path,
        ]
        run(
            "evaluate.py",
            variant.config,
            *targets,
            *variant.scored,
            *CAMERAS[cameras],
            *args.overrides,
        )
    value = read_json(path)
    views = EvaluationResult.from_json(value, str(path)).by_view
    parts = {part: 100 * confusion.miou() for part, confusion in views.items()}
    return Score(name, seed, cameras, value["miou"], parts.get("in view"), parts.get("out of view"))


def deployed_network(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of everything that a trained network needs to run."""
    weights = read_checkpoint(folder / "checkpoints" / "last.pt")["model"]
    return {key: tuple(value.shape) for key, value in weights.items()}


def check_one_network(folders: list[Path]) -> int:
    """Make sure that all deploy the same network; returns its number of trained and running values.

    Raises:
        UserError: they do not.
    """
    first, *others = folders
    network = deployed_network(first)
    for other in others:
        if deployed_network(other) != network:
            raise UserError(
                f"{other} and {first} deploy different networks", cure="Compare their config.yaml"
            )
    return sum(math.prod(shape) for shape in network.values())


def spread(values: list[float | None]) -> str:
    """``mean ± standard deviation`` of the seeds."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    deviation = f" ± {statistics.stdev(known):.2f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.2f}{deviation}"


def show(scores: list[Score], args: argparse.Namespace) -> None:
    """The table, and the gain of ``full`` over the others."""
    table = Table("network", "cameras", "all points", "in view", "out of view")
    for variant in args.variants:
        for cameras in args.plan.cameras:
            chosen = [s for s in scores if (s.variant, s.cameras) == (variant, cameras)]
            columns = [
                [s.overall for s in chosen],
                [s.in_view for s in chosen],
                [s.out_of_view for s in chosen],
            ]
            table.add_row(variant, str(cameras), *map(spread, columns))
    console = Console()
    console.print(table)
    most = args.plan.cameras[0]
    for other in args.variants if "full" in args.variants else ():
        if other != "full":
            gain = spread(differences(scores, other, most))
            console.print(
                f"full - {other}, {most} cameras, all points: {gain} mIoU", highlight=False
            )


def differences(scores: list[Score], other: str, cameras: int) -> list[float]:
    """Of ``full`` over ``other``, seed by seed."""
    by_key = {(s.variant, s.seed): s.overall for s in scores if s.cameras == cameras}
    return [
        value - by_key[other, seed]
        for (variant, seed), value in by_key.items()
        if variant == "full"
    ]


def arguments() -> argparse.Namespace:
    """The command line; ``plan`` is the method's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", choices=PLANS, default="u2mkd")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="of every network (12)")
    parser.add_argument("--variants", nargs="+", help="networks to train (those above)")
    parser.add_argument(
        "--folder", type=Path, help="where the runs go (runs/gain; 2dpass: runs/gain-2dpass)"
    )
    parser.add_argument(
        "--teacher", type=Path, help="trained teacher; without it one is trained in the folder"
    )
    parser.add_argument("--json", type=Path, help="write every score")
    parser.add_argument("overrides", nargs="*", help="after --: passed to every training")
    args = parser.parse_args()
    args.plan = PLANS[args.method]
    args.epochs = args.epochs or args.plan.epochs
    args.variants = args.variants or list(args.plan.compared)
    args.folder = args.folder or Path(
        "runs/gain" if args.method == "u2mkd" else f"runs/gain-{args.method}"
    )
    return args


def main() -> None:
    """Train, score, print."""
    args = arguments()
    if args.plan.teacher and args.teacher is None:
        args.teacher = args.folder / "teacher"
        epochs = ("--num_epochs", TEACHER_EPOCHS, "--eval.every", TEACHER_EPOCHS // 4)
        run("train_teacher.py", args.plan.teacher, "--run-dir", args.teacher, *epochs)
    scores, folders = [], []
    for seed in args.seeds:  # seed by seed, so that a stopped benchmark has whole comparisons
        for variant in args.variants:
            folders.append(train(variant, seed, args))
            scores += [
                score(variant, seed, folders[-1], cameras, args) for cameras in args.plan.cameras
            ]
    show(scores, args)
    if args.plan.one_network:
        Console().print(
            f"one network in all runs, {check_one_network(folders):,} values", highlight=False
        )
    if args.json:
        write_measurement(args.json, {"scores": [asdict(s) for s in scores]})


if __name__ == "__main__":
    run_command(main)
