"""Global checks of a surrogate on a conjugate normal, exact and with faults that are planted."""

import json

import numpy as np
import pytest
from scipy.stats import binom, multivariate_normal

from bayes.calibration.uniformity import ecdf_test
from bayes.errors import DataError, FileError, SettingsError, ShapeError
from bayes.surrogates.global_checks import GlobalChecks, judge_simulations

S, L, D = 1000, 200, 3
NAMES = ["mu", "theta[0]", "theta[1]"]
DESIGN = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 0.0, 0.5]])
SD = np.array([0.3, 0.5, 1.0])
FEATURES = DESIGN / SD[:, None]
COVARIANCE = np.linalg.inv(np.eye(D) + FEATURES.T @ FEATURES)
"""Of the posterior of u ~ N(0, 1) given y ~ N(DESIGN u, SD); far from independent."""


def conjugate(seed, *, sd=1.0, shift=0.0, kind="exact"):
    """Arguments of the checks for the exact posterior, or for a wrong one."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(S, D))
    y = truth @ FEATURES.T + rng.normal(size=(S, D))
    mean, covariance = y @ FEATURES @ COVARIANCE, COVARIANCE
    if kind == "prior":
        mean, covariance = np.zeros_like(mean), np.eye(D)
    elif kind == "independent":
        covariance = np.diag(np.diagonal(COVARIANCE))
    covariance = sd**2 * covariance
    mean = mean + shift * np.sqrt(np.diagonal(covariance))
    root = np.linalg.cholesky(covariance)
    draws = mean[:, None] + rng.normal(size=(S, L, D)) @ root.T

    def log_likelihood(u, y):
        return -0.5 * np.square(y - u @ FEATURES.T).sum(-1)

    return {
        "names": NAMES,
        "truth": truth,
        "draws": draws,
        "log_q_truth": multivariate_normal(np.zeros(D), covariance).logpdf(truth - mean),
        "log_prior_truth": multivariate_normal(np.zeros(D), np.eye(D)).logpdf(truth),
        "log_likelihood_truth": log_likelihood(truth, y),
        "log_likelihood_draws": log_likelihood(draws, y[:, None]),
        "generator": rng,
    }


def failed(found):
    return {check.name for check in found.failed}


@pytest.fixture(scope="module")
def exact():
    return [judge_simulations(**conjugate(seed)) for seed in range(20)]


def test_an_exact_posterior_passes(exact):
    """Twenty repetitions; a check fails one by chance with probability far below 1e-5."""
    for found in exact:
        assert found.ok, found.verdict
        assert [check.name for check in found.checks] == ["sbc", "coverage", "tarp", "recovery"]


def test_p_values_of_an_exact_posterior_are_right(exact):
    """More than 5 of 20 below .05 happens with probability 3e-4, for ranks and for TARP."""
    assert binom.sf(5, 20, 0.05) < 4e-4
    assert sum(min(found.ranking["p_adjusted"]) < 0.05 for found in exact) <= 5
    assert sum(found.tarp_p < 0.05 for found in exact) <= 5
    assert np.median([found.tarp_p for found in exact]) > 0.1  # false alarm rate 1e-6


def test_ranks_are_uniform_with_few_draws_and_ties():
    """Draws of a coarse grid, thirty a simulation: false alarm rate 1e-3."""
    given = conjugate(3)
    given["draws"], given["truth"] = given["draws"][:, :30].round(0), given["truth"].round(0)
    given["draws"] = np.random.default_rng(8).normal(size=(S, 30, D)).round(0)
    found = judge_simulations(**{k: v if "likelihood" not in k else None for k, v in given.items()})
    assert min(found.ranking["p_adjusted"]) > 1e-3


def test_effect_sizes_are_those_of_normal_theory(exact):
    """Numbers within four Monte Carlo errors of what they estimate: false alarm rate 1e-3."""
    found = exact[0]
    spread = 1 - np.diagonal(COVARIANCE)
    np.testing.assert_allclose(found.elements["correlation"], np.sqrt(spread), atol=0.05)
    # The truths' own variance is that of a sample, with a relative error of .045.
    np.testing.assert_allclose(
        found.elements["contraction"], spread, atol=4 * 0.045 * np.diagonal(COVARIANCE).max()
    )
    np.testing.assert_allclose(found.elements["z_mean"], 0, atol=4 / np.sqrt(S))
    np.testing.assert_allclose(found.elements["z_sd"], 1, atol=4 / np.sqrt(2 * S))
    gain = -0.5 * np.linalg.slogdet(COVARIANCE)[1]
    assert abs(found.gain - gain) < 4 * found.gain_error
    assert found.gain_error < 0.1
    off = judge_simulations(**conjugate(1, sd=0.8, shift=-0.3))
    np.testing.assert_allclose(off.ranking["spread"][:D], -np.log(0.8), atol=4 / np.sqrt(2 * S))
    np.testing.assert_allclose(off.ranking["shift"][:D], 0.3, atol=4 * 1.25 / np.sqrt(S))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("fault", "must"),
    [
        ({"kind": "prior"}, {"recovery", "sbc"}),
        ({"sd": 0.8}, {"sbc"}),
        ({"sd": 1.25}, {"sbc"}),
        ({"sd": 0.6}, {"sbc", "coverage", "tarp"}),
        ({"sd": 1.7}, {"sbc", "coverage", "tarp"}),
        ({"shift": 0.3}, {"sbc"}),
        ({"kind": "independent"}, {"sbc"}),
    ],
    ids=["prior", "narrow", "wide", "far too narrow", "far too wide", "shifted", "independent"],
)
def test_a_planted_fault_is_found(fault, must, seed):
    """Each lies three of its Monte Carlo errors above the threshold, in several quantities."""
    found = judge_simulations(**conjugate(100 + seed, **fault))
    assert must <= failed(found), str(found)
    assert all(check.advice for check in found.failed)


def test_advice_names_the_fault():
    assert "too narrow" in judge_simulations(**conjugate(5, sd=0.7))["sbc"].advice
    assert "too wide" in judge_simulations(**conjugate(5, sd=1.5))["sbc"].advice
    assert "too high" in judge_simulations(**conjugate(5, shift=0.5))["sbc"].advice
    assert "90 % intervals of" in judge_simulations(**conjugate(5, sd=0.6))["coverage"].advice


def test_wrong_dependence_shows_in_no_element():
    """Elements alone are right; the log likelihood says it: false alarm rate below 1e-5."""
    found = judge_simulations(**conjugate(7, kind="independent"))
    assert found["coverage"].passed
    assert "fit their data better" in found["sbc"].advice
    assert min(found.ranking["p_adjusted"][:D]) > 1e-3


def test_wrong_dependence_shows_in_tarp_without_likelihoods():
    """Two elements of correlation .95 whose surrogate has none: a deviation of .128 where .088
    is allowed, with a standard error of .016; the exact one fails with probability below 1e-5.
    """
    rng = np.random.default_rng(0)
    root = np.linalg.cholesky(np.array([[1.0, 0.95], [0.95, 1.0]]) * 0.1)
    mean = np.sqrt(0.9) * rng.normal(size=(S, 2))
    truth = mean + rng.normal(size=(S, 2)) @ root.T
    p_values = []
    for factor in (root, np.sqrt(0.1) * np.eye(2)):
        draws = mean[:, None] + rng.normal(size=(S, L, 2)) @ factor.T
        zero = np.zeros(S)
        found = judge_simulations(["a", "b"], truth, draws, zero + 1, zero, None, None, rng)
        p_values.append(found.tarp_p)
        assert {"sbc", "coverage"}.isdisjoint(failed(found))
        assert found["tarp"].passed == (factor is root)
    assert p_values[0] > 1e-3
    assert p_values[1] < 1e-6


def test_data_that_teach_nothing_are_no_fault():
    """The prior is the posterior where the likelihood is flat, and ties are broken at random."""
    given = conjugate(11, kind="prior")
    flat = np.zeros(S), np.zeros((S, L))
    given["log_likelihood_truth"], given["log_likelihood_draws"] = flat
    found = judge_simulations(**given)
    assert found.ok
    assert found.gain == 0
    assert "teach" in found["recovery"].advice
    given["log_likelihood_truth"] = given["log_likelihood_draws"] = None
    blind = judge_simulations(**given)
    assert failed(blind) == {"recovery"}
    assert "log likelihoods" in blind["recovery"].advice


def test_a_nearly_exact_posterior_passes_though_tests_reject():
    """Ten thousand simulations of a posterior five per cent too narrow: of no consequence."""
    rng = np.random.default_rng(0)
    mean, n = rng.normal(size=(10_000, 1)), 10_000
    truth = mean + rng.normal(size=(n, 1))
    draws = mean[:, None] + 0.95 * rng.normal(size=(n, 100, 1))
    found = judge_simulations(["a"], truth, draws, np.ones(n), np.zeros(n), None, None, rng)
    assert found.ok
    assert found.ranking["p_adjusted"][0] < 0.01


def test_counts_are_what_the_tests_saw(exact):
    found = exact[0]
    for counts, p_value in zip(found.rank_counts, found.ranking["p_ecdf"], strict=True):
        assert sum(counts) == S
        assert ecdf_test(np.repeat(np.arange(100), counts), 99) == pytest.approx(p_value)
    credibility, coverage = found.expected_coverage
    assert coverage[-1] == 1
    # Bins can hide at most one bin's width of the largest deviation.
    assert abs(np.abs(coverage - credibility).max() - found.tarp_distance) < 0.01


def test_json_and_back(exact):
    found = exact[0]
    again = GlobalChecks.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again == found
    assert again.quantities == (*NAMES, "log likelihood")
    assert again.table.loc["log likelihood", "p_ecdf"] == found.ranking["p_ecdf"][-1]
    assert np.isnan(again.table.loc["log likelihood", "90%"])
    assert "gain over the prior" in str(again)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"names": ["mu"]},
        {"tarp_counts": [10] * 99},
        {"rank_counts": [[11] * 100] * 4},
        {"ranking": {}},
        {"checks": [{"name": "sbc"}]},
        {"gain": "much"},
        {"simulations": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_damaged_json_is_refused(exact, change):
    with pytest.raises(FileError, match="no global checks"):
        GlobalChecks.from_dict({**exact[0].to_dict(), **change})


@pytest.mark.parametrize("name", ["truth", "draws", "log_q_truth", "log_likelihood_draws"])
def test_values_that_are_not_finite_are_refused(name):
    given = conjugate(0)
    given[name] = given[name].copy()
    given[name][17] = np.nan
    with pytest.raises(DataError, match=rf"{name} .* in 1 of {S} .* number 17"):
        judge_simulations(**given)


def test_draws_for_which_data_are_impossible_rank_last():
    given = conjugate(0)
    before = judge_simulations(**given).rank_counts[-1]
    given["log_likelihood_draws"] = np.full((S, L), -np.inf)
    after = judge_simulations(**given).rank_counts[-1]
    assert sum(after[99:]) > 0.9 * S
    assert before != after


@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_refused():
    given = conjugate(0)
    with pytest.raises(ShapeError, match="log_q_truth has shape"):
        judge_simulations(**{**given, "log_q_truth": given["log_q_truth"][1:]})
    with pytest.raises(ShapeError, match=r"truth has shape \(1000, 3\) where \(1000, 2\)"):
        judge_simulations(**{**given, "names": NAMES[1:]})
    with pytest.raises(SettingsError, match="both"):
        judge_simulations(**{**given, "log_likelihood_truth": None})
    few = {k: v[:30] if isinstance(v, np.ndarray) else v for k, v in given.items()}
    with pytest.raises(SettingsError, match="too few"):
        judge_simulations(**few)
    still = given["truth"].copy()
    still[:, 1] = 2.0
    with pytest.raises(DataError, match=r"'theta\[0\]'"):
        judge_simulations(**{**given, "truth": still})


def test_the_same_generator_gives_the_same_result():
    first, second = (judge_simulations(**conjugate(4)) for _ in range(2))
    assert first == second
