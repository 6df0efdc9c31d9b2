"""What a report says of priors, predictions, leave-one-out, sensitivity and approximations."""

import json
import re

import arviz_base
import numpy as np
import pytest
import scipy.stats as st
import xarray as xr

from bayes.diagnostics.checks import Diagnostics
from bayes.diagnostics.importance import importance_ratios
from bayes.diagnostics.pointwise import masked_observations, observations_of
from bayes.diagnostics.report.contents import Case, Facts, Figure, Table, Text
from bayes.diagnostics.report.sections.approximation import approximation
from bayes.diagnostics.report.sections.changes import site_changes
from bayes.diagnostics.report.sections.loo import leave_one_out
from bayes.diagnostics.report.sections.observations import (
    data_kind,
    observed_sites,
    predictive_p,
)
from bayes.diagnostics.report.sections.pit import plain_pit
from bayes.diagnostics.report.sections.predictive import posterior_predictive, prior_predictive
from bayes.diagnostics.report.sections.priors import prior_posterior
from bayes.diagnostics.report.sections.sensitivity import sensitivity
from bayes.errors import DataError

pytest.importorskip("matplotlib")

SECTIONS = {
    "prior-posterior": (prior_posterior, "prior"),
    "prior-predictive": (prior_predictive, "prior_predictive"),
    "posterior-predictive": (posterior_predictive, "posterior_predictive"),
    "leave-one-out": (leave_one_out, "log_likelihood"),
    "sensitivity": (sensitivity, "log_prior"),
}


def case(groups, sites=(), info=None, absent=None, dims=None):
    """A case of hand-made groups."""
    tree = xr.DataTree.from_dict(
        {
            name: arviz_base.from_dict({name: values}, dims=dims or {})[name].to_dataset()
            for name, values in groups.items()
        }
    )
    card = {"model": {"sites": list(sites)}, "method": {"name": "method", "info": info or {}}}
    return Case(tree, Diagnostics(()), card, absent or {})


def site(name, kind="latent", distribution="Normal(0, 1)", parents=()):
    return {"name": name, "kind": kind, "distribution": distribution, "parents": list(parents)}


def conjugate(rng, n=50, prior_sd=1.0, shift=0.0, draws=1000):
    """y ~ N(mu, 1), mu ~ N(0, prior_sd), and exact draws: its case, and the variance."""
    y = shift + rng.normal(size=n)
    variance = 1 / (n + prior_sd**-2)
    mu = variance * y.sum() + np.sqrt(variance) * rng.normal(size=(4, draws))
    before = prior_sd * rng.normal(size=(1, draws))
    groups = {
        "posterior": {"mu": mu},
        "prior": {"mu": before},
        "prior_predictive": {"y": before[..., None] + rng.normal(size=(1, draws, n))},
        "posterior_predictive": {"y": mu[..., None] + rng.normal(size=(4, draws, n))},
        "observed_data": {"y": y},
        "log_likelihood": {"y": st.norm.logpdf(y, mu[..., None], 1)},
        "log_prior": {"mu": st.norm.logpdf(mu, 0, prior_sd)},
    }
    sites = (site("mu"), site("y", "observed", "Normal(mu, 1)", ["mu"]))
    return case(groups, sites), variance


@pytest.fixture(scope="module")
def good():
    """A model that is right, with exact draws."""
    return conjugate(np.random.default_rng(2))[0]


def blocks(section, kind):
    return [block for block in section.blocks if isinstance(block, kind)]


def words(section):
    return " ".join(block.text for block in blocks(section, Text))


# ----------------------------------------------------------------- what all have


@pytest.mark.parametrize("name", SECTIONS)
def test_sections_are_whole(good, name):
    section = SECTIONS[name][0](good)
    assert section.name == name
    assert not section.missing
    json.dumps(section.data, allow_nan=False)
    assert blocks(section, Text)
    for figure in blocks(section, Figure):
        assert figure.svg.startswith("<svg")
        assert figure.svg.endswith("</svg>")
        assert "currentColor" in figure.svg
        assert len(figure.svg) < 150_000
        # Colours that would not be seen on one of the two backgrounds.
        assert not re.search(r"(stroke|fill): #(000000|ffffff)", figure.svg)
        assert figure.caption
        assert figure.summary
    for table in blocks(section, Table):
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert all(0 <= row < len(table.rows) for row in table.flagged)


