"""Priors of some sites changed at run time: densities, nothing compiled twice, refusals."""

import json

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from priors_for_tests import (
    DATA,
    bind,
    improper,
    line,
    masked,
    some_mixture,
    values_at,
    with_discrete,
)
from scipy import stats

import bayes
from bayes.compilation import computing
from bayes.errors import ModelError, SettingsError, ShapeError, UnsupportedModelError
from bayes.surrogates.mixtures import moments
from bayes.surrogates.priors import JointPrior, SitePriors


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

    def test_other_data_of_the_same_design_cost_no_other_mixture(self):
        """Kept for other observed data; not for another covariate that the prior is made of."""

        def scaled(x, y=None):
            mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
            slope = numpyro.sample("slope", dist.Normal(0.0, 1.0 / x.std()))
            numpyro.sample("y", dist.Normal(mu + slope * x, 1.0).to_event(1), obs=y)

        x, prior = np.arange(4.0), SitePriors({"mu": dist.Normal(2.0, 0.5)})
        first = prior.mixture(bind(prior, scaled, {"x": x, "y": x[::-1]}), 2)
        again = prior.mixture(bind(prior, scaled, {"x": x, "y": np.arange(4.0)}), 2)
        assert again is first
        other = prior.mixture(bind(prior, scaled, {"x": 10 * x, "y": x[::-1]}), 2)
        sd, other_sd = (np.sqrt(moments(m)[1][1, 1]) for m in (first, other))
        np.testing.assert_allclose(sd / other_sd, 10.0, rtol=1e-6)
        assert prior.mixture(bind(prior, scaled, {"x": x, "y": x[::-1]}), 3) is not first
        for scale in range(2, 8):
            prior.mixture(bind(prior, scaled, {"x": scale * x, "y": x[::-1]}), 1)
        assert len(prior._mixtures) == 4

    def test_a_prior_made_of_observed_values_is_not_kept_for_others(self):
        def empirical(y=None):
            mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
            numpyro.sample("away", dist.Normal(y.mean(), 1.0))
            numpyro.sample("y", dist.Normal(mu, 1.0).expand([3]).to_event(1), obs=y)

        prior = SitePriors({"mu": dist.Normal(2.0, 0.5)})
        means = [
            moments(prior.mixture(bind(prior, empirical, {"y": y + np.arange(3.0)}), 1))[0][1]
            for y in (0.0, 5.0)
        ]
        np.testing.assert_allclose(means[1] - means[0], 5.0, rtol=1e-6)

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
