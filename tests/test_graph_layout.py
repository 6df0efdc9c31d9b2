"""Where sites and plates of a model's graph stand."""

import itertools

import numpy as np
import pytest

from bayes.diagnostics.report.sections.graph_layout import lay_out
from bayes.diagnostics.report.sections.graph_order import Node


def random_nodes(seed, count=40, plates=4):
    """A program with nested and crossed plates, and parents anywhere before a site."""
    rng = np.random.default_rng(seed)
    names = [f"p{i}" for i in range(plates)]
    nodes = []
    for i in range(count):
        own = rng.choice(plates, size=rng.integers(0, 3), replace=False)
        parents = rng.choice(i, size=min(i, rng.integers(0, 3)), replace=False) if i else ()
        nodes.append(
            Node(
                f"s{i}",
                float(rng.uniform(40, 90)),
                34.0,
                frozenset(names[k] for k in own),
                tuple(f"s{k}" for k in parents),
            )
        )
    return nodes, {name: f"{name} · 12" for name in names}


@pytest.mark.parametrize("seed", range(8))
def test_no_site_overlaps_another_or_a_plate_that_it_is_not_in(seed):
    nodes, labels = random_nodes(seed, count=12 + 4 * seed)
    layout = lay_out(nodes, labels)
    edges = {
        node.name: (
            layout.places[node.name][0] - node.width / 2,
            layout.places[node.name][1] - node.height / 2,
            layout.places[node.name][0] + node.width / 2,
            layout.places[node.name][1] + node.height / 2,
        )
        for node in nodes
    }

    def overlap(a, b, slack=0.01):
        apart = (a[2] - b[0], b[2] - a[0], a[3] - b[1], b[3] - a[1])
        return min(apart) > slack

    for a, b in itertools.combinations(edges.values(), 2):
        assert not overlap(a, b)
    boxes = [(b.plate, (b.left, b.top, b.right, b.bottom)) for b in layout.boxes]
    for node in nodes:
        left, top, right, bottom = edges[node.name]
        assert left >= -0.01
        assert right <= layout.width
        assert bottom <= layout.height
        assert top >= 0
        holding = [
            plate
            for plate, (x0, y0, x1, y1) in boxes
            if x0 <= left and right <= x1 and y0 <= top and bottom <= y1
        ]
        assert sorted(holding) == sorted(node.plates)
        touching = {plate for plate, box in boxes if overlap(edges[node.name], box)}
        assert touching == node.plates
        for parent in node.parents:
            assert layout.places[parent][1] < layout.places[node.name][1]
    assert len(layout.paths) == sum(len(node.parents) for node in nodes)


def test_plates_that_are_nested_are_one_box_each():
    nodes = [
        Node("mu", 50.0, 34.0, frozenset(), ()),
        Node("a", 50.0, 34.0, frozenset({"outer"}), ("mu",)),
        Node("b", 50.0, 34.0, frozenset({"outer", "inner"}), ("a",)),
        Node("y", 50.0, 34.0, frozenset({"outer", "inner"}), ("b",)),
    ]
    layout = lay_out(nodes, {"outer": "outer · 3", "inner": "inner · 4"})
    boxes = {box.plate: box for box in layout.boxes}
    assert len(layout.boxes) == 2
    assert boxes["outer"].left < boxes["inner"].left < boxes["inner"].right < boxes["outer"].right
    assert boxes["outer"].top < boxes["inner"].top < boxes["inner"].bottom < boxes["outer"].bottom
