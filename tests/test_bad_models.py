"""Programs that are no models, and posteriors that cannot be trusted, are refused or say so."""

import dataclasses
import warnings
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import bayes
from bayes.method import fitting_methods

Y = np.random.default_rng(0).normal(size=20)
DATA = {"y": Y}
FAST = bayes.NUTS(warmup=200, draws=200)


def normal(y=None):
    m = numpyro.sample("m", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(m, 1), obs=y)


def refused(program, error, match, data=DATA):
    with pytest.raises(error, match=match) as caught:
        bayes.fit(program, data, method=FAST)
    assert type(caught.value) is error


def distrusted(program, data=DATA, method=FAST):
    with pytest.warns(bayes.ConvergenceWarning, match="not ok"):
        post = bayes.fit(program, data, method=method)
    assert not post.diagnostics.ok
    return post.diagnostics


def test_negative_scale():
    def program(y=None):
        m = numpyro.sample("m", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(m, -1.0), obs=y)

    refused(program, bayes.ModelError, r"site 'y': parameter 'scale' of Normal.*\(-1\).*than 0")


def test_negative_scale_of_a_prior():
    def program(y=None):
        m = numpyro.sample("m", dist.Normal(0, -2.0))
        numpyro.sample("y", dist.Normal(m, 1), obs=y)

    refused(program, bayes.ModelError, r"site 'm': parameter 'scale' of Normal.*\(-2\)")


def test_site_name_used_twice():
    def program(y=None):
        numpyro.sample("m", dist.Normal(0, 1))
        normal(y)

    refused(program, bayes.ModelError, "site name is used twice.*`m`")


def test_site_with_the_name_of_a_plate():
    def program(y=None):
        numpyro.factor("row", -1.0)
        with numpyro.plate("row", 3):
            numpyro.sample("m", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(0, 1).expand([3]).to_event(1), obs=y)

    refused(program, bayes.ModelError, "site name is used twice.*'row' is a plate, too")


def test_program_without_latent_site():
    def program(y=None):
        numpyro.sample("y", dist.Normal(0, 1), obs=y)

    refused(program, bayes.ModelError, "program has no latent site: there is nothing to infer")


def test_program_without_observed_site_unless_the_prior_is_asked_for():
    match = r"no observed site \(not given: y\).*allow_prior=True"
    refused(normal, bayes.ModelError, match, data={})
    problem = bayes.Model(normal, allow_prior=True).bind({})
    assert problem.sites["y"].kind == "latent"


def test_flat_improper_prior_without_data():
    def program():
        numpyro.sample("m", dist.ImproperUniform(constraints.real, (), ()))

    diagnostics = distrusted(bayes.Model(program, allow_prior=True), {})
    assert diagnostics.failed


def test_improper_posterior():
    def program(y=None):
        m = numpyro.sample("m", dist.ImproperUniform(constraints.real, (), ()))
        s = numpyro.sample("s", dist.ImproperUniform(constraints.positive, (), ()))
        numpyro.sample("y", dist.Normal(m, s), obs=y)

    diagnostics = distrusted(program, {"y": Y[:1]})
    assert diagnostics.failed


@pytest.mark.parametrize(("value", "said"), [(-jnp.inf, "-inf"), (jnp.nan, "NaN")])
def test_log_density_that_is_finite_nowhere(value, said):
    def program(y=None):
        normal(y)
        numpyro.factor("penalty", value)

    refused(program, bayes.InitError, f"site 'penalty' has log probability {said}")


def test_log_density_that_is_nan_on_one_half():
    def program(y=None):
        m = numpyro.sample("m", dist.Normal(0, 1))
        numpyro.factor("root", jnp.sqrt(m))
        numpyro.sample("y", dist.Normal(m, 1), obs=y)

    diagnostics = distrusted(program)
    assert not diagnostics["divergences"].passed
    assert "log density is NaN" in diagnostics["divergences"].advice


def test_gradient_that_is_nan_behind_a_where():
    def program(y=None):
        m = numpyro.sample("m", dist.Normal(0, 1))
        numpyro.factor("root", jnp.where(m > 0, jnp.sqrt(jnp.where(m > -9, m, 1.0)), 0.0))
        numpyro.sample("y", dist.Normal(m, 1), obs=y)

    diagnostics = distrusted(program)
    assert not diagnostics["divergences"].passed
    assert "the gradient is not" in diagnostics["divergences"].advice
    assert "jnp.where" in diagnostics["divergences"].advice


