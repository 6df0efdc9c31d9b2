"""Whole fits of programs with a planted pathology: each is found, by the check that is for it.

All have the defaults of ``fit`` but for what the pathology is made of, or for a bound on the draws
where no number of them would be enough. Advice has to name the site and what to do.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import normal_mean
from numpyro.distributions import constraints
from numpyro.infer import init_to_median

import bayes
from bayes.diagnostics.checks import judge_draws
from bayes.diagnostics.convergence import convergence
from bayes.diagnostics.elements import resting_elements
from bayes.diagnostics.labels import exchanged_sites
from bayes.diagnostics.tails import tail_index


def bad_fit(program, data, method="nuts", seed=0, **options):
    """A fit that is expected to warn, and which checks failed."""
    with pytest.warns(bayes.ConvergenceWarning):
        post = bayes.fit(program, data, method, seed=seed, **options)
    return post.diagnostics, {check.name for check in post.diagnostics.failed}


# ------------------------------------------------------------------ too few draws


def test_too_few_draws():
    data = {"n": 5, "y": np.arange(5.0)}
    verdict, failed = bad_fit(normal_mean, data, bayes.NUTS(draws=40))
    assert {"ess_bulk", "ess_tail"} <= failed <= {"ess_bulk", "ess_tail", "rhat", "sd_error"}
    assert "worst: mu" in verdict["ess_bulk"].advice
    assert "x as many" in verdict["ess_bulk"].advice


# ------------------------------------------------------------------- stuck chains


def far_mode():
    """A second mode 60 standard deviations away, with e^-4 of the mass of the first."""
    x = numpyro.sample("x", dist.ImproperUniform(constraints.real, (), ()))
    numpyro.sample("z", dist.Normal(0, 1))
    near, far = dist.Normal(0, 1).log_prob(x), dist.Normal(60, 1).log_prob(x) - 4
    numpyro.factor("modes", jnp.logaddexp(near, far))


def one_start_far(site=None):
    """An init strategy that begins about one chain of four in the far mode."""
    if site is None:
        return one_start_far
    if site["type"] != "sample" or site["is_observed"]:
        return None
    far = jax.random.uniform(site["kwargs"]["rng_key"]) < 0.25
    return jnp.where(far & (site["name"] == "x"), 60.0, 0.0)


def test_a_chain_that_begins_in_a_far_mode():
    method = bayes.NUTS(init_strategy=one_start_far, candidates=1, max_draws=600)
    verdict, failed = bad_fit(far_mode, {}, method, seed=1)
    assert {"rhat", "stuck_chains"} <= failed
    assert verdict["stuck_chains"].value == 1
    assert "apart from the others at x (mean log density -4" in verdict["stuck_chains"].advice
    assert "init_strategy" in verdict["stuck_chains"].advice


# --------------------------------------------------------------------- the funnel


def funnel(leaves=10):
    scale = numpyro.sample("scale", dist.Normal(0, 3))
    with numpyro.plate("leaf", leaves):
        numpyro.sample("x", dist.Normal(0, jnp.exp(scale / 2)))


def test_centred_funnel():
    model = bayes.Model(funnel, allow_prior=True)
    verdict, failed = bad_fit(model, {}, bayes.NUTS(max_draws=1000))
    assert {"ebfmi", "ess_bulk"} <= failed
    assert "non-centre x with reparam='auto'" in verdict["ebfmi"].advice
    assert "worst: scale" in verdict["ess_bulk"].advice


# ------------------------------------------------------------- improper posteriors


def flat(support=constraints.real):
    return dist.ImproperUniform(support, (), ())


def one_observation(y=None):
    """Flat priors on mean and spread of a single observation: the spread has no posterior."""
    mu = numpyro.sample("mu", flat())
    sigma = numpyro.sample("sigma", flat(constraints.positive))
    numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def separated(x, y=None):
    """Flat priors, and a covariate that tells zeros from ones without error."""
    intercept, slope = numpyro.sample("intercept", flat()), numpyro.sample("slope", flat())
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=intercept + slope * x), obs=y)


X = np.linspace(-1, 1, 20)
IMPROPER = {
    "one observation": (one_observation, {"y": np.array(1.3)}, ("mu", "sigma")),
    "separation": (separated, {"x": X, "y": (X > 0).astype(int)}, ("intercept", "slope")),
}


@pytest.mark.parametrize("case", IMPROPER)
def test_improper_posterior(case):
    program, data, sites = IMPROPER[case]
    verdict, failed = bad_fit(program, data, bayes.NUTS(max_draws=600))
    assert {"rhat", "ess_bulk", "ess_tail"} <= failed
    advice = verdict["rhat"].advice
    assert "the posterior is improper unless such values make sense" in advice
    assert any(f"give {site} a proper prior" in advice for site in sites)


# -------------------------------------------------------------- modes and labels


def sign_unknown(y=None):
    """Only the square of theta is seen."""
    theta = numpyro.sample("theta", dist.Normal(0, 3))
    noise = numpyro.sample("noise", dist.HalfNormal(1))
    with numpyro.plate("row", y.shape[0]):
        numpyro.sample("y", dist.Normal(theta**2, noise), obs=y)


def test_well_separated_modes(rng):
    verdict, failed = bad_fit(
        sign_unknown, {"y": 4 + 0.3 * rng.normal(size=10)}, bayes.NUTS(max_draws=600)
    )
    assert {"rhat", "stuck_chains"} <= failed
    assert "apart from the others at theta" in verdict["stuck_chains"].advice
    assert "several modes" in verdict["stuck_chains"].advice
    assert "chains have not mixed (worst: theta)" in verdict["rhat"].advice
    assert "run longer" not in verdict.verdict


def exchangeable(y=None):
    with numpyro.plate("component", 2):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    parts = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(mu, sigma))
    with numpyro.plate("row", y.shape[0]):
        numpyro.sample("y", parts, obs=y)


def test_label_switching(rng):
    y = np.concatenate([rng.normal(-3, 0.5, 30), rng.normal(3, 1.0, 60)])
    verdict, failed = bad_fit(exchangeable, {"y": y}, bayes.NUTS(max_draws=600))
    assert {"rhat", "ess_bulk", "stuck_chains"} <= failed
    for check in ("rhat", "stuck_chains"):
        assert "label switching" in verdict[check].advice
        assert "order the components" in verdict[check].advice
        assert "mu" in verdict[check].advice
    assert "OrderedTransform" in verdict["stuck_chains"].advice


def exchanged(values):
    return exchanged_sites(convergence({"x": values}, None), {"x": values})


def test_only_exchanged_elements_are_taken_for_labels(rng):
    """What is wrong for another reason stays so when it is sorted."""
    labels = rng.normal(size=(4, 500, 3)) + np.array([0.0, 8.0, 16.0])
    labels[1] = labels[1][:, [1, 0, 2]]
    labels[3] = labels[3][:, [2, 0, 1]]
    assert exchanged(labels) == ("x",)
    # Components that are rows: each column switches on its own.
    rows = np.stack([labels, labels + 1], axis=3)
    assert exchanged(rows) == ("x",)
    # One element in two modes, among many that overlap with it.
    alone = rng.normal(size=(4, 500, 20))
    alone[2, :, 7] += 4.0
    assert exchanged(alone) == ()
    # Two elements, each in modes of its own.
    both = rng.normal(size=(4, 500, 2))
    both[2, :, 0] += 5.0
    both[[1, 3], :, 1] -= 3.0
    assert exchanged(both) == ()
    # Slow elements.
    assert exchanged(np.cumsum(rng.normal(size=(4, 500, 3)), axis=1)) == ()


# --------------------------------------------------------------------- heavy tails


def cauchy(y=None):
    numpyro.sample("x", dist.Cauchy(0, 1))
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def test_a_parameter_without_mean():
    verdict, failed = bad_fit(cauchy, {"y": np.array(0.3)})
    assert "sd_error" in failed <= {"sd_error", "ebfmi"}
    advice = verdict["sd_error"].advice
    assert advice.startswith("the standard deviation of x is not settled")
    assert "its mean is not to be trusted either; report its median and intervals" in advice


@pytest.mark.parametrize(("freedom", "low", "high"), [(1.0, 0.7, 1.4), (1.6, 0.5, 0.9)])
def test_the_tail_index_of_student_t(freedom, low, high):
    """1 / degrees of freedom, with the larger of two errors of about (1 + k) / sqrt(190)."""
    found = [
        tail_index(np.random.default_rng(seed).standard_t(freedom, size=(4, 1000)))
        for seed in range(5)
    ]
    assert low < np.mean(found) < high
    assert min(found) > 0.35
    light = tail_index(np.random.default_rng(0).normal(size=(4, 1000)))
    assert light < 0.35
    for nothing in (np.zeros((4, 100)), np.full((4, 100), np.inf), np.ones((4, 5))):
        assert np.isnan(tail_index(nothing))


# ------------------------------------------------------------- parameters that rest


def too_fine(y=None):
    """The spread of x is a tenth of the distance between neighbouring numbers at 10^9."""
    numpyro.sample("x", dist.Normal(1e9, 1e-8))
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def test_a_sampled_site_that_cannot_move():
    method = bayes.NUTS(init_strategy=init_to_median(), warmup=100, draws=100)
    verdict, failed = bad_fit(too_fine, {"y": np.array(0.3)}, method)
    assert "stuck_sites" in failed
    assert verdict["stuck_sites"].advice.startswith("x has the same value in all draws")
    assert "rescale" in verdict["stuck_sites"].advice


def test_all_else_may_be_well_where_a_site_rests(rng):
    sites = {"x": rng.normal(size=(4, 1000)), "level": np.full((4, 1000, 2), 3.5)}
    stats = {"lp": rng.normal(size=(4, 1000))}
    verdict = judge_draws(sites, stats, {"sampled": ["x", "level"]})
    assert [check.name for check in verdict.failed] == ["stuck_sites"]
    assert "level[0], level[1]" in verdict["stuck_sites"].advice
    assert judge_draws(sites, stats, {"sampled": ["x"]}).ok


def with_constants(y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    numpyro.deterministic("known", 2.5 * jnp.ones(2))
    numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def test_a_deterministic_site_may_be_constant():
    post = bayes.fit(with_constants, {"y": np.array(0.3)}, seed=1)
    assert post.diagnostics.ok, post.diagnostics
    assert any(note.startswith("2 elements are constant") for note in post.diagnostics.notes)


def test_zeros_and_ones_of_a_cholesky_factor_and_certain_classes_are_meant():
    factor = np.array([[1.0, 0.0], [0.4, 0.9]])
    still = factor.ravel() <= 1.0
    moving = np.array([True, True, False, False])
    assert resting_elements("L", factor, moving) == ()
    assert resting_elements("L", factor, still) == ("L[0,0]", "L[0,1]", "L[1,0]", "L[1,1]")
    assert resting_elements("L", factor, ~moving) == ("L[1,0]", "L[1,1]")
    assert resting_elements("z", np.array(1.0), np.array([True])) == ("z",)
    assert resting_elements("k", np.array(1), np.array([True])) == ()


# ------------------------------------------------------------------- false alarms


def five(x, y=None):
    coef = numpyro.sample("coef", dist.Normal(0, 5).expand([4]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ coef, sigma), obs=y)


def test_good_fits_are_ok():
    """Of 400 such fits with other seeds none was not ok: at most 0.75 % of them are (95 % sure).

    For these 20, with other seeds, that is an alarm in at most one of seven runs of the test.
    """
    bad = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = np.column_stack([np.ones(40), rng.normal(size=(40, 3))])
        y = x @ np.array([1.0, 2.0, -1.0, 0.0]) + rng.normal(size=40)
        verdict = bayes.fit(five, {"x": x, "y": y}, seed=seed).diagnostics
        bad += [] if verdict.ok else [str(verdict)]
    assert not bad, "\n".join(bad)
