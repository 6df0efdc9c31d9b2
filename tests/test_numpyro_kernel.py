"""NumPyro's own kernels against exact posteriors, and what they are refused."""

import dataclasses
import functools
import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from arviz_stats.base import array_stats
from models_for_tests import SCHOOLS_DATA, normal_mean, schools
from numpyro.infer import (
    AIES,
    ESS,
    HMC,
    HMCECS,
    NUTS,
    SA,
    BarkerMH,
    DiscreteHMCGibbs,
    HMCGibbs,
    MixedHMC,
)

import bayes
from bayes.compilation import computing
from bayes.inference import pacing

Y = np.array([0.3, 2.1, -0.7, 1.9, 0.4])
NORMAL_DATA = {"n": 5, "y": Y}
PRECISION = 1 / 2.0**2 + 5 / 1.5**2
MEAN, SD = (1.0 / 2.0**2 + Y.sum() / 1.5**2) / PRECISION, PRECISION**-0.5

UNSETTLED = pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")
"""For short runs, whose verdict is not what is tested."""


def z_score(draws, exact):
    """Distance from an exact mean in Monte Carlo standard errors."""
    ess = array_stats.ess(draws, method="mean", chain_axis=0, draw_axis=1)
    return (draws.mean() - exact) / (draws.std() / np.sqrt(ess))


def assert_moments(draws, mean, sd):
    """|z| < 4.5: a false alarm in 150 000."""
    assert abs(z_score(draws, mean)) < 4.5
    assert abs(z_score((draws - mean) ** 2, sd**2)) < 4.5


# --------------------------------------------------------------------------- continuous sites


def sample_adaptive(model):
    return SA(model, adapt_state_size=20)


@pytest.mark.parametrize("kernel", [NUTS, BarkerMH, sample_adaptive])
def test_a_conjugate_posterior_is_exact(kernel):
    post = bayes.fit(normal_mean, NORMAL_DATA, bayes.NumPyroKernel(kernel, draws=2000), seed=1)
    assert_moments(post.draws("mu").values, MEAN, SD)
    assert post.diagnostics.ok, post.diagnostics
    assert {"lp", "acceptance_rate"} <= set(post.data["sample_stats"])


def plane():
    covariance = jnp.array([[1.0, 0.8], [0.8, 2.0]])
    x = numpyro.sample("x", dist.MultivariateNormal(jnp.array([1.0, -1.0]), covariance))
    numpyro.deterministic("total", x.sum())


def stretching(model):
    return AIES(model, moves={AIES.DEMove(): 0.5, AIES.StretchMove(): 0.5})


def slicing(model):
    return ESS(model, moves={ESS.DifferentialMove(): 0.8, ESS.RandomMove(): 0.2})


@pytest.mark.parametrize("kernel", [stretching, slicing])
def test_an_ensemble_draws_from_a_correlated_normal(kernel):
    method = bayes.NumPyroKernel(kernel, chains=10, draws=4000)
    post = bayes.fit(bayes.Model(plane, allow_prior=True), {}, method, seed=2)
    x = post.draws("x").values
    assert x.shape == (10, 4000, 2)
    assert_moments(x[..., 0], 1.0, 1.0)
    assert_moments(x[..., 1], -1.0, np.sqrt(2.0))
    assert_moments(post.draws("total").values, 0.0, np.sqrt(4.6))
    assert post.diagnostics.ok, post.diagnostics


@UNSETTLED
def test_a_chain_of_a_shuffled_ensemble_is_one_walkers_path():
    def shuffled(model):
        return AIES(model, randomize_split=True)

    post = bayes.fit(
        bayes.Model(plane, allow_prior=True),
        {},
        bayes.NumPyroKernel(shuffled, chains=10, draws=200),
        seed=0,
    )
    x = post.draws("x").values
    stayed = (x[:, 1:] == x[:, :-1]).all(axis=2)
    # A walker whose proposal is rejected stays where it is, and it stays in its row.
    share = 1 - post.data["sample_stats"]["acceptance_rate"].values.mean()
    assert 0.5 * share < stayed.mean()
    assert stayed.any(axis=1).all()


@UNSETTLED
def test_reparam_reaches_a_kernel_that_is_made_for_the_program():
    method = bayes.NumPyroKernel(lambda model: NUTS(model, target_accept_prob=0.95), chains=2)
    post = bayes.fit(schools, SCHOOLS_DATA, method, seed=0, reparam="auto")
    assert "theta_decentered" in post.data["auxiliary"]
    assert post.draws("theta").shape == (2, 1000, 8)
    assert "NUTS(target_accept_prob=0.95)" in str(post.method)


