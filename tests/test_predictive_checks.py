"""The user's own predictive checks: exact p-values, planted misfits, and what is refused."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats as st
import xarray as xr
from models_for_tests import normal_mean
from numpyro import handlers

import bayes
from bayes import predictive_checks

QUICK = bayes.HMC(chains=2, warmup=60, draws=150)

pytestmark = pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")


def rate_only(n, y=None):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
    with numpyro.plate("row", n):
        numpyro.sample("y", dist.Poisson(rate), obs=y)


def two_sites(x, known, y=None, hit=None):
    """One site with observations that are masked, and one of zeros and ones."""
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    with numpyro.plate("row", x.shape[0]):
        with handlers.mask(mask=known):
            numpyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)
        numpyro.sample("hit", dist.Bernoulli(logits=slope * x), obs=hit)


def by_factor(y=None):
    m = numpyro.sample("m", dist.Normal(0, 1))
    numpyro.factor("f", dist.Normal(m, 1).log_prob(y).sum())


@pytest.fixture(scope="module")
def counts():
    return bayes.fit(rate_only, {"n": 60, "y": np.random.default_rng(3).poisson(4, 60)}, QUICK)


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(5)
    x, known = np.linspace(-1, 1, 12), np.arange(12) != 4
    y = np.where(known, x + rng.normal(size=12), 1e6)  # a placeholder that the program masks
    y[7], known[7] = np.nan, False
    return bayes.fit(two_sites, {"x": x, "known": known, "y": y, "hit": rng.integers(2, size=12)},
                     QUICK)  # fmt: skip


def planted(post, observed, replicated, site="y"):
    """The posterior with other observations and replicates, each a vector of one number."""
    tree = post.data.copy()
    tree["observed_data"] = xr.DataTree(xr.Dataset({site: ("row", np.asarray(observed))}))
    values = np.asarray(replicated)[..., None]
    tree["posterior_predictive"] = xr.DataTree(
        xr.Dataset({site: (("chain", "draw", "row"), values)})
    )
    return bayes.Posterior(tree, post.method, post.diagnostics, None)


# ------------------------------------------------------------------------ p-values


@pytest.mark.parametrize(
    ("observed", "expected"),
    [(0.0, 0.4), (1.0, 1.0), (2.0, 0.8), (3.0, 0.4), (4.0, 0.0), (-1.0, 0.0), (2.5, 0.4)],
)
def test_the_p_value_is_twice_the_smaller_share_ties_counted_on_both_sides(
    counts, observed, expected
):
    """Replicates 0, 1, 1, 2, 3: shares of at least and at most t, by hand."""
    found = planted(counts, [observed], [[0.0, 1.0, 1.0, 2.0, 3.0]]).check("mean")
    assert found.observed == observed
    assert found.replicated.values.tolist() == [[0.0, 1.0, 1.0, 2.0, 3.0]]
    assert found.p_value == pytest.approx(expected)
    assert found.ok == (expected >= 0.01)


def test_p_values_of_data_drawn_from_the_model_are_uniform():
    """The spread of data does not depend on their mean, the one parameter: p is uniform.

    500 data sets against 8000 replicates; a right implementation fails one time in 10 000 seeds.
    """
    rng = np.random.default_rng(0)
    method = bayes.HMC(chains=2, warmup=60, draws=4000)
    post = bayes.fit(normal_mean, {"n": 8, "y": rng.normal(1, 1.5, 8)}, method)
    replicated = post.check("sd").replicated
    values = [
        bayes.PredictiveCheck("sd", "y", float(data.std(ddof=1)), replicated)
        for data in rng.normal(1.0, 1.5, (500, 8))
    ]
    found = [v.p_value for v in values]
    assert st.kstest(found, st.uniform().cdf).pvalue > 1e-4
    assert np.mean([v.ok for v in values]) > 0.96  # 0.99 expected; sd 0.0045


def test_a_planted_misfit_is_found_and_a_fitted_moment_is_not_one(rng):
    """Counts of variance 5 x their mean: of 60 Poisson counts, the share of so much is none."""
    y = rng.negative_binomial(1, 0.2, 60)
    post = bayes.fit(rate_only, {"n": 60, "y": y}, QUICK)
    spread = post.check(lambda x: x.var() / x.mean(), name="dispersion", seed=2)
    assert spread.observed == pytest.approx(y.var() / y.mean())
    assert spread.p_value == 0.0
    assert not spread.ok
    assert "dispersion of 'y'" in repr(spread)
    assert "not reproduced" in repr(spread)
    assert post.check(np.var).name == "var"
    assert not post.check("zeros").ok
    assert post.check("mean").ok


# ---------------------------------------------------------------- what is computed


def test_named_statistics_are_those_of_numpy_and_scipy(counts):
    exact = {
        "mean": np.mean,
        "sd": lambda x: np.std(x, ddof=1),
        "min": np.min,
        "max": np.max,
        "median": np.median,
        "zeros": lambda x: np.mean(x == 0),
        "skew": st.skew,
    }
    post = bayes.Posterior(counts.data.copy(), counts.method, counts.diagnostics, counts.problem)
    post.extend("posterior_predictive", seed=4)
    y, replicates = (post.data[g]["y"].values for g in ("observed_data", "posterior_predictive"))
    assert set(exact) == set(predictive_checks.STATISTICS)
    for name, statistic in exact.items():
        found = post.check(name)
        assert found.observed == pytest.approx(statistic(y))
        expected = np.apply_along_axis(statistic, 2, replicates)
        np.testing.assert_allclose(found.replicated, expected, rtol=1e-12)
        assert found.replicated.dims == ("chain", "draw")


def test_replicates_are_made_where_there_are_none_and_not_kept(counts):
    found = counts.check("max", seed=4)
    assert "posterior_predictive" not in counts.data.children
    post = bayes.Posterior(counts.data.copy(), counts.method, counts.diagnostics, counts.problem)
    post.extend("posterior_predictive", seed=4)
    np.testing.assert_array_equal(found.replicated, post.check("max", seed=9).replicated)
    assert not np.array_equal(found.replicated, counts.check("max", seed=5).replicated)


def test_few_replicates_are_held_at_once_and_batches_are_independent(counts, monkeypatch):
    sizes, make = [], predictive_checks.posterior_predictive

    def watched(*args):
        found = make(*args)
        sizes.append(found["y"].shape)
        return found

    monkeypatch.setattr(predictive_checks, "posterior_predictive", watched)
    monkeypatch.setattr(predictive_checks, "_AT_ONCE", 8 * 60 * 2 * 50)
    first, again = (counts.check(np.sum, seed=4) for _ in range(2))
    assert sizes == [(2, 50, 60)] * 6
    np.testing.assert_array_equal(first.replicated, again.replicated)
    assert first.replicated.shape == (2, 150)
    parts = np.split(first.replicated.values, 3, axis=1)
    assert not any(np.array_equal(parts[0], other) for other in parts[1:])


def test_discrete_values_stay_whole_numbers(counts):
    assert counts.check(lambda x: np.bincount(x)[4], name="fours").replicated.values.max() >= 1


def test_missing_and_masked_observations_are_left_out_on_both_sides(pair):
    shapes = set()

    def size(x):
        shapes.add(x.shape)
        return x.max()

    found = pair.check(size, site="y")
    assert shapes == {(10,)}
    assert found.observed < 10
    assert found.ok
    assert pair.check("mean", site="hit").observed in np.arange(13) / 12
    # Without the model the mask is not known, but NaN is.
    post = bayes.Posterior(pair.data.copy(), pair.method, pair.diagnostics, pair.problem)
    post.extend("posterior_predictive")
    bare = bayes.Posterior(post.data, pair.method, pair.diagnostics, None)
    assert bare.check("max", site="y").observed == 1e6


def test_a_statistic_may_change_its_argument(counts):
    before = counts.data["observed_data"]["y"].values.copy()

    def largest(x):
        x.sort()
        return x[-1]

    assert counts.check(largest).observed == before.max()
    np.testing.assert_array_equal(counts.data["observed_data"]["y"], before)


def test_a_loaded_posterior(counts, tmp_path):
    post = bayes.Posterior(counts.data.copy(), counts.method, counts.diagnostics, counts.problem)
    post.save(tmp_path / "bare.zarr")
    with pytest.raises(bayes.ModelError, match="posterior_predictive or the model"):
        bayes.load(tmp_path / "bare.zarr").check("max")
    whole = bayes.load(tmp_path / "bare.zarr", model=rate_only).check("max", seed=4)
    np.testing.assert_array_equal(whole.replicated, counts.check("max", seed=4).replicated)
    post.extend("posterior_predictive", seed=4).save(tmp_path / "group.zarr")
    found = bayes.load(tmp_path / "group.zarr").check("max")
    np.testing.assert_array_equal(found.replicated, whole.replicated)


# ------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("statistic", "words"),
    [
        ("variance", "no statistic 'variance'; there are mean, sd, min, max, median, zeros, skew"),
        (3, "statistic is a function .* got 3"),
        (lambda x: x[99], "'statistic' failed on the observations of 'y': IndexError"),
        (lambda x: x[:2], r"of the observations of 'y' is an array of shape \(2,\)"),
        (lambda x: "large", "of the observations of 'y' is 'large'"),
        (lambda x: None, "of the observations of 'y' is None"),
        (lambda x: np.nan, "of the observations of 'y' is NaN"),
    ],
)
def test_statistics_that_give_no_number_are_refused(counts, unchecked, statistic, words):
    with pytest.raises(bayes.SettingsError, match=words):
        counts.check(statistic)


def test_a_replicate_without_a_statistic_is_named(counts):
    observed = counts.data["observed_data"]["y"].values.copy()

    def only_of_these(x):
        return 1.0 if np.array_equal(x, observed) else np.log(x - x.max() - 1)[0]

    with pytest.raises(bayes.SettingsError, match="replicate at chain 0, draw 0 of 'y' is NaN"):
        counts.check(only_of_these, name="odd")


def test_sites_seeds_and_shapes_that_do_not_fit_are_refused(pair, counts):
    with pytest.raises(bayes.SettingsError, match="several observed sites, y, hit: name one"):
        pair.check("mean")
    with pytest.raises(bayes.SettingsError, match="no observed site 'z'; there are"):
        pair.check("mean", site="z")
    with pytest.raises(bayes.SettingsError, match="seed must be a whole number"):
        counts.check("mean", seed=-1)
    other = planted(counts, [1.0, 2.0], [[0.0, 1.0]])
    with pytest.raises(bayes.ShapeError, match=r"shape \(1,\), the observations \(2,\)"):
        other.check("mean")
    with pytest.raises(bayes.DataError, match="every observation of 'y' is missing"):
        planted(counts, [np.nan], [[0.0, 1.0]]).check("mean")


def test_a_program_without_observed_site_is_refused():
    post = bayes.fit(by_factor, {"y": np.arange(3.0)}, QUICK)
    with pytest.raises(bayes.UnsupportedModelError, match="no observed site"):
        post.check("mean")
