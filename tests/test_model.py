"""Model and Problem: structure, bijections and densities, against SciPy and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import scipy.stats as st
from models_for_tests import SCHOOLS_DATA, funnel, regression, schools
from numpyro import handlers
from numpyro.infer.reparam import LocScaleReparam, TransformReparam

import bayes


def bind(fn, data=None, **options):
    return bayes.Model(fn, **options).bind({} if data is None else data)


class TestStructure:
    def test_sites_have_kinds_shapes_supports_and_plates(self):
        sites = bind(schools, SCHOOLS_DATA).sites
        assert {n: s.kind for n, s in sites.items()} == {
            "mu": "latent",
            "tau": "latent",
            "theta": "latent",
            "y": "observed",
        }
        assert sites["theta"].shape == (8,)
        assert sites["theta"].plates == (("school", -1, 8),)
        assert sites["tau"].distribution == "HalfCauchy"
        assert "0" in sites["tau"].support

    def test_dims_come_from_plates_and_labels_from_the_frame(self):
        frame = pd.DataFrame(SCHOOLS_DATA, index=list("abcdefgh"))
        problem = bind(schools, frame)
        assert problem.dims["theta"] == ("school",)
        assert problem.coords["school"].tolist() == list("abcdefgh")

    def test_nested_plates(self):
        def nested(y=None):
            with numpyro.plate("row", 3, dim=-2), numpyro.plate("column", 4, dim=-1):
                mu = numpyro.sample("mu", dist.Normal(0, 1))
                beta = numpyro.sample("beta", dist.Normal(0, 1).expand([2]).to_event(1))
                numpyro.sample("y", dist.Normal(mu + beta.sum(-1), 1), obs=y)

        problem = bind(nested, {"y": np.zeros((3, 4)) + np.arange(4)}, dims={"beta": ["part"]})
        assert problem.dims["mu"] == ("row", "column")
        assert problem.dims["beta"] == ("row", "column", "part")
        value = float(problem.log_density(np.zeros(problem.size)))
        exact = 36 * st.norm.logpdf(0) + st.norm.logpdf(np.tile(np.arange(4), 3)).sum()
        assert value == pytest.approx(exact, rel=1e-12)

    def test_names_and_labels_that_do_not_fit_are_refused(self):
        with pytest.raises(bayes.ShapeError, match="name 2 dimensions"):
            bind(schools, SCHOOLS_DATA, dims={"mu": ["a", "b"]})
        with pytest.raises(bayes.SettingsError, match="'nu', which is not a site"):
            bind(schools, SCHOOLS_DATA, dims={"nu": ["a"]})
        with pytest.raises(bayes.ShapeError, match=r"5 labels.*size 8"):
            bind(schools, SCHOOLS_DATA, coords={"school": range(5)})

    def test_observed_arguments_are_found_through_transformations(self):
        def log_regression(x, y):
            slope = numpyro.sample("slope", dist.Normal(0, 1))
            numpyro.sample("log_y", dist.Normal(slope * x, 1), obs=jnp.log(y))

        problem = bind(log_regression, {"x": np.arange(3.0), "y": np.array([1.0, 2, 3])})
        assert problem.observed_arguments == ("y",)


class TestDensity:
    def test_log_density_equals_the_sum_by_hand(self):
        problem = bind(schools, SCHOOLS_DATA)
        rng = np.random.default_rng(1)
        position = rng.normal(size=problem.size)
        values = {k: v[0] for k, v in problem.constrain(position[None]).items()}
        prior = (
            st.norm.logpdf(values["mu"], 0, 5)
            + st.halfcauchy.logpdf(values["tau"], 0, 5)
            + st.norm.logpdf(values["theta"], values["mu"], values["tau"]).sum()
        )
        data = SCHOOLS_DATA
        likelihood = st.norm.logpdf(data["y"], values["theta"], data["sigma"]).sum()
        jacobian = np.log(values["tau"])
        found = float(problem.log_density(position))
        assert found == pytest.approx(prior + likelihood + jacobian, rel=1e-12)
        assert sum(problem.log_prior(position).values()) == pytest.approx(prior, rel=1e-12)
        assert problem.log_likelihood(position) == {"y": pytest.approx(likelihood, rel=1e-12)}

    def test_the_gradient_is_that_of_finite_differences(self):
        problem = bind(schools, SCHOOLS_DATA)
        position = np.random.default_rng(2).normal(size=problem.size)
        _, gradient = problem.value_and_grad(position)
        for i in range(problem.size):
            step = np.zeros(problem.size)
            step[i] = 1e-5
            up, down = (float(problem.log_density(position + s)) for s in (step, -step))
            assert float(gradient[i]) == pytest.approx((up - down) / 2e-5, rel=1e-6, abs=1e-6)

    def test_factor_mask_and_deterministic(self):
        def program(y=None):
            x = numpyro.sample("x", dist.Normal(0, 1))
            numpyro.deterministic("square", x**2)
            numpyro.factor("penalty", -(x**2))
            with handlers.mask(mask=np.array([True, False, True])):
                numpyro.sample("y", dist.Normal(x, 1), obs=y)

        problem = bind(program, {"y": np.array([1.0, 50.0, 2.0])})
        value = float(problem.log_density(np.array([0.5])))
        exact = st.norm.logpdf(0.5) - 0.25 + st.norm.logpdf([0.5, 1.5]).sum()
        assert value == pytest.approx(exact, rel=1e-12)
        assert problem.constrain(np.array([[0.5]]))["square"][0] == pytest.approx(0.25)
        assert problem.log_likelihood(np.array([0.5]))["penalty"] == pytest.approx(-0.25)

    @pytest.mark.parametrize(
        "law",
        [
            dist.HalfNormal(2.0),
            dist.Beta(2.0, 3.0),
            dist.Uniform(-1.0, 4.0),
            dist.Dirichlet(jnp.ones(4)),
            dist.LKJCholesky(3, 2.0),
            dist.TransformedDistribution(
                dist.Normal(0, 1).expand([3]).to_event(1),
                dist.transforms.OrderedTransform(),
            ),
            dist.TruncatedNormal(0.0, 1.0, low=0.5),
            dist.VonMises(0.0, 1.0),
            dist.LogNormal(0.0, 1.0).expand([2, 3]).to_event(2),
        ],
        ids=lambda law: type(law).__name__,
    )
    def test_bijections_there_and_back(self, law):
        def program(y=None):
            numpyro.sample("x", law)
            numpyro.sample("y", dist.Normal(0, 1), obs=y)

        problem = bind(program, {"y": 0.3})
        positions = np.random.default_rng(3).normal(size=(2, 5, problem.size))
        values = problem.constrain(positions)
        with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
            assert bool(jnp.all(law.support(jnp.asarray(values["x"]))))
        np.testing.assert_allclose(problem.unconstrain(values), positions, atol=1e-6)

    def test_a_support_that_depends_on_another_site(self):
        def program(y=None):
            top = numpyro.sample("top", dist.Uniform(1.0, 2.0))
            x = numpyro.sample("x", dist.Uniform(0.0, top))
            numpyro.sample("y", dist.Normal(x, 1), obs=y)

        problem = bind(program, {"y": 0.3})
        positions = np.random.default_rng(4).normal(size=(1, 200, 2))
        values = problem.constrain(positions)
        assert (values["x"] < values["top"]).all()
        np.testing.assert_allclose(problem.unconstrain(values), positions, atol=1e-6)

    def test_data_that_the_program_computes_with_in_python_are_constants(self):
        def program(group, y=None):
            count = int(np.max(group)) + 1
            with numpyro.plate("group", count):
                mu = numpyro.sample("mu", dist.Normal(0, 1))
            numpyro.sample("y", dist.Normal(mu[group], 1), obs=y)

        problem = bind(program, {"group": np.array([0, 1, 1]), "y": np.array([1.0, 2, 3])})
        assert problem.size == 2
        assert any("constants" in note for note in problem.notes)
        assert np.isfinite(float(problem.log_density(np.zeros(2))))


class TestDiscrete:
    def test_a_static_observation_with_a_parameter_from_an_array(self):
        """NumPyro checks the static value against the array's, in Python."""

        def count(n, k=None):
            p = numpyro.sample("p", dist.Beta(2, 3))
            numpyro.sample("k", dist.Binomial(n, p), obs=k)

        problem = bayes.Model(count).bind({"n": np.asarray(12), "k": 3})
        p = 0.3
        expected = st.beta(2, 3).logpdf(p) + st.binom(12, p).logpmf(3) + np.log(p * (1 - p))
        found = problem.value_and_grad(np.array([np.log(p / (1 - p))]))[0]
        assert float(found) == pytest.approx(expected, rel=1e-9)
        assert bayes.fit(count, {"n": np.asarray(12), "k": 3}, seed=1).diagnostics.ok

    def test_what_depends_on_summed_out_sites_has_no_draws(self):
        def mixture(y=None):
            weight = numpyro.sample("weight", dist.Beta(2, 2))
            means = numpyro.sample("means", dist.Normal(jnp.array([-4.0, 4.0]), 1.0).to_event(1))
            with numpyro.plate("row", 4):
                z = numpyro.sample("z", dist.Bernoulli(weight))
                numpyro.deterministic("own", means[z])
                numpyro.sample("y", dist.Normal(means[z], 1), obs=y)
            numpyro.deterministic("gap", means[1] - means[0])

        post = bayes.fit(mixture, {"y": np.array([-4.2, 4.1, 3.9, -4.0])})
        assert set(post.data["posterior"].data_vars) == {"weight", "means", "gap"}
        assert any("own depends on discrete sites" in note for note in post.diagnostics.notes)

    def test_enumeration_equals_the_marginal_by_hand(self):
        def mixture(y=None):
            weight = numpyro.sample("weight", dist.Beta(2, 2))
            with numpyro.plate("row", 3):
                z = numpyro.sample("z", dist.Bernoulli(weight), infer={"enumerate": "parallel"})
                numpyro.sample("y", dist.Normal(2.0 * z, 1), obs=y)

        y = np.array([0.1, 2.2, 1.0])
        problem = bind(mixture, {"y": y})
        assert problem.discrete == ("z",)
        position = np.array([0.4])
        w = 1 / (1 + np.exp(-0.4))
        marginal = np.log(w * st.norm.pdf(y, 2, 1) + (1 - w) * st.norm.pdf(y)).sum()
        exact = st.beta.logpdf(w, 2, 2) + np.log(w * (1 - w)) + marginal
        assert float(problem.log_density(position)) == pytest.approx(exact, rel=1e-10)

    def test_what_cannot_be_enumerated_is_refused_with_the_reason(self):
        def counts(y=None):
            rate = numpyro.sample("rate", dist.Gamma(2, 1))
            n = numpyro.sample("n", dist.Poisson(rate))
            numpyro.sample("y", dist.Normal(n, 1), obs=y)

        with pytest.raises(bayes.UnsupportedModelError, match=r"'n' \(Poisson\).*marginalise"):
            bind(counts, {"y": 2.0})


