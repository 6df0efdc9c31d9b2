"""Checks of a program against its data: what would otherwise give a silent wrong number."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from bayes.columns import rows_text
from bayes.data import Data
from bayes.errors import DataError, DataWarning, ModelError, ShapeError

__all__ = ["check_observed", "check_parameters", "check_variation"]

Trace = Mapping[str, Any]


def _observed(trace: Trace) -> dict[str, Any]:
    from bayes.structure import _kind

    return {n: s for n, s in trace.items() if s["type"] == "sample" and _kind(s) == "observed"}


def _labels(data: Data, site: Mapping[str, Any], sources: tuple[str, ...]) -> np.ndarray | None:
    for name in sources:
        column = data.columns.get(name)
        if column is not None and column.labels is not None:
            if np.shape(site["value"])[:1] == (len(column.labels),):
                return column.labels
    return None


def check_parameters(traces: list[Trace]) -> None:
    """Refuse distributions whose parameters are invalid at every prior draw, naming the site."""
    first = traces[0]
    for name, site in first.items():
        if site["type"] != "sample":
            continue
        for parameter, constraint in _constraints(site["fn"]):
            if constraint is constraints.dependent or not _checkable(constraint):
                continue
            verdicts = [_valid(t[name]["fn"], parameter, constraint) for t in traces if name in t]
            if all(v is False for v in verdicts):
                value = np.asarray(_parameter(site["fn"], parameter))
                bad = value[~np.broadcast_to(np.asarray(constraint(value)), value.shape)] if (
                    value.ndim and np.shape(constraint(value)) == value.shape) else value
                shown = ", ".join(f"{v:.4g}" for v in np.ravel(bad)[:3])
                raise ModelError(
                    f"site '{name}': parameter '{parameter}' of {type(_base(site['fn'])).__name__} "
                    f"is invalid ({shown}); it must satisfy {_constraint_name(constraint)}"
                )


def _base(fn: Any) -> Any:
    wrappers = (dist.ExpandedDistribution, dist.Independent, dist.MaskedDistribution)
    while isinstance(fn, wrappers):
        fn = fn.base_dist
    return fn


def _constraints(fn: Any) -> list[tuple[str, Any]]:
    return list(_base(fn).arg_constraints.items())


def _parameter(fn: Any, name: str) -> Any:
    return getattr(_base(fn), name, None)


def _checkable(constraint: Any) -> bool:
    return callable(constraint)


def _constraint_name(constraint: Any) -> str:
    return str(constraint) or type(constraint).__name__


def _valid(fn: Any, parameter: str, constraint: Any) -> bool | None:
    """Whether a parameter is valid; None where that cannot be told."""
    base = _base(fn)
    if parameter not in base.__dict__ and parameter in getattr(base, "reparametrized_params", []):
        return None
    value = getattr(base, parameter, None)
    if value is None or not hasattr(value, "dtype") and not isinstance(value, (int, float)):
        return None
    try:
        return bool(np.all(np.asarray(constraint(value))))
    except Exception:
        return None


def check_observed(
    traces: list[Trace], data: Data, sources: Mapping[str, tuple[str, ...]]
) -> list[str]:
    """Check shape, kind and support of every observed value.

    Parameters
    ----------
    traces : list of trace
        Two or more traces with different latent values.
    data : Data
        Where the observed values come from.
    sources : mapping
        Arguments that each observed value is made of.

    Returns
    -------
    list of str
        Notes on conversions.
    """
    notes = []
    for name, site in _observed(traces[0]).items():
        value, fn = np.asarray(site["value"]), site["fn"]
        made_of = sources.get(name, ())
        what = f"'{made_of[0]}'" if made_of else "its value"
        _check_shape(name, value, fn, what, from_data=bool(made_of))
        labels = _labels(data, site, made_of)
        discrete = fn.support.is_discrete
        categories = [a for a in made_of if a in data.levels]
        if categories and not discrete:
            raise DataError(
                f"observed site '{name}' has a continuous distribution, but column "
                f"'{categories[0]}' is a category; its codes are not measurements"
            )
        if np.iscomplexobj(value) and not getattr(_base(fn), "complex_valued", False):
            raise DataError(
                f"observed site '{name}': {what} is complex, {type(_base(fn)).__name__} is not"
            )
        if value.dtype.kind in "iub" and not discrete:
            notes.append(f"{what} holds integers; site '{name}' uses them as real numbers")
        _check_support(name, value, [t[name]["fn"] for t in traces], what, labels)
    return notes


def _check_shape(name: str, value: np.ndarray, fn: Any, what: str, *, from_data: bool) -> None:
    shape = tuple(fn.shape())
    if value.ndim == 0 and not from_data:
        return  # a constant such as obs=0.0 speaks for every element
    event = fn.event_dim
    hint = ""
    if value.ndim and value.shape[-1] == 1 and value.ndim == len(shape) + 1:
        hint = f"; a column of shape {value.shape} is probably meant as {value.shape[:-1]}"
    try:
        joint = np.broadcast_shapes(shape, value.shape)
    except ValueError:
        joint = None
    fits_event = event == 0 or shape[-event:] == value.shape[-event:]
    if joint != value.shape or not fits_event:
        raise ShapeError(
            f"observed site '{name}': {what} has shape {value.shape}, but its distribution has "
            f"shape {shape}{hint}"
        )


def _check_support(
    name: str, value: np.ndarray, fns: list[Any], what: str, labels: np.ndarray | None
) -> None:
    # A support with latent bounds may hold the value at other latent values, so only what lies
    # outside under every trace and under equal supports is refused.
    supports = [fn.support for fn in fns]
    if any(not _same(supports[0], other) for other in supports[1:]):
        return
    mask = _mask(fns[0], value)
    with np.errstate(all="ignore"):
        inside = np.asarray(supports[0](value))
    inside = inside | ~np.broadcast_to(mask, inside.shape)
    if inside.all():
        return
    missing = np.isnan(value) if value.dtype.kind == "f" else np.zeros(value.shape, bool)
    if missing.any():
        return  # missing values are judged with the log density
    rows = np.unique(np.nonzero(np.atleast_1d(~inside))[0])
    outside = np.atleast_1d(value)[rows[:3]] if value.ndim <= 1 else value[rows[:1]]
    shown = ", ".join(str(v) for v in np.ravel(outside)[:3])
    raise DataError(
        f"observed site '{name}': {what} has values outside the support of "
        f"{type(_base(fns[0])).__name__} ({_constraint_name(supports[0])}): {shown} "
        f"({rows_text(rows, labels)})"
    )


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except Exception:
        return False


def _mask(fn: Any, value: np.ndarray) -> np.ndarray:
    while isinstance(fn, (dist.Independent, dist.ExpandedDistribution)):
        fn = fn.base_dist
    mask = getattr(fn, "_mask", None)
    return np.asarray(True if mask is None else mask)


def check_variation(
    trace: Trace, data: Data, sources: Mapping[str, tuple[str, ...]]
) -> list[str]:
    """Warn of observed values and covariates that do not vary.

    Returns
    -------
    list of str
        Observed continuous sites without variance: their verdict cannot be good.
    """
    frozen, observed = [], set()
    for name, site in _observed(trace).items():
        value = np.asarray(site["value"])
        observed.update(sources.get(name, ()))
        if value.size > 1 and value.dtype.kind in "fiub" and np.all(value == value.flat[0]):
            what = ", ".join(f"'{a}'" for a in sources.get(name, ())) or "its value"
            warnings.warn(
                f"observed site '{name}' has zero variance: all {value.size} values of {what} are "
                f"{value.flat[0]}",
                DataWarning,
                stacklevel=2,
            )
            if not site["fn"].support.is_discrete:
                frozen.append(name)
    known = _known_parameters(trace)
    for name, value in data.arrays.items():
        if not isinstance(value, np.ndarray) or name in observed or value.dtype.kind not in "fi":
            continue
        if value.ndim == 1 and value.size > 1 and np.all(value == value[0]):
            if not any(np.array_equal(value, other) for other in known):
                warnings.warn(
                    f"column '{name}' is constant ({value[0]}); a coefficient on it cannot be "
                    "told from an intercept",
                    DataWarning,
                    stacklevel=2,
                )
    return frozen


def _known_parameters(trace: Trace) -> list[Any]:
    """Arrays that are parameters of a site as they are: known scales, numbers of trials."""
    arrays = []
    for site in trace.values():
        if site["type"] == "sample":
            for parameter, _ in _constraints(site["fn"]):
                if parameter not in ("loc", "rate", "probs", "logits"):
                    arrays.append(_parameter(site["fn"], parameter))
    return arrays
