"""A mixture for the prior of all sites: exact densities, draws, what is refused."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.reparam import LocScaleReparam
from priors_for_tests import (
    DATA,
    bind,
    line,
    masked,
    shapes,
    some_mixture,
)
from scipy import stats

import bayes
from bayes.compilation import computing
from bayes.errors import ModelError, SettingsError, ShapeError, UnsupportedModelError
from bayes.surrogates.mixtures import log_prob, mixture_of_covariances, moments
from bayes.surrogates.priors import JointPrior


@pytest.fixture(autouse=True)
def _computing():
    with computing():
        yield


@pytest.fixture
def compiled():
    """Compilations since the test began."""
    found = []

    def listen(event, seconds, **_):
        if "backend_compile" in event:
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.fixture(scope="module")
def problem():
    with computing():
        return bayes.Model(line).bind(DATA)


@pytest.fixture(scope="module")
def shaped():
    with computing():
        return bayes.Model(shapes).bind({"y": 0.3})


class TestJointPrior:
    def test_the_density_is_likelihood_times_mixture(self, shaped, rng):
        mixture = some_mixture(rng, shaped.size)
        other = bind(JointPrior(shaped.program.latents, mixture), shapes, shaped.data)
        assert [s.name for s in other.program.latents] == [s.name for s in shaped.program.latents]
        for x in 0.5 * rng.normal(size=(4, shaped.size)):
            expected = log_prob(mixture, x) + sum(shaped.log_likelihood(x).values())
            np.testing.assert_allclose(other.log_density(x), expected, atol=1e-10)

    def test_sites_stay_what_they_were(self, shaped, rng):
        prior = JointPrior(shaped.program.latents, some_mixture(rng, shaped.size))
        other = bind(prior, shapes, shaped.data)
        for name, site in shaped.sites.items():
            found = other.sites[name]
            assert (found.shape, found.event_ndim) == (site.shape, site.event_ndim)
            assert (found.plates, found.kind) == (site.plates, site.kind)
        assert other.dims == shaped.dims

    def test_prior_draws_are_the_mixture_s(self, problem, rng):
        """Means and products of 2000 draws, 72 of them: 5 errors, 1 false alarm in 20 000."""
        mixture = some_mixture(rng, problem.size)
        other = bind(JointPrior(problem.program.latents, mixture), line, DATA)
        draws = other.unconstrain(other.prior(2000, seed=1), lead=1)
        mean, spread = moments(mixture)
        away = draws - mean
        assert (np.abs(away.mean(0)) / np.sqrt(np.diagonal(spread) / 2000)).max() < 5
        products = away[:, :, None] * away[:, None, :]
        errors = (products.mean(0) - spread) / products.std(0) * np.sqrt(2000)
        assert np.abs(errors).max() < 5

    def test_a_conjugate_posterior_is_exact(self):
        """y ~ N(mu, 1) under a mixture: the evidence is that of y ~ N(m_k, s_k^2 + 1)."""

        def location(y=None):
            mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

        reference = bayes.Model(location).bind({"y": 0.7})
        means, sds = np.array([[-2.0], [1.0]]), np.array([0.5, 1.5])
        mixture = mixture_of_covariances(np.array([0.3, 0.7]), means, sds[:, None, None] ** 2)
        other = bind(JointPrior(reference.program.latents, mixture), location, {"y": 0.7})
        grid = np.linspace(-12, 12, 4801)
        density = jax.vmap(lambda x: other.program.log_density(x, other.arrays))(grid[:, None])
        found = np.trapezoid(np.exp(density), grid)
        expected = [0.3, 0.7] @ stats.norm(means[:, 0], np.sqrt(sds**2 + 1)).pdf(0.7)
        np.testing.assert_allclose(found, expected, rtol=1e-8)

    def test_a_second_mixture_compiles_nothing(self, problem, compiled, rng):
        def run():
            prior = JointPrior(problem.program.latents, some_mixture(rng, problem.size))
            other = bind(prior, line, DATA)
            other.value_and_grad(np.zeros(problem.size))
            other.prior(5)
            return float(other.log_density(np.zeros(problem.size)))

        first = run()
        assert compiled
        compiled.clear()
        assert run() != first
        assert not compiled

    def test_its_mixture_is_itself(self, problem, rng):
        given = some_mixture(rng, problem.size)
        found = JointPrior(problem.program.latents, given).mixture(problem, 3)
        for a, b in zip(found, given, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)

    @pytest.mark.parametrize("components", [1, 2, 3, 8])
    def test_its_mixture_has_as_many_components_as_are_asked_for(self, components, problem, rng):
        """More are the same density; fewer change nothing of the program's own."""
        given = some_mixture(rng, problem.size)
        prior = JointPrior(problem.program.latents, given)
        found = prior.mixture(problem, components)
        assert found.components == components
        assert prior.mixture(problem, components) is found
        x = rng.normal(size=(20, problem.size))
        if components >= 3:
            np.testing.assert_allclose(log_prob(found, x), log_prob(given, x), atol=1e-10)
        other = bind(prior, line, DATA)
        expected = log_prob(given, x[0]) + sum(problem.log_likelihood(x[0]).values())
        np.testing.assert_allclose(other.log_density(x[0]), expected, atol=1e-10)

    def test_sites_apart_from_a_run_have_the_same_densities_and_fresh_draws(self, problem, rng):
        """A trace's distributions may be asked again: other values, and independent draws."""
        mixture = some_mixture(rng, problem.size)
        model, data = JointPrior(problem.program.latents, mixture).rewritten(
            bayes.Model(line), DATA
        )
        fn = numpyro.handlers.seed(model.fn, 0)
        with numpyro.validation_enabled(False):
            trace = numpyro.handlers.trace(fn).get_trace(**data.arguments)
        sites = [trace[s.name] for s in problem.program.latents]
        flat = problem.unconstrain({s["name"]: np.asarray(s["value"])[None] for s in sites}, 1)[0]
        found = sum(s["fn"].log_prob(s["value"]).sum() for s in sites)
        stretch = problem.log_density(flat) - sum(
            [*problem.log_prior(flat).values(), *problem.log_likelihood(flat).values()]
        )
        np.testing.assert_allclose(found + stretch, log_prob(mixture, flat), atol=1e-10)
        key = jax.random.key(1)
        mu = trace["mu"]["fn"]
        assert mu.sample(key) != trace["mu"]["value"]
        assert mu.sample(key) == mu.sample(key)
        assert mu.sample(key) != mu.sample(jax.random.key(2))
        # One site has a density of 0.3 or so at both values, of its own mixture in one dimension.
        first = mixture._replace(
            means=mixture.means[:, :1],
            log_scales=mixture.log_scales[:, :1],
            coefficients=mixture.coefficients[:, :1, :1],
        )
        np.testing.assert_allclose(mu.log_prob(0.3), log_prob(first, np.array([0.3])), atol=1e-10)

    def test_a_value_that_is_given_moves_the_draws_after_it(self, problem, rng):
        """Sites after a given one are drawn given it: 4.5 errors, 1 false alarm in 20 000."""
        mixture = some_mixture(rng, problem.size, k=1)
        model, data = JointPrior(problem.program.latents, mixture).rewritten(
            bayes.Model(line), DATA
        )

        def one(key):
            fn = numpyro.handlers.substitute(model.fn, {"slope": np.array([2.0, -2.0])})
            with numpyro.validation_enabled(False), jax.numpy_rank_promotion("allow"):
                trace = numpyro.handlers.trace(numpyro.handlers.seed(fn, key)).get_trace(
                    **data.arguments
                )
            return trace["mu"]["value"], trace["shift"]["value"]

        mu, shift = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 4000))
        mean, spread = moments(mixture)
        known, asked = [0, 1, 2], 5
        gain = np.linalg.solve(spread[np.ix_(known, known)], spread[known, asked])
        given = np.stack([mu, np.full(4000, 2.0), np.full(4000, -2.0)], 1)
        rest = np.asarray(shift)[:, 0] - mean[asked] - (given - mean[known]) @ gain
        sd = np.sqrt(spread[asked, asked] - spread[known, asked] @ gain)
        assert abs(rest.mean()) < 4.5 * sd / np.sqrt(4000)
        assert abs(np.corrcoef(rest, mu)[0, 1]) < 4.5 / np.sqrt(4000)

    def test_refusals(self, problem, shaped, rng, unchecked):
        latents = problem.program.latents
        with pytest.raises(SettingsError, match=r"shape \(3, 2\); expected \(components, 8"):
            JointPrior(latents, some_mixture(rng, 2))
        good = some_mixture(rng, problem.size)
        for bad in (
            good._replace(means=np.full_like(good.means, np.nan)),
            good._replace(log_weights=good.log_weights + 1.0),
        ):
            with pytest.raises(SettingsError, match="is no mixture"):
                JointPrior(latents, bad)
        with pytest.raises(ModelError, match=r"it is of mu, slope.* the program draws scale, low"):
            bind(JointPrior(latents, good), shapes, shaped.data)
        longer = {"x": np.ones(5), "y": np.arange(5.0)}
        with pytest.raises(ShapeError, match=r"shape \(3,\) for 'shift', the program \(5,\)"):
            bind(JointPrior(latents, good), line, longer)

    def test_masked_and_reparametrised_sites_are_refused(self, problem, rng):
        reference = bayes.Model(masked).bind({"y": 0.0})
        prior = JointPrior(reference.program.latents, some_mixture(rng, 1))
        with pytest.raises(UnsupportedModelError, match="'mu' is masked or scaled"):
            bind(prior, masked, {"y": 0.0})
        model = bayes.Model(line, reparam={"shift": LocScaleReparam(centered=0)})
        prior = JointPrior(problem.program.latents, some_mixture(rng, problem.size))
        with pytest.raises(UnsupportedModelError, match="line is reparametrised"):
            prior.rewritten(model, DATA)
