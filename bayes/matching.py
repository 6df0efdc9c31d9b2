"""Which elements of a fit's draws stand where when a program runs at new data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from bayes.dims import site_dims
from bayes.errors import DataError, ShapeError, UnsupportedModelError
from bayes.prediction import Prediction
from bayes.problem import Problem
from bayes.structure import read_sites, trace_program

__all__ = ["Match", "match_draws"]


@dataclasses.dataclass(frozen=True)
class Match:
    """Where the elements of one site's draws go.

    Parameters
    ----------
    source, place : tuple of tuple of int
        By axis, positions in the fit and at the new data.
    whole : bool
        Whether they fill the site; what they leave open is drawn anew.
    """

    source: tuple[tuple[int, ...], ...]
    place: tuple[tuple[int, ...], ...]
    whole: bool

    @property
    def same(self) -> bool:
        """Whether every element stays where it was."""
        return self.whole and self.source == self.place


def match_draws(fitted: Problem, target: Prediction, new_groups: str) -> dict[str, Match]:
    """Match the elements of every latent site of a fit to those at new data.

    Elements with labels (levels of a category, rows of a frame) are matched by them. Without
    labels, a dimension of the same size is taken to be the same units; one that follows the levels
    of a category has the fit's first; one that follows the rows is of new units, drawn anew.

    Returns
    -------
    dict of Match
        By site of the program, as reparametrised in the fit.

    Raises
    ------
    DataError
        Where there are groups that the fit has not seen and ``new_groups`` is ``"refuse"``.
    ShapeError
        Where a site has another shape and nothing says how the old elements fit into it.
    UnsupportedModelError
        Where elements would have to be drawn that depend on others of their site.
    """
    old = {s.name: s.shape for s in fitted.program.latents}
    new = {s.name: s.shape for s in target.program.latents}
    for name in (*fitted.discrete, *fitted.drawn_discrete):
        old[name] = fitted.sites[name].shape
        new[name] = target.sites[name].shape if name in target.sites else ()
    dims = _program_dims(fitted)
    sizes = _Sizes(fitted, target, new_groups)
    found = {}
    for name in old:
        if name not in new:
            continue
        if len(old[name]) != len(new[name]):
            raise _shape_error(name, old[name], new[name])
        pairs = [
            sizes.match(name, dim, before, after)
            for dim, before, after in zip(dims[name], old[name], new[name], strict=True)
        ]
        full = [len(p) == n for (_, p), n in zip(pairs, new[name], strict=True)]
        joint = target.joint.get(name, 0)
        if not all(full[len(full) - joint :]):
            raise UnsupportedModelError(
                f"site '{name}' has elements at the new data that the fit has not, and its prior "
                "draws all elements of it jointly: what they are given the others is not known. "
                "Write the model so that they are independent given other sites"
            )
        source, place = tuple(s for s, _ in pairs), tuple(p for _, p in pairs)
        found[name] = Match(source, place, all(full))
    return found


def _program_dims(fitted: Problem) -> dict[str, tuple[str, ...]]:
    """Dimension names of the program's sites, those of a reparametrisation included."""
    if not fitted.reparametrised:
        return fitted.dims
    trace = trace_program(fitted.program.fn, fitted.data, 0)
    sites = read_sites(trace, enumerated=fitted.marginal)
    return {**site_dims(sites, None), **fitted.dims}


def _shape_error(name: str, old: tuple[int, ...], new: tuple[int, ...]) -> ShapeError:
    return ShapeError(
        f"site '{name}' has shape {new} at the new data and {old} in the fit; only dimensions that "
        "follow the rows or the levels of a category may change"
    )


class _Sizes:
    """What the sizes and labels of two bindings of a program say about their dimensions."""

    def __init__(self, fitted: Problem, target: Prediction, new_groups: str) -> None:
        self.fitted, self.target, self.new_groups = fitted, target, new_groups
        before, after = fitted.data.levels, target.data.levels
        self.grown = {(len(before[n]), len(after[n])) for n in after if n in before}
        statics = target.data.statics
        self.grown |= {
            (n, statics[name])
            for name, n in fitted.data.statics.items()
            if type(n) is int and type(statics.get(name)) is int
        }
        seen = [n for n, s in fitted.sites.items() if s.kind == "observed" and n in target.sites]
        self.rows = {
            pair
            for n in seen
            for pair in zip(fitted.sites[n].shape, target.sites[n].shape, strict=False)
        }
        self.row_dims = {d for n in seen for d in fitted.dims[n]}

    def match(
        self, name: str, dim: str, old: int, new: int
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Positions in the fit and at the new data along one dimension."""
        labels = self._labels(self.fitted, dim, old), self._labels(self.target, dim, new)
        if labels[0] is not None and labels[1] is not None:
            where = {label: i for i, label in enumerate(labels[0])}
            both = [(where[label], i) for i, label in enumerate(labels[1]) if label in where]
            return _columns(both)
        if old == new:
            return tuple(range(old)), tuple(range(old))
        if dim in self.row_dims and (old, new) in self.rows:
            return (), ()
        if new > old and (old, new) in self.grown:
            if self.new_groups != "sample":
                raise DataError(
                    f"site '{name}' has {new} elements at the new data and {old} in the fit: "
                    "new_groups='sample' draws those that the fit has not seen from their prior"
                )
            return tuple(range(old)), tuple(range(old))
        if (old, new) in self.rows:
            return (), ()
        shapes = [(n,) for n in (old, new)]
        raise _shape_error(name, *shapes)

    @staticmethod
    def _labels(problem: Problem, dim: str, size: int) -> list | None:
        """Labels of a dimension, where it has others than its positions."""
        labels = problem.coords.get(dim)
        if labels is None or len(labels) != size:
            return None
        is_count = labels.dtype.kind in "iu" and np.array_equal(labels, np.arange(size))
        return None if is_count else labels.tolist()


def _columns(pairs: Iterable[tuple[int, int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    pairs = list(pairs)
    return tuple(a for a, _ in pairs), tuple(b for _, b in pairs)
