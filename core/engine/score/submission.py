"""Files for the benchmark servers: ``evaluate.py --submit DIR`` writes them, this module's command mends and checks.

python -m core.engine.submission check DIR/submission.zip --dataset semantickitti --root DATA --split test
python -m core.engine.submission remap IN OUT --to raw

SemanticKITTI: ``sequences/NN/predictions/*.label``, u32 raw ids, and a zip with an entry for each folder, as the
official check asks; a ``description.txt`` in DIR goes into it. nuScenes: ``lidarseg/<split>/<token>_lidarseg.bin``, u8
1 to 16, and ``<split>/submission.json``. Waymo: a file per scan, packed into those that are uploaded. Unlike a score, a
submission leaves no point out: one outside ``data.point_range`` takes the class of the nearest point that has one.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from loguru import logger
from tqdm.auto import tqdm

from core.config import Config
from core.contracts import IGNORE
from core.data import DataConfig
from core.datasets import dataset_class
from core.datasets.base import ScanDataset
from core.datasets.benchmark import benchmark
from core.datasets.find import find_files
from core.datasets.official import check_complete
from core.engine.run.distributed import World, barrier, rank_zero_first, sole_job
from core.engine.run.trained import TrainedNetwork
from core.engine.score.opened import Opened
from core.engine.score.prediction import PredictionFolder, fill_folder
from core.engine.score.source import open_source
from core.engine.score.submission_check import ZIP, check_submission
from core.engine.score.submission_verdict import show_faults
from core.engine.score.voting import PLAIN, Votes
from core.errors import UserError
from core.io import atomic_path, write_bytes, write_json
from core.labels import LabelSpace
from core.paths import inside

__all__ = [
    "SubmissionFolder",
    "fill_gaps",
    "pack",
    "remap",
    "submit_checkpoint",
]

_EPOCH = (
    1980,
    1,
    1,
    0,
    0,
    0,
)  # of every entry: the same predictions make the same zip, byte for byte


@dataclass(frozen=True)
class SubmissionFolder(PredictionFolder):
    """A prediction folder laid out as the benchmark of ``format`` wants it.

    Attributes:
        split: as the benchmark calls it. scans: what is predicted, for files that hold more than the classes.
    """

    split: str = "test"
    scans: ScanDataset | None = None

    def path(self, token: str) -> Path:
        """The file of a scan."""
        return inside(self.root, benchmark(self.format).submitted_path(token, self.split))

    def write(self, token: str, classes: np.ndarray) -> None:
        """Write train ids u8 [N] in the form of a submission, atomically."""
        if self.scans is None:
            super().write(token, classes)
            return
        index = self.scans.index_of(token)
        content = benchmark(self.format).submitted_content(classes, self.scans, index)
        write_bytes(self.path(token), content)

    def begin(self, made_by: dict[str, Any], stamps: Mapping[str, str], rank: int) -> None:
        """As in a prediction folder; plain predictions and submissions do not mix."""
        super().begin(made_by | {"submission": self.split}, stamps, rank)


def submit_checkpoint(
    world: World,
    config: Config,
    checkpoint: Path,
    out: Path,
    *,
    split: str = "test",
    votes: Votes = PLAIN,
    per_file: int | None = None,
) -> None:
    """Predict a split into ``out``, pack what is uploaded and check it as the benchmark does.

    All ranks share the scans; a job that was killed goes on. An existing ``submission.json`` is kept.

    Args:
        per_file: scans in one file, for a benchmark that takes several; None = all.

    Raises:
        UserError: the data set has no benchmark, or the submission would be rejected; see also
            :func:`core.engine.score.prediction.fill_folder`.
    """
    opened = Opened.of(world, config, checkpoint)
    context = opened.context
    server = benchmark(str(context.config.get("dataset.name")))
    if per_file is not None and server.container is None:
        raise UserError(
            f"{server.title} takes one zip, whatever its size",
            where="--frames-per-file",
            cure="Leave the option out",
        )
    with rank_zero_first(world):
        scans = open_source(context.config, f"split:{split}")
    check_complete(scans)
    if split == "test":
        _check_choice(opened.found)
    named = scans.official_split
    folder = SubmissionFolder(out, server.name, scans.labels, named, scans)
    with sole_job(world, out, "--out"):
        fill_folder(
            opened,
            scans,
            folder,
            votes,
            finish=lambda token, ids: _whole(scans, token, ids),
        )
        barrier()  # the zip needs the files of all ranks
        if world.rank == 0:
            _pack_all(folder, scans, context.data, per_file)


def _check_choice(found: TrainedNetwork) -> None:
    """Refuse weights that were chosen by scans of the hidden test split.

    Raises:
        UserError: they were.
    """
    if found.tree is None or found.config.get("dataset.name") is None:
        return
    reader = dataset_class(found.config)
    try:
        section = found.config.parse(reader.Config, "dataset")
    except UserError as error:
        logger.warning("what these weights were chosen by is not known: {}", error)
        return
    leak = reader.leak_of(section, "val")
    if leak:
        raise UserError(
            f"these weights were chosen by a score of which {leak}",
            where=str(found.path),
            cure="Train with a val split that does without it, and submit those weights",
        )


def _pack_all(
    folder: SubmissionFolder, scans: ScanDataset, view: DataConfig, per_file: int | None
) -> None:
    """Write what belongs to the predictions, the files to upload, and show what the benchmark would say."""
    out, split = folder.root, folder.split
    server = benchmark(folder.format)
    names = [server.submitted_path(scans.token(i), split) for i in range(len(scans))]
    metadata = server.metadata(split, view.uses_images(training=False), _sweeps_seen(scans, view))
    for name, content in metadata.items():
        if not (out / name).is_file():
            write_json(out / name, content)
    if server.container is not None:
        server.container.pack(out, names, per_file)
        show_faults(out, check_submission(out, scans), scans)
        return
    names += metadata
    names += [name for name in server.optional if (out / name).is_file()]
    faults = pack(out, names, out / ZIP) or check_submission(out / ZIP, scans)
    show_faults(out / ZIP, faults, scans)


def _sweeps_seen(scans: ScanDataset, view: DataConfig) -> tuple[int, int]:
    """How many sweeps before and after its own the network sees."""
    sweeps = getattr(scans.config, "multisweeps", None)
    if sweeps is None or not view.sweeps:
        return 0, 0
    return sweeps.num_sweeps, 0 if sweeps.only_past else sweeps.num_sweeps


def _whole(scans: ScanDataset, token: str, classes: np.ndarray) -> np.ndarray:
    """``classes`` without gaps; the scan is read again only where there are some."""
    if (classes != IGNORE).all():
        return classes
    scan = scans.load(scans.index_of(token), cameras=False)
    return fill_gaps(scan.xyz[scan.keyframe], classes)


def fill_gaps(points: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Give each point of class "ignore" the class of the nearest point that has one.

    Args:
        points: f32 [N, 3] m. classes: u8 [N] train ids; unchanged where no point has a class.
    """
    from scipy.spatial import cKDTree  # only scans with gaps need it

    known = classes != IGNORE
    if known.all() or not known.any():
        return classes
    whole = classes.copy()
    _, nearest = cKDTree(points[known]).query(points[~known])
    whole[~known] = classes[known][nearest]
    return whole