class TestRefusals:
    def test_subsampling(self):
        """The posterior is that of all data; data that have been subsampled already are refused."""

        def program(n, y=None):
            mu = numpyro.sample("mu", dist.Normal(0, 1))
            with numpyro.plate("row", n, subsample_size=3):
                obs = None if y is None else numpyro.subsample(y, event_dim=0)
                numpyro.sample("y", dist.Normal(mu, 1), obs=obs)

        y = np.arange(10.0)
        problem = bind(program, {"n": 10, "y": y})
        assert any("plate 'row' takes a subsample" in note for note in problem.notes)
        assert any("that of all its elements" in note for note in problem.notes)
        found = float(problem.log_density(np.array([0.5])))
        assert found == pytest.approx(st.norm.logpdf(0.5) + st.norm.logpdf(y, 0.5).sum())
        with pytest.raises(bayes.BayesError, match="row"):
            bind(program, {"n": 10, "y": y[:3]})

    def test_param_sites(self):
        def program(y=None):
            mu = numpyro.param("mu", 0.0)
            x = numpyro.sample("x", dist.Normal(mu, 1))
            numpyro.sample("y", dist.Normal(x, 1), obs=y)

        with pytest.raises(bayes.UnsupportedModelError, match=r"'mu' is a numpyro\.param"):
            bind(program, {"y": 1.0})

    def test_what_is_no_program(self, unchecked):
        with pytest.raises(bayes.ModelError, match="callable"):
            bayes.Model(3)


