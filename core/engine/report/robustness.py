"""The robustness page: scores, a bar per corruption, and one scan under each of them; everything in one file."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from core.contracts import IGNORE
from core.data.corruptions import PROFILES
from core.engine.report.pictures import birds_eye, encode_png, error_colors, legible, side_by_side
from core.engine.report.robustness_scores import ROBO3D_BASELINE, Summary
from core.engine.report.scenes import legend
from core.engine.report.style import page, ribbon
from core.labels import LabelSpace
from core.metrics import EvaluationResult

__all__ = ["picture", "robustness_page"]

LOST = (255, 110, 90)  # points without a class: outliers, fog, snow, and what was never labelled
_EXTENT = 40.0  # m
_TITLES = {"semantickitti-c": "SemanticKITTI-C (Yan et al.)", "robo3d": "Robo3D"}
_TWO_COLUMNS = "grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr))"
_DASH = '<span class="none">–</span>'


def picture(
    points: np.ndarray,
    truth: np.ndarray,
    prediction: np.ndarray,
    labels: LabelSpace,
    like: int,
    note: str = "",
) -> bytes:
    """PNG of one scan from above: what the scanner reports, in the colours of the truth, and where the model errs.

    Args:
        points: [N, 3] m. truth, prediction: [N] train ids. like: points of the clean scan, which dots are sized for.
        note: last line, e.g. which world this is.
    """
    palette = _palette(labels)
    wrong = (prediction != truth) & (truth != IGNORE)
    panels = [
        ("points", birds_eye(points, palette[truth], _EXTENT, 400, truth == IGNORE, like)),
        ("errors", birds_eye(points, error_colors(truth, prediction), _EXTENT, 400, wrong, like)),
    ]
    return encode_png(side_by_side(panels, note=note))


def _palette(labels: LabelSpace) -> np.ndarray:
    palette = legible(labels.colors)
    palette[IGNORE] = LOST
    return palette


def robustness_page(
    summary: Summary,
    results: Mapping[str, EvaluationResult],
    pictures: Mapping[str, bytes],
    labels: LabelSpace,
    facts: Mapping[str, str],
) -> str:
    """The page as HTML.

    Args:
        results: by corruption, the clean scans first. pictures: PNGs of :func:`picture`, by corruption.
        facts: how to do it again, in the order they are shown.
    """
    sections = [
        _headline(summary),
        _corruptions(summary),
        _types(summary),
        _classes(summary, results),
        _scenes(summary, pictures, labels),
        _reproduce(facts),
    ]
    title = f"Robustness, {_TITLES[summary.profile]}"
    clean = next(iter(results.values()))
    header = (
        f'<div class="over">LiDistill · robustness</div><h1>{escape(title)}</h1>{ribbon(clean.caveat)}'
        f'<p class="soft">Scored on {escape(clean.scored)}.</p>'
    )
    body = "\n".join(f"<section>{section}</section>" for section in sections if section)
    return page(title, f"{header}\n{body}", "Written by LiDistill. Everything is in this file.")


def _reproduce(facts: Mapping[str, str]) -> str:
    terms = [f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items()]
    return f"<h2>Reproduce</h2><dl>{''.join(terms)}</dl>"


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return _DASH
    return f"{value:.1f}"


def _headline(summary: Summary) -> str:
    partly = ""
    boxes: list[tuple[float | None, str]] = []
    if summary.profile == "robo3d":
        main, name = summary.mean_resilience, "mRR"
        boxes.append((summary.mean_resilience, "mRR, % of the clean score kept"))
        boxes.append((summary.mean_error, "mCE, % of MinkUNet-18's errors (lower is better)"))
        note = (
            "RR = mean mIoU over three severities, of the clean mIoU; "
            "CE = errors over the errors of a MinkUNet-18."
        )
    else:
        main, name = summary.mean_miou, "RmIoU"
        boxes.append((summary.mean_resilience, "mR, % of the clean score kept"))
        note = (
            "The mIoU of a type is the mean over its severities; "
            "RmIoU and mR are means over the six types."
        )
    boxes.append((summary.mean_miou, "RmIoU: mean over types, %"))
    if main is None:
        main, name = summary.clean, "clean mIoU"
        partly = "<p>Not every corruption was scored, so there is no mean over the types.</p>"
    else:
        boxes.insert(0, (summary.clean, "clean mIoU, %"))
    tiles = []
    for value, label in boxes:
        if value is not None:
            tiles.append(f'<div class="tile"><b>{_number(value)}</b><span>{label}</span></div>')
    title = escape(_TITLES[summary.profile])
    big = f'<div class="big">{_number(main)}<small>% {name}</small></div>'
    text = f'<div><p>{title}</p>{partly}<p class="soft">{note}</p></div>'
    return f'<div class="hero">{big}{text}</div><div class="tiles">{"".join(tiles)}</div>'


def _corruptions(summary: Summary) -> str:
    explained = '<p class="soft">mIoU in percent; the line is the clean score.</p>'
    return f"<h2>Corruptions</h2>{explained}{_bars(summary)}"


def _bars(summary: Summary) -> str:
    """One bar per corruption as SVG, types in turn in the chart colours."""
    left, width, step = 190, 520, 22
    shown = [c for c in PROFILES[summary.profile] if c.name in summary.corruptions]
    kinds = list(dict.fromkeys(c.kind for c in shown))
    height = step * len(shown) + 24
    parts = []
    for tick in range(0, 101, 20):
        x = left + width * tick / 100
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{height - 22}"/>')
        parts.append(
            f'<text class="tick" x="{x}" y="{height - 6}" text-anchor="middle">{tick}</text>'
        )
    for row, corruption in enumerate(shown):
        y = row * step
        score = summary.corruptions[corruption.name]
        if math.isnan(score):
            score = 0.0
        label = f'x="{left - 8}" y="{y + 15}" text-anchor="end"'
        parts.append(f'<text class="tick" {label}>{escape(corruption.name)}</text>')
        color = kinds.index(corruption.kind) % 6
        box = f'x="{left}" y="{y + 4}" width="{width * score / 100:.1f}" height="{step - 7}"'
        described = escape(f"{corruption.name}, {corruption.description}: {score:.2f}")
        parts.append(f'<rect class="f{color}" {box} rx="2"><title>{described}</title></rect>')
        end = left + width * score / 100 + 6
        parts.append(f'<text class="tick" x="{end:.1f}" y="{y + 15}">{score:.1f}</text>')
    if not math.isnan(summary.clean):
        x = left + width * summary.clean / 100
        parts.append(
            f'<line class="curve s1" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - 22}"/>'
        )
    box = f'viewBox="0 0 {left + width + 50} {height}" role="img" aria-label="mIoU by corruption"'
    return f'<div class="scroll"><svg {box}>{"".join(parts)}</svg></div>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td>{cell}</td>" for cell in others)
        lines.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    body = "".join(lines)
    table = f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table class="plain">{table}</table></div>'


def _types(summary: Summary) -> str:
    if not summary.types:
        return ""
    robo3d = summary.profile == "robo3d"
    head = ["Type", "mIoU, %", "R, %"]
    if robo3d:
        head = ["Type", "mIoU, %", "RR, %", "CE, %", "MinkUNet-18, %"]
    rows = []
    for kind, score in summary.types.items():
        row = [escape(kind.replace("_", " ")), _number(score.miou), _number(score.resilience)]
        if robo3d:
            row += [_number(score.error), _number(sum(ROBO3D_BASELINE[kind]) / 3)]
        rows.append(row)
    return "<h2>Types</h2>" + _table(head, rows)


def _classes(summary: Summary, results: Mapping[str, EvaluationResult]) -> str:
    ious = {name: result.iou for name, result in results.items()}
    classes = next(iter(results.values())).classes[IGNORE + 1 :]
    rows = []
    for name, iou in ious.items():
        row = [escape(name)]
        for cls in classes:
            value = iou.get(cls)
            if value is not None:
                value = 100 * value
            row.append(_number(value))
        rows.append(row)
    table = _table(["IoU, %", *map(escape, classes)], rows)
    return f"<details><summary>IoU of every class under every corruption</summary>{table}</details>"


def _scenes(summary: Summary, pictures: Mapping[str, bytes], labels: LabelSpace) -> str:
    if not pictures:
        return ""
    captions = {c.name: f"{c.name}, {c.description}" for c in PROFILES[summary.profile]}
    figures = []
    for name, data in pictures.items():
        source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        caption = escape(captions.get(name, name))
        figures.append(
            f'<figure><img alt="{escape(name)}" src="{source}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    classes = ("without a class", *labels.classes[IGNORE + 1 :])
    return (
        '<h2>One scan under each corruption</h2><p class="soft">Left what the scanner reports, in the colours of the '
        "truth; right the model's errors in red. From above, 40 m around the sensor.</p>"
        + legend(classes, _palette(labels))
        + f'<div class="views" style="{_TWO_COLUMNS}">{"".join(figures)}</div>'
    )