@pytest.mark.parametrize("name", SECTIONS)
def test_an_absent_group_says_why(good, name):
    section, group = SECTIONS[name]
    rest = good.tree.filter(lambda node: node.name != group)
    said = section(Case(rest, good.diagnostics, good.card, {group: "no model at hand"}))
    assert said.missing == "no model at hand"
    assert not said.blocks
    assert section(Case(rest, good.diagnostics, good.card)) is None


def test_a_model_without_data_has_no_predictive_check(good):
    empty = good.tree.filter(lambda node: node.name != "observed_data")
    assert posterior_predictive(Case(empty, good.diagnostics, good.card)) is None


# ------------------------------------------------------------------------ priors


def test_contraction_of_a_conjugate_normal(rng):
    """Within 4.5 errors: the variances are known to sqrt(2 / 1000) and sqrt(2 / 4000) each."""
    made, variance = conjugate(rng, n=3)
    found = prior_posterior(made).data["elements"]["mu"]
    error = variance * np.sqrt(2 / 1000 + 2 / 4000)
    assert found["contraction"] == pytest.approx(1 - variance, abs=4.5 * error)
    assert not found["robust"]
    assert not found["note"]


def test_what_the_data_say_nothing_about(rng):
    draws = {"a": rng.normal(size=(4, 1000)), "b": rng.normal(size=(4, 1000)) * 0.1}
    prior = {"a": rng.normal(size=(1, 1000)), "b": rng.normal(size=(1, 1000))}
    section = prior_posterior(case({"posterior": draws, "prior": prior}))
    assert section.data["elements"]["a"]["note"] == "little learned"
    assert section.data["elements"]["b"]["note"] == ""
    assert "say little about a (" in words(section)


def test_a_posterior_in_the_tail_of_its_prior(rng):
    posterior = {"a": 4 + 0.2 * rng.normal(size=(4, 500))}
    made = case({"posterior": posterior, "prior": {"a": rng.normal(size=(1, 1000))}})
    found = prior_posterior(made).data["elements"]["a"]
    assert found["note"] == "in the prior's tail"
    assert found["shift"] == pytest.approx(4, abs=0.5)  # the prior's sd is known to 2 %
    assert found["tail"] < 0.01


def test_a_prior_without_variance_is_described_by_quartiles(rng):
    """A half Cauchy prior: interquartile ranges are known to some 6 %."""
    prior = np.abs(rng.standard_cauchy(size=(1, 2000)))
    posterior = np.abs(rng.standard_cauchy(size=(4, 2000))) * 0.1
    section = prior_posterior(case({"posterior": {"tau": posterior}, "prior": {"tau": prior}}))
    found = section.data["elements"]["tau"]
    assert found["robust"]
    assert found["contraction"] == pytest.approx(0.99, abs=0.005)
    assert "tau has no variance" in blocks(section, Table)[0].caption


def test_light_tails_are_not_called_heavy():
    """No false alarm in 300 runs of each; heavy tails are missed in 1 of 300."""
    rng = np.random.default_rng(0)
    for draws in (rng.normal(size=(1, 1000)), rng.exponential(size=(1, 1000))):
        both = xr.DataArray(draws, dims=("chain", "draw"), name="a")
        assert not site_changes(both, both)[0].robust


def test_constant_elements_and_large_sites_are_left_out(rng):
    corner = np.zeros((1, 400, 2))
    corner[..., 1] = rng.normal(size=(1, 400))
    large = rng.normal(size=(1, 400, 501))
    groups = {g: {"corner": corner, "large": large} for g in ("posterior", "prior")}
    section = prior_posterior(case(groups))
    assert list(section.data["elements"]) == ["corner[1]"]
    assert "left out: large" in words(section)


def test_hyperparameters_come_first_and_panels_are_few(rng):
    theta = rng.normal(size=(1, 400, 40)) * np.linspace(0.1, 1, 40)
    groups = {
        "posterior": {"theta": theta, "tau": 0.5 * rng.normal(size=(1, 400))},
        "prior": {"theta": rng.normal(size=(1, 400, 40)), "tau": rng.normal(size=(1, 400))},
    }
    section = prior_posterior(case(groups, (site("tau"), site("theta", parents=["tau"]))))
    assert blocks(section, Table)[0].rows[0][0] == "tau"
    titles = re.findall(r"contraction ([-−]?\d\.\d+)", blocks(section, Figure)[0].svg)
    assert len(titles) == 12


# ------------------------------------------------------------------- predictions