class TestReparam:
    def test_auto_finds_sites_with_latent_parents(self):
        problem = bind(schools, SCHOOLS_DATA, reparam="auto")
        assert problem.reparametrised == ("theta",)
        assert [s.name for s in problem.program.latents] == ["mu", "tau", "theta_decentered"]
        assert problem.parameters == ("mu", "tau", "theta")

    def test_auto_leaves_alone_what_has_fixed_parents(self):
        x = np.arange(4.0)
        problem = bind(regression, {"x": x, "y": np.cos(x)}, reparam="auto")
        assert problem.reparametrised == ()

    def test_student_t_keeps_its_degrees_of_freedom(self):
        def program(y=None):
            scale = numpyro.sample("scale", dist.HalfNormal(1))
            x = numpyro.sample("x", dist.StudentT(4.0, 0.0, scale).expand([5]).to_event(1))
            numpyro.sample("y", dist.Normal(x, 1), obs=y)

        problem = bind(program, {"y": np.arange(5.0)}, reparam="auto")
        position = np.zeros(6) + 0.3
        values = problem.constrain(position[None])
        scale, x = values["scale"][0], values["x"][0]
        np.testing.assert_allclose(x, 0.3 * scale)
        exact = (
            st.halfnorm.logpdf(scale)
            + np.log(scale)
            + st.t.logpdf(0.3, 4) * 5
            + st.norm.logpdf(np.arange(5.0), x, 1).sum()
        )
        assert float(problem.log_density(position)) == pytest.approx(exact, rel=1e-10)

    def test_a_mapping_is_used_and_checked(self):
        problem = bind(schools, SCHOOLS_DATA, reparam={"theta": LocScaleReparam(0.5)})
        assert "theta_decentered" in {s.name for s in problem.program.latents}
        with pytest.raises(bayes.SettingsError, match="does not have: thet"):
            bind(schools, SCHOOLS_DATA, reparam={"thet": TransformReparam()})
        with pytest.raises(bayes.SettingsError, match="reparam is"):
            bind(schools, SCHOOLS_DATA, reparam=3)


