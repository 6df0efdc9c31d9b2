"""Posteriors of shards of the data merged into one; exact where all is normal.

What is compared with a closed form involves no draws, so that only rounding sets a tolerance.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from models_for_tests import SCHOOLS_DATA, schools
from scipy.stats import multivariate_normal

import bayes
from bayes import merging
from bayes.inference.densities import densities_at
from bayes.merging import merge
from bayes.method import Draws
from bayes.normals import (
    Normal,
    covariance,
    independent,
    log_prob,
    normal_of_covariance,
    normal_of_precision,
    push,
)
from bayes.posterior import MethodRecord, Posterior
from bayes.prior_curvature import log_prior_at, prior_curvature, prior_diagonal

D, NOISE = 5, 0.7
_ROOT = np.random.default_rng(5).normal(size=(D, D))
PRIOR_MEAN, PRIOR_COVARIANCE = np.arange(D) / 3, _ROOT @ _ROOT.T + 0.5 * np.eye(D)


def linear(x, y=None):
    b = numpyro.sample("b", dist.MultivariateNormal(PRIOR_MEAN, PRIOR_COVARIANCE))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ b, NOISE), obs=y)


def logistic(x, y=None):
    b = numpyro.sample("b", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=x @ b), obs=y)


def planted(model, data, normal, *, draws=300, seed=0, given=True, route="raw", reparam=None):
    """A posterior whose approximation is a normal of our choice."""
    problem = bayes.Model(model, reparam=reparam).bind(data)
    z = np.random.default_rng(seed).normal(size=(draws, len(normal.mean)))
    x = normal.mean + push(normal, z)
    info = {"independent": True, "route": route, "not_converged": ""}
    found = Draws(
        problem.constrain(x[None]),
        {"lp": densities_at(problem, x)[None]},
        chains=1,
        positions=x[None],
        log_q=log_prob(normal, x)[None],
        info=info,
        normal=normal if given else None,
    )
    record = MethodRecord("planted", {}, "", 0, 0.0, info)
    return Posterior.assemble(problem, found, record)


def approximation(posterior):
    group = posterior.data["approximation"].to_dataset()
    return Normal(*(np.asarray(group[k].values) for k in Normal._fields))


def closed_form(x, y):
    """The posterior of the linear regression: mean and covariance."""
    prior = np.linalg.inv(PRIOR_COVARIANCE)
    sigma = np.linalg.inv(prior + x.T @ x / NOISE**2)
    return sigma @ (prior @ PRIOR_MEAN + x.T @ y / NOISE**2), sigma


def linear_data(rows=90):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(rows, D)) @ (np.eye(D) + 0.4) * np.logspace(-1, 2, D)
    return x, x @ rng.normal(size=D) + NOISE * rng.normal(size=rows)


@functools.cache
def shared_shards():
    """For tests that only read them."""
    return linear_shards()


def linear_shards(sizes=(20, 20, 20, 30), **options):
    x, y = linear_data(sum(sizes))
    cuts = np.cumsum(sizes)[:-1]
    pairs = list(zip(np.split(x, cuts), np.split(y, cuts), strict=True))
    normals = [normal_of_covariance(*closed_form(a, b)) for a, b in pairs]
    parts = [
        planted(linear, {"x": a, "y": b}, normal, seed=i, **options)
        for i, ((a, b), normal) in enumerate(zip(pairs, normals, strict=True))
    ]
    return parts, (x, y)


def assert_exact(normal, mean, sigma):
    sd = np.sqrt(np.diagonal(sigma))
    assert np.max(np.abs(normal.mean - mean) / sd) < 1e-8
    assert np.max(np.abs(covariance(normal) - sigma) / np.outer(sd, sd)) < 1e-8


# -------------------------------------------------------------- exact on normal models


def test_merging_normal_posteriors_is_exact():
    """Columns of scales from .1 to 100, a correlated prior, shards of two sizes."""
    parts, (x, y) = shared_shards()
    merged = merge(parts, seed=3)
    assert_exact(approximation(merged), *closed_form(x, y))
    assert merged.diagnostics.ok, merged.diagnostics
    assert merged.method.info["steps"] == ()
    # One Newton step from the exact answer stays there.
    assert_exact(approximation(merge(parts, rounds=1)), *closed_form(x, y))


def test_the_verdict_is_of_the_posterior_of_all_data():
    """lp is the log density of all data to rounding, log_q that of the merged normal."""
    parts, (x, y) = shared_shards()
    whole = bayes.Model(linear).bind({"x": x, "y": y})
    without, with_data = merge(parts), merge(parts, data={"x": x, "y": y})
    at = without.draws("b").values[0]
    for post in (without, with_data):
        stats = post.data["sample_stats"]
        np.testing.assert_allclose(stats["lp"].values[0], densities_at(whole, at), rtol=1e-10)
        exact = multivariate_normal(*closed_form(x, y)).logpdf(at)
        np.testing.assert_allclose(stats["log_q"].values[0], exact, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(at, with_data.draws("b").values[0])


def test_a_prior_that_is_counted_more_than_once_is_found_out():
    """A flat normal in the prior's place removes nothing: the prior then is in there M times.

    Columns of small scale say little beside the prior, which counted three times narrows the
    posterior by the square root of three: theory has a k-hat of 1 - 1/3, and standard deviations
    that are off by 0.42, twice what is allowed.
    """
    x = linear_data(24)[0]
    x, y = x * 1e-3, 0.1 * np.random.default_rng(0).normal(size=24)
    cuts = np.split(np.arange(24), 3)
    parts = [
        planted(
            linear, {"x": x[i], "y": y[i] + n}, normal_of_covariance(*closed_form(x[i], y[i] + n))
        )
        for n, i in enumerate(cuts)
    ]
    y = np.concatenate([y[i] + n for n, i in enumerate(cuts)])
    assert_exact(approximation(merge(parts)), *closed_form(x, y))
    flat = (np.zeros(D), 1e12 * np.eye(D))
    with pytest.warns(bayes.ConvergenceWarning, match="not ok"):
        wrong = merge(parts, flat)
    prior = np.linalg.inv(PRIOR_COVARIANCE)
    thrice = np.linalg.inv(np.linalg.inv(closed_form(x, y)[1]) + 2 * prior)
    np.testing.assert_allclose(covariance(approximation(wrong)), thrice, rtol=1e-6)
    assert {c.name for c in wrong.diagnostics.failed} & {"khat", "mean_shift", "sd_shift"}


def test_a_prior_may_be_given():
    parts, (x, y) = shared_shards()
    sigma = PRIOR_COVARIANCE
    for prior in ((PRIOR_MEAN, sigma), normal_of_covariance(PRIOR_MEAN, sigma)):
        merged = merge(parts, prior)
        assert_exact(approximation(merged), *closed_form(x, y))
        assert merged.method.settings["prior"] == "given"


def test_normals_follow_from_draws_where_there_is_no_approximation():
    parts, _ = linear_shards(given=False)
    flat = [p.to_unconstrained().values[0] for p in parts]
    precisions = [np.linalg.inv(np.cov(f.T)) for f in flat]
    prior = np.linalg.inv(PRIOR_COVARIANCE)
    total = sum(precisions) - 3 * prior
    pull = (
        sum(p @ f.mean(0) for p, f in zip(precisions, flat, strict=True)) - 3 * prior @ PRIOR_MEAN
    )
    mean = np.linalg.solve(total, pull)
    assert_exact(approximation(merge(parts)), mean, np.linalg.inv(total))


def test_draws_that_were_corrected_count_for_more_than_the_approximation():
    parts, _ = linear_shards(route="psis")
    without, _ = linear_shards(given=False)
    a, b = (approximation(merge(p)) for p in (parts, without))
    assert_exact(a, b.mean, covariance(b))


def test_seeds():
    parts, _ = linear_shards((20, 20), draws=100)
    first, again, other = (merge(parts, seed=s, draws=200).draws("b").values for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (1, 200, D)
    assert not np.any(first == other)


def test_a_second_merge_of_the_same_shapes_compiles_nothing():
    parts, (x, y) = linear_shards((20, 20), draws=100)
    others, _ = linear_shards((20, 20), draws=100)
    merge(parts, rounds=1, data={"x": x, "y": y})
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None
    )
    try:
        merge(others, rounds=1, seed=1, data={"x": x, "y": y})
    finally:
        jax.monitoring.clear_event_listeners()
    assert compiled == []


# ---------------------------------------------------------------- a logistic regression


def logistic_data(rows=569, columns=30, seed=0):
    """Columns of six factors and noise, as measurements of one thing are, and an intercept."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 6)) @ rng.normal(size=(6, columns))
    x = x + 0.7 * rng.normal(size=(rows, columns))
    x = np.column_stack([np.ones(rows), (x - x.mean(0)) / x.std(0)])
    b = rng.normal(size=columns + 1)
    return x, (rng.uniform(size=rows) < 1 / (1 + np.exp(-x @ b))).astype(int)


