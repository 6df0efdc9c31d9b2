"""The model: its sites as a table and as a graph."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bayes.diagnostics.report.contents import Block, Case, Facts, Figure, Section, Table, Text
from bayes.diagnostics.report.sections.graph_layout import Box, Layout, lay_out
from bayes.diagnostics.report.sections.graph_order import Node
from bayes.diagnostics.report.sections.wording import listed

__all__ = ["graph", "model"]

_MOST_SITES = 40
"""A graph of more could not be read."""
_MOST_LETTERS = 24
_HEIGHT = 34.0
_KINDS = ("latent", "discrete", "observed", "deterministic", "factor")

Card = Mapping[str, Any]


def model(case: Case) -> Section | None:
    """The sites of the model with their priors, and how they depend on each other.

    Parameters
    ----------
    case : Case
        Its card.

    Returns
    -------
    Section or None
        None where the card says nothing of the model's sites.
    """
    card = case.card.get("model") or {}
    sites = card.get("sites") or ()
    if not sites:
        return None
    sizes = _sizes(case, sites)
    blocks: list[Block] = [_facts(card, sites)]
    missing = ""
    related = any(site.get("parents") for site in sites)
    if len(sites) > _MOST_SITES:
        blocks.append(
            Text(
                f"A graph of {len(sites)} sites could not be read and is left out (at most "
                f"{_MOST_SITES} are drawn); the table has all of them."
            )
        )
    elif related:
        blocks.append(graph(sites, sizes))
    elif any(site["kind"] == "observed" for site in sites):
        missing = (
            "the graph: what depends on what is not known without the program "
            "(bayes.load(path, model=...))"
        )
    blocks.append(_table(sites, sizes))
    values = {
        "name": card.get("name"),
        "sites": len(sites),
        "kinds": {k: n for k in _KINDS if (n := sum(s["kind"] == k for s in sites))},
        "unknowns": _unknowns(sites),
        "edges": [[parent, s["name"]] for s in sites for parent in s.get("parents") or ()],
    }
    return Section("model", "Model", tuple(blocks), missing, values)


def _unknowns(sites: Sequence[Card]) -> int:
    return sum(int(np.prod(s["shape"])) for s in sites if s["kind"] in ("latent", "discrete"))


def _facts(card: Card, sites: Sequence[Card]) -> Facts:
    rows = [("Program", str(card.get("name", "")))]
    rows.append(("Unknowns", f"{_unknowns(sites)} numbers in {_number_of('latent', sites)}"))
    for kind, label in (
        ("discrete", "Discrete sites"),
        ("deterministic", "Derived sites"),
        ("observed", "Observed sites"),
        ("factor", "Factors"),
    ):
        names = [s["name"] for s in sites if s["kind"] == kind]
        if names:
            rows.append((label, listed(names)))
    changed = card.get("reparametrised")
    if changed:
        rows.append(("Reparametrised", listed(list(map(str, changed)))))
    return Facts(tuple((label, value) for label, value in rows if value))


def _number_of(kind: str, sites: Sequence[Card]) -> str:
    count = sum(site["kind"] == kind for site in sites)
    return f"{count} {kind} site" + ("" if count == 1 else "s")


def _table(sites: Sequence[Card], sizes: Mapping[str, Any]) -> Table:
    columns = ("site", "kind", "distribution", "support", "shape", "plates", "depends on")
    rows = tuple(
        (
            str(s["name"]),
            str(s["kind"]),
            str(s.get("distribution") or ""),
            str(s.get("support") or ""),
            " × ".join(map(str, s.get("shape") or ())) or "scalar",
            ", ".join(f"{name} ({sizes[name]})" if name in sizes else name for name in _plates(s)),
            _parents_not_said(s),
        )
        for s in sites
    )
    filled = [k for k in range(len(columns)) if k < 5 or any(row[k] for row in rows)]
    return Table(
        tuple(columns[k] for k in filled),
        tuple(tuple(row[k] for k in filled) for row in rows),
        "Sites in the order of the program.",
        searchable=len(rows) > 20,
    )


def _parents_not_said(site: Card) -> str:
    """Parents, where the distribution does not name them all."""
    parents = list(map(str, site.get("parents") or ()))
    said = str(site.get("distribution") or "")
    return "" if all(re.search(rf"\b{re.escape(p)}\b", said) for p in parents) else listed(parents)


def _plates(site: Card) -> tuple[str, ...]:
    return tuple(map(str, site.get("plates") or ()))


def _sizes(case: Case, sites: Sequence[Card]) -> dict[str, int]:
    """Sizes of the plates: those of the dimensions that have their names."""
    groups = [case.tree[g] for g in ("posterior", "observed_data") if g in case.tree.children]
    names = {name for site in sites for name in _plates(site)}
    return {str(d): n for g in groups for d, n in g.sizes.items() if str(d) in names}


def graph(sites: Sequence[Card], sizes: Mapping[str, int]) -> Figure:
    """Draw sites and plates.

    Parameters
    ----------
    sites : sequence of mapping
        As in the card of a :class:`Case`.
    sizes : mapping
        Sizes of plates, by name, as far as they are known.

    Returns
    -------
    Figure
    """
    plates = dict.fromkeys(name for s in sites for name in _plates(s))
    labels = {
        name: _short(name) + (f" · {sizes[name]}" if name in sizes else "") for name in plates
    }
    nodes = [
        Node(
            s["name"],
            _width(s),
            _HEIGHT if _second_line(s) else 22.0,
            frozenset(_plates(s)),
            tuple(s.get("parents") or ()),
        )
        for s in sites
    ]
    layout = lay_out(nodes, labels)
    parts = [_box(box, labels[box.plate]) for box in layout.boxes]
    parts += [_arrow(path) for path in layout.paths]
    for site, node in zip(sites, nodes, strict=True):
        parts.append(_node(site, node, *layout.places[node.name]))
    return Figure(_svg(layout, parts), _caption(sites), _summary(sites, sizes))


def _svg(layout: Layout, parts: list[str]) -> str:
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {layout.width:.1f} {layout.height:.1f}" font-size="9.5" '
        'font-family="sans-serif" text-anchor="middle" fill="none" stroke="none">'
        f"{''.join(parts)}</svg>"
    )


def _short(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"


def _second_line(site: Card) -> str:
    return str(site.get("distribution") or "").split("(")[0]


def _width(site: Card) -> float:
    """Width in points: letters are 0.55 em on average, and an ellipse is narrower than its box."""
    text = max(5.3 * len(_short(site["name"])), 4.4 * len(_short(_second_line(site))))
    return text + 8 if site["kind"] in ("deterministic", "factor") else max(48.0, 1.18 * text + 18)


def _node(site: Card, node: Node, x: float, y: float) -> str:
    kind = site["kind"]
    line = 'stroke="currentColor" stroke-width="1"'
    shape = ""
    if kind == "factor":
        shape = (
            f'<rect x="{x - node.width / 2:.1f}" y="{y - node.height / 2:.1f}" '
            f'width="{node.width:.1f}" height="{node.height:.1f}" {line}/>'
        )
    elif kind != "deterministic":
        shade = ' fill="currentColor" fill-opacity="0.16"' if kind == "observed" else ""
        dashes = ' stroke-dasharray="4 2.5"' if kind == "discrete" else ""
        shape = (
            f'<ellipse cx="{x:.1f}" cy="{y:.1f}" rx="{node.width / 2:.1f}" '
            f'ry="{node.height / 2:.1f}" {line}{shade}{dashes}/>'
        )
    second = _second_line(site)
    first = y - 1.5 if second else y + 3.2
    words = _words(_short(site["name"]), x, first)
    if second:
        words += _words(_short(second), x, y + 9, ' font-size="8" fill-opacity="0.7"')
    return f"<g><title>{html.escape(site['name'])}</title>{shape}{words}</g>"


def _words(text: str, x: float, y: float, more: str = "") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text {place} fill="currentColor"{more}>{html.escape(text)}</text>'


def _box(box: Box, label: str) -> str:
    return (
        f'<rect x="{box.left:.1f}" y="{box.top:.1f}" width="{box.right - box.left:.1f}" '
        f'height="{box.bottom - box.top:.1f}" rx="4" stroke="currentColor" stroke-width="0.8" '
        'stroke-opacity="0.55"/>'
        + _words(label, box.right - 6, box.bottom - 4.5, ' font-size="8" text-anchor="end"')
    )


def _arrow(points: list[tuple[float, float]]) -> str:
    """A smooth line through points that leaves and arrives upright, with a head."""
    (x, y), *rest = points
    path = [f"M{x:.1f} {y:.1f}"]
    end_x, end_y = rest[-1]
    rest[-1] = end_x, end_y - 4
    for to_x, to_y in rest:
        middle = (y + to_y) / 2
        path.append(f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}")
        x, y = to_x, to_y
    head = f"M{end_x:.1f} {end_y:.1f}l-2.6 -6.5h5.2z"
    return (
        f'<path d="{"".join(path)}" stroke="currentColor" stroke-width="0.9" '
        f'stroke-opacity="0.75"/><path d="{head}" fill="currentColor"/>'
    )


def _caption(sites: Sequence[Card]) -> str:
    kinds = {site["kind"] for site in sites}
    said = {
        "latent": "ellipses are unknown",
        "discrete": "dashed ones discrete",
        "observed": "shaded ones observed",
        "deterministic": "plain names computed from others",
        "factor": "squares terms added to the log density",
    }
    words = ", ".join(text for kind, text in said.items() if kind in kinds)
    plates = any(site.get("plates") for site in sites)
    boxes = " A box repeats what is in it, as often as its corner says." if plates else ""
    return f"Sites of the model: {words}; an arrow leads to what depends on a site.{boxes}"


def _summary(sites: Sequence[Card], sizes: Mapping[str, Any]) -> str:
    links = [f"{s['name']} depends on {listed(list(s['parents']))}" for s in sites if s["parents"]]
    plates = [f"{name} of size {size}" for name, size in sizes.items()]
    tail = f" Plates: {listed(plates)}." if plates else ""
    return f"Graph of {len(sites)} sites: {listed(links, 12)}.{tail}"
