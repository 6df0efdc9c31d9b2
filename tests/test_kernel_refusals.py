"""What NumPyro's kernels are refused, and how it is said."""

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest
from kernels_for_tests import NORMAL_DATA, Y, gibbs, mixed
from models_for_tests import SCHOOLS_DATA, normal_mean, schools
from numpyro.infer import AIES, HMCECS, NUTS, MixedHMC

import bayes
from bayes.compilation import computing


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