def pack(folder: Path, names: Sequence[str], target: Path) -> list[str]:
    """Zip files of ``folder`` into ``target``, atomically, with an entry for each of their folders.

    Args:
        names: files below ``folder``, with forward slashes.

    Returns:
        what keeps the zip from being written: files that are not there, one line each.
    """
    missing = [f"{name}: this file is missing" for name in names if not (folder / name).is_file()]
    if missing:
        return missing
    folders = {
        f"{parent}/" for name in names for parent in PurePosixPath(name).parents if parent.name
    }
    with (
        atomic_path(target) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in tqdm(
            sorted([*folders, *names]), desc="packing", unit="file", disable=not sys.stderr.isatty()
        ):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_STORED if name.endswith("/") else zipfile.ZIP_DEFLATED
            entry.external_attr = 0o40755 << 16 | 0x10 if name.endswith("/") else 0o100644 << 16
            archive.writestr(entry, b"" if name.endswith("/") else (folder / name).read_bytes())
    return []


def remap(source: Path, target: Path, to: str, labels: LabelSpace) -> int:
    """Rewrite every ``.label`` file below ``source`` below ``target``; instance numbers (upper 16 bits) are kept.

    Args:
        to: ``raw``: train ids become the ids a submission holds; ``train``: the reverse.

    Returns:
        the number of files.

    Raises:
        UserError: no files, a target inside the source, ids that are no train ids or unknown, all before anything is
            written.
    """
    if not source.is_dir():
        raise UserError(
            "no such folder", where=str(source), cure="Give the folder that holds the .label files"
        )
    if target.resolve().is_relative_to(source.resolve()):
        raise UserError(
            "the remapped files would mix with the others",
            where=str(target),
            cure="Choose a folder outside IN",
        )
    paths = find_files(source, "**/*.label")
    if not paths:
        raise UserError("no .label files in this folder", where=str(source))
    for write in (False, True):  # a fault in the last file must not leave half a folder of others
        for path in tqdm(
            paths, desc="writing" if write else "reading", disable=not sys.stderr.isatty()
        ):
            ids = _remapped(path, to, labels)
            if write:
                write_bytes(target / path.relative_to(source), ids.tobytes())
    return len(paths)


def _remapped(path: Path, to: str, labels: LabelSpace) -> np.ndarray:
    """U32 [N] of one file."""
    if path.stat().st_size % 4:
        raise UserError(
            f"{path.stat().st_size} bytes are no whole number of uint32 ids", where=str(path)
        )
    ids = np.fromfile(path, "<u4")
    classes = ids & 0xFFFF
    if to == "train":
        return (ids & 0xFFFF0000) | labels.to_train(classes, path)
    wrong = classes >= labels.num_classes
    if wrong.any():
        raise UserError(
            f"id {int(classes.max())} is no train id of '{labels.name}', which are 0 to {labels.num_classes - 1}; "
            f"neither are those of {int(wrong.sum())} of its {len(ids)} points",
            where=str(path),
            cure="These are raw ids already; they need no remapping",
        )
    return (ids & 0xFFFF0000) | labels.to_raw(classes)