@UNSETTLED
def test_a_program_that_computes_with_its_data_in_python():
    def branching(y):
        scale = 1.0 if float(y.sum()) > 0 else 2.0
        mu = numpyro.sample("mu", dist.Normal(0, scale))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    method = bayes.NumPyroKernel(NUTS, chains=2, draws=1000)
    post = bayes.fit(branching, {"y": Y}, method, seed=0)
    precision = 1 + len(Y)
    assert_moments(post.draws("mu").values, Y.sum() / precision, precision**-0.5)


# ----------------------------------------------------------------------------- discrete sites

POINTS = np.array([-1.2, 2.5, 0.4, 0.9, -2.0, 1.7])


def mixture(n, y=None):
    weight = numpyro.sample("weight", dist.Beta(2.0, 2.0))
    with numpyro.plate("row", n):
        component = numpyro.sample("component", dist.Bernoulli(weight))
        mean = numpyro.deterministic("mean", jnp.where(component == 1, 2.0, -1.0))
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


MIXTURE_DATA = {"n": len(POINTS), "y": POINTS}


def mixture_posterior():
    """Mean and standard deviation of the weight, and probabilities of the components."""
    weight = (np.arange(20_000) + 0.5) / 20_000
    one, other = (np.exp(-0.5 * (POINTS - m) ** 2) for m in (2.0, -1.0))
    each = weight[:, None] * one + (1 - weight[:, None]) * other
    density = weight * (1 - weight) * each.prod(axis=1)
    density /= density.sum()
    mean = density @ weight
    return mean, np.sqrt(density @ (weight - mean) ** 2), density @ (weight[:, None] * one / each)


def gibbs(model):
    return DiscreteHMCGibbs(NUTS(model), modified=True)


def mixed(model):
    return MixedHMC(HMC(model, trajectory_length=1.2), num_discrete_updates=6)


@pytest.mark.parametrize("kernel", [gibbs, mixed])
def test_discrete_sites_are_drawn(kernel):
    post = bayes.fit(mixture, MIXTURE_DATA, bayes.NumPyroKernel(kernel, draws=2000), seed=3)
    mean, sd, probability = mixture_posterior()
    assert_moments(post.draws("weight").values, mean, sd)
    component = post.draws("component")
    assert component.dims == ("chain", "draw", "row")
    assert component.dtype.kind == "i"
    for row, exact in enumerate(probability):
        if 0.01 < exact < 0.99:
            assert abs(z_score(component.values[..., row].astype(float), exact)) < 4.5
    np.testing.assert_array_equal(
        post.draws("mean").values, np.where(component.values == 1, 2.0, -1.0)
    )
    assert post.diagnostics.ok, post.diagnostics


@UNSETTLED
def test_a_kernel_that_was_built_with_the_program():
    method = bayes.NumPyroKernel(DiscreteHMCGibbs(NUTS(mixture)), draws=500, chains=2)
    post = bayes.fit(mixture, MIXTURE_DATA, method, seed=3)
    assert post.draws("component").shape == (2, 500, 6)
    assert post.method.settings["kernel"] == "DiscreteHMCGibbs(inner_kernel=NUTS())"


def test_a_program_of_discrete_sites_only():
    def label(y=None):
        k = numpyro.sample("k", dist.Categorical(jnp.array([0.2, 0.3, 0.5])))
        numpyro.sample("y", dist.Normal(k * 1.0, 1.0), obs=y)

    post = bayes.fit(label, {"y": np.array(1.2)}, bayes.NumPyroKernel(gibbs, warmup=100), seed=0)
    exact = np.array([0.2, 0.3, 0.5]) * np.exp(-0.5 * (1.2 - np.arange(3)) ** 2)
    for k, probability in enumerate(exact / exact.sum()):
        assert abs(z_score((post.draws("k").values == k).astype(float), probability)) < 4.5
    with pytest.raises(bayes.UnsupportedModelError, match="only discrete latent sites"):
        bayes.fit(label, {"y": np.array(1.2)}, "nuts")


def counts(y=None):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    n = numpyro.sample("n", dist.Poisson(rate))
    numpyro.sample("y", dist.Normal(n * 1.0, 1.0), obs=y)


def draw_count(rng_key, gibbs_sites, hmc_sites):
    n = jnp.arange(60)
    prior = dist.Poisson(hmc_sites["rate"]).log_prob(n)
    return {"n": jax.random.categorical(rng_key, prior + dist.Normal(n * 1.0, 1.0).log_prob(3.0))}


