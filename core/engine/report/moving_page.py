"""A page that steps through a sequence: what moves in each scan, what of it was found, and the scores."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from core.engine.report.outcomes import LEGEND
from core.engine.report.scenes import swatch
from core.engine.report.style import page
from core.io import write_text

__all__ = ["MovingCounts", "MovingView", "write_moving_page"]

_SCRIPT = Path(__file__).with_name("moving_page.js")
_STYLE = """
main{max-width:1240px}
.stage{display:grid;gap:24px;grid-template-columns:minmax(0,1fr) 280px;align-items:start}
.stage img{display:block;width:100%;max-width:900px;height:auto;border-radius:10px;background:#0d1016}
.controls{display:flex;gap:10px;align-items:center;flex-wrap:wrap;margin:0 0 14px}
.controls input[type=range]{flex:1 1 240px;accent-color:var(--accent)}
button,select{font:inherit;font-size:.92rem;color:var(--ink);background:var(--track);border:1px solid var(--line);
border-radius:8px;padding:5px 12px;cursor:pointer}
button:hover{border-color:var(--accent)}
.facts{display:grid;grid-template-columns:1fr auto auto;gap:4px 16px;margin:0;font-size:.95rem}
.facts b,.facts span{text-align:right}
.facts .head{color:var(--soft);font-size:.82rem}
.stage .legend{flex-direction:column;margin-top:16px}
#chart{cursor:pointer;margin-top:8px}
.cursor{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:3 3}
kbd{font-family:inherit;border:1px solid var(--line);border-radius:4px;padding:0 5px;font-size:.84rem}
@media (max-width:900px){.stage{grid-template-columns:1fr}}
"""


@dataclass(frozen=True)
class MovingCounts:
    """Points moving and found, found in vain, moving and missed; and the scores of them.

    Attributes:
        scores: iou, precision, recall in percent, None where there is nothing to count.
    """

    hits: int
    false: int
    missed: int
    scores: Mapping[str, float | None]


@dataclass(frozen=True)
class MovingView:
    """One scan of the sequence.

    Attributes:
        picture: PNG of the scan from above.
    """

    token: str
    picture: bytes
    counts: MovingCounts


def write_moving_page(
    path: Path,
    views: Sequence[MovingView],
    overall: MovingCounts,
    *,
    title: str,
    facts: str,
) -> None:
    """Write the page, atomically; it holds all its pictures and asks the network for nothing.

    Args:
        views: in the order in which they are stepped through. overall: of all of them, one count over their points.
        title: plain text. facts: plain text below it: whose predictions, of which scans.
    """
    scans = []
    for view in views:
        picture = base64.b64encode(view.picture).decode()
        scans.append({"token": view.token, "picture": picture, **_plain(view.counts)})
    data = {"scans": scans, "overall": _plain(overall)}
    script = _SCRIPT.read_text(encoding="utf-8")
    footer = "Written by LiDistill. Everything is in this file."
    body = _body(title, facts, len(views))
    write_text(path, page(title, body, footer, script, data, _STYLE))


def _plain(counts: MovingCounts) -> dict[str, float | None]:
    found: dict[str, float | None] = {
        "hits": counts.hits,
        "false": counts.false,
        "missed": counts.missed,
    }
    return found | dict(counts.scores)


def _body(title: str, facts: str, count: int) -> str:
    keys = "".join(f"<span>{swatch(color)}{escape(name)}</span>" for name, color in LEGEND)
    lines = "".join(
        f'<span><i class="key k{k}"></i>{name}</span>'
        for k, name in enumerate(("IoU", "precision", "recall"))
    )
    return (
        f'<div class="over">LiDistill · moving objects</div><h1>{escape(title)}</h1>'
        f'<p class="soft">{escape(facts)}</p>'
        "<noscript><p>The pictures are stepped through by a script, which this browser does not run.</p></noscript>"
        '<section><div class="controls">'
        '<button id="play" title="space">Play</button>'
        '<button id="back" title="arrow left" aria-label="scan before">◀</button>'
        '<button id="next" title="arrow right" aria-label="scan after">▶</button>'
        f'<input id="slider" type="range" min="0" max="{count - 1}" value="0" step="1" aria-label="scan">'
        '<select id="rate" aria-label="scans per second"><option value="2">2 / s</option>'
        '<option value="5">5 / s</option><option value="10" selected>10 / s</option>'
        '<option value="20">20 / s</option></select>'
        '<button id="worst" title="w">Lowest IoU</button></div>'
        '<div class="stage"><img id="picture" alt="scan from above"><div>'
        '<h2 id="token" class="token"></h2><p id="place" class="soft"></p>'
        '<div id="facts" class="facts"></div>'
        f'<div class="legend">{keys}</div>'
        '<p class="soft" style="margin-top:16px">x points right, y up; rings at 20 m and 50 m. '
        "Points without a label do not count. IoU = TP / (TP + FP + FN).</p>"
        '<p class="soft"><kbd>space</kbd> play, <kbd>←</kbd> <kbd>→</kbd> step, <kbd>Home</kbd> <kbd>End</kbd>, '
        "<kbd>w</kbd> lowest IoU</p></div></div></section>"
        f'<section><h2>Scan by scan</h2><div class="keys">{lines}</div>'
        '<svg id="chart" viewBox="0 0 1000 190" role="img" aria-label="scores of each scan"></svg></section>'
    )
