"""What else estimates a sparse vector: dense sparse Bayesian learning, greedy and decomposing ways.

Written here after the papers that are named, but for scikit-learn's estimators, which are no
dependency of the project. Those learn the noise that can; what each is told beyond the data is said
where it is defined.
"""

from __future__ import annotations

import dataclasses
import functools
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from kronecker_setups import Problem, apply
from scipy import linalg


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Coefficients, and how sure an engine is of them.

    Parameters
    ----------
    mean : array of shape (N_1, ..., N_I)
    sd : array of the same shape, optional
    info : dict
        Numbers to keep: sweeps, seconds of parts.
    """

    mean: np.ndarray
    sd: np.ndarray | None = None
    info: dict[str, Any] = dataclasses.field(default_factory=dict)


def _shape(problem: Problem) -> tuple[int, ...]:
    return tuple(h.shape[1] for h in problem.factors)


def _dictionary(problem: Problem) -> np.ndarray:
    return functools.reduce(np.kron, problem.factors)


# Sparse Bayesian learning with a variance of its own for each coefficient -------------------------


def em(
    dictionary: np.ndarray,
    y: np.ndarray,
    *,
    variance: float | None = None,
    sweeps: int = 150,
    tolerance: float = 1e-4,
    prune: float = 1e-3,
) -> tuple[np.ndarray, np.ndarray, int]:
    """The classical EM algorithm, with the covariance of all observations.

    Wipf and Rao (2004), Sparse Bayesian learning for basis selection, IEEE Transactions on Signal
    Processing 52. Variances below ``prune`` of the greatest are dropped, and it stops when the
    others change by less than ``tolerance``, both as He and Joseph have it.

    Parameters
    ----------
    dictionary : array of shape (M, N)
    y : array of shape (M,)
    variance : float, optional
        Of the noise; learned without it.

    Returns
    -------
    mean, variances : array of shape (N,)
    sweeps : int
    """
    rows, columns = dictionary.shape
    power = np.vdot(y, y).real
    g = np.full(columns, power / np.sum(np.abs(dictionary) ** 2))
    v = 0.1 * power / rows if variance is None else variance
    active, count, moved = np.arange(columns), 0, np.inf
    while True:
        a, t = dictionary[:, active], g[active]
        if len(active) <= rows:
            inner = (a.conj().T @ a) / v
            inner[np.diag_indices_from(inner)] += 1 / t
            covariance = linalg.inv(inner, check_finite=False)
            mean, spread = covariance @ (a.conj().T @ y) / v, np.diag(covariance).real
        else:
            outer = (a * t) @ a.conj().T
            outer[np.diag_indices_from(outer)] += v
            solved = linalg.solve(outer, a, assume_a="pos", check_finite=False)
            mean = t * (solved.conj().T @ y)
            spread = t - t**2 * np.sum((a.conj() * solved).real, axis=0)
        if count == sweeps or moved <= tolerance:
            break
        g[active], count = np.abs(mean) ** 2 + spread, count + 1
        moved = np.linalg.norm(g[active] - t) / np.linalg.norm(t)
        if variance is None:
            rest = np.linalg.norm(y - a @ mean) ** 2
            v = float((rest + v * np.sum(1 - spread / t)) / rows)
        keep = g[active] > prune * g[active].max()
        g[active[~keep]], active = 0.0, active[keep]
    means, variances = np.zeros(columns, mean.dtype), np.zeros(columns)
    means[active], variances[active] = mean, np.maximum(spread, 0)
    return means, variances, count


def em_sbl(problem: Problem, sweeps: int = 150) -> Estimate:
    """The classical EM algorithm on the whole dictionary."""
    mean, variance, count = em(_dictionary(problem), problem.y.ravel(), sweeps=sweeps)
    shape, info = _shape(problem), {"sweeps": count, "passes": count + 1}
    return Estimate(mean.reshape(shape), np.sqrt(variance).reshape(shape), info)


def ard(problem: Problem) -> Estimate:
    """ARDRegression of scikit-learn with its defaults, but that no coefficient is dropped."""
    from sklearn.linear_model import ARDRegression

    found = ARDRegression(fit_intercept=False, threshold_lambda=1e10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence
        found.fit(_dictionary(problem), problem.y.ravel())
    sd = np.zeros(found.coef_.size)
    sd[found.lambda_ < found.threshold_lambda] = np.sqrt(np.diag(found.sigma_))
    shape = _shape(problem)
    return Estimate(found.coef_.reshape(shape), sd.reshape(shape), {"sweeps": found.n_iter_})


# The same model as ours -------------------------------------------------------------------------


def kronecker_em(
    problem: Problem, sweeps: int = 150, tolerance: float = 1e-4, inner: float = 1e-5
) -> Estimate:
    """EM with alternating minimisation, every coefficient's covariance with every other's formed.

    He and Joseph (2023), arXiv 2307.14719: relevances are an outer product, and the covariance of N
    numbers is put together of the factors' eigendecompositions. Nothing is dropped, so that each
    sweep is the same work. It starts where ours does, with a tenth of the observations' power for
    noise. ``info`` has the log evidence in the end.
    """
    factors, y = problem.factors, problem.y
    power, shape, moved = np.mean(np.abs(y) ** 2), _shape(problem), np.inf
    scale = 0.9 * power / np.prod([np.mean(np.sum(np.abs(h) ** 2, axis=1)) for h in factors])
    g, v, trace, count = [np.ones(n) for n in shape], 0.1 * power, [], 0
    g[-1] = g[-1] * scale
    begin = time.perf_counter()
    while True:
        values, vectors = zip(
            *(np.linalg.eigh((h * t) @ h.conj().T) for h, t in zip(factors, g, strict=True)),
            strict=True,
        )
        s = functools.reduce(np.multiply.outer, [np.maximum(value, 0) for value in values])
        z = apply([u.conj().T for u in vectors], y)
        complex_numbers = problem.is_complex
        logs = np.log(v + s) + np.abs(z) ** 2 / (v + s)
        each = np.log(np.pi) if complex_numbers else np.log(2 * np.pi)
        trace.append(-(np.sum(logs) + y.size * each) / (1 if complex_numbers else 2))
        gains = functools.reduce(
            np.kron,
            [t[:, None] * h.conj().T @ u for h, t, u in zip(factors, g, vectors, strict=True)],
        )
        precision = (1 / (v + s)).ravel()
        prior = functools.reduce(np.multiply.outer, g)
        mean = (gains @ (precision * z.ravel())).reshape(shape)
        covariance = -(gains * precision) @ gains.conj().T
        covariance[np.diag_indices_from(covariance)] += prior.ravel()
        spread = np.maximum(np.diag(covariance).real, 0).reshape(shape)
        if count == sweeps or moved <= tolerance:
            break
        rest = np.linalg.norm(y - apply(factors, mean)) ** 2
        g, v = (
            _scaled(np.abs(mean) ** 2 + spread, g, inner),
            (rest + v * np.sum(s / (v + s))) / y.size,
        )
        after, count = functools.reduce(np.multiply.outer, g), count + 1
        moved = np.linalg.norm(after - prior) / np.linalg.norm(prior)
    seconds = time.perf_counter() - begin
    info = {"sweeps": count, "passes": count + 1, "log_evidence": trace[-1], "seconds": seconds}
    return Estimate(mean, np.sqrt(spread), info)


def _scaled(moments: np.ndarray, g: list[np.ndarray], tolerance: float) -> list[np.ndarray]:
    """The outer product that the moments are nearest to, by one factor after the other."""
    g, before = list(g), np.inf
    for _ in range(1000):
        for axis in range(len(g)):
            rest = np.moveaxis(moments, axis, 0)
            for other in (t for i, t in reversed(list(enumerate(g))) if i != axis):
                rest = rest @ (1 / np.maximum(other, 1e-300))
            g[axis] = rest * len(g[axis]) / moments.size
            if axis < len(g) - 1:
                size = np.linalg.norm(g[axis])
                g[axis], g[-1] = g[axis] / size, g[-1] * size
        now = functools.reduce(np.multiply.outer, g)
        if np.linalg.norm(now - before) <= tolerance * np.linalg.norm(now):
            break
        before = now
    return g


# Decomposition first ----------------------------------------------------------------------------


def decomposed(problem: Problem) -> Estimate:
    """The outer product nearest to the observations, then sparse Bayesian learning of each factor.

    After He and Joseph (2023), arXiv 2310.07869. It is right where the coefficients are an outer
    product themselves, and wrong elsewhere. The noise is what the outer product leaves.
    """
    y = problem.y
    parts = [
        np.linalg.svd(np.moveaxis(y, i, 0).reshape(n, -1), full_matrices=False)[0][:, 0]
        for i, n in enumerate(y.shape)
    ]
    for _ in range(30):
        for axis in range(y.ndim):
            rest = np.moveaxis(y, axis, 0)
            for other in (p for i, p in reversed(list(enumerate(parts))) if i != axis):
                rest = rest @ other.conj()
            parts[axis] = rest / np.linalg.norm(rest)
    size = np.linalg.norm(rest)
    free = y.size - sum(y.shape) + y.ndim - 1
    noise = max(np.linalg.norm(y) ** 2 - size**2, 1e-12 * size**2) / free / size**2
    found = []
    for h, part in zip(problem.factors, parts, strict=True):
        length = np.linalg.norm(h, axis=0)
        mean, _, _ = em(h / length, part, variance=noise, sweeps=1000)
        found.append(mean / length)
    return Estimate(size * functools.reduce(np.multiply.outer, found))


# Without a posterior ----------------------------------------------------------------------------


def omp(problem: Problem) -> Estimate:
    """Orthogonal matching pursuit of scikit-learn, told how many coefficients there are."""
    from sklearn.linear_model import OrthogonalMatchingPursuit

    dictionary, count = _dictionary(problem), problem.x[problem.on_support].size
    length = np.linalg.norm(dictionary, axis=0)
    found = OrthogonalMatchingPursuit(n_nonzero_coefs=count, fit_intercept=False)
    found.fit(dictionary / length, problem.y.ravel())
    return Estimate((found.coef_ / length).reshape(_shape(problem)))


def oracle(problem: Problem) -> Estimate:
    """Least squares, told where the coefficients are."""
    inverses = [
        np.linalg.pinv(h[:, s]) for h, s in zip(problem.factors, problem.support, strict=True)
    ]
    x = np.zeros(_shape(problem), problem.y.dtype)
    x[problem.on_support] = apply(inverses, problem.y)
    return Estimate(x)


def ridge(problem: Problem) -> Estimate:
    """The same prior variance, 1, for all coefficients; told the noise."""
    values, vectors = zip(*(np.linalg.eigh(h @ h.conj().T) for h in problem.factors), strict=True)
    s = functools.reduce(np.multiply.outer, values)
    z = apply([u.conj().T for u in vectors], problem.y) / (problem.variance + s)
    back = [h.conj().T @ u for h, u in zip(problem.factors, vectors, strict=True)]
    return Estimate(apply(back, z))


PEERS: dict[str, Callable[[Problem], Estimate]] = {
    "em-sbl": em_sbl,
    "ard": ard,
    "omp": omp,
    "dsbl": decomposed,
    "oracle": oracle,
    "ridge": ridge,
}


def need_sklearn(names: Sequence[str]) -> None:
    """Say what to install, before anything is measured."""
    import importlib.util

    if {"ard", "omp"} & set(names) and importlib.util.find_spec("sklearn") is None:
        raise SystemExit(
            "ard and omp are scikit-learn's: install scikit-learn, or leave them out by --engines"
        )
