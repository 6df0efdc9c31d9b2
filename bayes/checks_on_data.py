"""Checks of a program against its data: what would otherwise give a silent wrong number."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bayes.columns import rows_text
from bayes.data import Data
from bayes.errors import DataError, DataWarning, ShapeError
from bayes.parameters import is_derived, parameter, parameter_constraints
from bayes.structure import site_kind
from bayes.supports import base_distribution, masked_out, no_density, same_support, support_words

__all__ = ["check_observed", "check_variation"]

Trace = Mapping[str, Any]
Sources = Mapping[str, tuple[str, ...]]


def _observed(trace: Trace) -> dict[str, Any]:
    return {n: s for n, s in trace.items() if s["type"] == "sample" and site_kind(s) == "observed"}


def _labels(data: Data, site: Mapping[str, Any], sources: tuple[str, ...]) -> np.ndarray | None:
    for name in sources:
        column = data.columns.get(name)
        labels = None if column is None else column.labels
        if labels is not None and np.shape(site["value"])[:1] == (len(labels),):
            return labels
    return None


def _made_of(name: str, site: Mapping[str, Any], data: Data, sources: Sources) -> tuple[str, ...]:
    """Arguments that an observed value is made of, the one of its own name first."""
    found = sorted(sources.get(name, ()), key=lambda argument: (argument != name, argument))
    if not found and not hasattr(site["value"], "dtype"):
        # A Python number given as data is static, so nothing has traced it.
        found = [a for a, v in data.statics.items() if a == name and v is site["value"]]
    return tuple(found)


def check_observed(traces: Sequence[Trace], data: Data, sources: Sources) -> list[str]:
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

    Raises
    ------
    ShapeError, DataError
        Names the site, the column and the rows.
    """
    notes = []
    _check_factors(traces[0], data)
    for name, site in _observed(traces[0]).items():
        value, fn = np.asarray(site["value"]), site["fn"]
        made_of = _made_of(name, site, data, sources)
        what = f"'{made_of[0]}'" if made_of else "its value"
        _check_shape(name, value, site, what, data, from_data=bool(made_of))
        discrete = fn.support.is_discrete
        _check_category(name, fn, [a for a in made_of if a in data.levels])
        kind = type(base_distribution(fn)).__name__
        if np.iscomplexobj(value):
            how = "observe real and imaginary part each"
            if "Kronecker" in kind:
                how = "observe bayes.distributions.as_pairs of it with ComplexKroneckerLinear"
            raise DataError(
                f"observed site '{name}': {what} is complex, {kind} is of real numbers; {how}"
            )
        if value.dtype.kind in "iub" and not discrete and made_of:
            notes.append(f"{what} holds integers; site '{name}' uses them as real numbers")
        missing = [a for a in made_of if a in data.columns and len(data.columns[a].missing)]
        labels = _labels(data, site, made_of)
        fns = [t[name]["fn"] for t in traces if name in t]
        if not missing:  # missing values are judged with the log density
            _check_values(name, value, fns, what, labels)
    return notes


def _check_factors(trace: Trace, data: Data) -> None:
    """Warn of a factor for every pair of rows, which a column of shape (n, 1) makes by accident."""
    columns = {n: _shape(v) for n, v in data.arrays.items()}
    for name, site in trace.items():
        if site["type"] != "sample" or site_kind(site) != "factor":
            continue
        shape = np.shape(base_distribution(site["fn"]).log_factor)
        for column, rows in columns.items():
            if len(rows) == 2 and rows[1] == 1 < rows[0] and shape == (rows[0], rows[0]):
                warnings.warn(
                    f"factor '{name}' has shape {shape}, one value for every pair of rows; column "
                    f"'{column}' of shape {rows} is probably meant as {rows[:1]}",
                    DataWarning,
                    stacklevel=2,
                )


def _check_category(name: str, fn: Any, categories: list[str]) -> None:
    """Codes of categories are neither measurements nor counts."""
    support = fn.support
    if not categories:
        return
    if not support.is_discrete or type(support).__name__ == "_IntegerNonnegative":
        kind = "counts" if support.is_discrete else "continuous"
        raise DataError(
            f"observed site '{name}' is {kind} ({type(base_distribution(fn)).__name__}), but "
            f"column '{categories[0]}' is a category; its codes are not measurements"
        )


