"""The verdict on draws of an approximation, by their densities alone."""

import json

import numpy as np
import pytest
import scipy.stats as st

from bayes.diagnostics.approximations import judge_independent
from bayes.diagnostics.checks import judge_draws
from bayes.inference.resampling import resample
from bayes.method import Draws


def verdict(scale, *, with_lp=True, size=1000, seed=0):
    """Draws of a normal of some scale for a standard normal posterior in three dimensions."""
    x = scale * np.random.default_rng(seed).normal(size=(4, size, 3))
    stats = {"log_q": -0.5 * np.square(x / scale).sum(axis=2) - 3 * np.log(scale)}
    if with_lp:
        stats["lp"] = -0.5 * np.square(x).sum(axis=2)
    return judge_draws({"x": x}, stats, {"sampled": ["x"]})


@pytest.mark.parametrize("scale", [1.0, 1.2])
def test_an_approximation_that_covers_the_posterior_is_ok(scale):
    """Ratios are bounded where the approximation is the wider one: k-hat is at most 0 in theory."""
    found = verdict(scale)
    assert found.ok, found
    assert found["khat"].value < 0.5


def test_a_narrow_approximation_is_not():
    """Of a third of the scale, the ratios' tail index is 1 - 1/9 in theory."""
    found = verdict(1 / 3)
    assert [check.name for check in found.failed] == ["khat"]
    assert found["khat"].value > 0.7
    assert "method='nuts'" in found["khat"].advice


def test_an_approximation_without_log_densities_is_not_judged():
    found = verdict(1.0, with_lp=False)
    assert np.isnan(found["khat"].value)
    assert not found.ok
    assert "cannot be judged" in found["khat"].advice


def test_few_draws_do_not_tell():
    assert not verdict(1.0, size=20)["khat"].passed


# ----------------------------------------------------------- independent draws


def judged(x, log_p, log_q, info=None, *, interrupted=None, values=None):
    """The verdict on one chain of independent draws."""
    sites = {"x": x[None]} if values is None else values
    stats = {"lp": np.asarray(log_p)[None], "log_q": np.asarray(log_q)[None]}
    given = {"sampled": [*sites], "not_converged": "", **(info or {})}
    found = judge_independent(sites, stats, given, interrupted=interrupted)
    json.dumps(found.to_dict())  # what a file keeps
    return found


def normals(x, scale=1.0, mean=0.0):
    return st.norm.logpdf(x, mean, scale).sum(axis=-1)


def failures(found):
    return [check.name for check in found.failed]


@pytest.mark.parametrize("d", [1, 10, 100])
@pytest.mark.parametrize("kind", ["exact", "wide", "t"])
def test_a_right_approximation_is_hardly_ever_said_to_be_wrong(d, kind):
    """None of 60 repetitions fails: a rate of 5 % would let that pass in one of 20 cases.

    Of 200 repetitions of each none failed (60 in 100 dimensions); the largest shift of a standard
    deviation was 0.075, of a mean 0.057, where 0.2 is allowed.
    """
    for seed in range(60 if d < 100 else 10):
        rng = np.random.default_rng([seed, d])
        x = rng.normal(size=(2000, d))
        if kind == "t":
            x *= np.sqrt(30 / rng.chisquare(30, size=(2000, 1)))
            log_q = st.multivariate_t(np.zeros(d), np.eye(d), df=30).logpdf(x.reshape(-1, d))
        else:
            scale = 1.02 if kind == "wide" else 1.0
            x *= scale
            log_q = normals(x, scale)
        found = judged(x, normals(x), log_q)
        assert found.ok, (seed, str(found))


def test_narrow_draws_fail_by_their_tail_only(rng):
    x = rng.normal(size=(4000, 5)) / 3
    found = judged(x, normals(x), normals(x, 1 / 3))
    assert failures(found) == ["khat"]
    assert "refine='nuts'" in found["khat"].advice


@pytest.mark.parametrize(("scale", "wrong"), [(1.1, False), (1.4, True)])
def test_draws_that_are_too_wide_everywhere(scale, wrong, rng):
    """Their ratios are bounded and k-hat is good: only their moments tell."""
    x = scale * rng.normal(size=(4000, 3))
    found = judged(x, normals(x), normals(x, scale))
    assert failures(found) == (["sd_shift"] if wrong else [])
    assert found["sd_shift"].value == pytest.approx(scale - 1, abs=0.06)
    if wrong:
        assert "the standard deviation of x[" in found["sd_shift"].advice
        assert "refine='psis'" in found["sd_shift"].advice


def test_a_shifted_mean_is_found_where_the_ratios_allow_it(rng):
    """A proposal half as wide again, off by half a standard deviation in one element."""
    mean = np.array([0.0, 0.5, 0.0])
    x = mean + 1.15 * rng.normal(size=(4000, 3))
    found = judged(x, normals(x), normals(x, 1.15, mean))
    assert found["khat"].passed
    assert failures(found) == ["mean_shift"]
    assert found["mean_shift"].value == pytest.approx(0.5, abs=0.15)  # five errors of 1/sqrt(1000)
    assert "the mean of x[1]" in found["mean_shift"].advice


def test_moments_are_of_what_is_judged(rng):
    """A site that is not sampled, and one without variance, are left out."""
    x = rng.normal(size=(4000, 3))
    values = {"x": x[None], "wild": 1e6 * x[None] ** 9, "constant": np.full((1, 4000), 2.0)}
    found = judged(x, normals(x), normals(x), {"sampled": ["x"]}, values=values)
    assert found.ok
    wide = 1.4 * x
    values = {"x": wide[None], "wild": values["wild"]}
    found = judged(wide, normals(wide), normals(wide, 1.4), {"sampled": ["wild"]}, values=values)
    assert "x[" not in found["sd_shift"].advice


