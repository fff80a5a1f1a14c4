"""Style sheet and frame of pages. No script, no font, no picture comes from outside the file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from html import escape
from typing import Any

__all__ = ["page", "ribbon"]

_STYLE = """
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#14181f;--soft:#5b6472;--line:#e3e6eb;--track:#eceff3;
--accent:#0b7a75;--bad:#d13c3c;--shade:0 1px 2px rgba(20,24,31,.05),0 8px 24px rgba(20,24,31,.05);
--c0:#0b7a75;--c1:#c2571a;--c2:#5b5bd6;--c3:#a8328f;--c4:#6f7d1c;--c5:#3878b8}
@media (prefers-color-scheme:dark){:root{--bg:#0e1116;--card:#161b22;--ink:#e8ebf0;--soft:#98a2b1;--line:#262d37;
--track:#232a34;--accent:#3fc7bf;--bad:#ff6b6b;--shade:none;
--c0:#3fc7bf;--c1:#f0975c;--c2:#9a9aff;--c3:#e07fcb;--c4:#b7c653;--c5:#72b1ee}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
font-variant-numeric:tabular-nums}
main{max-width:1080px;margin:0 auto;padding:40px 20px 72px}
h1{font-size:clamp(1.6rem,1.2rem + 2vw,2.3rem);line-height:1.15;letter-spacing:-.02em;margin:4px 0 0;
overflow-wrap:anywhere;text-wrap:balance}
h2{font-size:1.25rem;letter-spacing:-.01em;margin:0 0 4px}
h3{font-size:1rem;margin:24px 0 8px}
p{margin:0 0 12px;max-width:72ch}
a{color:var(--accent)}
.over,.soft,figcaption,dt,.keys,.legend,summary small{color:var(--soft)}
.over{font-size:.78rem;letter-spacing:.08em;text-transform:uppercase;font-weight:600}
.soft{font-size:.92rem}
nav{display:flex;flex-wrap:wrap;gap:4px 20px;margin:20px 0 0;font-size:.92rem}
nav a{text-decoration:none;padding:6px 0}
nav a:hover{text-decoration:underline}
section{background:var(--card);border:1px solid var(--line);border-radius:16px;box-shadow:var(--shade);
padding:clamp(20px,3vw,32px);margin-top:20px;scroll-margin-top:12px}
.hero{display:grid;gap:24px 48px;grid-template-columns:auto 1fr;align-items:center}
.big{font-size:clamp(3.6rem,2.6rem + 5vw,5.6rem);line-height:1;font-weight:700;letter-spacing:-.04em;
color:var(--accent)}
.big small{font-size:.32em;font-weight:600;letter-spacing:0;color:var(--soft);margin-left:.25em}
.hero p:last-child{margin:0}
.ribbon{margin:12px 0 0;padding:8px 16px;border-radius:8px;background:var(--track);color:var(--ink);font-weight:600;
font-size:.92rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:12px;margin:20px 0 0}
.tile{border:1px solid var(--line);border-radius:12px;padding:12px 16px}
.tile b{display:block;font-size:1.45rem;line-height:1.3;letter-spacing:-.02em}
.tile span{display:block;font-size:.84rem;line-height:1.4;color:var(--soft)}
.scroll{overflow-x:auto;margin:16px calc(-1*clamp(20px,3vw,32px)) 0;padding:0 clamp(20px,3vw,32px) 4px}
table{border-collapse:separate;border-spacing:0;width:100%;font-size:.92rem}
th,td{padding:7px 14px 7px 0;text-align:right;white-space:nowrap;border-top:1px solid var(--line)}
th:last-child,td:last-child{padding-right:0}
thead th{border-top:0;color:var(--soft);font-weight:600;font-size:.82rem;vertical-align:bottom}
th:first-child{text-align:left;font-weight:500;position:sticky;left:0;background:var(--card);white-space:normal;
min-width:7em}
.single th:first-child,.several th:first-child{white-space:nowrap}
.several thead th:not(:first-child){width:1%;white-space:normal}
tr.sum>*{border-top:2px solid var(--line);font-weight:700}
td.best{font-weight:700}
.none{color:var(--soft)}
.swatch,.key{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:10px;vertical-align:-1px;
box-shadow:inset 0 0 0 1px rgba(128,128,128,.35)}
.score{display:flex;align-items:center;gap:12px;justify-content:flex-end}
.bar{flex:1 1 120px;min-width:72px;max-width:280px;height:8px;border-radius:4px;background:var(--track);overflow:hidden}
.bar i{display:block;height:100%;border-radius:4px;background:var(--accent)}
.several .bar{max-width:96px}
.score b{min-width:2.9em;font-weight:inherit}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,380px),1fr));gap:24px;margin-top:16px}
figure{margin:0;min-width:0}
figcaption{font-size:.88rem;font-weight:600;margin-bottom:6px}
svg{display:block;width:100%;height:auto;overflow:visible}
.grid{stroke:var(--line)}
.tick{fill:var(--soft);font-size:11px}
.curve{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.band{opacity:.16}
.s0{stroke:var(--c0)}.s1{stroke:var(--c1)}.s2{stroke:var(--c2)}.s3{stroke:var(--c3)}.s4{stroke:var(--c4)}.s5{stroke:var(--c5)}
.f0{fill:var(--c0)}.f1{fill:var(--c1)}.f2{fill:var(--c2)}.f3{fill:var(--c3)}.f4{fill:var(--c4)}.f5{fill:var(--c5)}
.k0{background:var(--c0)}.k1{background:var(--c1)}.k2{background:var(--c2)}.k3{background:var(--c3)}
.k4{background:var(--c4)}.k5{background:var(--c5)}
.keys,.legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:.84rem;margin-top:8px}
.keys .key,.legend .swatch{margin-right:7px}
.matrix{width:var(--w);min-width:560px;max-width:100%;margin:0 auto}
.matrix .name{fill:var(--ink);font-size:12px}
.matrix .faded{fill:var(--soft)}
.cell.empty{fill:var(--track)}.cell.right{fill:var(--accent)}.cell.wrong{fill:var(--bad)}
.share{fill:var(--ink);font-size:10.5px;text-anchor:middle;pointer-events:none}
.share.strong{fill:var(--card);font-weight:600}
.views{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,270px),1fr));gap:14px;margin-top:14px}
.views img{display:block;width:100%;height:auto;border-radius:10px;background:#0d1016}
details{border-top:1px solid var(--line);margin-top:16px;padding-top:14px}
summary{cursor:pointer;font-weight:600;overflow-wrap:anywhere}
summary small{font-weight:400;margin-left:.5em}
.token{word-break:break-all}
pre{margin:12px 0 0;padding:14px 16px;border-radius:10px;background:var(--track);font-size:.84rem;line-height:1.5;
overflow-x:auto;font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre.wrap{white-space:pre-wrap;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:max-content 1fr;gap:6px 24px;margin:16px 0 0;font-size:.92rem}
dd{margin:0;overflow-wrap:anywhere}
footer{color:var(--soft);font-size:.84rem;margin-top:28px;text-align:center}
@media (max-width:640px){main{padding:24px 12px 48px}.hero{grid-template-columns:1fr}dl{grid-template-columns:1fr;gap:0}
dd{margin-bottom:10px}section{border-radius:14px}.tiles{grid-template-columns:1fr 1fr;gap:10px}
.tile{padding:10px 14px}.tile b{font-size:1.25rem}.several .bar{display:none}
.score{gap:8px}table{font-size:.86rem}th,td{padding-right:10px}.swatch{margin-right:7px}
.plain th:first-child{min-width:5em}.tick{font-size:13px}
nav{gap:2px 16px}summary{font-size:.95rem}
summary small{display:block;margin:2px 0 0}}
@media print{body{background:#fff}section{box-shadow:none;break-inside:avoid-page}nav{display:none}}
"""

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # the browser itself enforces self-containment


def ribbon(caveat: str) -> str:
    """HTML of a line across the page that no reader overlooks; empty for no caveat."""
    if not caveat:
        return ""
    return f'<div class="ribbon" role="note">{escape(caveat)}</div>'


def page(
    title: str,
    body: str,
    footer: str,
    script: str = "",
    data: Mapping[str, Any] | None = None,
    style: str = "",
) -> str:
    """A whole HTML document.

    Args:
        title, footer: plain text, escaped here. body: HTML.
        script: JavaScript that runs once the body is there; the page allows this one, by its hash, and no other.
        data: what the script finds as JSON in the element ``data``.
        style: CSS beside that of all pages.
    """
    policy = _POLICY
    end = ""
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
        text = json.dumps(data or {}, allow_nan=False, separators=(",", ":")).replace(
            "<", "\\u003c"
        )
        end = f'<script type="application/json" id="data">{text}</script><script>{script}</script>'
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head>\n"
        f"<body><main>\n{body}\n<footer>{escape(footer)}</footer></main>{end}</body></html>\n"
    )
