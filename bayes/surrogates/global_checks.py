"""Whether a learned posterior is right on average over the data sets that its program draws.

Parameters are drawn from the prior and data from the program; the surrogate's posteriors of these
data are then held against the parameters. A learned network is never exact, and with many
simulations every exact test says so. What decides here is the size of an error: it has to be larger
than a tolerance by more than Monte Carlo error explains. P values are there for information.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from bayes.calibration.judgement import LEVEL, contraction_table, coverage_table
from bayes.calibration.uniformity import adjust, chi_square_test, ecdf_test
from bayes.errors import DataError, SettingsError, ShapeError
from bayes.surrogates.global_results import BINS, LOG_LIKELIHOOD, GlobalChecks
from bayes.surrogates.global_verdict import (
    coverage_check,
    rank_check,
    recovery_check,
    tarp_check,
)

__all__ = ["GlobalChecks", "judge_simulations"]

_CHECKS = 4
_FEWEST_SIMULATIONS, _FEWEST_DRAWS = 40, 20
_CENTRING = 20
"""Draws, a fifth of them at most, whose mean is the reference point."""


def judge_simulations(
    names: Sequence[str],
    truth: Float[np.ndarray, "s d"],
    draws: Float[np.ndarray, "s l d"],
    log_q_truth: Float[np.ndarray, " s"],
    log_prior_truth: Float[np.ndarray, " s"],
    log_likelihood_truth: Float[np.ndarray, " s"] | None,
    log_likelihood_draws: Float[np.ndarray, "s l"] | None,
    generator: np.random.Generator,
) -> GlobalChecks:
    """Judge a surrogate's posteriors of simulated data sets.

    Parameters
    ----------
    names : sequence of str
        Names of the unconstrained elements.
    truth : array of shape (s, d)
        The element values that each data set was drawn with, themselves drawn from the prior.
    draws : array of shape (s, l, d)
        Independent draws of the surrogate's posterior of each data set.
    log_q_truth, log_prior_truth : array of shape (s,)
        Log densities of the truth, on the unconstrained space, under posterior and prior.
    log_likelihood_truth, log_likelihood_draws : array of shape (s,) and (s, l), or None
        Log density of the data given the truth and given each draw. Without them nobody can tell
        a surrogate that returns the prior from one whose data teach nothing, and it fails.
    generator : numpy.random.Generator
        Spreads ranks at random, and so breaks ties.

    Returns
    -------
    GlobalChecks
        An exact posterior fails with a probability of at most about 1 %, all checks together, and
        tolerances make that much less. A surrogate at a tolerance fails about as rarely, too.

    Raises
    ------
    ShapeError
        Where shapes do not fit each other.
    SettingsError
        Where there are fewer than 40 simulations or 20 draws.
    DataError
        Where values are not finite, or an element's truth never varies.

    References
    ----------
    Talts et al. (2018), Validating Bayesian inference algorithms with simulation-based calibration,
    section 4. Modrák et al. (2023), Simulation-based calibration checking for Bayesian computation:
    the choice of test quantities shapes sensitivity, on the log likelihood. Lemos et al. (2023),
    Sampling-based accuracy testing of posterior estimators for general inference, algorithm 2.
    """
    names = [str(name) for name in names]
    likelihoods = _checked(
        names, truth, draws, log_q_truth, log_prior_truth, log_likelihood_truth,
        log_likelihood_draws,
    )  # fmt: skip
    share = LEVEL / _CHECKS
    columns, below = _elements(names, truth, draws, generator)
    quantities, ranked = list(names), [below]
    if likelihoods is not None:
        quantities.append(LOG_LIKELIHOOD)
        ranked.append(_shares(*likelihoods, generator)[:, None])
    counts, ranking = _ranking(np.concatenate(ranked, axis=1))
    credibility = _credibility(truth, draws, generator)
    distance, p_value = _deviation(credibility)
    gains = log_q_truth - log_prior_truth
    gain = float(gains.mean())
    gain_error = float(gains.std(ddof=1) / np.sqrt(len(gains)))
    p_likelihood = None if likelihoods is None else float(ranking["p"][-1])
    checks = (
        rank_check(quantities, len(names), ranking, len(truth), share),
        coverage_check(names, columns["90%"], len(truth), share),
        tarp_check(distance, len(truth), share),
        recovery_check(gain, gain_error, p_likelihood, share),
    )
    return GlobalChecks(
        simulations=len(truth),
        draws=draws.shape[1],
        names=tuple(names),
        ranking={k: tuple(map(float, v)) for k, v in ranking.items()},
        rank_counts=tuple(tuple(map(int, c)) for c in counts.T),
        elements={k: tuple(map(float, v)) for k, v in columns.items()},
        tarp_counts=tuple(map(int, _binned(credibility))),
        tarp_distance=distance,
        tarp_p=p_value,
        gain=gain,
        gain_error=gain_error,
        checks=checks,
    )


# ------------------------------------------------------------------- what is given


def _checked(
    names: Sequence[str],
    truth: np.ndarray,
    draws: np.ndarray,
    log_q: np.ndarray,
    log_prior: np.ndarray,
    at_truth: np.ndarray | None,
    at_draws: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray] | None:
    """The log likelihoods, once everything has been found usable."""
    s, d = truth.shape if truth.ndim == 2 else (0, 0)
    wanted = {
        "truth": (truth, (s, len(names))),
        "draws": (draws, (s, draws.shape[1] if draws.ndim == 3 else 0, d)),
        "log_q_truth": (log_q, (s,)),
        "log_prior_truth": (log_prior, (s,)),
    }
    if (at_truth is None) != (at_draws is None):
        raise SettingsError("log likelihoods are given both at the truth and at the draws, or not")
    if at_truth is not None and at_draws is not None:
        wanted["log_likelihood_truth"] = (at_truth, (s,))
        wanted["log_likelihood_draws"] = (at_draws, draws.shape[:2])
    for name, (values, shape) in wanted.items():
        if values.shape != shape:
            raise ShapeError(f"{name} has shape {values.shape} where {shape} is expected")
    if s < _FEWEST_SIMULATIONS or draws.shape[1] < _FEWEST_DRAWS:
        raise SettingsError(
            f"{s} simulations with {draws.shape[1]} draws each are too few to judge a surrogate: "
            f"give {_FEWEST_SIMULATIONS} with {_FEWEST_DRAWS} at least"
        )
    for name, (values, _) in wanted.items():
        # The data may be impossible under a draw; that ranks it last.
        fine = ~np.isnan(values) if name.startswith("log_likelihood") else np.isfinite(values)
        if not fine.all():
            bad = np.unique(np.nonzero(~fine)[0])
            raise DataError(
                f"{name} has values that are not finite numbers, in {len(bad)} of {s} simulations, "
                f"the first of them number {bad[0]}: a surrogate that gives them cannot be judged"
            )
    still = [n for n, v in zip(names, np.ptp(truth, axis=0), strict=True) if v == 0]
    if still:
        raise DataError(f"'{still[0]}' has the same true value in all simulations: its prior is")
    return None if at_truth is None or at_draws is None else (at_truth, at_draws)


# -------------------------------------------------------------------- what is found


def _shares(
    truth: np.ndarray,
    draws: np.ndarray,
    generator: np.random.Generator,
) -> np.ndarray:
    """Share of the posterior below the truth: exactly uniform on (0, 1) where all are right.

    Truths have shape (s, ...) and draws (s, l, ...). The rank is spread at
    random over its own share and that of draws equal to the truth, so that it may be cut into any
    number of bins, whatever the number of draws.
    """
    at = truth[:, None]
    less, ties = (draws < at).sum(axis=1), (draws == at).sum(axis=1)
    return (less + generator.random(less.shape) * (ties + 1)) / (draws.shape[1] + 1)


def _binned(shares: Float[np.ndarray, " s"]) -> Int[np.ndarray, " bins"]:
    return np.bincount(_ranks(shares), minlength=BINS)


def _ranks(shares: np.ndarray) -> np.ndarray:
    return np.minimum((shares * BINS).astype(int), BINS - 1)


def _elements(
    names: list[str], truth: np.ndarray, draws: np.ndarray, generator: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Coverage and recovery by element, and the share of each posterior below the truth."""
    below = _shares(truth, draws, generator)
    mean, sd = draws.mean(axis=1), draws.std(axis=1, ddof=1)
    spread = truth.std(axis=0, ddof=1)
    with np.errstate(all="ignore"):
        z = (mean - truth) / sd
        recovered = contraction_table(names, z, 1.0 - np.square(sd / spread))
        away = mean - mean.mean(axis=0)
        apart = truth - truth.mean(axis=0)
        size = np.sqrt(np.square(away).sum(axis=0) * np.square(apart).sum(axis=0))
        correlation = np.where(size > 0, (away * apart).sum(axis=0) / size, 0.0)
    tables = coverage_table(names, below), recovered
    columns = {str(k): table[k].to_numpy() for table in tables for k in table.columns}
    return {**columns, "correlation": correlation}, below


