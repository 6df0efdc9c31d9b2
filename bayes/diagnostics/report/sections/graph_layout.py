"""Where sites, plates and arrows of a model's graph stand: parents above children."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bayes.diagnostics.report.sections.graph_order import (
    PAD,
    Node,
    Piece,
    Vertex,
    in_order,
    pieces_of,
    vertices_of,
)

__all__ = ["Box", "Layout", "lay_out"]

_GAP, _LABEL, _ARROW = 14.0, 12.0, 26.0
"""Points between neighbours, of a plate's label, and of an arrow between two layers."""
_ROUNDS = 6
_LETTER = 4.8
"""Points of a letter of a plate's label."""


@dataclasses.dataclass(frozen=True)
class Box:
    """Where a plate is, or a part of it where other sites are in between.

    Parameters
    ----------
    plate : str
        The plate.
    left, top, right, bottom : float
        Its borders.
    """

    plate: str
    left: float
    top: float
    right: float
    bottom: float


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where everything is, in points.

    Parameters
    ----------
    places : dict
        Centres of the sites.
    boxes : list of Box
        Borders of the plates.
    paths : list of list of (float, float)
        Points that the arrows pass through, from parent to child.
    width, height : float
        Size of it all.
    """

    places: dict[str, tuple[float, float]]
    boxes: list[Box]
    paths: list[list[tuple[float, float]]]
    width: float
    height: float


def lay_out(nodes: Sequence[Node], labels: dict[str, str]) -> Layout:
    """Place sites in layers, plates around them and arrows between them.

    Layers are by the longest path; the order in a layer is by barycentres, such that members of a
    plate stay together; distances solve a linear program in which every site is as near as may be
    to the middle of its parents and of its children.

    Parameters
    ----------
    nodes : sequence of Node
        In the order of the program.
    labels : dict
        Text in the corner of each plate.

    Returns
    -------
    Layout

    References
    ----------
    Sugiyama, Tagawa and Toda (1981), Methods for visual understanding of hierarchical system
    structures.
    """
    vertices = vertices_of(nodes)
    x = np.zeros(len(vertices))
    for layer in {v.layer for v in vertices}:
        members = [i for i, v in enumerate(vertices) if v.layer == layer]
        x[members] = np.arange(len(members)) - len(members) / 2
    best: Any = None
    for _ in range(_ROUNDS):
        order = in_order(vertices, x)
        pieces = pieces_of(vertices, order)
        cost, x, borders = _distances(vertices, order, pieces, labels)
        if best is None or cost < best[0] - 1e-6:
            best = cost, x, borders, pieces
    _, x, borders, pieces = best
    return _draw(nodes, vertices, x, borders, pieces)


def _distances(
    vertices: list[Vertex], order: list[int], pieces: list[Piece], labels: dict[str, str]
) -> tuple[float, np.ndarray, np.ndarray]:
    """Cost, places from left to right, and left and right borders of the pieces."""
    from scipy.optimize import linprog

    wishes = [(i, near) for i, v in enumerate(vertices) for near in (v.above, v.below) if near]
    count, borders = len(vertices), len(vertices) + 2 * len(pieces)
    rows: list[dict[int, float]] = []
    least: list[float] = []

    def apart(left: int, right: int, distance: float) -> None:
        rows.append({left: 1.0, right: -1.0})
        least.append(-distance)

    for left, right, distance in _separations(vertices, order, pieces, labels):
        apart(left, right, distance)
    for place, (vertex, near) in enumerate(wishes):
        for sign in (1.0, -1.0):
            rows.append(
                {vertex: sign, borders + place: -1.0, **dict.fromkeys(near, -sign / len(near))}
            )
            least.append(0.0)
    matrix = np.zeros((len(rows), borders + len(wishes)))
    for row, entries in zip(matrix, rows, strict=True):
        row[list(entries)] = list(entries.values())
    cost = np.concatenate(
        [np.full(count, 1e-4), np.tile([-0.05, 0.05], len(pieces)), np.ones(len(wishes))]
    )
    lower = np.zeros(len(cost))
    lower[:count] = [v.width / 2 + 1 for v in vertices]
    lower[count:borders] = 1.0
    found = linprog(cost, matrix, least, bounds=[(low, None) for low in lower], method="highs")
    places = found.x[:count]
    return float(found.fun), places, found.x[count:borders].reshape(-1, 2)


def _separations(
    vertices: list[Vertex], order: list[int], pieces: list[Piece], labels: dict[str, str]
) -> Iterator[tuple[int, int, float]]:
    """What is to the left of what, and how far at least: vertices, then borders of pieces."""
    rank = {vertex: place for place, vertex in enumerate(order)}
    half = [v.width / 2 for v in vertices]
    for layer in {v.layer for v in vertices}:
        row = [i for i in order if vertices[i].layer == layer]
        for i, j in itertools.pairwise(row):
            yield i, j, half[i] + half[j] + _GAP
    count = len(vertices)
    for p, piece in enumerate(pieces):
        left, right = count + 2 * p, count + 2 * p + 1
        first, last = piece.layers
        yield left, right, _LETTER * len(labels[piece.plate]) + 2 * PAD
        for i in piece.members:
            yield left, i, half[i] + piece.pad
            yield i, right, half[i] + piece.pad
        start = min(rank[i] for i in piece.members)
        for i, vertex in enumerate(vertices):
            if i not in piece.members and first <= vertex.layer <= last:
                before = rank[i] < start
                yield (i, left, half[i] + _GAP / 2) if before else (right, i, half[i] + _GAP / 2)
        for q, other in enumerate(pieces):
            if q == p:
                continue
            if other.members < piece.members or (other.members == piece.members and q < p):
                yield left, count + 2 * q, PAD
                yield count + 2 * q + 1, right, PAD
            overlap = other.layers[0] <= last and first <= other.layers[1]
            before = start < min(rank[i] for i in other.members)
            if overlap and before and not other.members & piece.members:
                yield right, count + 2 * q, _GAP


def _draw(
    nodes: Sequence[Node],
    vertices: list[Vertex],
    x: np.ndarray,
    borders: np.ndarray,
    pieces: list[Piece],
) -> Layout:
    height = max(node.height for node in nodes)
    levels = 1 + max((p.level for p in pieces), default=-1)
    step = height + levels * (2 * PAD + _LABEL) + _ARROW
    top = height / 2 + levels * PAD + 1
    y = [top + step * v.layer for v in vertices]
    boxes = [
        Box(
            piece.plate,
            float(left),
            top + step * piece.layers[0] - height / 2 - piece.pad,
            float(right),
            top + step * piece.layers[1] + height / 2 + piece.pad + _LABEL * (1 + piece.level),
        )
        for piece, (left, right) in zip(pieces, borders, strict=True)
    ]
    paths = []
    for parent, child in ((p, c) for p in range(len(nodes)) for c in vertices[p].below):
        points = [(float(x[parent]), y[parent] + nodes[parent].height / 2)]
        while not isinstance(vertices[child].key, int):
            points.append((float(x[child]), y[child]))
            child = vertices[child].below[0]
        points.append((float(x[child]), y[child] - nodes[child].height / 2))
        paths.append(points)
    places = {node.name: (float(x[i]), y[i]) for i, node in enumerate(nodes)}
    right = max([*(x[i] + n.width / 2 for i, n in enumerate(nodes)), *(b.right for b in boxes)])
    bottom = max([*(v + height / 2 for v in y), *(b.bottom for b in boxes)])
    return Layout(places, boxes, paths, float(right) + 1, float(bottom) + 1)
