"""What cameras and distillation bring, at equal budgets: mIoU on held-out scenes of the synthetic world, mean ± spread.

    python benchmarks/distillation_gain.py [--seeds 0 1 2] [--epochs 12] [--folder runs/gain] [--json FILE]
        [--variants lidar fusion full …] [-- --section.key VALUE …]

(a) ``lidar``: the student's LiDAR backbone alone. (b) ``fusion``: LiDAR and cameras, no teacher. (c) ``full``: U2MKD.
Ablations by the names of the files in configs/synthetic/u2mkd. All train as many steps on the same scans with the same
augmentation; each network is scored with six, three and no cameras, over all points and by whether a camera sees them.
What follows ``--`` goes to every training. The folder keeps finished runs: the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from core.engine.cli import run_command
from core.errors import UserError
from core.io import read_json, write_json
from core.metrics import EvaluationResult

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs" / "synthetic"
THREE = "[CAM_FRONT, CAM_BACK_LEFT, CAM_BACK_RIGHT]"
CAMERAS = {  # by their number: how evaluate.py is told
    6: (),
    3: ("--dataset.cameras", THREE),
    0: ("--data.images", "false"),
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


def config_of(variant: str) -> Path:
    """Its YAML.

    Raises:
        UserError: no such variant.
    """
    names = {"lidar": CONFIGS / "student_lidar.yaml", "fusion": CONFIGS / "u2mkd" / "no_teacher.yaml"}
    path = names.get(variant, CONFIGS / "u2mkd" / f"{variant}.yaml")
    if not path.is_file():
        raise UserError(f"unknown variant '{variant}'", where=str(path), cure="Take lidar, fusion, or a file's name")
    return path


def run(script: str, *arguments: object) -> None:
    """One command of the project, its messages on stderr."""
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    if subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False).returncode:
        raise UserError(f"this command failed: {' '.join(command)}", cure="Its own message stands above")


def train(variant: str, seed: int, args: argparse.Namespace) -> Path:
    """Train (or find trained) one network; returns its run folder."""
    folder = args.folder / f"{variant}-{seed}"
    common = ["--run-dir", folder, "--num_epochs", args.epochs, "--train.seed", seed, "--eval.every", args.epochs]
    if variant == "lidar":
        run("train_teacher.py", config_of(variant), *common, *args.overrides)
    else:
        teacher = ["--teacher_pretrain", args.teacher, "--teacher.cache", args.folder / "knowledge"]
        run("train_student.py", config_of(variant), *common, *teacher, *args.overrides)
    return folder


def score(variant: str, seed: int, folder: Path, cameras: int, args: argparse.Namespace) -> Score:
    """Score the last weights (equal budgets: no choice of the best epoch) under a number of cameras."""
    path = folder / f"cameras-{cameras}.json"
    if not path.is_file():
        images = ("--data.images", "true", "--data.image_size", "[160, 90]") if variant == "lidar" else ()
        checkpoint = folder / "checkpoints" / "last.pt"
        options = [*images, *CAMERAS[cameras], *args.overrides]
        run(
            *("evaluate.py", config_of(variant), "--checkpoint", checkpoint, "--run-dir", folder, "--json", path),
            *options,
        )
    value = read_json(path)
    views = EvaluationResult.from_json(value, str(path)).by_view
    parts = {name: 100 * confusion.miou() for name, confusion in views.items()}
    return Score(variant, seed, cameras, value["miou"], parts.get("in view"), parts.get("out of view"))


def spread(values: list[float | None]) -> str:
    """``mean ± standard deviation`` of the seeds."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    deviation = f" ± {statistics.stdev(known):.2f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.2f}{deviation}"


def show(scores: list[Score], variants: list[str]) -> None:
    """The table, and the gain over (a) and (b)."""
    table = Table("network", "cameras", "all points", "in view", "out of view")
    for variant in variants:
        for cameras in CAMERAS:
            chosen = [s for s in scores if (s.variant, s.cameras) == (variant, cameras)]
            columns = [[s.overall for s in chosen], [s.in_view for s in chosen], [s.out_of_view for s in chosen]]
            table.add_row(variant, str(cameras), *map(spread, columns))
    console = Console()
    console.print(table)
    for other in ("lidar", "fusion"):
        if other in variants and "full" in variants:
            console.print(f"full - {other}, six cameras, all points: {spread(differences(scores, other))} mIoU")


def differences(scores: list[Score], other: str) -> list[float]:
    """Of ``full`` over ``other``, seed by seed, with six cameras."""
    by_key = {(s.variant, s.seed): s.overall for s in scores if s.cameras == 6}
    return [value - by_key[other, seed] for (variant, seed), value in by_key.items() if variant == "full"]


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=12, help="of every network (12)")
    parser.add_argument("--variants", nargs="+", default=["lidar", "fusion", "full"])
    parser.add_argument("--folder", type=Path, default=Path("runs/gain"), help="where the runs go (runs/gain)")
    parser.add_argument("--teacher", type=Path, help="trained teacher; without it one is trained in the folder")
    parser.add_argument("--json", type=Path, help="write every score")
    parser.add_argument("overrides", nargs="*", help="after --: passed to every training")
    args = parser.parse_args()
    if args.teacher is None:
        args.teacher = args.folder / "teacher"
        run("train_teacher.py", CONFIGS / "teacher.yaml", "--run-dir", args.teacher)
    scores = []
    for seed in args.seeds:  # seed by seed, so that a stopped benchmark has whole comparisons
        for variant in args.variants:
            folder = train(variant, seed, args)
            scores += [score(variant, seed, folder, cameras, args) for cameras in CAMERAS]
    show(scores, args.variants)
    if args.json:
        write_json(args.json, [asdict(s) for s in scores])


if __name__ == "__main__":
    run_command(main)
