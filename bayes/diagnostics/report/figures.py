"""Figures as SVG that takes the colours of the page it stands in."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from collections.abc import Iterator
from typing import Any

from bayes.diagnostics.report.contents import Figure

__all__ = ["COLOURS", "drawing", "picture"]

COLOURS = ("#3f90da", "#e76300", "#2e9e6b", "#9c6ade", "#bd8f00", "#17a2b8", "#d1495b", "#8c6d5a")
"""Told apart by most readers, on white and on black."""

_INK = "#010203"
"""Stands for the colour of the page's text until the drawing is done."""
_MOST_POINTS = 1500
_numbers = itertools.count(1)

_STYLE: dict[str, Any] = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8,
    "legend.framealpha": 0.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "lines.linewidth": 1.2,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK
    ),
}


@contextlib.contextmanager
def drawing() -> Iterator[Any]:
    """Draw with matplotlib, in the report's style; gives ``matplotlib.pyplot``.

    What is drawn is closed at the end, and the user's settings and figures stay as they are.
    """
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    from cycler import cycler

    before = set(plt.get_fignums())
    style: Any = {**_STYLE, "axes.prop_cycle": cycler(color=list(COLOURS))}
    with mpl.rc_context(style):
        try:
            yield plt
        finally:
            for number in set(plt.get_fignums()) - before:
                plt.close(number)


def picture(figure: Any, caption: str, summary: str) -> Figure:
    """A matplotlib figure as a block of the report.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        What was drawn inside :func:`drawing`.
    caption, summary : str
        See :class:`Figure`.

    Returns
    -------
    Figure
    """
    for axes in figure.axes:
        for line in axes.lines:
            if len(line.get_xdata(orig=True)) > _MOST_POINTS:
                line.set_rasterized(True)
        for dots in axes.collections:
            if len(dots.get_offsets()) > _MOST_POINTS or len(dots.get_paths()) > _MOST_POINTS:
                dots.set_rasterized(True)
    file = io.StringIO()
    figure.savefig(file, format="svg", bbox_inches="tight", metadata={"Date": None})
    return Figure(_clean(file.getvalue()), caption, summary)


def _clean(text: str) -> str:
    """Only the ``<svg>`` element, with ids of its own and the page's colour for its ink."""
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bd="([^"]*)"', lambda path: f'd="{_shorter(path[1])}"', text)
    mark = f"f{next(_numbers)}-"
    text = re.sub(r'\bid="', f'id="{mark}', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{mark}", text)
    # Width and height go, so that the page sets them; the viewBox keeps the proportions.
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return (head + ">" + rest).replace(_INK, "currentColor")


def _shorter(path: str) -> str:
    """A path whose coordinates have two digits after the point, where matplotlib gives six."""
    path = re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", path)
    return " ".join(path.split())
