"""A page that answers a click on a point, a pixel or a superpixel with what is like it in the scan and its images."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from core.engine.report.color_scale import scale_table
from core.engine.report.embedding import EmbeddedCamera, EmbeddedScan, Packed, pack_all, pca_colors
from core.engine.report.pictures import encode_photo
from core.engine.report.scenes import thousands
from core.engine.report.similarity_picture import Query, extent_of
from core.engine.report.style import page
from core.io import write_text

__all__ = ["write_similarity_page"]

_SCRIPT = Path(__file__).with_name("similarity_page.js")
_NO_LABEL = 65535  # of a superpixel, in the page
_STYLE = """
main{max-width:1500px}
.stage{display:grid;gap:20px;grid-template-columns:minmax(0,1fr) minmax(0,1fr);align-items:start}
canvas{display:block;width:100%;border-radius:10px;background:#0d1016;cursor:crosshair;touch-action:none}
#cloud{aspect-ratio:1}
#cameras{display:grid;gap:10px;grid-template-columns:1fr 1fr}
#cameras.single{grid-template-columns:1fr}
#cameras figcaption{margin:2px 0 0;font-weight:400}
.controls{display:flex;gap:8px 22px;align-items:center;flex-wrap:wrap;margin:0 0 14px;font-size:.92rem}
.controls label{display:flex;gap:8px;align-items:center}
.controls input[type=range]{width:150px;accent-color:var(--accent)}
select,button{font:inherit;color:var(--ink);background:var(--track);border:1px solid var(--line);border-radius:8px;
padding:4px 10px}
output{min-width:3.4em}
#bar{height:14px;width:260px;border-radius:4px;cursor:default}
.scale[hidden]{visibility:hidden}
.scale{display:flex;gap:8px;align-items:center}
#asked{font-weight:600;margin:0 0 4px}
@media (max-width:1000px){.stage{grid-template-columns:1fr}}
"""


def write_similarity_page(
    path: Path, scan: EmbeddedScan, *, title: str, facts: str, wanted: float, query: Query
) -> float:
    """Write the page, atomically; it holds all its data and asks the network for nothing.

    Args:
        title, facts: plain text: the method and the data set; the checkpoint.
        wanted: error of a similarity, at most. query: what the page shows at first.

    Returns:
        the bound that holds: no similarity in the page differs by more from that of the features.
    """
    packed, bound = pack_all([scan.features, scan.pixels, scan.superpixels], wanted)
    of_points, of_pixels, explained = pca_colors(scan.features, scan.pixels)
    data = {
        "extent": extent_of(scan.points),
        "points": _bytes(scan.points.astype("<f4")),
        "features": [_plain(part) for part in packed],
        "colors": [_bytes(of_points), _bytes(of_pixels)],
        "scale": _bytes(scale_table()),
        "cameras": [_camera(camera) for camera in scan.cameras],
        "query": query.point,
        "bound": bound,
    }
    width = packed[0].values.shape[1]
    shares = ", ".join(f"{100 * share:.0f} %" for share in explained)
    told = (
        f"Each of {thousands(len(scan.points))} points and {thousands(len(scan.pixels))} pixels keeps "
        f"{width} of {scan.features.shape[1]} values, in one byte each: no similarity is off by more than "
        f"{bound:.4f}. Colours are the three main components of points and pixels together, in one basis and on one "
        f"scale; they hold {shares} of the variance."
    )
    script = _SCRIPT.read_text(encoding="utf-8")
    body = _body(title, scan, facts, told)
    footer = "Written by LiDistill. Everything is in this file."
    write_text(path, page(title, body, footer, script, data, _STYLE))
    return bound


def _bytes(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _plain(packed: Packed) -> dict[str, Any]:
    return {
        "values": _bytes(packed.values),
        "low": packed.low.tolist(),
        "step": packed.step.tolist(),
    }


def _camera(camera: EmbeddedCamera) -> dict[str, Any]:
    labels = None
    if camera.labels is not None:
        labels = _bytes(np.where(camera.labels < 0, _NO_LABEL, camera.labels).astype("<u2"))
    return {
        "name": camera.name,
        "picture": base64.b64encode(encode_photo(camera.picture)).decode(),
        "shown": list(camera.picture.shape[1::-1]),
        "size": list(camera.size),
        "grid": list(camera.grid),
        "labels": labels,
        "superpixels": len(camera.superpixels),
        "seen": _bytes(camera.seen.astype("<u4")),
        "places": _bytes(camera.places.astype("<f4")),
    }


def _body(title: str, scan: EmbeddedScan, facts: str, told: str) -> str:
    single = ' class="single"' if len(scan.cameras) == 1 else ""
    superpixels = ""
    if len(scan.superpixels):
        superpixels = (
            '<label>A click in an image asks for <select id="kind"><option value="pixel">the pixel</option>'
            '<option value="superpixel">the superpixel</option></select></label>'
        )
    return (
        f'<div class="over">LiDistill · similarity</div><h1>{escape(title)}</h1>'
        f'<p class="soft"><span class="token">{escape(scan.token)}</span><br>{escape(facts)}</p>'
        "<noscript><p>This page answers clicks by a script, which this browser does not run.</p></noscript>"
        '<section><p id="asked"></p><div class="controls">'
        '<label>Colours <select id="mode"><option value="similarity">similarity</option>'
        f'<option value="features">features (PCA)</option></select></label>{superpixels}'
        '<label>Scale <select id="span"><option value="apart">points and images apart'
        '</option><option value="both">one for both</option><option value="whole">-1 to 1</option></select></label>'
        '<label>Shown from <input id="threshold" type="range" min="-1" max="1" step="0.01" value="-1">'
        '<output id="level"></output></label>'
        '<label>Opacity <input id="opacity" type="range" min="0" max="1" step="0.05" value="0.65"></label>'
        '<span class="scale" id="legend"><canvas id="bar" width="256" height="1"></canvas>'
        '<span id="ends"></span></span></div>'
        '<div class="stage"><div><canvas id="cloud"></canvas>'
        '<p class="soft">Click a point; wheel zooms, dragging moves. x right, y up; rings every 10 m.</p></div>'
        f'<div><div id="cameras"{single}></div><p class="soft" id="under">&nbsp;</p></div></div></section>'
        '<section><h2>What is most like it</h2><div class="scroll"><table id="best"></table></div>'
        f'<p class="soft" style="margin-top:14px">{escape(told)}</p></section>'
    )