class TestPrior:
    def test_prior_and_prior_predictive_moments(self):
        """20 000 independent draws; |z| < 4.5."""
        draws = bind(schools, SCHOOLS_DATA).prior(20_000, seed=1)
        assert draws["y"].shape == (20_000, 8)
        assert abs(draws["mu"].mean()) / (5 / np.sqrt(20_000)) < 4.5
        median = np.mean(draws["tau"] < 5.0)
        assert abs(median - 0.5) / np.sqrt(0.25 / 20_000) < 4.5

    def test_an_improper_prior_is_named(self):
        def flat(y=None):
            mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
            numpyro.sample("y", dist.Normal(mu, 1), obs=y)

        problem = bind(flat, {"y": 1.0})
        with pytest.raises(bayes.UnsupportedModelError, match="mu is improper"):
            problem.prior(10)

    def test_a_program_without_data_is_fitted_only_on_request(self):
        with pytest.raises(bayes.ModelError, match="no observed site"):
            bind(funnel)
        assert bind(funnel, allow_prior=True).size == 10


def test_the_same_program_and_shapes_share_their_compiled_functions():
    other = {**SCHOOLS_DATA, "y": SCHOOLS_DATA["y"] + 1.0}
    a, b = bind(schools, SCHOOLS_DATA), bind(schools, other)
    assert a.program is b.program
    assert float(a.log_density(np.zeros(10))) != float(b.log_density(np.zeros(10)))
    assert bind(schools, SCHOOLS_DATA, reparam="auto").program is not a.program


SCALE = 1.0


def reads_a_global(y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, SCALE))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


class Callable:
    """A program with a setting of its own."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, y=None):
        mu = numpyro.sample("mu", dist.Normal(0.0, self.scale))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def test_a_program_that_reads_what_has_changed_is_another_program(monkeypatch):
    position = np.array([2.0])
    before = float(bind(reads_a_global, {"y": 0.0}).log_density(position))
    monkeypatch.setitem(globals(), "SCALE", 10.0)
    after = float(bind(reads_a_global, {"y": 0.0}).log_density(position))
    assert after - before == pytest.approx(st.norm.logpdf(2, 0, 10) - st.norm.logpdf(2, 0, 1))

    program = Callable(1.0)
    assert float(bind(program, {"y": 0.0}).log_density(position)) == pytest.approx(before)
    program.scale = 10.0
    assert float(bind(program, {"y": 0.0}).log_density(position)) == pytest.approx(after)