def _check_shape(
    name: str, value: np.ndarray, site: Mapping[str, Any], what: str, data: Data, *, from_data: bool
) -> None:
    fn = site["fn"]
    shape = tuple(fn.shape())
    if value.ndim == 0 and not from_data:
        return  # a constant such as obs=0.0 speaks for every element
    event = fn.event_dim
    try:
        joint = np.broadcast_shapes(shape, value.shape)
    except ValueError:
        joint = None
    fits_event = event == 0 or shape[-event:] == value.shape[-event:]
    begin = f"observed site '{name}': {what} has shape {value.shape}"
    if joint != value.shape or not fits_event:
        raise ShapeError(
            f"{begin}, but its distribution has shape {shape}{_column_hint(value, shape, data)}"
        )
    # Where one value of the distribution meets many observed ones, the program may mean it; a
    # column of a single row, or a plate of size 1, it does not.
    own = tuple(base_distribution(fn).batch_shape) if event == 0 else shape
    places = range(1, min(len(own), value.ndim) + 1)
    stretched = [i for i in places if own[-i] == 1 < value.shape[-i]]
    short = [n for n, v in data.arrays.items() if _shape(v)[:1] == (1,)]
    if stretched and short:
        raise ShapeError(
            f"{begin}, but column '{short[0]}' has a single row {data.arrays[short[0]].shape}; "
            "give one value a row, or a plain number where one is meant for all"
        )
    for frame in site["cond_indep_stack"]:
        if event - frame.dim <= value.ndim and value.shape[frame.dim - event] != frame.size:
            raise ShapeError(
                f"{begin}, but plate '{frame.name}' has size {frame.size}; plates take their size "
                "from the data, for instance x.shape[0]"
            )
    undeclared = value.shape[: value.ndim - len(shape)]
    if site["cond_indep_stack"] and any(n > 1 for n in undeclared):
        warnings.warn(
            f"{begin}, its plates only {shape}: each of the leading {undeclared} is scored against "
            "the same parameters; add a plate where that is meant, else transpose or reshape",
            DataWarning,
            stacklevel=2,
        )


def _shape(value: Any) -> tuple[int, ...]:
    """Shape of an array; a pytree has none."""
    return tuple(value.shape) if hasattr(value, "dtype") else ()


def _column_hint(value: np.ndarray, shape: tuple[int, ...], data: Data) -> str:
    """What is probably meant, where a single column stands for a vector."""
    if value.ndim and value.shape[-1] == 1 and value.ndim == len(shape) + 1:
        return f"; a column of shape {value.shape} is probably meant as {value.shape[:-1]}"
    columns = {n: _shape(v) for n, v in data.arrays.items()}
    columns = {n: s for n, s in columns.items() if len(s) == 2 and s[1] == 1 < s[0]}
    if columns:
        name, shown = next(iter(columns.items()))
        return f"; '{name}' of shape {shown} is probably meant as {shown[:1]}"
    return "; transpose or reshape it, or say what repeats with a plate"


