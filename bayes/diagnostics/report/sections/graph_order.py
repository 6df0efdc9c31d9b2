"""What stands beside what in a model's graph: layers of sites, and plates that stay together."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Hashable, Sequence

import numpy as np

__all__ = ["PAD", "Node", "Piece", "Vertex", "in_order", "pieces_of", "vertices_of"]

PAD = 7.0
"""Points from a site to the border of its plate."""


@dataclasses.dataclass(frozen=True)
class Node:
    """A site to be drawn.

    Parameters
    ----------
    name : str
        The site.
    width, height : float
        Its size in points.
    plates : frozenset of str
        Plates it stands in.
    parents : tuple of str
        Sites that its distribution depends on.
    """

    name: str
    width: float
    height: float
    plates: frozenset[str]
    parents: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Vertex:
    """A site, or a place where a long arrow passes a layer.

    Parameters
    ----------
    key : hashable
        Place of the site among the nodes; another key for a passage.
    layer : int
        Layer, from the top.
    width : float
        Width in points.
    plates : tuple of str
        Plates it stands in, those with more sites first.
    above, below : list of int
        Vertices that it is joined to.
    """

    key: Hashable
    layer: int
    width: float
    plates: tuple[str, ...]
    above: list[int]
    below: list[int]


@dataclasses.dataclass(frozen=True)
class Piece:
    """Members of a plate that stand next to each other, among all that is in their layers.

    Parameters
    ----------
    plate : str
        The plate.
    members : frozenset of int
        Vertices in it.
    layers : (int, int)
        First and last layer of its sites.
    level : int
        How many borders there are inside of its own.
    """

    plate: str
    members: frozenset[int]
    layers: tuple[int, int]
    level: int = 0

    @property
    def pad(self) -> float:
        """Points from its sites to its border."""
        return PAD * (1 + self.level)


def vertices_of(nodes: Sequence[Node]) -> list[Vertex]:
    """Sites in their layers, then the places where arrows pass a layer; joined from parents down.

    Layers are by the longest path.
    """
    places = {node.name: i for i, node in enumerate(nodes)}
    parents = [[places[p] for p in n.parents if places.get(p, i) < i] for i, n in enumerate(nodes)]
    layers = _layers(parents)
    sizes = {p: sum(p in n.plates for n in nodes) for n in nodes for p in n.plates}

    def sort(plates: frozenset[str]) -> tuple[str, ...]:
        return tuple(sorted(plates, key=lambda p: (-sizes[p], p)))

    found = [
        Vertex(i, layers[i], node.width, sort(node.plates), [], []) for i, node in enumerate(nodes)
    ]
    for child, above in enumerate(parents):
        for parent in above:
            common = sort(nodes[parent].plates & nodes[child].plates)
            last = parent
            for layer in range(layers[parent] + 1, layers[child]):
                found.append(Vertex((parent, child, layer), layer, 2.0, common, [], []))
                _join(found, last, len(found) - 1)
                last = len(found) - 1
            _join(found, last, child)
    return found


def _join(vertices: list[Vertex], parent: int, child: int) -> None:
    vertices[parent].below.append(child)
    vertices[child].above.append(parent)


def _layers(parents: list[list[int]]) -> list[int]:
    """Layers by the longest path from above; then what has children is moved down to them."""
    layers: list[int] = []
    for above in parents:
        layers.append(1 + max((layers[p] for p in above), default=-1))
    for place in reversed(range(len(parents))):
        below = [layers[c] for c, above in enumerate(parents) if place in above]
        layers[place] = min(below, default=layers[place] + 1) - 1
    return layers


def in_order(vertices: list[Vertex], x: np.ndarray) -> list[int]:
    """All vertices from left to right, such that those of a plate are together."""
    owner = _components(vertices)

    def beside(vertex: Vertex, outside: Hashable = None) -> list[float]:
        near = [*vertex.above, *vertex.below]
        return [x[i] for i in near if outside is None or owner[i] != outside]

    centres = {}
    for item in set(owner):
        members = [i for i, o in enumerate(owner) if o == item]
        seen = [value for i in members for value in beside(vertices[i], item)]
        centres[item] = float(np.mean(seen)) if seen else float(np.mean(x[members]))

    def key(place: int) -> tuple:
        vertex = vertices[place]
        seen = beside(vertex)
        own = float(np.mean(seen)) if seen else float(x[place])
        return centres[owner[place]], str(owner[place]), vertex.plates, own, place

    return sorted(range(len(vertices)), key=key)


def _components(vertices: list[Vertex]) -> list[Hashable]:
    """By vertex, the first of the plates that it is connected with; itself outside of plates."""
    root = {p: p for v in vertices for p in v.plates}

    def find(plate: str) -> str:
        while root[plate] != plate:
            plate = root[plate]
        return plate

    for vertex in vertices:
        for plate in vertex.plates[1:]:
            root[find(plate)] = find(vertex.plates[0])
    return [find(v.plates[0]) if v.plates else v.key for v in vertices]


def pieces_of(vertices: list[Vertex], order: list[int]) -> list[Piece]:
    """Plates as pieces, from the inner ones outwards, given all vertices from left to right."""
    found: list[Piece] = []
    for plate in dict.fromkeys(p for v in vertices for p in v.plates):
        layers = [v.layer for v in vertices if plate in v.plates]
        within = [i for i in order if min(layers) <= vertices[i].layer <= max(layers)]
        inside = [plate in vertices[i].plates for i in within]
        for is_inside, run in itertools.groupby(zip(within, inside, strict=True), lambda p: p[1]):
            members = frozenset(i for i, _ in run)
            sites = [vertices[i].layer for i in members if isinstance(vertices[i].key, int)]
            if is_inside and sites:
                found.append(Piece(plate, members, (min(sites), max(sites))))
    levelled: list[Piece] = []
    for piece in sorted(found, key=lambda p: len(p.members)):
        shared = [p.level for p in levelled if p.members & piece.members]
        levelled.append(dataclasses.replace(piece, level=1 + max(shared, default=-1)))
    return levelled
