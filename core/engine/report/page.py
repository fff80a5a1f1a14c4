"""``report.html``: one self-contained page with what was scored, how well, where it fails, and how to do it again."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.config import parse_yaml
from core.contracts import IGNORE
from core.decode import kept, read_json
from core.engine.report.charts import confusion_chart, curves
from core.engine.report.pictures import class_palette, legible
from core.engine.report.scenes import ScenePicture, legend, scene_blocks, swatch, thousands
from core.engine.report.style import page, ribbon
from core.engine.run.adopted import shown_changes
from core.engine.run.experiment import TrainConfig
from core.engine.run.run_dir import git_state
from core.errors import UserError
from core.io import write_text
from core.labels import LABEL_SPACES
from core.machine import processor_name
from core.metrics import Confusion, EvaluationResult

__all__ = ["ScenePicture", "write_report"]

PICTURE_BUDGET = 5_000_000  # bytes of the page given to scenes
DASH = '<span class="none">–</span>'
THIS = "This model"

Results = Sequence[tuple[str, EvaluationResult]]


def write_report(
    run_dir: Path,
    result: EvaluationResult,
    scenes: Sequence[ScenePicture],
    *,
    title: str,
    command: str,
    config_text: str,
    history: Sequence[Mapping[str, Any]] = (),
    extra_results: Results = (),
    colors: np.ndarray | None = None,
    name: str = THIS,
) -> Path:
    """Write ``report.html`` into a run folder, atomically.

    Args:
        result: what the page is about. scenes: scans to draw; those that would make the page too large are left out.
        title, command, config_text: plain text. history: parsed lines of ``scalars.jsonl``.
        extra_results: (name, result) shown beside it, e.g. the teacher, or the student without distillation. They may
            know other classes; classes are matched by name.
        colors: u8 [C, 3] of the classes; the built-in label space's if not given, else made up.
        name: what ``result`` is called in tables.

    Returns:
        the file's path; it stays under 6 MB unless the configuration itself is huge.

    Raises:
        UserError: the folder cannot be written.
    """
    if colors is None:
        colors = _colors_of(result.classes)
    results = [(name, result), *extra_results]
    training = curves(history)
    sections = [
        ("score", "Score", _headline(result, extra_results)),
        ("classes", "Classes", _classes(results, legible(colors))),
        ("range", "Range", _ranges(results)),
        ("confusion", "Confusion", _confusion(result)),
        ("scenes", "Scenes", _scenes(scenes, result.classes, colors)),
        (
            "training",
            "Training",
            training and f'<h2>Training</h2><div class="charts">{training}</div>',
        ),
        ("reproduce", "Reproduce", _reproduce(run_dir, result, command, config_text)),
    ]
    shown = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{anchor}">{label}</a>' for anchor, label, _ in shown[1:])
    blocks = [f'<section id="{anchor}">{content}</section>' for anchor, _, content in shown]
    header = (
        f'<div class="over">LiDistill · evaluation report</div><h1>{escape(title)}</h1>'
        f"{ribbon(result.caveat)}<nav>{links}</nav>"
    )
    path = Path(run_dir) / "report.html"
    write_text(
        path,
        page(
            title,
            header + "\n" + "\n".join(blocks),
            "Written by LiDistill. Everything is in this file.",
        ),
    )
    return path


def _colors_of(classes: Sequence[str]) -> np.ndarray:
    """u8 [C, 3] of these classes: those of a built-in label space that has them, else made up."""
    for space in LABEL_SPACES.values():
        if space.classes == tuple(classes):
            return space.colors
    return class_palette(len(classes))


def _percent(value: float | None, digits: int = 1) -> str:
    return DASH if value is None or value != value else f"{100 * value:.{digits}f}"


def _table(
    head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], kind: str = "plain"
) -> str:
    """A table that scrolls sideways on a narrow screen while its first column stays.

    Args:
        head: HTML. rows: (class attribute, HTML of each cell, the first a header). kind: class attribute.
    """
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr class="{row}"><th scope="row">{cells[0]}</th>{"".join(_cell(cell) for cell in cells[1:])}</tr>'
        for row, cells in rows
    )
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(content: str) -> str:
    return content if content.startswith("<td") else f"<td>{content}</td>"


def _protocol(result: EvaluationResult) -> str:
    """What exactly the headline number is, in words."""
    labelled = _labelled(result.overall)
    passes = (
        "one forward pass per scan, no test-time augmentation"
        if result.votes == 1
        else f"{result.votes} augmented passes per scan voted together (test-time augmentation)"
    )
    scored, total = result.classes_scored, len(result.classes) - 1
    classes = (
        f"all {total} classes"
        if scored == total
        else f"the {scored} of {total} classes that occur in it"
    )
    return (
        f"<p>Mean intersection over union on <b>{escape(result.dataset)} {escape(result.split)}</b>: "
        f"{_coverage(result)}, {thousands(labelled)} labelled of {thousands(result.num_points)} "
        f"points, {passes}.</p>"
        f'<p class="soft">IoU = TP / (TP + FP + FN) over every raw point, averaged over {classes}. Points labelled '
        f"“{escape(result.classes[IGNORE])}” do not count; any other point without a prediction counts as a miss.</p>"
    )


def _coverage(result: EvaluationResult) -> str:
    """How many scans were scored, and of how many where some were not."""
    scans = thousands(result.num_scans)
    if result.split_scans not in (None, result.num_scans):
        return f"{scans} of {thousands(result.split_scans or 0)} scans"
    return f"{scans} scan" if result.num_scans == 1 else f"{scans} scans"


def _labelled(confusion: Confusion) -> int:
    return int(confusion.counts[IGNORE + 1 :].sum())


def _headline(result: EvaluationResult, extra: Results) -> str:
    tiles = [(_percent(c.miou()), f"mIoU, {_metres(name)}") for name, c in result.by_range.items()]
    if result.num_scans:
        tiles.append(
            (f"{1000 * result.seconds / result.num_scans:.0f} ms", "per scan, loading included")
        )
    tiles += [
        (_percent(other.miou), f"{escape(name)}{_compared(other.miou - result.miou)}")
        for name, other in extra
    ]
    boxes = "".join(
        f'<div class="tile"><b>{value}</b><span>{label}</span></div>' for value, label in tiles
    )
    number = f'<div class="big">{_percent(result.miou, 2)}<small>% mIoU</small></div>'
    return f'<div class="hero">{number}<div>{_protocol(result)}</div></div><div class="tiles">{boxes}</div>'


def _compared(difference: float) -> str:
    """Percentage points between another result and this one, in words."""
    if difference != difference:
        return ""
    return f", {abs(100 * difference):.1f} {'above' if difference >= 0 else 'below'}"


def _metres(name: str) -> str:
    """``0-20`` -> 0–20 m, ``50+`` -> > 50 m."""
    text = f"> {name[:-1]} m" if name.endswith("+") else f"{name.replace('-', '–')} m"
    return escape(text).replace(" ", "\u00a0")


def _score_cell(value: float | None, best: bool) -> str:
    if value is None:
        return f"<td>{DASH}</td>"
    bar = f'<div class="bar"><i style="width:{100 * value:.1f}%"></i></div>'
    return f'<td{" class=best" * best}><div class="score">{bar}<b>{_percent(value)}</b></div></td>'


def _score_cells(values: Sequence[float | None]) -> list[str]:
    """One cell per result, the best in bold when there are several."""
    known = [value for value in values if value is not None]
    best = max(known) if len(values) > 1 and known else None
    return [_score_cell(value, best is not None and value == best) for value in values]


def _classes(results: Results, colors: np.ndarray) -> str:
    result = results[0][1]
    counts = result.overall.counts.sum(1).tolist()
    ious = [other.iou for _, other in results]
    labelled = _labelled(result.overall)
    rows = [
        (
            "",
            [
                swatch(colors[c]) + escape(name),
                *_score_cells([iou.get(name) for iou in ious]),
                thousands(counts[c]),
                f"{100 * counts[c] / max(labelled, 1):.2f} %",
            ],
        )
        for c, name in enumerate(result.classes)
        if c != IGNORE
    ]
    means = [None if other.miou != other.miou else other.miou for _, other in results]
    rows.append(("sum", ["mIoU", *_score_cells(means), thousands(labelled), ""]))
    single = len(results) == 1
    head = [
        "Class",
        *("IoU, %" if single else escape(name) for name, _ in results),
        "Points",
        "Share",
    ]
    absent = [name for name, iou in result.iou.items() if iou is None]
    note = (
        f" Not in this split, and not in the mean: {escape(', '.join(absent))}." if absent else ""
    )
    intro = f'<h2>Classes</h2><p class="soft">IoU of each class, in percent.{note}</p>'
    return (
        intro + _table(head, rows, "single" if single else "several") + _other_conventions(result)
    )


def _other_conventions(result: EvaluationResult) -> str:
    """The same confusion matrix averaged in the other ways in use, so that numbers can be compared with papers."""
    overall = result.overall
    rows = [
        ("", ["Absent classes left out (this page)", _percent(overall.miou(), 2)]),
        (
            "",
            [
                "nuscenes-devkit: absent but predicted classes count 0",
                _percent(overall.miou("nanmean"), 2),
            ],
        ),
        ("", ["semantic-kitti-api: absent classes count 0", _percent(overall.miou("zero"), 2)]),
        ("", ["U2MKD's code: absent classes count 1", _percent(overall.miou("one"), 2)]),
        (
            "",
            [
                "Waymo's tool: classes neither there nor predicted count 1",
                _percent(overall.miou("nan_one"), 2),
            ],
        ),
        (
            "",
            [
                "2DPASS's code: unpredicted points do not count as misses",
                _percent(overall.legacy_miou(), 2),
            ],
        ),
    ]
    table = _table(["Convention", "mIoU, %"], rows)
    return f"<details><summary>The same predictions under other averaging conventions</summary>{table}</details>"


def _ranges(results: Results) -> str:
    result = results[0][1]
    parts = result.by_range | result.by_subset
    head = [
        "",
        *(_metres(name) for name in result.by_range),
        *map(str.capitalize, result.by_subset),
        "All",
    ]
    rows: list[tuple[str, list[str]]] = [
        ("", [escape(name), *_part_scores(other, list(parts)), _percent(other.miou)])
        for name, other in results
    ]
    rows.append(
        (
            "",
            [
                "Labelled points",
                *(thousands(_labelled(c)) for c in (*parts.values(), result.overall)),
            ],
        )
    )
    columns = [*(result.iou_of(confusion) for confusion in parts.values()), result.iou]
    per_class = [
        ("", [escape(name), *(_percent(iou[name]) for iou in columns)])
        for name in result.classes[IGNORE + 1 :]
    ]
    return (
        '<h2>Range</h2><p class="soft">mIoU in percent by distance from the sensor and in named subsets of the points, '
        "such as those that a camera sees; the mean runs over the classes that occur there.</p>"
        + _table(head, rows)
        + f"<details><summary>Every class by range</summary>{_table(head, per_class)}</details>"
    )


def _part_scores(result: EvaluationResult, names: list[str]) -> list[str]:
    parts = result.by_range | result.by_subset
    return [_percent(parts[name].miou()) if name in parts else DASH for name in names]


def _confusion(result: EvaluationResult) -> str:
    counts = np.array(result.confusion, np.int64)
    return (
        '<h2>Confusion</h2><p class="soft">What became of the points of each class, in percent of its row: truth on '
        'the left, prediction on top.</p><div class="scroll">'
        + confusion_chart(counts, result.classes)
        + f"</div>{_worst(counts, result.classes)}"
    )


def _worst(counts: np.ndarray, classes: Sequence[str], most: int = 5) -> str:
    """The confusions that take the largest share of a class."""
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    share[IGNORE] = 0
    np.fill_diagonal(share, 0)
    order = np.argsort(share, axis=None, kind="stable")[::-1][:most]
    pairs = [divmod(int(i), len(classes)) for i in order if share.flat[i] >= 0.005]
    rows = [
        (
            "",
            [
                f"{escape(classes[t])} → {escape(classes[p])}",
                f"{100 * share[t, p]:.1f} %",
                thousands(counts[t, p]),
            ],
        )
        for t, p in pairs
    ]
    return (
        "<h3>Largest confusions</h3>" + _table(["Truth → prediction", "Share", "Points"], rows)
        if rows
        else ""
    )


def _scenes(scenes: Sequence[ScenePicture], classes: Sequence[str], colors: np.ndarray) -> str:
    if not scenes:
        return ""
    intro = (
        '<h2>Scenes</h2><p class="soft">From above, the sensor in the middle, rings at 20 m and 50 m; and as the '
        "cameras see it.</p>"
    )
    return intro + legend(classes, legible(colors)) + scene_blocks(scenes, colors, PICTURE_BUDGET)


def _reproduce(run_dir: Path, result: EvaluationResult, command: str, config_text: str) -> str:
    facts = {
        "Checkpoint": result.checkpoint,
        "SHA-256": result.checkpoint_sha256,
        **_versions(run_dir, config_text),
    }
    facts["Evaluation took"] = f"{result.seconds:.1f} s"
    facts |= shown_changes(result.extra)
    listed = "".join(
        f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in facts.items()
    )
    scored = (
        ""
        if result.command == command
        else f'<h3>Scored by</h3><pre class="wrap">{escape(result.command)}</pre>'
    )
    return (
        f'<h2>Reproduce</h2><pre class="wrap">{escape(command)}</pre>{scored}<dl>{listed}</dl>'
        f"<details><summary>Resolved configuration</summary><pre>{escape(config_text)}</pre></details>"
    )


def _versions(run_dir: Path, config_text: str) -> dict[str, str]:
    """Code, libraries and seed; what the run folder recorded at its start wins over what is installed now."""
    recorded = Path(run_dir) / "git.json"
    state = None
    if recorded.is_file():
        state = kept(lambda: read_json(recorded, dict[str, Any]))
    if state is None:
        state = git_state()
    commit = state.get("commit")
    try:
        seed = parse_yaml(config_text, "configuration")["train"]["seed"]
    except (UserError, TypeError, KeyError):  # not a mapping, or no seed of its own
        seed = None
    return {
        "Commit": "not a git checkout"
        if commit is None
        else str(commit) + (" with local changes" if state.get("dirty") else ""),
        "Seed": f"{TrainConfig().seed} (default)" if seed is None else str(seed),
        "PyTorch": str(state.get("torch", torch.__version__)),
        "Python": platform.python_version(),
        "Processor": str(state.get("processor", processor_name())),
    }