@pytest.mark.parametrize(
    ("values", "replicates", "distribution", "kind"),
    [
        ([0, 1, 1], [[0, 1, 0]], "", "binary"),
        ([0, 1, 1], [[0, 1, 0]], "BernoulliLogits(f(x))", "binary"),
        ([0, 0, 1], [[0, 1, 4]], "Poisson(0.3)", "count"),
        ([0.0, 3.0, 1.0], [[0, 1, 4]], "Poisson(2)", "count"),
        ([0, 3, 90], [[0, 1, 4]], "", "count"),
        ([0, 1, 2], [[0, 1, 3]], "", "categorical"),
        ([0, 1, 2], [[0, 1, 3]], "OrderedLogistic(f(x))", "categorical"),
        ([1.0, 2.0, 3.0], [[1.5, 2.0, 3.1]], "", "continuous"),
        ([-1, 0, 1], [[0, 1, 2]], "", "continuous"),
    ],
)
def test_kinds_of_data(values, replicates, distribution, kind):
    assert data_kind(np.array(values), np.array(replicates), distribution) == kind


def predicted(rng, y, replicates, distribution):
    groups = {
        "posterior": {"a": rng.normal(size=(2, len(replicates) // 2))},
        "observed_data": {"y": y},
        "posterior_predictive": {"y": replicates.reshape(2, -1, *y.shape)},
        "prior_predictive": {"y": replicates.reshape(2, -1, *y.shape)},
    }
    return case(groups, (site("y", "observed", distribution),))


@pytest.mark.parametrize("kind", ["binary", "categorical", "count", "continuous", "large count"])
def test_every_kind_has_its_check(rng, kind):
    """A right model: at p-values outside (0.01, 0.99) it fails at most one run in ten."""
    draw, distribution = {
        "binary": (lambda n: rng.uniform(size=(n, 80)) < np.linspace(0.1, 0.9, 80), "Bernoulli(p)"),
        "categorical": (lambda n: rng.integers(0, 4, size=(n, 80)), "Categorical(p)"),
        "count": (lambda n: rng.poisson(2.0, size=(n, 80)), "Poisson(2)"),
        "continuous": (lambda n: rng.normal(size=(n, 80)), "Normal(0, 1)"),
        "large count": (lambda n: rng.poisson(500.0, size=(n, 80)), "Poisson(500)"),
    }[kind]
    made = predicted(
        rng, draw(1)[0].astype(int if "count" in kind else float), draw(400), distribution
    )
    for section in (posterior_predictive(made), prior_predictive(made)):
        json.dumps(section.data, allow_nan=False)
        figures = blocks(section, Figure)
        assert all(len(figure.svg) < 150_000 for figure in figures)
        assert figures
    section = posterior_predictive(made)
    assert section.data["sites"]["y"]["kind"] == kind.split()[-1]
    assert "reproduces every statistic" in words(section)


def test_a_statistic_that_is_not_reproduced_is_named(rng):
    """Half of the counts are zeros that a Poisson model does not make."""
    y = rng.poisson(4.0, size=100) * (rng.uniform(size=100) < 0.5)
    section = posterior_predictive(predicted(rng, y, rng.poisson(2.0, (400, 100)), "Poisson(2)"))
    assert section.data["sites"]["y"]["statistics"]["share of zeros"]["p"] == 0
    assert "does not reproduce the" in words(section)
    assert "share of zeros of y" in words(section)
    table = blocks(section, Table)[0]
    assert "share of zeros" in [table.rows[i][1] for i in table.flagged]


def test_predictive_p_values_are_uniform_when_the_model_is_right():
    """Known parameters: p is uniform on a grid of 200; Kolmogorov-Smirnov fails one in 10 000."""
    rng = np.random.default_rng(1)
    p = [predictive_p(rng.normal(), rng.normal(size=200)) for _ in range(400)]
    assert st.kstest(p, "uniform").pvalue > 1e-4


def test_predictive_p_counts_ties_by_half():
    assert predictive_p(0.0, np.zeros(10)) == 0.5
    assert predictive_p(1.0, np.zeros(10)) == 0.0
    assert predictive_p(-1.0, np.zeros(10)) == 1.0


def test_pit_is_uniform_and_inside():
    """With ties or without; Kolmogorov-Smirnov fails one in 10 000 each."""
    rng = np.random.default_rng(1)
    for draw in (rng.normal, lambda size: rng.poisson(1.0, size)):
        pit = plain_pit(draw(size=800), draw(size=(100, 800)))
        assert pit.min() > 0
        assert pit.max() < 1
        assert st.kstest(pit, "uniform").pvalue > 1e-4


def test_missing_and_masked_observations_are_left_out(rng):
    y = rng.normal(size=30)
    y[3] = np.nan
    made = predicted(rng, y, rng.normal(size=(100, 30)), "Normal(0, 1)")
    likelihood = rng.normal(size=(2, 50, 30))
    likelihood[..., 7] = 0.0
    made.tree["log_likelihood"] = arviz_base.from_dict({"log_likelihood": {"y": likelihood}})[
        "log_likelihood"
    ]
    (found,) = observed_sites(made, "posterior_predictive")
    assert found.left_out == 2
    assert np.array_equal(found.values, np.delete(y, [3, 7]))
    assert "2 of y" in words(posterior_predictive(made))


def test_a_prior_that_misses_the_data(rng):
    y = 100 + rng.normal(size=30)
    section = prior_predictive(predicted(rng, y, rng.normal(size=(400, 30)), "Normal(0, 1)"))
    assert section.data["sites"]["y"]["inside"] == 0
    assert "puts little mass where y" in words(section)
    wide = prior_predictive(predicted(rng, y, 1e5 * rng.normal(size=(400, 30)), "Normal(0, 1e5)"))
    assert "nearly nothing about their scale" in words(wide)


def test_one_observation_and_too_few_replicates(rng):
    y = np.array(0.3)
    one = posterior_predictive(predicted(rng, y, rng.normal(size=(100,)), "Normal(0, 1)"))
    assert list(one.data["sites"]["y"]["statistics"]) == ["value"]
    few = predicted(rng, np.zeros(3), rng.normal(size=(10, 3)), "Normal(0, 1)")
    assert "at least 20 finite replicates" in posterior_predictive(few).missing
    assert "at least 20 finite replicates" in prior_predictive(few).missing


# ----------------------------------------------------------------- leave-one-out


def test_loo_of_a_right_model(good):
    """The sum's Monte Carlo error is 0.021 (60 runs), the effective number of parameters is 1 with
    a standard deviation of 0.2 over data sets: thresholds at 4.5 of these.
    """
    y = good.tree["observed_data"]["y"].values
    exact = 0.0
    for i, value in enumerate(y):
        rest = np.delete(y, i)
        variance = 1 / (len(rest) + 1)
        exact += st.norm.logpdf(value, variance * rest.sum(), np.sqrt(1 + variance))
    section = leave_one_out(good)
    found = section.data["sites"]["y"]
    assert found["elpd"] == pytest.approx(exact, abs=0.1)
    assert found["high"] == []
    assert found["p"] == pytest.approx(1, abs=0.9)
    assert found["pit_p"] > 1e-3  # fails one right model in a thousand
    assert len(blocks(section, Figure)) == 2
    assert len(blocks(section, Table)[0].rows) == 20


def test_a_planted_outlier_has_a_high_khat():
    made, _ = conjugate(np.random.default_rng(4), n=20)
    y = made.tree["observed_data"]["y"].values.copy()
    y[6] += 25.0
    mu = (y.sum() / 21) + np.random.default_rng(5).normal(size=(4, 1000)) / np.sqrt(21)
    groups = {
        "posterior": {"mu": mu},
        "log_likelihood": {"y": st.norm.logpdf(y, mu[..., None], 1)},
    }
    section = leave_one_out(case(groups, (site("mu"),)))
    found = section.data["sites"]["y"]
    assert found["high"][0] == "y[6]"
    assert found["worst_khat"] > 0.7
    assert found["p"] > 1
    assert "well above the 1 that there are" in words(section)
    assert blocks(section, Table)[0].flagged[0] == 0


def test_loo_leaves_masked_observations_out(good):
    likelihood = good.tree["log_likelihood"].to_dataset().copy(deep=True)
    likelihood["y"].values[..., 4] = 0.0
    tree = good.tree.copy()
    tree["log_likelihood"] = xr.DataTree(likelihood)
    assert masked_observations(likelihood["y"]).sum() == 1
    assert observations_of(likelihood["y"]).sizes["observation"] == 49
    section = leave_one_out(Case(tree, good.diagnostics, good.card))
    assert section.data["sites"]["y"]["observations"] == 49
    assert "y[4]" not in [row[0] for row in blocks(section, Table)[0].rows]


def test_loo_says_why_not(good):
    likelihood = good.tree["log_likelihood"].to_dataset().copy(deep=True)
    likelihood["y"].values[0, 0, 4] = -np.inf
    tree = good.tree.copy()
    tree["log_likelihood"] = xr.DataTree(likelihood)
    with pytest.raises(DataError, match="'y' is not finite at observation 4"):
        observations_of(likelihood["y"])
    section = leave_one_out(Case(tree, good.diagnostics, good.card))
    assert "not finite at observation 4" in section.missing
    tree["log_likelihood"] = xr.DataTree(likelihood.isel(y_dim_0=0))
    assert "joint observation" in leave_one_out(Case(tree, good.diagnostics, good.card)).missing
    card = {"model": {"sites": [site("mu", "discrete", "Poisson(3)")]}}
    assert "discrete sites (mu)" in leave_one_out(Case(good.tree, good.diagnostics, card)).missing


# ------------------------------------------------------------------- sensitivity


def test_prior_data_conflict_is_found(rng):
    made, _ = conjugate(rng, n=10, prior_sd=0.3, shift=3.0)
    section = sensitivity(made)
    found = section.data["elements"]["mu"]
    assert found["prior"] > 0.05
    assert found["likelihood"] > 0.05
    assert found["diagnosis"] == "prior and data may disagree"
    assert "apart" in words(section)


def test_a_weak_prior_does_not_matter(rng):
    made, _ = conjugate(rng, n=50, prior_sd=100.0)
    found = sensitivity(made).data["elements"]["mu"]
    assert found["prior"] < 0.05 < found["likelihood"]
    assert found["diagnosis"] == ""


def test_only_the_priors_at_the_top_are_scaled(rng):
    draws = rng.normal(size=(4, 250))
    theta = rng.normal(size=(4, 250, 300))
    groups = {
        "posterior": {"tau": draws, "theta": theta},
        "log_prior": {"tau": st.norm.logpdf(draws), "theta": st.norm.logpdf(theta)},
        "log_likelihood": {"y": st.norm.logpdf(theta[..., :5])},
    }
    made = case(groups, (site("tau"), site("theta", parents=["tau"])))
    section = sensitivity(made)
    assert section.data["scaled"] == ["tau"]
    assert len(section.data["elements"]) == 200
    assert "tau" in section.data["elements"]
    assert "200 of 301 elements" in blocks(section, Table)[0].caption
    flat = {**groups, "log_prior": {"tau": np.zeros((4, 250)), "theta": st.norm.logpdf(theta)}}
    assert (
        sensitivity(case(flat, made.card["model"]["sites"])).data["elements"]["tau"]["prior"] == 0
    )


def test_nothing_that_moves_has_no_sensitivity(rng):
    groups = {
        "posterior": {"a": np.ones((2, 100))},
        "log_prior": {"a": rng.normal(size=(2, 100))},
        "log_likelihood": {"y": rng.normal(size=(2, 100, 3))},
    }
    assert sensitivity(case(groups)) is None
    few = {g: {n: v[:, :40] for n, v in values.items()} for g, values in groups.items()}
    assert "too few" in sensitivity(case(few)).missing
    groups["log_prior"]["a"][0, 0] = -np.inf
    assert "log_prior" in sensitivity(case(groups)).missing


def test_sensitivity_at_some_of_the_draws(good):
    tree = good.tree.copy()
    for group in ("log_prior", "log_likelihood"):
        tree[group] = xr.DataTree(tree[group].to_dataset().isel(draw=slice(None, None, 4)))
    whole = sensitivity(good).data["elements"]["mu"]
    part = sensitivity(Case(tree, good.diagnostics, good.card)).data["elements"]["mu"]
    assert part["likelihood"] == pytest.approx(whole["likelihood"], rel=0.5)


# ----------------------------------------------------------------- approximation


def approximated(log_p, log_q, info=None, **groups):
    stats = {"lp": log_p.reshape(4, -1), "log_q": log_q.reshape(4, -1)}
    posterior = {"a": np.random.default_rng(3).normal(size=(4, log_p.size // 4))}
    return case({"posterior": posterior, "sample_stats": stats, **groups}, (), info)


def test_an_approximation_that_is_too_narrow(rng):
    """k-hat tends to 0.94, and is below 0.7 in some 15 % of runs: the median of 9 in 0.5 %."""
    runs = []
    for _ in range(9):
        x = 0.25 * rng.normal(size=4000)
        runs.append((st.norm.logpdf(x), st.norm.logpdf(x, 0, 0.25)))
    found = [importance_ratios(*run) for run in runs]
    assert np.median([each.khat for each in found]) > 0.7
    assert max(each.ess for each in found) < 1000
    worst = max(range(9), key=lambda i: found[i].khat)
    section = approximation(approximated(*runs[worst]))
    assert section.data["khat"] == pytest.approx(found[worst].khat, rel=1e-4)
    assert "not to be trusted" in words(section)
    assert not section.missing


def test_an_approximation_that_is_wider_or_exact(rng):
    """Ratios of a normal to a wider one are bounded: k-hat is -1.5, with an error of 0.1."""
    x = 1.5 * rng.normal(size=4000)
    wide = importance_ratios(st.norm.logpdf(x), st.norm.logpdf(x, 0, 1.5))
    assert wide.khat < 0
    assert wide.ess > 2000
    exact = importance_ratios(st.norm.logpdf(x) + 3, st.norm.logpdf(x))
    assert exact.khat == -np.inf
    assert exact.ess == 4000
    section = approximation(approximated(st.norm.logpdf(x) + 3, st.norm.logpdf(x)))
    assert section.data["khat"] is None
    assert section.data["equal_ratios"]
    assert "is the posterior" in words(section)
    json.dumps(section.data, allow_nan=False)


def test_the_log_density_comes_from_prior_and_likelihood_where_there_is_no_other(rng):
    x = rng.normal(size=(4, 250))
    y = np.array([0.3, -0.2])
    groups = {
        "posterior": {"a": x},
        "sample_stats": {"log_q": st.norm.logpdf(x, 0, 0.5)},
        "log_prior": {"a": st.norm.logpdf(x)},
        "log_likelihood": {"y": st.norm.logpdf(y, x[..., None])},
    }
    log_p = st.norm.logpdf(x) + st.norm.logpdf(y, x[..., None]).sum(-1)
    expected = importance_ratios(log_p, st.norm.logpdf(x, 0, 0.5)).khat
    assert approximation(case(groups)).data["khat"] == pytest.approx(expected, rel=1e-4)
    del groups["log_prior"]
    assert "k-hat needs the log density" in approximation(case(groups)).missing


def test_objective_route_and_distance_from_the_training_data(rng):
    x = rng.normal(size=1000)
    climbing = list(-np.exp(-np.arange(300) / 30) + 0.01 * rng.normal(size=300))
    info = {"elbo": climbing, "route": "psis", "out_of_distribution": True}
    section = approximation(approximated(st.norm.logpdf(x), st.norm.logpdf(x, 0, 1.1), info))
    assert len(blocks(section, Figure)) == 2
    assert "Here it is, at" in blocks(section, Figure)[1].caption
    assert "resampled by their importance weights" in words(section)
    assert "unlike those that the surrogate was trained on" in words(section)
    assert section.data["route"] == "psis"
    moving = {"objective": list(np.linspace(0, 1, 300) + 0.01 * rng.normal(size=300))}
    section = approximation(approximated(st.norm.logpdf(x), st.norm.logpdf(x, 0, 1.1), moving))
    assert "still moves" in blocks(section, Figure)[1].caption


def test_draws_beside_those_of_nuts(rng):
    """Means of 2000 draws differ by 0.03 standard deviations, spreads by 2 %: far from 0.2."""
    x = rng.normal(size=2000)
    own = {"a": rng.normal(size=(4, 500)), "b": 0.5 * rng.normal(size=(4, 500))}
    exact = {"a": rng.normal(size=(4, 500)), "b": rng.normal(size=(4, 500))}
    made = approximated(st.norm.logpdf(x), st.norm.logpdf(x, 0, 1.1), posterior=own, nuts=exact)
    section = approximation(made)
    assert section.data["far_from_nuts"] == ["b"]
    table = blocks(section, Table)[0]
    assert [row[0] for row in table.rows] == ["b", "a"]
    assert table.rows[0][4] == pytest.approx(0.5, abs=0.06)
    assert table.flagged == (0,)
    lost = Case(made.tree.filter(lambda n: n.name != "nuts"), made.diagnostics, made.card)
    lost = Case(lost.tree, lost.diagnostics, lost.card, {"nuts": "it failed"})
    assert "it failed" in approximation(lost).missing


def test_an_exact_method_has_no_such_section(good):
    assert approximation(good) is None
    assert blocks(prior_posterior(good), Facts) == []
