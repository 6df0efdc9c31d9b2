"""Targets by name: a NumPyro program, its data, what is judged, and what is known of it.

``gaussian`` and the like are the benchmarks' own; ``logistic:100000`` asks for a size; every other
name is looked up in the folder of reference posteriors.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import datasets
import numpy as np
from judging import against_exact, against_references, load_harness

OWN = ("schools", "logistic", "radon", "irt", "gaussian", "gp")


@dataclasses.dataclass(frozen=True)
class Target:
    """A posterior to be sampled.

    Parameters
    ----------
    name : str
        Its name.
    program : callable
        The NumPyro program; None where an engine has a program of its own.
    data : dict
        Its arguments: arrays, and ints that stay static.
    judged : tuple of str
        The sites, latent or deterministic, that are judged in every engine's draws.
    errors : callable, optional
        From draws to their errors, where the truth is known.
    """

    name: str
    program: Callable | None
    data: dict[str, Any]
    judged: tuple[str, ...]
    errors: Callable[[Mapping[str, np.ndarray]], dict[str, float]] | None = None


def reference_names(folder: pathlib.Path) -> list[str]:
    """Names of a folder of reference posteriors."""
    return list(load_harness(folder).names())


def load_target(name: str, folder: pathlib.Path | None, *, program: bool = True) -> Target:
    """Load a target.

    Parameters
    ----------
    name : str
        Its name; ``family:size`` for those that grow.
    folder : pathlib.Path, optional
        The folder of reference posteriors.
    program : bool
        Whether the NumPyro program is wanted; without it NumPyro is not imported.
    """
    family, _, size = name.partition(":")
    if family not in _FAMILIES:
        if not program:
            raise LookupError(f"'{name}' is a NumPyro program only")
        if folder is None:
            raise LookupError(f"no target '{name}'; reference posteriors need --data")
        harness = load_harness(folder)
        fn, data, judged = harness.load(name)
        return Target(name, fn, data, tuple(judged), lambda d: against_references(harness, name, d))
    function, data, judged, exact = _FAMILIES[family](int(size) if size else None)
    fn = None
    if program:
        import programs

        fn = getattr(programs, function)
    errors = None if exact is None else (lambda draws: against_exact(draws, exact))
    return Target(name, fn, data, judged, errors)


# What a family gives: the function in `programs`, data, the judged sites, mean and sd where known.


def _schools(_):
    return "schools", datasets.schools(), ("mu", "tau", "theta"), None


def _radon(_):
    judged = ("mean", "spread", "weight", "noise", "effect")
    return "radon", datasets.radon(), judged, None


def _logistic(_):
    return "logistic", datasets.logistic(), ("intercept", "slope"), None


def _logistic_rows(rows):
    return "logistic", datasets.logistic(rows, 10), ("intercept", "slope"), None


def _irt(_):
    data = datasets.item_response()
    persons, items = data["answers"].shape
    judged = ("location", "spread", "unevenness", "difficulty", "discrimination", "ability")
    return "item_response", {**data, "persons": persons, "items": items}, judged, None


def _gaussian(size):
    data = datasets.correlated_gaussian(size or 100)
    spread = np.sqrt((data["factor"] ** 2).sum(axis=1))
    return "correlated_gaussian", data, ("x",), {"x": (data["y"], spread)}


def _diagonal(size):
    data = datasets.diagonal_gaussian(size)
    return "diagonal_gaussian", data, ("x",), {"x": (data["y"], data["scale"])}


def _autoregression(size):
    data = {**datasets.autoregression(size), "size": size}
    return "autoregression", data, ("x",), {"x": (np.zeros(size), np.ones(size))}


def _gp(_):
    return "gp", datasets.gp(), ("length", "height", "noise"), None


_FAMILIES = {
    "schools": _schools,
    "logistic": _logistic,
    "radon": _radon,
    "irt": _irt,
    "gaussian": _gaussian,
    "gp": _gp,
    "diagonal": _diagonal,
    "autoregression": _autoregression,
    "rows": _logistic_rows,
}
