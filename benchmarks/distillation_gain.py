"""What a teacher brings: arms paired by seed at equal optimiser steps, scored on held-out scenes.

    python benchmarks/distillation_gain.py unlabelled                      # an experiment of benchmarks/experiments
    python benchmarks/distillation_gain.py unlabelled --dry-run            # its commands, and which are done
    python benchmarks/distillation_gain.py downstream --arms random slidr_lin --fractions 0.025
    python benchmarks/distillation_gain.py u2mkd --seeds 0 1 2 --arms fusion full no_learner -- --distill.w_kl 2

An experiment is a YAML file: its arms, each a configuration and the keys that are others; the teacher, the
shares of labels, the steps. Runs of one seed share the student's initial weights and the scans that have labels; arms
that see the same scans share their order, too. The control is the best of the arms without a teacher, each at a
quarter, half and all of the steps, by its mean over seeds. What is compared are the last weights.

Of an experiment with pre-trainings (``downstream``) each is run once per seed, and its weights begin the arms of all
protocols and shares of labels.

Every run has a folder, found again by what it depends on (configuration, worlds, teacher) and not by its name: a
stopped benchmark goes on with the same command, and experiments share runs. A change of the code is no other run: give
another --folder then; runs of several commits are told. Seeds may be spread over machines: --json writes the scores of
one, --with counts them on another. What follows ``--`` goes to every training and score of an arm.
"""

from __future__ import annotations

import project  # noqa: F401  isort: skip

import argparse
import math
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.gain.elsewhere import take_in
from benchmarks.gain.experiment import ROOT, Experiment, read_experiment
from benchmarks.gain.page import write_page
from benchmarks.gain.plan import Plan
from benchmarks.gain.running import run_jobs
from benchmarks.gain.steps import resolved
from benchmarks.gain.summary import Summary
from benchmarks.gain.tables import print_summary, write_records
from benchmarks.results import RESULTS
from benchmarks.timing import write_measurement
from core.config import Config
from core.engine.run.checkpoint import find_checkpoint, read_checkpoint
from core.engine.run.cli import run_command
from core.errors import UserError


def deployed_network(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of everything that a trained network needs to run."""
    weights = read_checkpoint(find_checkpoint(folder, "a run"))["model"]
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


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", nargs="?", help="its name, or a YAML file (u2mkd)")
    parser.add_argument("--method", help="the same by its former option")
    parser.add_argument("--arms", "--variants", nargs="+", help="which (all)")
    parser.add_argument("--seeds", type=int, nargs="+", help="of the runs (the experiment's)")
    parser.add_argument("--steps", type=int, help="of each arm (the experiment's)")
    parser.add_argument("--fractions", type=float, nargs="+", help="shares of labels (all)")
    parser.add_argument("--world", type=Path, help="folder of scans for every job")
    parser.add_argument("--teacher", type=Path, help="trained teacher, in place of one per budget")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "gain", help="of all runs")
    parser.add_argument("--jobs", type=int, default=1, help="commands at a time (1)")
    parser.add_argument("--dry-run", action="store_true", help="list the commands")
    parser.add_argument("--collect", action="store_true", help="of what is done alone, run nothing")
    parser.add_argument("--json", type=Path, help="write every score")
    parser.add_argument(
        "--with", dest="others", type=Path, nargs="+", default=[], metavar="FILE",
        help="count what --json wrote elsewhere, of other seeds",
    )  # fmt: skip
    parser.add_argument(
        "--table", metavar="NAME", help="write the table docs/results/data/NAME.json"
    )
    parser.add_argument(
        "overrides", nargs="*", help="after --: keys of the arms' trainings and scores"
    )
    words, extra = _split(sys.argv[1:])
    args = parser.parse_args(words)
    args.overrides = extra
    return args


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """Before and after ``--``."""
    if "--" not in words:
        return words, []
    place = words.index("--")
    return words[:place], words[place + 1 :]


def chosen_experiment(args: argparse.Namespace) -> Experiment:
    """The experiment with what the command line says otherwise.

    Raises:
        UserError: no such experiment, or no such share of labels in it.
    """
    experiment = read_experiment(args.experiment or args.method or "u2mkd")
    changed: dict[str, object] = {}
    if args.seeds:
        changed["seeds"] = tuple(args.seeds)
    if args.steps:
        changed["steps"] = args.steps
    if args.world:
        changed["world"] = experiment.world | _world(args.world.resolve())
    if args.fractions:
        known = {1.0 if b is None else b.fraction: b for b in experiment.budgets}
        missing = [share for share in args.fractions if share not in known]
        if missing:
            shares = ", ".join(str(share) for share in known)
            raise UserError(
                f"there is no share {missing[0]:g}", where="--fractions", cure=f"There are {shares}"
            )
        changed["budgets"] = tuple(known[share] for share in args.fractions)
    return experiment.model_copy(update=changed)


def _world(folder: Path) -> dict[str, str]:
    """Keys of ``dataset`` that name a world; one in nuScenes' format says its version by its only folder of tables."""
    versions = [found.name for found in folder.glob("v1.0-*")]
    named = {"root": str(folder)}
    return named | {"version": versions[0]} if len(versions) == 1 else named


def plan_of(args: argparse.Namespace, experiment: Experiment) -> Plan:
    """All jobs, with the keys after ``--`` over all others."""
    extra = Config()
    extra.override(args.overrides)
    arms = experiment.named(args.arms or experiment.shown or list(experiment.arms))
    teacher = None if args.teacher is None else args.teacher.resolve()
    return Plan(experiment, arms, args.folder.resolve(), _flat(extra), teacher)


def _flat(config: Config) -> dict[str, object]:
    """Dotted keys of what was overridden."""
    return {key: config.get(key) for key in config.origins if not isinstance(config.get(key), dict)}


def check_worlds(experiment: Experiment) -> None:
    """Refuse worlds that are not there: the experiment's, and the one that its image network learns from.

    Raises:
        UserError: with the command that writes it.
    """
    worlds = [(experiment.world.get("root"), experiment.made_by)]
    image = experiment.image
    if image is not None and image.made_by is not None:
        worlds.append((resolved(image.config, image.set)["dataset"]["root"], image.made_by))
    for world, made_by in worlds:
        if world is not None and not (ROOT / world).is_dir():
            raise UserError(
                "a world of this experiment is not there",
                where=world,
                cure=None if made_by is None else f"Write it: python {made_by}",
            )


def main() -> None:
    """Run what is left, collect, print, write."""
    args = arguments()
    experiment = chosen_experiment(args)
    check_worlds(experiment)
    plan = plan_of(args, experiment)
    if args.dry_run:
        for job in plan.jobs:
            print(f"{'done' if job.done else 'left'}  {job.line}")
        return
    if not args.collect:
        run_jobs(plan.jobs, args.jobs)
    summary = Summary(plan)
    take_in(summary, args.others)
    console = Console()
    print_summary(summary, console)
    if experiment.one_network and summary.scores:
        folders = [run.training.folder for run in plan.runs if run.training.done]
        count = check_one_network(folders)
        console.print(f"one network in all runs, {count:,} values", highlight=False)
    if summary.scores:
        page = write_page(summary, plan.folder / _title(args))
        console.print(f"page: {page}", highlight=False)
    if args.json:
        write_measurement(args.json, summary.to_json())
    if args.table and summary.scores:
        write_records(summary, RESULTS / "data" / f"{args.table}.json")


def _title(args: argparse.Namespace) -> str:
    """Folder of the page."""
    return f"page-{Path(args.experiment or args.method or 'u2mkd').stem}"


if __name__ == "__main__":
    run_command(main)