def _ranking(
    shares: Float[np.ndarray, "s q"],
) -> tuple[Int[np.ndarray, "bins q"], dict[str, np.ndarray]]:
    """Tests of uniform ranks, and how far from uniform they are, by quantity."""
    from scipy.special import ndtri

    n = len(shares)
    ranks = _ranks(shares)
    counts = np.stack([np.bincount(r, minlength=BINS) for r in ranks.T], axis=1)
    chi = np.array([chi_square_test(r, BINS - 1) for r in ranks.T])
    ecdf = np.array([ecdf_test(r, BINS - 1) for r in ranks.T])
    p = np.minimum(1.0, 2 * np.minimum(chi, ecdf))
    scores = ndtri((np.arange(BINS) + 0.5) / BINS)
    mean = scores @ counts / n
    square = np.square(scores) @ counts / n - np.square(mean)
    # Scores of bins vary a little less than a normal variable; that is taken off again.
    usual = float(np.square(scores).mean())
    steps = np.arange(1, BINS)[:, None] / BINS
    found = {
        "p_chi2": chi,
        "p_ecdf": ecdf,
        "p": p,
        "p_adjusted": adjust(p),
        "shift": mean,
        "spread": 0.5 * np.log(np.maximum(square, 1e-6) / usual),
        "distance": np.abs(np.cumsum(counts, axis=0)[:-1] / n - steps).max(axis=0),
    }
    return counts, found