def test_a_discrete_site_with_infinitely_many_values():
    def kernel(model):
        return HMCGibbs(NUTS(model), draw_count, ["n"])

    data = {"y": np.array(3.0)}
    post = bayes.fit(counts, data, bayes.NumPyroKernel(kernel, draws=2000), seed=0)
    n = np.arange(60)
    # A Poisson count with a Gamma(2, 1) rate has a negative binomial distribution.
    weight = (n + 1) * 0.25 * 0.5**n * np.exp(-0.5 * (3.0 - n) ** 2)
    weight /= weight.sum()
    mean = weight @ n
    assert_moments(post.draws("n").values.astype(float), mean, np.sqrt(weight @ (n - mean) ** 2))
    assert abs(z_score(post.draws("rate").values, (mean + 2) / 2)) < 4.5
    with pytest.raises(bayes.UnsupportedModelError, match="does not have enumerate support"):
        bayes.fit(counts, data, bayes.NumPyroKernel())


@UNSETTLED
def test_what_follows_from_draws_of_discrete_sites(tmp_path):
    method = bayes.NumPyroKernel(gibbs, chains=2, warmup=200, draws=300)
    post = bayes.fit(mixture, MIXTURE_DATA, method, seed=3)
    predicted = post.predict(seed=1)
    noise = predicted["posterior_predictive"]["y"].values - post.draws("mean").values
    assert abs(noise.mean()) < 0.1
    assert abs(noise.std() - 1) < 0.1

    post.extend("log_likelihood", "log_prior")
    expected = dist.Normal(post.draws("mean").values, 1.0).log_prob(POINTS)
    np.testing.assert_allclose(post.data["log_likelihood"]["y"].values, expected, rtol=1e-5)
    weight = post.draws("weight").values[..., None]
    expected = np.where(post.draws("component").values == 1, np.log(weight), np.log1p(-weight))
    np.testing.assert_allclose(post.data["log_prior"]["component"].values, expected, rtol=1e-6)
    with pytest.raises(bayes.UnsupportedModelError, match="sum these sites out"):
        post.loo()

    post.save(tmp_path / "post.zarr")
    loaded = bayes.load(tmp_path / "post.zarr", model=mixture)
    np.testing.assert_array_equal(loaded.draws("component"), post.draws("component"))
    again = loaded.predict(seed=1)["posterior_predictive"]["y"]
    np.testing.assert_array_equal(again, predicted["posterior_predictive"]["y"])


# --------------------------------------------------------------------------- subsampled plates


def line(x, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("row", x.shape[0], subsample_size=20):
        some = numpyro.subsample(x, event_dim=0)
        mean = numpyro.deterministic("mean", b[0] + b[1] * some)
        obs = None if y is None else numpyro.subsample(y, event_dim=0)
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=obs)


@pytest.fixture(scope="module")
def line_data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=200)
    return {"x": x, "y": 1 + 0.5 * x + rng.normal(size=200)}


def line_posterior(data):
    design = np.stack([np.ones_like(data["x"]), data["x"]], axis=1)
    covariance = np.linalg.inv(design.T @ design + np.eye(2) / 4)
    return covariance @ design.T @ data["y"], covariance


def test_subsamples_with_a_proxy_give_the_posterior_of_all_data(line_data):
    """With a normal likelihood the second-order proxy is exact, and so is the estimate."""
    mean, covariance = line_posterior(line_data)

    def kernel(model):
        proxy = HMCECS.taylor_proxy({"b": jnp.array(mean)})
        return HMCECS(NUTS(model), num_blocks=5, proxy=proxy)

    post = bayes.fit(line, line_data, bayes.NumPyroKernel(kernel, draws=2000), seed=4)
    for i in range(2):
        assert_moments(post.draws("b").values[..., i], mean[i], np.sqrt(covariance[i, i]))
    assert post.diagnostics.ok, post.diagnostics
    # What is derived, observed, predicted and judged is of all rows.
    np.testing.assert_array_equal(post.data["observed_data"]["y"], line_data["y"])
    b = post.draws("b").values
    np.testing.assert_allclose(
        post.draws("mean").values, b[..., :1] + b[..., 1:] * line_data["x"], atol=1e-12
    )
    predicted = post.predict({"x": np.array([0.0, 3.0])}, seed=0)["posterior_predictive"]["y"]
    assert predicted.shape == (4, 2000, 2)
    assert abs(predicted.values[..., 1].mean() - (mean[0] + 3 * mean[1])) < 0.1
    assert len(post.loo(pointwise=True).elpd_i) == 200