def _check_values(
    name: str, value: np.ndarray, fns: list[Any], what: str, labels: np.ndarray | None
) -> None:
    """Refuse values that lie outside the support, or have no density at its edge."""
    fn, support = fns[0], fns[0].support
    if not support.is_discrete:
        value = value.astype(float)
    batch = value.shape[: value.ndim - fn.event_dim]
    masked = masked_out(fn, batch)
    undefined = np.isnan(value) if value.dtype.kind == "f" else np.zeros(value.shape, bool)
    undefined = ~_in_shape(~undefined, batch) & ~masked
    if undefined.any():
        rows = np.unique(np.nonzero(np.atleast_1d(undefined))[0])
        raise DataError(
            f"observed site '{name}': the program computes NaN from {what} "
            f"({rows_text(rows, labels)}), for instance the logarithm of a negative number"
        )
    # A support with latent bounds may hold the value at other latent values, so only equal
    # supports are judged.
    if any(not same_support(support, other.support) for other in fns[1:]):
        return
    with np.errstate(all="ignore"), jax.numpy_rank_promotion("allow"):
        inside = np.asarray(support(value))
        near = [np.asarray(support(value + step)) for step in (1e-9, -1e-9)]
    inside = _in_shape(inside, batch)
    if not support.is_discrete:
        edge = np.zeros(batch, bool)
        for moved in near:
            edge |= _in_shape(moved, batch) != inside
        if fn.event_dim:  # a share of 0 stays a simplex, within its tolerance
            edge |= inside & ~_in_shape(value != 0, batch)
        if edge.any():
            verdicts = [no_density(other, value) for other in fns]
            known = [_in_shape(v, batch) for v in verdicts if v is not None]
            bad = np.logical_and.reduce(known) if known else ~inside
            inside = np.where(edge, ~bad, inside)
    wrong = ~inside & ~masked
    if not wrong.any():
        return
    rows = np.unique(np.nonzero(np.atleast_1d(wrong))[0])
    outside = value[wrong] if wrong.ndim else value
    shown = ", ".join(f"{v:.6g}" for v in np.ravel(outside)[:3].tolist())
    raise DataError(
        f"observed site '{name}': {what} has values that {type(base_distribution(fn)).__name__} "
        f"cannot give: {shown} ({rows_text(rows, labels)}); they must be "
        f"{support_words(support)}{_edge_words(support, outside)}"
    )


def _edge_words(support: Any, outside: np.ndarray) -> str:
    name = type(support).__name__
    if (
        any(word in name for word in ("UnitInterval", "Simplex"))
        and np.all((outside >= 0) & (outside <= 1))
        and np.any((outside == 0) | (outside == 1))
    ):
        return ", without exact 0 and 1, where the density is 0 or infinite"
    return ""


def _in_shape(verdict: Any, batch: tuple[int, ...]) -> np.ndarray:
    """A verdict a value as one an observation."""
    verdict = np.asarray(verdict)
    while verdict.ndim > len(batch):
        verdict = verdict.all(axis=-1)
    return np.array(np.broadcast_to(verdict, batch))


def check_variation(trace: Trace, data: Data, sources: Sources) -> list[str]:
    """Warn of observed values and covariates that do not vary.

    Returns
    -------
    list of str
        Observed continuous sites without variance: their verdict cannot be good.
    """
    frozen, observed = [], set()
    for name, site in _observed(trace).items():
        value = np.asarray(site["value"])
        made_of = _made_of(name, site, data, sources)
        observed.update(sources.get(name, ()))
        # A constant that the program itself observes is meant.
        if made_of and value.size > 1 and value.dtype.kind in "fiub" and np.ptp(value * 1.0) == 0:
            warnings.warn(
                f"observed site '{name}' has zero variance: all {value.size} values of "
                f"{', '.join(repr(a) for a in made_of)} are {value.flat[0]}",
                DataWarning,
                stacklevel=2,
            )
            if not site["fn"].support.is_discrete:
                frozen.append(name)
    known = _known_parameters(trace)
    for name, value in data.arrays.items():
        if not isinstance(value, np.ndarray) or name in observed or value.dtype.kind not in "fi":
            continue
        if value.ndim != 1 or value.size < 2 or np.ptp(value) != 0 or name in data.levels:
            continue
        if not any(np.array_equal(value, other) for other in known):
            warnings.warn(
                f"column '{name}' is constant ({value[0]}); a coefficient on it cannot be told "
                "from an intercept",
                DataWarning,
                stacklevel=2,
            )
    return frozen


def _known_parameters(trace: Trace) -> list[Any]:
    """Arrays that are parameters of a site as they are: known scales, numbers of trials."""
    return [
        parameter(site["fn"], label)
        for site in trace.values()
        if site["type"] == "sample"
        for label, _ in parameter_constraints(site["fn"])
        if label not in ("loc", "rate", "probs", "logits") and not is_derived(site["fn"], label)
    ]
