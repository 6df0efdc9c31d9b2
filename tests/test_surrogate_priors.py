"""Priors changed at run time: exact densities, nothing compiled twice, what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from numpyro.infer.reparam import LocScaleReparam
from scipy import stats

import bayes
from bayes.compilation import computing
from bayes.errors import ModelError, SettingsError, ShapeError, UnsupportedModelError
from bayes.surrogates.mixtures import log_prob, mixture_of_covariances, moments
from bayes.surrogates.priors import JointPrior, RuntimePrior, SitePriors, as_runtime_prior

N = 3
DATA = {"x": np.array([0.5, 1.0, 2.0]), "y": np.array([0.1, -0.4, 1.3])}


def line(x, y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    share = numpyro.sample("share", dist.Beta(2.0, 2.0))
    with numpyro.plate("row", x.shape[0]):
        shift = numpyro.sample("shift", dist.Normal(mu, sigma))
        numpyro.sample("y", dist.Normal(shift + share * slope.sum() * x, sigma), obs=y)


def shapes(y=None):
    """Every kind of support, in plates and out of them."""
    numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
    low = numpyro.sample("low", dist.Uniform(-1.0, 2.0))
    numpyro.sample("shares", dist.Dirichlet(jnp.ones(3)))
    ordered = dist.transforms.OrderedTransform()
    cuts = dist.TransformedDistribution(dist.Normal(0, 1).expand([2]).to_event(1), ordered)
    numpyro.sample("cuts", cuts)
    with numpyro.plate("group", 2):
        inner = numpyro.sample("inner", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("column", 1), numpyro.plate("line", 2):
        numpyro.sample("above", dist.TruncatedNormal(0.0, 1.0, low=low))
    numpyro.sample("corr", dist.LKJCholesky(2, 1.0))
    numpyro.sample("y", dist.Normal(low + inner[0, 0], 1.0), obs=y)


def with_discrete(y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    z = numpyro.sample("z", dist.Bernoulli(0.5))
    numpyro.sample("y", dist.Normal(mu + z, 1.0), obs=y)


def masked(y=None):
    with numpyro.handlers.mask(mask=False):
        numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def improper(y=None):
    a = numpyro.sample("a", dist.ImproperUniform(dist.constraints.real, (), ()))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(a + b, 1.0), obs=y)


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


def bind(prior, model, data):
    return bayes.Model.bind(*prior.rewritten(bayes.Model(model), data))


def values_at(problem, x):
    return {n: v[0] for n, v in problem.constrain(x[None]).items()}


def some_mixture(rng, d, k=3):
    a = rng.normal(size=(k, d, d))
    spreads = 0.2 * a @ np.swapaxes(a, 1, 2) / d + 0.2 * np.eye(d)
    return mixture_of_covariances(rng.dirichlet(np.ones(k)), rng.normal(size=(k, d)), spreads)


class TestSitePriors:
    def test_the_density_is_that_of_the_program_with_other_priors(self, problem, rng):
        """By SciPy: what changes is the log prior of the sites that are named."""
        prior = SitePriors({"mu": dist.Normal(3, 1), "share": dist.Uniform(0, 1)})
        other = bind(prior, line, DATA)
        assert [s.name for s in other.program.latents] == [s.name for s in problem.program.latents]
        for x in rng.normal(size=(3, problem.size)):
            values = values_at(problem, x)
            expected = stats.norm(3, 1).logpdf(values["mu"]) - stats.norm(0, 5).logpdf(values["mu"])
            expected -= stats.beta(2, 2).logpdf(values["share"])
            found = other.log_density(x) - problem.log_density(x)
            np.testing.assert_allclose(found, expected, atol=1e-10)

    def test_a_scalar_is_expanded_to_vectors_and_plates(self, problem, rng):
        prior = SitePriors({"slope": dist.StudentT(4.0, 1.0, 2.0), "shift": dist.Normal(1.0, 0.5)})
        other = bind(prior, line, DATA)
        x = rng.normal(size=problem.size)
        values = values_at(problem, x)
        own = problem.log_prior(x)
        expected = stats.t(4, 1, 2).logpdf(values["slope"]).sum() - own["slope"]
        expected += stats.norm(1, 0.5).logpdf(values["shift"]).sum() - own["shift"]
        found = other.log_density(x) - problem.log_density(x)
        np.testing.assert_allclose(found, expected, atol=1e-10)
        for name in ("slope", "shift"):
            assert other.sites[name].plates == problem.sites[name].plates
            assert other.sites[name].event_ndim == problem.sites[name].event_ndim
        assert other.dims == problem.dims

    def test_a_plate_may_be_given_a_distribution_for_each_element(self, problem, rng):
        prior = SitePriors({"shift": dist.Normal(np.arange(3.0), 1.0)})
        other = bind(prior, line, DATA)
        x = rng.normal(size=problem.size)
        shift = values_at(problem, x)["shift"]
        expected = stats.norm(np.arange(3), 1).logpdf(shift).sum() - problem.log_prior(x)["shift"]
        found = other.log_density(x) - problem.log_density(x)
        np.testing.assert_allclose(found, expected, atol=1e-10)

    def test_the_model_keeps_its_settings(self):
        model = bayes.Model(line, dims={"slope": ["k"]}, coords={"k": ["a", "b"]}, name="a line")
        found, data = SitePriors({"mu": dist.Normal(0, 1)}).rewritten(model, DATA)
        assert (found.name, found.dims, found.reparam) == ("a line", {"slope": ["k"]}, None)
        assert found.signature == model.signature
        assert list(found.coords["k"]) == ["a", "b"]
        assert set(data.arrays) == {"x", "y", "runtime_prior"}

    def test_a_second_prior_of_the_same_kind_compiles_nothing(self, compiled, rng):
        def run(loc, scale):
            other = bind(SitePriors({"mu": dist.Normal(loc, scale)}), line, DATA)
            value = other.log_density(np.ones(other.size))
            other.value_and_grad(np.ones(other.size))
            mixture = SitePriors({"mu": dist.Normal(loc, scale)}).mixture(other, 2)
            return float(value), moments(mixture)[0][0], other

        first, _, problem_of_first = run(3, 1)
        assert compiled
        compiled.clear()
        second, mean, problem_of_second = run(-7.5, 0.5)
        assert not compiled
        assert problem_of_first.program is problem_of_second.program
        expected = stats.norm(-7.5, 0.5).logpdf(1.0) - stats.norm(3, 1).logpdf(1.0)
        np.testing.assert_allclose(second - first, expected, atol=1e-10)
        assert abs(mean + 7.5) < 4.5 * 0.5 / 64  # 4096 draws: 1 false alarm in 100 000

    def test_another_kind_is_another_program(self):
        one, other = (
            SitePriors({"mu": d}).rewritten(bayes.Model(line), DATA)[0].fn
            for d in (dist.Normal(0, 1), dist.Cauchy(0, 1))
        )
        again = SitePriors({"mu": dist.Normal(4, 2)}).rewritten(bayes.Model(line), DATA)[0].fn
        assert one != other
        assert one == again
        assert hash(one) == hash(again)

    def test_without_its_argument_a_program_takes_its_own_numbers(self):
        model, _ = SitePriors({"mu": dist.Normal(50.0, 0.1)}).rewritten(bayes.Model(line), DATA)
        fn = numpyro.handlers.seed(model.fn, 0)
        with numpyro.validation_enabled(False):
            value = numpyro.handlers.trace(fn).get_trace(x=DATA["x"])["mu"]["value"]
        assert 49 < value < 51

    def test_what_cannot_be_taken_apart_is_a_constant(self, problem, rng):
        class Shifted(dist.Distribution):
            support = dist.constraints.real

            def __init__(self, loc):
                self.shift_of_it = loc  # no leaf of the pytree
                super().__init__((), ())

            def sample(self, key, sample_shape=()):
                return self.shift_of_it + jax.random.normal(key, sample_shape)

            def log_prob(self, value):
                return dist.Normal(0.0, 1.0).log_prob(value - self.shift_of_it)

        x = rng.normal(size=problem.size)
        density = [
            bind(SitePriors({"mu": Shifted(loc)}), line, DATA).log_density(x) for loc in (0.0, 2.0)
        ]
        expected = stats.norm(2, 1).logpdf(x[0]) - stats.norm(0, 1).logpdf(x[0])
        np.testing.assert_allclose(density[1] - density[0], expected, atol=1e-10)

    def test_the_mixture_of_normal_priors_has_their_moments(self):
        """4096 draws: means within 4.5 errors, 1 false alarm in 30 000 for four of them."""
        prior = SitePriors({"mu": dist.Normal(2.0, 0.5), "slope": dist.Normal(-1.0, 0.1)})
        other = bind(prior, line, DATA)
        mixture = prior.mixture(other, 2)
        assert prior.mixture(other, 2) is mixture
        mean, _ = moments(mixture)
        errors = (mean[:3] - [2.0, -1.0, -1.0]) / np.array([0.5, 0.1, 0.1]) * 64
        assert np.abs(errors).max() < 4.5

    def test_an_improper_prior_is_replaced_or_refused(self):
        data = {"y": 1.0}
        whole = SitePriors({"a": dist.Normal(3.0, 1.0)})
        assert np.isfinite(whole.mixture(bind(whole, improper, data), 1).means).all()
        part = SitePriors({"b": dist.Normal(3.0, 1.0)})
        with pytest.raises(UnsupportedModelError, match="a is improper"):
            part.mixture(bind(part, improper, data), 1)

    def test_a_mask_stays(self):
        other = bind(SitePriors({"mu": dist.Normal(3.0, 0.1)}), masked, {"y": 0.0})
        assert other.log_prior(np.zeros(1))["mu"] == 0.0

    @pytest.mark.parametrize(
        ("priors", "error", "message"),
        [
            ({"nu": dist.Normal(0, 1)}, SettingsError, "'nu': line has no such site; it has mu"),
            ({"y": dist.Normal(0, 1)}, SettingsError, "'y': the site is observed"),
            ({"row": dist.Normal(0, 1)}, SettingsError, "'row': line has no such site"),
            (
                {"sigma": dist.Normal(0, 1)},
                SettingsError,
                r"'sigma': its support is Real, .* Positive\(0\)",
            ),
            (
                {"share": dist.Uniform(0, 2)},
                SettingsError,
                r"Interval\(0, 2\), .* UnitInterval\(0, 1\)",
            ),
            ({"mu": dist.Normal(np.zeros(2), 1)}, ShapeError, r"'mu': Normal has batch shape \(2,"),
            ({"shift": dist.Normal(np.zeros(4), 1)}, ShapeError, r"the site has \(3,\) and \(\)"),
            (
                {"shift": dist.MultivariateNormal(np.zeros(3), np.eye(3))},
                ShapeError,
                "a sampler of all sites",
            ),
            ({"mu": dist.Poisson(1.0)}, SettingsError, "Poisson has no density"),
            ({"mu": dist.Delta(1.0)}, SettingsError, "Delta has no density"),
            ({"mu": 3.0}, SettingsError, "expected a NumPyro distribution, got float"),
            ({}, SettingsError, "at least one"),
        ],
    )
    def test_refusals(self, priors, error, message, unchecked):
        with pytest.raises(error, match=message):
            SitePriors(priors).rewritten(bayes.Model(line), DATA)

    def test_discrete_sites_and_a_second_rewriting_are_refused(self):
        prior = SitePriors({"z": dist.Normal(0.0, 1.0)})
        with pytest.raises(SettingsError, match="'z': the site is discrete"):
            prior.rewritten(bayes.Model(with_discrete), {"y": 0.0})
        model, _ = SitePriors({"mu": dist.Normal(0, 1)}).rewritten(bayes.Model(line), DATA)
        with pytest.raises(SettingsError, match="has a run-time prior already"):
            SitePriors({"mu": dist.Normal(0, 1)}).rewritten(model, DATA)

    def test_invalid_numbers_are_refused_by_name(self):
        with pytest.raises(ModelError, match="site 'mu': parameter 'scale' of Normal is invalid"):
            bind(SitePriors({"mu": dist.Normal(0.0, -1.0, validate_args=False)}), line, DATA)


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
        found = JointPrior(problem.program.latents, given).mixture(problem, 8)
        for a, b in zip(found, given, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)

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
        with pytest.raises(ModelError, match="it has 'mu' where the program draws 'scale'"):
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


def plain_sampler(key):
    keys = jax.random.split(key, 5)
    return {
        "mu": 2.0 + 0.1 * jax.random.normal(keys[0]),
        "slope": jax.random.normal(keys[1], (2,)),
        "sigma": jnp.exp(0.5 * jax.random.normal(keys[2])),
        "share": jax.nn.sigmoid(jax.random.normal(keys[3])),
        "shift": jax.random.normal(keys[4], (3,)),
    }


class Draws:
    """What a prior needs of a posterior."""

    data = None

    def __init__(self, values):
        self.values = values

    def draws(self, site):
        return xr.DataArray(self.values[site])


def some_draws(rng, count=200):
    return {
        "mu": rng.normal(5.0, 0.1, (2, count)),
        "slope": rng.normal(size=(2, count, 2)),
        "sigma": rng.gamma(3.0, 1.0, (2, count)),
        "share": rng.beta(2.0, 2.0, (2, count)),
        "shift": rng.normal(size=(2, count, 3)),
    }


class TestAsRuntimePrior:
    def test_of_each_kind(self, problem, rng):
        by_site = as_runtime_prior({"mu": dist.Normal(0, 1)}, problem, 2, 0)
        joint = as_runtime_prior(some_mixture(rng, problem.size), problem, 2, 0)
        assert isinstance(by_site, SitePriors)
        assert isinstance(joint, JointPrior)
        assert as_runtime_prior(joint, problem, 2, 0) is joint
        assert isinstance(joint, RuntimePrior)

    def test_of_a_sampler(self, problem):
        """4096 draws: the mean of mu within 4.5 errors, and the mixture that of the seed."""
        one, again = (as_runtime_prior(plain_sampler, problem, 2, 0) for _ in range(2))
        other = as_runtime_prior(plain_sampler, problem, 2, 1)
        mean, spread = moments(one.mixture(problem, 2))
        assert abs(mean[0] - 2.0) < 4.5 * 0.1 / 64
        # log sigma has a standard deviation of one half; that of 4096 draws has an error of 0.6 %.
        assert abs(np.sqrt(spread[3, 3]) / 0.5 - 1) < 0.04
        assert one.describe() == again.describe()
        assert one.describe() != other.describe()

    def test_of_a_posterior(self, problem, rng):
        values = some_draws(rng)
        mixture = as_runtime_prior(Draws(values), problem, 1, 0).mixture(problem, 1)
        np.testing.assert_allclose(mixture.means[0, 0], values["mu"].mean(), rtol=1e-9)
        np.testing.assert_allclose(mixture.means[0, 3], np.log(values["sigma"]).mean(), rtol=1e-9)

    def test_of_a_fit(self, problem):
        """What a fit itself returns can be the next prior."""
        with pytest.warns(bayes.ConvergenceWarning, match="khat"):
            post = bayes.fit(line, DATA, "laplace", seed=0)
        prior = as_runtime_prior(post, problem, 2, 0)
        mean, _ = moments(prior.mixture(problem, 2))
        expected = float(post.draws("mu").mean())
        np.testing.assert_allclose(mean[0], expected, atol=1e-6)

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"share": None}, SettingsError, "gives no value of share"),
            ({"slope": jnp.zeros(3)}, ShapeError, r"'slope' of shape \(3,\); the program has \(2,"),
            ({"sigma": jnp.array(-1.0)}, SettingsError, "'sigma' outside of its support"),
            ({"share": jnp.array(1.5)}, SettingsError, "'share' outside of its support"),
            ({"mu": jnp.array(jnp.nan)}, SettingsError, "'mu' that are not finite"),
            ({"mu": jnp.array(1.0)}, SettingsError, "element 0 is 1 in every draw"),
            ({"nu": jnp.array(1.0)}, SettingsError, "gives 'nu', which is no latent site of line"),
        ],
    )
    def test_samplers_that_do_not_fit(self, change, error, message, problem):
        def sampler(key):
            found = {**plain_sampler(key), **change}
            return {n: v for n, v in found.items() if v is not None}

        with pytest.raises(error, match=message):
            as_runtime_prior(sampler, problem, 2, 0)

    def test_posteriors_that_do_not_fit(self, problem, rng):
        values = some_draws(rng)
        del values["share"]
        with pytest.raises(SettingsError, match="no draws of 'share': it is of another model"):
            as_runtime_prior(Draws(values), problem, 2, 0)
        with pytest.raises(SettingsError, match="60 draws of 8 unknowns; at least 80"):
            as_runtime_prior(Draws(some_draws(rng, 30)), problem, 2, 0)

    def test_what_is_no_prior(self, problem):
        with pytest.raises(SettingsError, match="got Normal"):
            as_runtime_prior(dist.Normal(0, 1), problem, 2, 0)
        with pytest.raises(SettingsError, match="got int"):
            as_runtime_prior(3, problem, 2, 0)
        with pytest.raises(SettingsError, match="it failed: ZeroDivisionError"):
            as_runtime_prior(lambda key: {"mu": 1 / 0}, problem, 2, 0)

    def test_reparametrised_and_discrete_programs_take_priors_by_site_only(self, rng):
        model = bayes.Model(line, reparam={"shift": LocScaleReparam(centered=0)})
        reference = model.bind(DATA)
        mixture = some_mixture(rng, reference.size)
        with pytest.raises(UnsupportedModelError, match=r"reparametrised \(shift\)"):
            as_runtime_prior(mixture, reference, 2, 0)
        by_site = as_runtime_prior({"mu": dist.Normal(3.0, 1.0)}, reference, 2, 0)
        x = rng.normal(size=reference.size)
        found = bayes.Model.bind(*by_site.rewritten(model, DATA)).log_density(x)
        expected = stats.norm(3, 1).logpdf(x[0]) - stats.norm(0, 5).logpdf(x[0])
        np.testing.assert_allclose(found - reference.log_density(x), expected, atol=1e-10)
        reference = bayes.Model(with_discrete).bind({"y": 0.0}, marginal=False)
        with pytest.raises(UnsupportedModelError, match=r"discrete latent sites \(z\)"):
            as_runtime_prior(some_mixture(rng, 1), reference, 2, 0)


def test_descriptions_are_json_and_tell_numbers_apart(problem, rng):
    given = [
        SitePriors({"mu": dist.Normal(3.0, 1.0)}),
        SitePriors({"mu": dist.Normal(1.0, 3.0)}),
        JointPrior(problem.program.latents, some_mixture(rng, problem.size)),
    ]
    texts = [json.dumps(prior.describe()) for prior in given]
    assert len(set(texts)) == 3
    assert json.dumps(SitePriors({"mu": dist.Normal(3, 1)}).describe()) == texts[0]
    assert json.loads(texts[0])["sites"] == {"mu": "Normal"}
