"""From variances and draws of coefficients to the draws of a program's sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bayes.distributions.pairs import as_pairs
from bayes.inference.kronecker.posterior import KroneckerPosterior
from bayes.inference.kronecker.recognition import Recognised, recognise
from bayes.inference.kronecker.tensors import outer
from bayes.method import Draws, Moments
from bayes.problem import Problem

__all__ = [
    "assembled",
    "joined",
    "kept_draws",
    "known_posterior",
    "null_evidence",
    "observed_share",
    "with_derived",
]

_BYTES = 2**30
_FEWEST = 2
_TOLD = 50
"""Coefficients whose tails can be told from a normal's."""


def joined(parts: list[np.ndarray]) -> np.ndarray:
    """Blocks of draws as one; a single one is not copied, as draws may be large."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def kept_draws(wanted: int, found: Recognised) -> int:
    """So many draws of the coefficients, or as many as fit in a GiB."""
    snapshots = int(np.prod(found.batch))
    size = 8 * snapshots * int(np.prod(found.sizes)) * (2 if found.pairs else 1)
    return min(wanted, max(_FEWEST, _BYTES // size))


def with_derived(
    problem: Problem, found: Recognised, values: Mapping[str, np.ndarray], draws: np.ndarray
) -> dict[str, np.ndarray]:
    """Values of all sites that the posterior reports, of shape (chain, draw, ...).

    Parameters
    ----------
    problem : Problem
        The program.
    found : Recognised
        What its sites are.
    values : mapping of array
        Sites of the variances and the noise, of shape (chain, draw, ...).
    draws : array of shape (chain, draw, L, n_1, ..., n_I)
        Coefficients.

    Returns
    -------
    dict
        Arrays by site.
    """
    values = dict(values)
    x = draws.reshape(*draws.shape[:2], *found.batch, *draws.shape[3:])
    values[found.coefficients] = np.asarray(as_pairs(x)) if found.pairs else x
    if any(s.kind == "deterministic" for s in problem.sites.values()):
        everything = problem.constrain(problem.unconstrain(values))
        values = {**everything, **values}
    return {name: values[name] for name in problem.parameters if name in values}


def assembled(
    problem: Problem,
    found: Recognised,
    parameters: list[np.ndarray],
    variance: float,
    draws: np.ndarray,
    info: dict[str, Any],
) -> Draws:
    """Draws at one set of variances, which takes no memory for each draw."""
    shape = (1, len(draws))
    values: dict[str, np.ndarray] = {}
    for site, axis, t in zip(found.scales, found.model.axes, parameters, strict=True):
        if site is not None and axis.prior is not None:
            values[site] = np.broadcast_to(t ** (1.0 / axis.prior.power), (*shape, len(t)))
    if found.noise is not None and found.model.noise.prior is not None:
        noise = variance ** (1.0 / found.model.noise.prior.power)
        values[found.noise] = np.broadcast_to(np.asarray(noise), shape)
    values = with_derived(problem, found, values, draws[None])
    known = KroneckerPosterior(
        found, found.model.pruned(parameters, info["prune"]), variance, 0.0, np.zeros(0)
    )
    mean = known.mean
    sd = np.broadcast_to(known.sd, mean.shape)
    info = {**info, "kurtosis": _kurtosis(mean, sd**2, known.relevances)}
    if found.pairs:  # each part has half of the variance
        mean, sd = np.asarray(as_pairs(mean)), np.sqrt(0.5) * np.stack([sd, sd], axis=-1)
    moments = {found.coefficients: Moments(mean, np.broadcast_to(sd, mean.shape))}
    # Draws are many: one that is not finite shows in their sum.
    finite = np.isfinite(np.sum(draws)) and np.isfinite(variance)
    return Draws(values, {}, chains=1, info=info, moments=moments, non_finite=0 if finite else None)


def _kurtosis(
    mean: np.ndarray, variances: np.ndarray, relevances: Sequence[np.ndarray]
) -> list[float] | None:
    """Kurtosis of coefficients that the observations tell well, and how many these are.

    Under the prior a posterior mean is normal with the variance that the observations explain.
    """
    prior = np.broadcast_to(outer(relevances), mean.shape)
    told = variances < 0.5 * prior
    count = int(np.sum(told))
    if count < _TOLD:
        return None
    squares = np.abs(mean[told]) ** 2 / (prior[told] - variances[told])
    kurtosis = float(np.mean(squares**2) / np.mean(squares) ** 2)
    # That of complex normals is 2.
    return [kurtosis * (1.5 if np.iscomplexobj(mean) else 1.0), float(count)]


def known_posterior(
    problem: Problem, sites: Mapping[str, np.ndarray], info: Mapping[str, Any]
) -> KroneckerPosterior | None:
    """The posterior given the variances that a type-II fit found.

    Parameters
    ----------
    problem : Problem
        Program and data.
    sites : mapping of array
        Draws, of which those of variances and noise are all the same.
    info : mapping
        Of the fit.

    Returns
    -------
    KroneckerPosterior or None
        None where variances were sampled.
    """
    if not info.get("type_ii"):
        return None
    found = recognise(problem)
    parameters = []
    for site, axis in zip(found.scales, found.model.axes, strict=True):
        if site is None or axis.prior is None:
            parameters.append(axis.given)
        else:
            parameters.append(np.asarray(sites[site][0, 0]) ** axis.prior.power)
    prior, given = found.model.noise.prior, found.model.noise.given
    if found.noise is not None and prior is not None:
        given = float(sites[found.noise][0, 0]) ** prior.power
    assert given is not None
    relevances = found.model.pruned(parameters, float(info["prune"]))
    trace = np.asarray(info["objective"])
    return KroneckerPosterior(found, relevances, given, float(info["log_evidence"]), trace)


def observed_share(found: Recognised) -> float | None:
    """Numbers observed for each variance that is learned; None where none is."""
    model = found.model
    learned = sum(axis.length for axis in model.axes if axis.prior is not None)
    learned += model.noise.prior is not None
    if not learned:
        return None
    return found.numbers / learned


def null_evidence(found: Recognised, size: int, power: float) -> float:
    """Log density of so many observations of this power if all coefficients were zero."""
    given = found.model.noise.given
    variance = power if given is None else given
    weight, tau = (1.0, np.pi) if found.pairs else (0.5, 2.0 * np.pi)
    return float(-weight * size * (np.log(tau * variance) + power / variance))
