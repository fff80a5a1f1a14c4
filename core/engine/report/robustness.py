"""The robustness page: scores, a bar per corruption, and one scan under each of them; everything in one file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from core.contracts import IGNORE
from core.data.corruptions import PROFILES
from core.engine.report.pictures import birds_eye, encode_png, error_colors, legible, side_by_side
from core.engine.report.robustness_scores import ROBO3D_BASELINE, Summary
from core.engine.report.scenes import legend
from core.engine.report.style import page
from core.labels import LabelSpace
from core.metrics import EvaluationResult

__all__ = ["picture", "robustness_page"]

LOST = (255, 110, 90)  # points without a class: outliers, fog, snow, and what was never labelled
_EXTENT = 40.0  # m
_TITLES = {"semantickitti-c": "SemanticKITTI-C (Yan et al.)", "robo3d": "Robo3D"}
_TWO_COLUMNS = "grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr))"
_DASH = '<span class="none">–</span>'


def picture(
    points: np.ndarray, truth: np.ndarray, prediction: np.ndarray, labels: LabelSpace, like: int
) -> bytes:
    """PNG of one scan from above: what the scanner reports, in the colours of the truth, and where the model errs.

    Args:
        points: [N, 3] m. truth, prediction: [N] train ids. like: points of the clean scan, which dots are sized for.
    """
    palette = _palette(labels)
    wrong = (prediction != truth) & (truth != IGNORE)
    panels = [
        ("points", birds_eye(points, palette[truth], _EXTENT, 400, truth == IGNORE, like)),
        ("errors", birds_eye(points, error_colors(truth, prediction), _EXTENT, 400, wrong, like)),
    ]
    return encode_png(side_by_side(panels))


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
        f'<h2>Corruptions</h2><p class="soft">mIoU in percent; the line is the clean score.</p>{_bars(summary)}',
        _types(summary),
        _classes(summary, results),
        _scenes(summary, pictures, labels),
        "<h2>Reproduce</h2><dl>"
        + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
        + "</dl>",
    ]
    title = f"Robustness, {_TITLES[summary.profile]}"
    header = f'<div class="over">LiDistill · robustness</div><h1>{escape(title)}</h1>'
    body = "\n".join(f"<section>{section}</section>" for section in sections if section)
    return page(title, f"{header}\n{body}", "Written by LiDistill. Everything is in this file.")


def _number(value: float | None) -> str:
    return _DASH if value is None or value != value else f"{value:.1f}"


def _headline(summary: Summary) -> str:
    robo3d = summary.profile == "robo3d"
    names = ("mRR", "mCE") if robo3d else ("mR", "RmIoU")
    main = summary.mean_resilience if robo3d else summary.mean_miou
    boxes = [
        (summary.clean, "clean mIoU, %"),
        (summary.mean_resilience, f"{names[0]}, % of the clean score kept"),
    ]
    if robo3d:
        boxes += [(summary.mean_error, f"{names[1]}, % of MinkUNet-18's errors (lower is better)")]
    boxes += [(summary.mean_miou, "RmIoU: mean over types, %")]
    tiles = "".join(
        f'<div class="tile"><b>{_number(value)}</b><span>{label}</span></div>'
        for value, label in boxes
    )
    partly = (
        ""
        if main is not None
        else "<p>Not every corruption was scored, so there is no mean over the types.</p>"
    )
    note = (
        "RR = mean mIoU over three severities, of the clean mIoU; CE = errors over the errors of a MinkUNet-18."
        if robo3d
        else "The mIoU of a type is the mean over its severities; RmIoU and mR are means over the six types."
    )
    big = f'<div class="big">{_number(main)}<small>% {"mRR" if robo3d else "RmIoU"}</small></div>'
    text = f'<div><p>{escape(_TITLES[summary.profile])}</p>{partly}<p class="soft">{note}</p></div>'
    return f'<div class="hero">{big}{text}</div><div class="tiles">{tiles}</div>'


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
        score, y = summary.corruptions[corruption.name], row * step
        score = 0.0 if score != score else score
        label = f'x="{left - 8}" y="{y + 15}" text-anchor="end"'
        parts.append(f'<text class="tick" {label}>{escape(corruption.name)}</text>')
        box = f'x="{left}" y="{y + 4}" width="{width * score / 100:.1f}" height="{step - 7}"'
        about = f"{corruption.name}, {corruption.description}: {score:.2f}"
        parts.append(
            f'<rect class="f{kinds.index(corruption.kind) % 6}" {box} rx="2"><title>{escape(about)}</title></rect>'
        )
        parts.append(
            f'<text class="tick" x="{left + width * score / 100 + 6:.1f}" y="{y + 15}">{score:.1f}</text>'
        )
    if summary.clean == summary.clean:
        x = left + width * summary.clean / 100
        parts.append(
            f'<line class="curve s1" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - 22}"/>'
        )
    box = f'viewBox="0 0 {left + width + 50} {height}" role="img" aria-label="mIoU by corruption"'
    return f'<div class="scroll"><svg {box}>{"".join(parts)}</svg></div>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return f'<div class="scroll"><table class="plain"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _types(summary: Summary) -> str:
    if not summary.types:
        return ""
    robo3d = summary.profile == "robo3d"
    head = [
        "Type",
        "mIoU, %",
        "RR, %" if robo3d else "R, %",
        *(["CE, %", "MinkUNet-18, %"] if robo3d else []),
    ]
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
            row.append(_number(None if value is None else 100 * value))
        rows.append(row)
    table = _table(["IoU, %", *map(escape, classes)], rows)
    return f"<details><summary>IoU of every class under every corruption</summary>{table}</details>"


def _scenes(summary: Summary, pictures: Mapping[str, bytes], labels: LabelSpace) -> str:
    if not pictures:
        return ""
    about = {c.name: f", {c.description}" for c in PROFILES[summary.profile]}
    figures = "".join(
        f'<figure><img alt="{escape(name)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        f"<figcaption>{escape(name + about.get(name, ''))}</figcaption></figure>"
        for name, data in pictures.items()
    )
    classes = ("without a class", *labels.classes[IGNORE + 1 :])
    return (
        '<h2>One scan under each corruption</h2><p class="soft">Left what the scanner reports, in the colours of the '
        "truth; right the model's errors in red. From above, 40 m around the sensor.</p>"
        + legend(classes, _palette(labels))
        + f'<div class="views" style="{_TWO_COLUMNS}">{figures}</div>'
    )
