"""Parameters of distributions that are not valid, whatever the latent sites are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from numpyro.distributions import constraints

from bayes.errors import ModelError
from bayes.program import is_factor
from bayes.supports import base_distribution, support_words

__all__ = ["check_parameters", "is_derived", "parameter", "parameter_constraints"]

Trace = Mapping[str, Any]

_MORE_DRAWS = 30


def parameter_constraints(fn: Any) -> list[tuple[str, Any]]:
    """Names and constraints of a distribution's parameters."""
    return list(base_distribution(fn).arg_constraints.items())


def parameter(fn: Any, name: str) -> Any:
    """A parameter of a distribution, None where it is not kept."""
    return getattr(base_distribution(fn), name, None)


def is_derived(fn: Any, name: str) -> bool:
    """Whether a parameter would have to be computed from others: a covariance from its factor."""
    base = base_distribution(fn)
    return name not in base.__dict__ and name in getattr(base, "reparametrized_params", [])


def check_parameters(traces: Sequence[Trace], draw: Callable[[int], Trace] | None = None) -> None:
    """Refuse distributions whose parameters are invalid at every prior draw, naming the site.

    Parameters
    ----------
    traces : list of trace
        Traces at different prior draws.
    draw : callable, optional
        Another trace from a seed. A parameter that follows from latent values is refused only
        after many draws.

    Raises
    ------
    ModelError
        Names the site, the parameter and what it must be.
    """
    first = traces[0]
    for name, site in first.items():
        # A factor may rule out what the prior draws: starts are judged by the log density.
        if site["type"] != "sample" or is_factor(site):
            continue
        for label, constraint in parameter_constraints(site["fn"]):
            if constraint is constraints.dependent or not callable(constraint):
                continue
            valid = [_valid(t[name]["fn"], label, constraint) for t in traces if name in t]
            if any(v is not False for v in valid):
                continue
            if draw is not None and not _fixed(traces, name, label):
                seeds = range(len(traces), len(traces) + _MORE_DRAWS)
                if any(_valid_at(draw, s, name, label, constraint) for s in seeds):
                    continue
            kind = type(base_distribution(site["fn"])).__name__
            raise ModelError(
                f"site '{name}': parameter '{label}' of {kind} is invalid "
                f"({_shown(parameter(site['fn'], label), constraint)}); it must be "
                f"{support_words(constraint)}"
            )


def _valid_at(
    draw: Callable[[int], Trace], seed: int, name: str, label: str, constraint: Any
) -> bool:
    trace = draw(seed)
    return name not in trace or _valid(trace[name]["fn"], label, constraint) is not False


def _fixed(traces: Sequence[Trace], name: str, label: str) -> bool:
    """Whether a parameter is the same at all traces: it follows from constants and data."""
    values = [np.asarray(parameter(t[name]["fn"], label)) for t in traces if name in t]
    return all(np.array_equal(values[0], v, equal_nan=True) for v in values[1:])


def _valid(fn: Any, label: str, constraint: Any) -> bool | None:
    """Whether a parameter is valid; None where that cannot be told."""
    if is_derived(fn, label):
        return None
    value = parameter(fn, label)
    if not isinstance(value, (int, float, tuple)) and not hasattr(value, "dtype"):
        return None
    try:
        with jax.numpy_rank_promotion("allow"):
            return bool(np.all(np.asarray(constraint(value))))
    except Exception:
        return None


def _shown(value: Any, constraint: Any) -> str:
    """A few of the invalid values."""
    if isinstance(value, tuple):  # of arrays, which are valid one by one
        value = next(part for part in value if not np.all(np.asarray(constraint((part,)))))
        bad = [v for v in np.ravel(value) if not np.all(np.asarray(constraint((v,))))]
        return ", ".join(f"{v:.4g}" for v in bad[:3])
    value = np.asarray(value)
    with jax.numpy_rank_promotion("allow"):
        verdict = np.asarray(constraint(value))
    bad = value[~verdict] if value.ndim and verdict.shape == value.shape else value
    return ", ".join(f"{v:.4g}" for v in np.ravel(bad)[:3])