@pytest.mark.parametrize("kernel", [NUTS, SA, gibbs, AIES])
def test_other_kernels_are_refused_subsamples(kernel, line_data):
    with pytest.raises(bayes.UnsupportedModelError, match="plate 'row' takes a subsample"):
        bayes.fit(line, line_data, bayes.NumPyroKernel(kernel))


def test_latent_sites_in_a_subsample_are_refused():
    def hierarchy(y):
        with numpyro.plate("row", y.shape[0], subsample_size=2):
            theta = numpyro.sample("theta", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(theta, 1), obs=numpyro.subsample(y, event_dim=0))

    with pytest.raises(bayes.UnsupportedModelError, match="'theta' stands in a plate"):
        bayes.fit(hierarchy, {"y": Y}, bayes.NumPyroKernel(lambda m: HMCECS(NUTS(m))))


# ------------------------------------------------------------------------------ runs and blocks


class Killed(Exception):
    """Ends a run as a crash does."""


@UNSETTLED
@pytest.mark.parametrize("kernel", [BarkerMH, slicing, gibbs, mixed])
def test_draws_depend_neither_on_blocks_nor_on_a_crash(kernel, tmp_path, monkeypatch):
    method = bayes.NumPyroKernel(kernel, chains=4, warmup=40, draws=60)
    discrete = kernel in (gibbs, mixed)
    model, data = (mixture, MIXTURE_DATA) if discrete else (normal_mean, NORMAL_DATA)
    run = functools.partial(bayes.fit, model, data, method, seed=5)
    whole = run()

    monkeypatch.setattr(pacing, "BLOCK_SECONDS", 1e-9)  # one iteration a block
    left, step = [55], bayes.NumPyroKernel.step

    def fragile(self, problem, state):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return step(self, problem, state)

    monkeypatch.setattr(bayes.NumPyroKernel, "step", fragile)
    with pytest.raises(Killed):
        run(checkpoint=tmp_path / "c")
    left[0] = 1000
    cut = run(checkpoint=tmp_path / "c")
    assert left[0] < 1000
    for group in ("posterior", "sample_stats"):
        assert cut.data[group].to_dataset().identical(whole.data[group].to_dataset())


@UNSETTLED
def test_another_kernel_does_not_resume_a_run(tmp_path):
    short = functools.partial(bayes.NumPyroKernel, chains=2, warmup=20, draws=20)
    bayes.fit(normal_mean, NORMAL_DATA, short(NUTS), checkpoint=tmp_path / "c")
    other = short(lambda model: NUTS(model, target_accept_prob=0.9))
    with pytest.raises(bayes.FileError, match="settings differ"):
        bayes.fit(normal_mean, NORMAL_DATA, other, checkpoint=tmp_path / "c")


@UNSETTLED
def test_ctrl_c_keeps_what_is_done(monkeypatch):
    def interrupt():
        time.sleep(2.0)
        os.kill(os.getpid(), signal.SIGINT)

    method = bayes.NumPyroKernel(BarkerMH, chains=2, warmup=50, draws=10**8)
    # Compiled before the signal comes.
    bayes.fit(normal_mean, NORMAL_DATA, dataclasses.replace(method, draws=20))
    thread = threading.Thread(target=interrupt)
    thread.start()
    post = bayes.fit(normal_mean, NORMAL_DATA, method)
    thread.join()
    assert post.diagnostics.interrupted == "keyboard"
    assert post.draws("mu").shape[1] > 0


@UNSETTLED
def test_other_data_of_the_same_shapes_compile_nothing(caplog):
    def kernel(model):
        return BarkerMH(model)

    method = bayes.NumPyroKernel(kernel, chains=2, warmup=200, draws=1000)
    bayes.fit(normal_mean, NORMAL_DATA, method, seed=0)
    with jax.log_compiles(), caplog.at_level("WARNING"):
        post = bayes.fit(normal_mean, {"n": 5, "y": Y + 1}, method, seed=0)
    compiled = [r.getMessage() for r in caplog.records if "ompiling" in r.getMessage()]
    assert not [m for m in compiled if "_block" in m or "_start" in m]
    assert abs(z_score(post.draws("mu").values, MEAN + 5 / 1.5**2 / PRECISION)) < 4.5


# ------------------------------------------------------------------------------------- refusals