def weighted(x, log_p, log_q, count=None):
    """Draws resampled by their weights."""
    draws = Draws({"x": x[None]}, {"lp": log_p[None]}, 1, x[None], log_q[None], {})
    return resample(draws, np.array([3, 4], np.uint32), count)


def test_resampled_draws_are_judged_by_what_they_were_chosen_from(rng):
    """Wide draws that were resampled are right; ratios at the draws would say nothing of that."""
    x = 1.4 * rng.normal(size=(4000, 3))
    draws = weighted(x, normals(x), normals(x, 1.4))
    found = judged(draws.values["x"][0], draws.stats["lp"][0], draws.log_q[0], draws.info)
    assert found.ok, found
    assert {"mean_shift", "sd_shift"}.isdisjoint(check.name for check in found.checks)
    assert found["importance_ess"].threshold == 400


def test_resampled_draws_that_are_few_in_truth(rng):
    """So wide that some hundred of 4000 count: theory 4000 (s sqrt(2 - 1/s^2) / s^2)^3."""
    scale = 4.0
    expected = 4000 * (np.sqrt(2 - scale**-2) / scale) ** 3
    x = scale * rng.normal(size=(4000, 3))
    draws = weighted(x, normals(x), normals(x, scale))
    found = judged(draws.values["x"][0], draws.stats["lp"][0], draws.log_q[0], draws.info)
    assert failures(found) == ["importance_ess"]
    assert found["importance_ess"].value == pytest.approx(expected, rel=0.25)
    assert "4000 draws are worth no more than" in found["importance_ess"].advice


def test_a_method_that_has_not_converged_says_why(rng):
    x = rng.normal(size=(1000, 2))
    found = judged(x, normals(x), normals(x), {"not_converged": "steps ran out; steps=20000"})
    assert failures(found) == ["objective"]
    assert found["objective"].advice == "steps ran out; steps=20000"
    assert "steps ran out" in found.verdict


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_densities_that_tell_nothing_leave_no_verdict(bad, rng):
    x = rng.normal(size=(1000, 2))
    log_p = normals(x)
    log_p[17] = bad
    found = judged(x, log_p, normals(x))
    assert failures(found) == ["khat"]
    assert np.isnan(found["khat"].value)
    assert "cannot be judged" in found["khat"].advice


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_approximation_that_has_no_density_is_not_judged(bad, rng):
    x = rng.normal(size=(1000, 2))
    log_q = normals(x)
    log_q[3] = bad
    assert not judged(x, normals(x), log_q)["khat"].passed


def test_draws_outside_the_support_have_no_weight(rng):
    """A half-normal posterior under a whole normal: half of the draws count."""
    x = rng.normal(size=(4000, 1))
    log_p = np.where(x[:, 0] > 0, normals(x), -np.inf)
    found = judged(x, log_p, normals(x))
    assert found["khat"].passed
    assert found["importance_ess"].value == pytest.approx((x > 0).sum())
    assert set(failures(found)) == {"mean_shift", "sd_shift"}
    none = judged(x, np.full(4000, -np.inf), normals(x))
    assert failures(none) == ["khat"]


def test_an_element_that_never_moves_is_named(rng):
    x = rng.normal(size=(1000, 3))
    log_q = normals(x)
    x[:, 1] = 0.25
    found = judged(x, log_q, log_q)
    assert failures(found) == ["stuck_sites"]
    assert found["stuck_sites"].advice.startswith("x[1] has the same value in all draws")


def test_overflow_frozen_data_and_interruption_are_told(rng):
    x = rng.normal(size=(1000, 1))
    info = {"non_finite": 3, "frozen": ["y"], "notes": ["something"]}
    found = judged(x, normals(x), normals(x), info, interrupted="budget")
    assert failures(found) == ["finite", "data"]
    assert found.interrupted == "budget"
    assert found.notes == ("something",)


@pytest.mark.parametrize("unknowns", [30, 1000])
@pytest.mark.parametrize("name", ["mean_shift", "sd_shift"])
def test_drift_beyond_chance_fails(name, unknowns, rng):
    """The largest of so many normal numbers is beyond the threshold in less than one of 1000."""
    x = rng.normal(size=(1000, 2))
    moves = {"particles": 256, "unknowns": unknowns}
    for each in ("mean_shift", "sd_shift"):
        moves |= {each: 0.05, f"{each}_of": "x[1]"}
    found = judged(x, normals(x), normals(x), {"moves": moves})
    assert found.ok
    threshold = found[f"moved_{name}"].threshold
    assert 0.2 <= threshold < 0.4
    error = 1 / 16 if name == "mean_shift" else 1 / np.sqrt(2 * 256)
    alarms = -np.expm1(unknowns * np.log1p(-2 * st.norm.sf(threshold / error)))
    assert alarms < 1e-3
    moves[name] = 1.01 * threshold
    found = judged(x, normals(x), normals(x), {"moves": moves})
    assert failures(found) == [f"moved_{name}"]
    assert "x[1] drifts" in found[f"moved_{name}"].advice


def test_chains_are_no_evidence_for_an_approximation(rng):
    """No R-hat and no effective sample size: draws that are independent always have good ones."""
    x = rng.normal(size=(1000, 2)) / 4
    found = judged(x, normals(x), normals(x, 0.25))
    names = {check.name for check in found.checks}
    assert names.isdisjoint({"rhat", "ess_bulk", "ess_tail", "chains", "ebfmi"})