def laplace_of_logistic(x, y):
    """The normal at the mode, by Newton's method."""
    b = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ b))
        precision = np.eye(len(b)) + (x.T * (p * (1 - p))) @ x
        step = np.linalg.solve(precision, x.T @ (y - p) - b)
        b = b + step * min(1.0, 2.0 / np.max(np.abs(step)))
    assert np.max(np.abs(step)) < 1e-10
    return normal_of_precision(b, precision)


def kl(p, q):
    """Kullback-Leibler divergence of one normal from another."""
    a, b = covariance(p), covariance(q)
    shift = q.mean - p.mean
    ratio = np.linalg.solve(b, a)
    quadratic = shift @ np.linalg.solve(b, shift)
    return 0.5 * (np.trace(ratio) + quadratic - len(shift) - np.linalg.slogdet(ratio)[1])


@pytest.fixture(scope="module")
def logistic_parts():
    x, y = logistic_data()
    rows = np.array_split(np.random.default_rng(0).permutation(len(x)), 4)
    parts = [
        planted(logistic, {"x": x[r], "y": y[r]}, laplace_of_logistic(x[r], y[r])) for r in rows
    ]
    return parts, laplace_of_logistic(x, y), {"x": x, "y": y}


@pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")
def test_a_logistic_regression_in_four_shards(logistic_parts):
    """Mean error over elements and sd ratio as the consensus literature measures them."""
    parts, whole, _ = logistic_parts
    found = approximation(merge(parts, draws=200))
    assert np.mean(np.abs(found.mean - whole.mean) / whole.sd) < 0.2
    assert 0.9 < np.median(found.sd / whole.sd) < 1.1


@pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")
def test_two_rounds_of_newton_are_all_but_exact(logistic_parts):
    parts, whole, _ = logistic_parts
    divergences = [kl(whole, approximation(merge(parts, rounds=r, draws=200))) for r in range(4)]
    assert divergences == sorted(divergences, reverse=True)
    assert divergences[2] < 0.05
    assert divergences[3] < 1e-3


def test_the_diagonal_form_warns_and_its_sds_are_about_half(logistic_parts):
    parts, whole, _ = logistic_parts
    with pytest.warns(bayes.ConvergenceWarning) as caught:
        merged = merge(parts, form="diagonal", draws=1000)
    texts = [str(w.message) for w in caught]
    assert any("leaves correlations out" in t and "form='full'" in t for t in texts)
    assert any(t.startswith("not ok") for t in texts)
    found = approximation(merged)
    assert found.vectors.shape == (31, 0)
    assert 0.35 < np.median(found.sd / whole.sd) < 0.65
    # Equation 4 of Matena and Raffel (2022) with the prior counted once.
    fisher = [np.diagonal(np.linalg.inv(covariance(approximation(p)))) for p in parts]
    means = [approximation(p).mean for p in parts]
    expected = sum(f * m for f, m in zip(fisher, means, strict=True)) / (sum(fisher) - 3)
    np.testing.assert_allclose(found.mean, expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.sd, 1 / np.sqrt(sum(fisher) - 3), rtol=1e-8)


@pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")
def test_with_all_data_there_are_predictions(logistic_parts, tmp_path):
    parts, _, data = logistic_parts
    merged = merge(parts, rounds=3, draws=400, data=data)
    assert merged.has_model
    assert merged.data["observed_data"]["y"].shape == (569,)
    assert merged.predict()["posterior_predictive"]["y"].shape == (1, 400, 569)
    merged.save(tmp_path / "merged.zarr")
    again = bayes.load(tmp_path / "merged.zarr", logistic)
    np.testing.assert_array_equal(again.draws("b").values, merged.draws("b").values)
    assert again.method.info["steps"] == [1.0, 1.0, 1.0]


@pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")
def test_without_all_data_there_is_no_model(logistic_parts):
    parts, _, _ = logistic_parts
    merged = merge(parts, rounds=3, draws=400)
    assert not merged.has_model
    assert set(merged.data.children) == {"posterior", "sample_stats", "approximation"}
    assert any("without data=" in note for note in merged.diagnostics.notes)
    assert len(merged.summary(var_names=["b"])) == 31
    with pytest.raises(bayes.ModelError):
        merged.predict()


# ------------------------------------------------------------------------ other models


@pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")
def test_newton_finds_the_mode_under_a_prior_that_is_not_normal():
    """A half-normal scale: where the merged gradient is zero is the mode of all data."""

    def scaled(y=None):
        scale = numpyro.sample("scale", dist.HalfCauchy(1.0))
        mu = numpyro.sample("mu", dist.StudentT(3.0, 0.0, 1.0))
        with numpyro.plate("row", 10 if y is None else y.shape[0]):
            numpyro.sample("y", dist.Normal(mu, scale), obs=y)

    y = np.random.default_rng(2).normal(1.0, 2.0, size=80)
    whole = bayes.Model(scaled).bind({"y": y})

    def laplace(values):
        problem, x = bayes.Model(scaled).bind({"y": values}), np.zeros(2)
        hessian = jax.jit(jax.hessian(lambda x: problem.program.log_density(x, problem.arrays)))
        with jax.enable_x64(True):
            for _ in range(20):
                x = x - np.linalg.solve(hessian(x), problem.value_and_grad(x)[1])
            return normal_of_precision(x, -np.asarray(hessian(x)))

    exact = laplace(y)
    parts = [planted(scaled, {"y": v}, laplace(v)) for v in np.split(y, 4)]
    errors = []
    for rounds in (0, 1, 4):
        found = approximation(merge(parts, rounds=rounds, draws=100))
        errors.append(np.max(np.abs(found.mean - exact.mean) / exact.sd))
    assert errors[0] < 0.3
    assert errors[1] < errors[0]
    assert errors[2] < 1e-8
    np.testing.assert_allclose(covariance(found), covariance(exact), rtol=1e-6)
    assert np.max(np.abs(whole.value_and_grad(found.mean)[1])) < 1e-8


def test_discrete_sites_that_are_summed_out_do_not_matter():
    def mixture(y=None):
        mu = numpyro.sample("mu", dist.Normal(0, 2).expand([2]).to_event(1))
        with numpyro.plate("row", 4 if y is None else y.shape[0]):
            z = numpyro.sample("z", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)

    y = np.random.default_rng(0).normal(size=12)
    parts = [
        planted(mixture, {"y": v}, independent(np.zeros(2), np.ones(2))) for v in np.split(y, 2)
    ]
    merged = merge(parts, rounds=2, draws=120)
    whole = bayes.Model(mixture).bind({"y": y})
    at = merged.draws("mu").values[0]
    lp = merged.data["sample_stats"]["lp"].values[0]
    np.testing.assert_allclose(lp, densities_at(whole, at), rtol=1e-10)


def constrained(x, y=None):
    """A constraint as an observed site, and a penalty, that every shard repeats."""
    b = numpyro.sample("b", dist.Normal(0, 1).expand([3]).to_event(1))
    numpyro.sample("zero_sum", dist.Normal(b.sum(), 0.1), obs=0.0)
    numpyro.factor("penalty", -0.5 * b[0] ** 2)
    numpyro.factor("term", -0.5 * jnp.sum((x - b[1]) ** 2))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(x * b[2], 1.0), obs=y)