def test_a_kernel_of_another_program_is_refused():
    with pytest.raises(bayes.SettingsError, match=r"built with schools, and .* normal_mean"):
        bayes.fit(normal_mean, NORMAL_DATA, bayes.NumPyroKernel(NUTS(schools)))
    with pytest.raises(bayes.SettingsError, match="made a kernel of another one"):
        bayes.fit(normal_mean, NORMAL_DATA, bayes.NumPyroKernel(lambda model: NUTS(schools)))


def test_a_kernel_of_the_program_as_written_is_refused_a_reparametrisation():
    method = bayes.NumPyroKernel(NUTS(schools))
    with pytest.raises(bayes.SettingsError, match="give a callable"):
        bayes.fit(schools, SCHOOLS_DATA, method, reparam="auto")


def test_a_kernel_of_a_potential_function_is_refused():
    with pytest.raises(bayes.SettingsError, match="potential function"):
        bayes.fit(normal_mean, NORMAL_DATA, bayes.NumPyroKernel(NUTS(potential_fn=lambda z: z**2)))


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (gibbs, "DiscreteHMCGibbs cannot treat normal_mean"),
        (mixed, "Cannot detect any discrete latent variables"),
        (lambda model: HMCECS(NUTS(model)), "Cannot detect any subsample statements"),
    ],
)
def test_a_kernel_that_misses_something_says_so(kernel, reason):
    with pytest.raises(bayes.UnsupportedModelError, match=reason):
        bayes.fit(normal_mean, NORMAL_DATA, bayes.NumPyroKernel(kernel))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"chains": 0}, "chains must be at least 1"),
        ({"draws": 1.5}, "draws must be a whole number"),
        ({"warmup": True}, "warmup must be a whole number"),
        ({"kernel": "NUTS"}, "kernel is a kernel of NumPyro's"),
        ({"kernel": numpyro.infer.MCMC(NUTS(schools), num_warmup=1, num_samples=1)}, "MCMC object"),
    ],
)
def test_wrong_settings_are_refused(settings, words, unchecked):
    with pytest.raises(bayes.SettingsError, match=words):
        bayes.NumPyroKernel(**settings)


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (lambda model: 3, "must make a kernel"),
        (lambda model: NUTS(model, wrong=1), "unexpected keyword"),
        (lambda model: MixedHMC(NUTS(model)), "does not support NUTS"),
    ],
)
def test_a_callable_that_makes_no_kernel_is_refused(kernel, words):
    with pytest.raises(bayes.SettingsError, match=words):
        bayes.fit(normal_mean, NORMAL_DATA, bayes.NumPyroKernel(kernel))


def test_an_odd_ensemble_is_refused():
    with pytest.raises(bayes.SettingsError, match="chains must be even"):
        bayes.fit(normal_mean, NORMAL_DATA, bayes.NumPyroKernel(AIES, chains=5))


def test_starts_without_a_density_are_refused():
    def impossible(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.factor("never", jnp.where(mu > 50, 0.0, -jnp.inf))
        numpyro.sample("y", dist.Normal(mu, 1).expand([5]).to_event(1), obs=y)

    with pytest.raises(bayes.InitError, match="no start with a finite log density"):
        bayes.fit(impossible, {"y": Y}, bayes.NumPyroKernel(NUTS, chains=2))


def test_settings_tell_kernels_apart():
    def text(kernel):
        return bayes.NumPyroKernel(kernel).settings()["kernel"]

    def with_proxy(value):
        proxy = HMCECS.taylor_proxy({"b": jnp.full(30, value)})
        return text(lambda model: HMCECS(NUTS(model), proxy=proxy))

    assert text(None) == "NUTS()"
    assert text(gibbs) == "DiscreteHMCGibbs(inner_kernel=NUTS(), modified=True)"
    assert with_proxy(0.0) == with_proxy(0.0)
    assert with_proxy(0.0) != with_proxy(1.0)
    strategy = numpyro.infer.init_to_value(values={"mu": 0.5})
    assert "0.5" in text(lambda model: NUTS(model, init_strategy=strategy))


def test_a_kernel_is_left_as_it_was():
    kernel = NUTS(normal_mean)
    before = dict(vars(kernel))
    method = bayes.NumPyroKernel(kernel, chains=2, warmup=100, draws=500)
    with computing():
        problem = bayes.Model(normal_mean).bind(NORMAL_DATA)
        state = method.init(problem, jax.random.key(0))
        method.step(problem, state)
    assert vars(kernel) == before