def _credibility(
    truth: np.ndarray, draws: np.ndarray, generator: np.random.Generator
) -> Float[np.ndarray, " s"]:
    """Posterior mass closer to a random reference point than the truth is, by simulation.

    A reference point may depend on the data, and has to if the test is to see everything. It is the
    mean of a few draws, which are then left out: random, and so near the middle that distances,
    in posterior standard deviations by element, show width and dependence best.
    """
    first = min(_CENTRING, draws.shape[1] // 5)
    centre, sd = draws[:, :first].mean(axis=1), draws[:, :first].std(axis=1)
    sd = np.where(sd > 0, sd, truth.std(axis=0))
    # Scaled in single steps: the draws are the one large array.
    others = draws[:, first:] - centre[:, None]
    others /= sd[:, None]
    far = np.einsum("sld,sld->sl", others, others)
    apart = (truth - centre) / sd
    return _shares(np.einsum("sd,sd->s", apart, apart), far, generator)


def _deviation(credibility: Float[np.ndarray, " s"]) -> tuple[float, float]:
    """Largest deviation of expected coverage from credibility, and its exact p value."""
    from scipy.stats import kstwo

    n = len(credibility)
    ordered, steps = np.sort(credibility), np.arange(n + 1) / n
    distance = float(max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()))
    return distance, float(kstwo.sf(distance, n))