def test_a_constraint_that_every_shard_repeats_is_counted_once():
    x, y = np.random.default_rng(0).normal(size=(2, 40))

    def exact(x, y):
        precision = np.eye(3) + 100 + np.diag([1, len(x), x @ x])
        return normal_of_precision(np.linalg.solve(precision, [0, x.sum(), x @ y]), precision)

    pairs = list(zip(np.split(x, 4), np.split(y, 4), strict=True))
    parts = [planted(constrained, {"x": a, "y": b}, exact(a, b)) for a, b in pairs]
    merged = merge(parts)
    assert_exact(approximation(merged), exact(x, y).mean, covariance(exact(x, y)))
    assert any(
        "penalty, zero_sum is the same in every shard" in n for n in merged.diagnostics.notes
    )
    # With the constraint repeated, as it stands, the posterior of all data has it once, too.
    together = {"x": x, "y": y}
    assert merge(parts, data=together).diagnostics.ok


def test_sites_of_a_reparametrisation():
    def grouped(group, n_group, y=None):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        with numpyro.plate("site", n_group):
            theta = numpyro.sample("theta", dist.Normal(mu, 1.0))
        scaled = numpyro.deterministic("double", 2 * theta)
        numpyro.deterministic("fitted", scaled[group])
        with numpyro.plate("row", group.shape[0]):
            numpyro.sample("y", dist.Normal(theta[group], 1.0), obs=y)

    y = np.random.default_rng(0).normal(size=20)
    data = [
        {"group": np.arange(i, i + 10) % 3, "n_group": 3, "y": v}
        for i, v in enumerate(np.split(y, 2))
    ]

    def exact(count, total):  # of mu and the offsets of its groups
        design = np.column_stack([np.ones(3), np.eye(3)])
        precision = np.eye(4) + (design.T * count) @ design
        return normal_of_precision(np.linalg.solve(precision, design.T @ total), precision)

    sums = [np.bincount(d["group"], d["y"]) for d in data]
    counts = [np.bincount(d["group"]) for d in data]
    parts = [
        planted(grouped, d, exact(c, s), reparam="auto")
        for d, c, s in zip(data, counts, sums, strict=True)
    ]
    merged = merge(parts)
    expected = exact(sum(counts), sum(sums))
    assert_exact(approximation(merged), expected.mean, covariance(expected))
    assert set(merged.data["posterior"].data_vars) == {"mu", "theta", "double"}
    assert "nor draws of fitted" in merged.diagnostics.notes[-1]


