"""Figures of a calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes.calibration.judgement import LEVEL
from bayes.calibration.uniformity import ecdf_bands

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["contraction_figure", "ecdf_figure"]

_COLUMNS = 4


def ecdf_figure(ranks: Mapping[str, np.ndarray], shown: list[str], draws: int) -> Figure:
    """Distribution functions of ranks less that of uniform ones, one panel an element.

    Parameters
    ----------
    ranks : mapping of array of shape (n,)
        Ranks in 0..draws by element; the bands are simultaneous for all of them.
    shown : list of str
        Elements to draw.
    draws : int
        Draws that each truth was ranked among.

    Returns
    -------
    matplotlib.figure.Figure
    """
    n = len(ranks[shown[0]])
    # Half of the level is for the chi-square test.
    position, lower, upper = ecdf_bands(n, draws, LEVEL / 2 / len(ranks))
    figure, panels = _panels(shown)
    for name, panel in zip(shown, panels, strict=True):
        below = np.cumsum(np.bincount(ranks[name], minlength=draws + 1))[:draws] / n
        panel.fill_between(
            position, lower - position, upper - position, step="mid", alpha=0.2, color="C0"
        )
        panel.axhline(0, color="grey", linewidth=0.6)
        wrong = bool(((below < lower) | (below > upper)).any())
        panel.step(position, below - position, where="mid", color="C3" if wrong else "C0")
        panel.set_title(name)
    figure.supxlabel("share of posterior draws below the truth")
    figure.supylabel("share of simulations, less uniform")
    return figure


def contraction_figure(
    contraction: Mapping[str, np.ndarray], z: Mapping[str, np.ndarray], shown: list[str]
) -> Figure:
    """Z scores against contraction, one panel an element.

    Parameters
    ----------
    contraction, z : mapping of array of shape (n,)
        By element.
    shown : list of str
        Elements to draw.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, panels = _panels(shown)
    for name, panel in zip(shown, panels, strict=True):
        panel.axhline(0, color="grey", linewidth=0.6)
        panel.plot(contraction[name], z[name], ".", color="C0", alpha=0.5)
        panel.set_title(name)
    figure.supxlabel("contraction: 1 - posterior variance / prior variance")
    figure.supylabel("z score of the truth")
    return figure


def _panels(shown: list[str]) -> tuple[Any, list[Any]]:
    """A figure of its own, which is not among those that pyplot keeps."""
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = Figure(figsize=(2.6 * columns + 0.6, 2.2 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for spare in panels[len(shown) :]:
        spare.remove()
    return figure, panels[: len(shown)]