def test_discrete_latent_site_with_infinitely_many_values():
    def program(y=None):
        rate = numpyro.sample("rate", dist.Gamma(1, 1))
        count = numpyro.sample("count", dist.Poisson(rate))
        numpyro.sample("y", dist.Normal(count, 1), obs=y)

    refused(program, bayes.UnsupportedModelError, r"'count' \(Poisson\).*marginalise it by hand")


def test_discrete_latent_site_beside_dimensions_without_a_plate():
    def program(y=None):
        m = numpyro.sample("m", dist.Normal(0, 1).expand([2]))
        with numpyro.plate("row", 20):
            k = numpyro.sample("k", dist.Bernoulli(0.5))
            numpyro.sample("y", dist.Normal(m[k], 1), obs=y)

    match = r"discrete latent sites \(k\).*site 'm' has batch shape \(2,\).*to_event"
    refused(program, bayes.UnsupportedModelError, match)


def test_python_branch_on_a_latent_value():
    def program(y=None):
        m = numpyro.sample("m", dist.Normal(0, 1))
        scale = 1.0 if m > 0 else 2.0
        numpyro.sample("y", dist.Normal(m, scale), obs=y)

    refused(program, bayes.ModelError, "branches in Python on a latent value.*jnp.where")


@pytest.mark.parametrize("name", ["chains", "draws", "warmup"])
def test_no_chains_or_draws(name):
    with pytest.raises(bayes.SettingsError, match=f"{name} must be at least 1, got 0") as caught:
        bayes.NUTS(**{name: 0})
    assert isinstance(caught.value, ValueError)


def test_one_chain_is_not_assessable():
    check = distrusted(normal, method=bayes.NUTS(chains=1, warmup=300, draws=1000))["chains"]
    assert (check.value, check.passed) == (1, False)
    assert "not assessable from one chain" in check.advice


def test_too_few_draws():
    diagnostics = distrusted(normal, method=bayes.NUTS(warmup=200, draws=3))
    for name in ("rhat", "ess_bulk", "ess_tail"):
        assert np.isnan(diagnostics[name].value)
        assert "3 draws a chain are too few" in diagnostics[name].advice


@dataclasses.dataclass(frozen=True)
class OnlyLinear(bayes.Method):
    """A method for another structure; without a name, so that it is not found as one."""

    name: ClassVar[str] = ""

    def check(self, problem):
        raise bayes.UnsupportedModelError(
            "site 'y' is not linear in the latent sites; methods that fit: "
            f"{', '.join(fitting_methods(problem))}"
        )

    init = step = done = finish = check


def test_method_for_another_structure_names_those_that_fit():
    with pytest.raises(bayes.UnsupportedModelError, match=r"site 'y'.*methods that fit: .*nuts"):
        bayes.fit(normal, DATA, method=OnlyLinear())


def test_failure_inside_the_program_is_told_with_its_kind():
    def program(y=None):
        raise RuntimeError("no such thing")

    refused(program, bayes.ModelError, "failed on its data: RuntimeError: no such thing")


def test_a_sound_model_is_trusted_in_silence():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        post = bayes.fit(normal, DATA, method=bayes.NUTS(warmup=300, draws=1000))
    assert post.diagnostics.ok


@pytest.mark.parametrize("name", ["draw", "chain"])
def test_a_plate_called_like_a_dimension_of_all_draws_is_refused(name):
    def program(y=None):
        m = numpyro.sample("m", dist.Normal(0, 1))
        with numpyro.plate(name, 20):
            numpyro.sample("y", dist.Normal(m, 1), obs=y)

    refused(program, bayes.ModelError, f"plate '{name}' of site 'y' .* rename the plate")


@pytest.mark.parametrize("dims", ["draw", ["draw"]])
def test_a_dimension_called_like_one_of_all_draws_is_refused(dims):
    model = bayes.Model(normal, dims={"y": dims})
    refused(model, bayes.ModelError, "dimension 'draw' of site 'y' .* rename the dimension")