def test_the_prior_on_the_unconstrained_space():
    """Log density less log likelihood; derivatives against differences of it."""
    problem = bayes.Model(schools).bind(SCHOOLS_DATA)
    x = np.random.default_rng(0).normal(size=(3, 10))
    without = [float(problem.log_density(v)) - sum(problem.log_likelihood(v).values()) for v in x]
    np.testing.assert_allclose(log_prior_at(problem, x), without, rtol=1e-12)
    gradient, hessian = prior_curvature(problem, x[0])
    step = 1e-4
    ahead, behind = (log_prior_at(problem, x[0] + s * step * np.eye(10)) for s in (1, -1))
    np.testing.assert_allclose(gradient, (ahead - behind) / (2 * step), atol=1e-6)
    second = (ahead + behind - 2 * log_prior_at(problem, x[:1])) / step**2
    np.testing.assert_allclose(np.diagonal(hessian), second, atol=1e-5)
    for found, expected in zip(
        prior_diagonal(problem, x[0]), (gradient, np.diagonal(hessian)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


# --------------------------------------------------------------------- what is refused


def test_a_precision_that_is_not_positive_definite_is_refused():
    """Shards' normals that are wider than the prior in one direction leave nothing there."""
    x, y = linear_data(40)
    pairs = list(zip(np.split(x, 2), np.split(y, 2), strict=True))
    wide = []
    for a, b in pairs:
        mean, sigma = closed_form(a, b)
        sigma[2] *= 1e3
        sigma[:, 2] *= 1e3
        wide.append(normal_of_covariance(mean, sigma))
    parts = [
        planted(linear, {"x": a, "y": b}, normal)
        for (a, b), normal in zip(pairs, wide, strict=True)
    ]
    for form in ("full", "diagonal"):
        with pytest.raises(
            bayes.UnsupportedModelError, match=r"not positive definite.*b\[2\]"
        ) as e:
            merge(parts, form=form)
    assert "rounds=2" in str(e.value)
    assert_exact(approximation(merge(parts, rounds=2)), *closed_form(x, y))


def test_a_density_without_a_maximum_is_refused():
    def flat(y=None):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.factor("wide", 0.45 * mu**2 + 0.0 * jnp.sum(y))
        with numpyro.plate("row", 2 if y is None else y.shape[0]):
            numpyro.sample("y", dist.Normal(0.1 * mu, 1.0), obs=y)

    # The factor is the same in both shards and counted once: it is only with a sum that it grows.
    def growing(y=None):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.factor("wide", 0.3 * mu**2 * (1 + 0.01 * jnp.sum(y)))
        with numpyro.plate("row", 2 if y is None else y.shape[0]):
            numpyro.sample("y", dist.Normal(0.1 * mu, 1.0), obs=y)

    data = [{"y": np.array([0.1, 0.2])}, {"y": np.array([0.3, 0.4])}]
    normal = independent(np.zeros(1), np.full(1, 0.5))
    merge([planted(flat, d, normal) for d in data], rounds=1)
    with pytest.raises(bayes.UnsupportedModelError, match="do not determine mu"):
        merge(
            [planted(growing, d, independent(np.zeros(1), np.ones(1) * 9)) for d in data], rounds=2
        )


def test_settings_that_make_no_sense_are_refused(unchecked):
    parts, _ = linear_shards((20, 20), draws=100)
    cases = [
        ((parts[:1],), {}, "at least two posteriors, got 1"),
        (([parts[0], "shard"],), {}, r"posteriors\[1\] is not a Posterior: str"),
        ((parts[0],), {}, "posteriors is a sequence, got Posterior"),
        ((parts,), {"form": "low_rank"}, "form must be one of full, diagonal, got 'low_rank'"),
        ((parts,), {"rounds": -1}, "rounds must be at least 0, got -1"),
        ((parts,), {"rounds": 1, "form": "diagonal"}, "rounds=1 takes Hessians"),
        ((parts,), {"draws": 0}, "draws must be at least 1, got 0"),
        ((parts,), {"seed": -1}, "seed must be a whole number"),
        ((parts, "normal"), {}, r"a pair of a mean of shape \(5,\)"),
        ((parts, (np.zeros(5), np.ones(5))), {}, r"covariance of shape \(5, 5\)"),
        ((parts, (np.zeros(5), -np.eye(5))), {}, "prior has a covariance that is not positive"),
        ((parts, independent(np.zeros(4), np.ones(4))), {}, r"prior has a mean of shape \(4,\)"),
        ((parts, independent(np.full(5, np.nan), np.ones(5))), {}, "and finite"),
    ]
    for arguments, options, text in cases:
        with pytest.raises(bayes.SettingsError, match=text):
            merge(*arguments, **options)


def test_posteriors_of_other_programs_are_refused():
    def other(x, y=None):
        b = numpyro.sample("b", dist.MultivariateNormal(PRIOR_MEAN, PRIOR_COVARIANCE))
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.StudentT(4.0, x @ b, NOISE), obs=y)

    def more(x, y=None):
        linear(x, y)
        numpyro.sample("extra", dist.Normal(0, 1))

    def wider(x, y=None):
        b = numpyro.sample("b", dist.MultivariateNormal(PRIOR_MEAN, 2 * PRIOR_COVARIANCE))
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Normal(x @ b, NOISE), obs=y)

    parts, (x, y) = linear_shards((20, 20), draws=100)
    data = {"x": x[:7], "y": y[:7]}
    cases = [
        (other, D, "posterior 1 is of another program.*'y' is observed StudentT"),
        (more, D + 1, "they differ in extra"),
        (wider, D, "the prior of b is another one in posterior 1"),
    ]
    for model, d, text in cases:
        with pytest.raises(bayes.ModelError, match=text):
            merge([parts[0], planted(model, data, independent(np.zeros(d), np.ones(d)))])


