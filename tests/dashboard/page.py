"""The dashboard as a page: each panel where it stands, with what its queries found."""

from __future__ import annotations

import html
import re
from typing import Any, Dict, List, Sequence, Tuple

Json = Any
# A name, and its values by their times.
Series = Tuple[str, List[Tuple[float, float]]]

COLUMN, ROW = 52, 34
COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f", "#475569", "#b45309")
UNITS = {"reqps": " req/s", "ms": " ms", "s": " s", "currencyUSD": " $", "short": ""}
STYLE = """
body { margin: 0; font: 13px system-ui, "DejaVu Sans", sans-serif; background: #f1f5f9; color: #1f2937; }
h1 { font-size: 17px; margin: 14px 16px 4px; } h1 small { font-weight: 400; color: #64748b; }
.panels { position: relative; margin: 8px 12px; }
.panel { position: absolute; box-sizing: border-box; padding: 8px 10px; background: #fff; border: 1px solid #dbe2ea;
         border-radius: 4px; overflow: hidden; }
.panel h2 { font-size: 13px; margin: 0 0 4px; }
.legend { line-height: 1.5; font-size: 11.5px; color: #475569; } .legend b { margin-right: 4px; }
table { border-collapse: collapse; width: 100%; font-size: 11.5px; } td, th { text-align: left; padding: 2px 6px;
border-bottom: 1px solid #eef2f6; } td.number { text-align: right; }
"""


def page(title: str, subtitle: str, panels: Sequence[Json], found: Dict[int, List[Series]],
         tables: Dict[int, List[Tuple[Dict[str, str], float]]]) -> str:
    """The page. `found` has the series of panels with a time axis by their ids, `tables` the rows of the others."""
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    drawn = []
    for panel in panels:
        at = panel["gridPos"]
        width, height = at["w"] * COLUMN - 8, at["h"] * ROW - 8
        unit = UNITS[panel["fieldConfig"]["defaults"]["unit"]]
        inner = (_table(tables[panel["id"]], unit) if panel["type"] == "table"
                 else _chart(found[panel["id"]], unit, width - 22, height - 90))
        drawn.append(f'<div class="panel" style="left:{at["x"] * COLUMN}px;top:{at["y"] * ROW}px;width:{width}px;'
                     f'height:{height}px"><h2>{html.escape(panel["title"])}</h2>{inner}</div>')
    return (f'<!doctype html><meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
            f'<h1>{html.escape(title)} <small>{html.escape(subtitle)}</small></h1>'
            f'<div class="panels" style="width:{24 * COLUMN}px;height:{bottom * ROW}px">{"".join(drawn)}</div>\n')


def name_of(legend: str, labels: Dict[str, str]) -> str:
    """A series' name: the legend with the values of its labels."""
    return re.sub(r"{{(\w+)}}", lambda label: labels.get(label[1], ""), legend)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _chart(series: List[Series], unit: str, width: int, height: int) -> str:
    values = [value for _, points in series for _, value in points]
    times = [time for _, points in series for time, _ in points]
    if not values:
        return '<div class="legend">no data</div>'
    most = max(values) or 1.0
    begin, end = min(times), max(max(times), min(times) + 1)
    left, bottom = 58, height - 4

    def place(time: float, value: float) -> str:
        return (f"{left + (time - begin) / (end - begin) * (width - left - 4):.1f},"
                f"{bottom - value / most * (bottom - 8):.1f}")
    lines = [f'<svg width="{width}" height="{height}">']
    for part in (0.0, 0.5, 1.0):
        y = bottom - part * (bottom - 8)
        lines.append(f'<line x1="{left}" x2="{width}" y1="{y}" y2="{y}" stroke="#e5eaf0"/>'
                     f'<text x="{left - 6}" y="{y + 4}" text-anchor="end" font-size="10.5" fill="#64748b">'
                     f'{_number(most * part)}{unit}</text>')
    legend = []
    for number, (name, points) in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        lines.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" '
                     f'points="{" ".join(place(*point) for point in points)}"/>')
        legend.append(f'<b style="color:{colour}">&#9632;</b>{html.escape(name)}')
    return "".join(lines) + f'</svg><div class="legend">{" &nbsp; ".join(legend)}</div>'


def _table(rows: List[Tuple[Dict[str, str], float]], unit: str) -> str:
    names = sorted({name for labels, _ in rows for name in labels})
    head = "".join(f"<th>{html.escape(name)}</th>" for name in (*names, ""))
    body = ""
    for labels, value in sorted(rows, key=lambda row: -row[1])[:10]:
        cells = "".join(f"<td>{html.escape(labels.get(name, ''))}</td>" for name in names)
        body += f'<tr>{cells}<td class="number">{_number(value)}{unit}</td></tr>'
    return f"<table><tr>{head}</tr>{body}</table>"