def test_sites_of_one_shard_are_refused():
    def part(data):
        d = 2 + len(data["y"])
        return planted(schools, data, independent(np.zeros(d), np.ones(d)))

    sigma, y = SCHOOLS_DATA["sigma"], SCHOOLS_DATA["y"]
    uneven = [part({"sigma": sigma[:5], "y": y[:5]}), part({"sigma": sigma[5:], "y": y[5:]})]
    text = r"latent site 'theta' has shape \(5,\) in posterior 0 and \(3,\) in posterior 1"
    with pytest.raises(bayes.UnsupportedModelError, match=text):
        merge(uneven)

    frame = pd.DataFrame({"sigma": sigma, "y": y}, index=pd.Index(list("ABCDEFGH"), name="school"))
    labelled = [
        planted(schools, frame[:4], independent(np.zeros(6), np.ones(6))),
        planted(schools, frame[4:], independent(np.zeros(6), np.ones(6))),
    ]
    with pytest.raises(bayes.UnsupportedModelError, match="'theta' has other labels of 'school'"):
        merge(labelled)


def test_an_element_for_each_row_is_mentioned():
    parts = [
        planted(
            schools,
            {"sigma": SCHOOLS_DATA["sigma"][i], "y": SCHOOLS_DATA["y"][i]},
            independent(np.zeros(6), np.full(6, 0.1)),
        )
        for i in (slice(0, 4), slice(4, 8))
    ]
    with pytest.warns(bayes.ConvergenceWarning):
        merged = merge(parts, draws=200)
    assert any(
        "'theta' has an element for each of plate 'school'" in n for n in merged.diagnostics.notes
    )
    # Of four schools each, eight in all: the whole has other sites.
    with pytest.raises(bayes.UnsupportedModelError, match="in the model with data="):
        merge(parts, data=SCHOOLS_DATA)


def test_priors_and_supports_that_follow_from_a_shard_are_refused():
    def empirical(y=None):
        mu = numpyro.sample("mu", dist.Normal(y.mean(), 1.0))
        with numpyro.plate("row", y.shape[0]):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    def bounded(y=None):
        top = numpyro.sample("top", dist.Uniform(y.max(), 20.0))
        with numpyro.plate("row", y.shape[0]):
            numpyro.sample("y", dist.Uniform(-10.0, top), obs=y)

    shards = [{"y": np.array([0.0, 1.0, 2.0])}, {"y": np.array([1.0, 2.0, 4.5])}]
    one = independent(np.zeros(1), np.ones(1))
    for model, text in (
        (empirical, "the prior of mu is another one in posterior 1"),
        (bounded, "the support of site 'top' is another one in posterior 1"),
    ):
        with pytest.raises(bayes.ModelError, match=text):
            merge([planted(model, s, one) for s in shards])


def test_data_are_checked():
    parts, (x, y) = linear_shards((20, 20), draws=100)
    with pytest.raises(bayes.DataError, match="posteriors 0 and 2 are of the same data"):
        merge([*parts, parts[0]])
    with pytest.raises(bayes.DataError, match="not what the shards make up together"):
        merge(parts, data={"x": x[1:], "y": y[1:]})

    def levels(group, n_group, y=None):
        b = numpyro.sample("b", dist.Normal(0, 1).expand([n_group]).to_event(1))
        with numpyro.plate("row", group.shape[0]):
            numpyro.sample("y", dist.Normal(b[group], 1.0), obs=y)

    frames = [
        pd.DataFrame({"group": pd.Categorical(names), "y": [0.1, 0.2, 0.4]})
        for names in (list("aab"), list("bbc"))
    ]
    shards = [planted(levels, f, independent(np.zeros(2), np.ones(2))) for f in frames]
    with pytest.raises(bayes.DataError, match="column 'group' has other levels in posterior 1"):
        merge(shards)


def test_draws_that_give_no_normal_are_refused():
    parts, _ = linear_shards((20, 20), draws=100)
    few, _ = linear_shards((20, 20), draws=5, given=False)
    with pytest.raises(
        bayes.UnsupportedModelError, match="posterior 1 has 5 draws of 5 dimensions"
    ):
        merge([parts[0], few[1]])
    still = few[1].data["posterior"]["b"]
    few[1].data["posterior"]["b"] = still.isel(draw=[0] * 5).assign_coords(draw=still.draw)
    repeated, _ = linear_shards((20, 20), draws=100, given=False)
    draws = repeated[1].data["posterior"]["b"]
    repeated[1].data["posterior"]["b"] = draws.copy(
        data=np.repeat(draws.values[:, :1], 100, axis=1)
    )
    with pytest.raises(bayes.UnsupportedModelError, match="posterior 1 have no covariance"):
        merge(repeated)
    missing, _ = linear_shards((20, 20), draws=100, given=False)
    del missing[0].data["posterior"]["b"]
    with pytest.raises(bayes.ModelError, match="posterior 0: no site 'b'"):
        merge(missing)


def test_draws_that_are_not_finite_are_refused():
    parts, _ = linear_shards((20, 20), draws=100, given=False)
    draws = parts[1].data["posterior"]["b"]
    parts[1].data["posterior"]["b"] = draws.where(draws.draw != 3)
    with pytest.raises(bayes.ModelError, match="posterior 1 has draws that are not finite"):
        merge(parts)


@pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")
def test_matrices_that_are_too_large_are_refused(monkeypatch):
    monkeypatch.setattr(merging, "_DENSE", 4)
    parts, _ = shared_shards()
    with pytest.raises(bayes.SettingsError, match="matrices of 5 x 5; form='diagonal' does not"):
        merge(parts)
    with pytest.warns(bayes.ConvergenceWarning, match="leaves correlations out"):
        merge(parts, form="diagonal", draws=100)


def test_a_reparametrisation_of_one_shard_is_refused():
    normal = independent(np.zeros(10), np.ones(10))
    other = {**SCHOOLS_DATA, "y": SCHOOLS_DATA["y"] + 1}
    parts = [
        planted(schools, SCHOOLS_DATA, normal),
        planted(schools, other, normal, reparam="auto"),
    ]
    with pytest.raises(bayes.ModelError, match="posterior 1 is reparametrised otherwise"):
        merge(parts)


def test_discrete_draws_are_refused():
    def mixture(y=None):
        mu = numpyro.sample("mu", dist.Normal(0, 2).expand([2]).to_event(1))
        with numpyro.plate("row", 4 if y is None else y.shape[0]):
            z = numpyro.sample("z", dist.Bernoulli(0.3))
            numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)

    normal, shards = (
        independent(np.zeros(2), np.ones(2)),
        ({"y": np.arange(4.0)}, {"y": np.ones(4) / 3}),
    )
    parts = [planted(mixture, {"y": s["y"] + np.arange(4)}, normal) for s in shards]
    problem = bayes.Model(mixture).bind({"y": np.arange(4.0)}, marginal=False)
    drawn = Posterior(parts[0].data, parts[0].method, parts[0].diagnostics, problem)
    with pytest.raises(
        bayes.UnsupportedModelError, match=r"posterior 1 has draws of discrete.*\(z\)"
    ):
        merge([parts[0], drawn])


def test_loaded_posteriors_need_their_model(tmp_path):
    parts, (x, y) = linear_shards((20, 20), draws=100)
    for i, part in enumerate(parts):
        part.save(tmp_path / f"{i}.zarr")
    loaded = [bayes.load(tmp_path / f"{i}.zarr", linear) for i in range(2)]
    assert_exact(approximation(merge(loaded)), *closed_form(x, y))
    with pytest.raises(bayes.ModelError, match="posterior 1 has no model"):
        merge([loaded[0], bayes.load(tmp_path / "1.zarr")])


def test_a_shard_that_failed_is_named():
    (first, second), (x, y) = linear_shards((20, 20))
    mean, sigma = closed_form(x[20:], y[20:])
    narrow = planted(
        linear, {"x": x[20:], "y": y[20:]}, normal_of_covariance(mean, sigma / 100), given=False
    )
    assert not narrow.diagnostics.ok
    with pytest.warns(bayes.ConvergenceWarning):
        merged = merge([first, narrow])
    assert any(
        n.startswith("posterior 1 failed its own checks: khat") for n in merged.diagnostics.notes
    )
    assert not any("posterior 0" in n for n in merged.diagnostics.notes)
    assert merged.method.info["shards"][1]["failed"] == "khat"
    assert merge([first, second]).diagnostics.notes == merged.diagnostics.notes[1:]
