"""Which programs Kronecker sparse Bayesian learning takes, what it reads of them, and refusals."""

import tracemalloc

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import SCHOOLS_DATA, normal_mean, schools, sparse, sparse_problem
from numpyro import handlers
from numpyro.distributions import constraints

import bayes
from bayes.compilation import computing
from bayes.distributions import (
    ComplexKroneckerLinear,
    ComplexKroneckerNormal,
    KroneckerLinear,
    KroneckerNormal,
    as_pairs,
)
from bayes.inference.kronecker import recognition
from bayes.inference.kronecker.recognition import recognise
from bayes.method import fitting_methods

RNG = np.random.default_rng(3)
FACTORS = [RNG.normal(size=(3, 4)), RNG.normal(size=(4, 5))]
Y = RNG.normal(size=(3, 4))
DATA = {"factors": FACTORS, "y": Y}


def bind(program, data=DATA, **options):
    with computing():
        return bayes.Model(program, **options).bind(data)


def read(program, data=DATA, **options):
    problem = bind(program, data, **options)
    with computing():
        return recognise(problem)


def half(name, length):
    return numpyro.sample(name, dist.HalfNormal(1.0).expand([length]).to_event(1))


def observed(factors, variances, noise, y, **options):
    x = numpyro.sample("x", KroneckerNormal(variances))
    numpyro.sample("y", KroneckerLinear(factors, x, noise, **options), obs=y)


# ----------------------------------------------------------------------- what is read


def test_the_program_of_the_design():
    def program(factors, y=None):
        scales = [
            numpyro.sample(f"gamma_{i}", dist.HalfCauchy(1.0).expand([h.shape[1]]).to_event(1))
            for i, h in enumerate(factors)
        ]
        noise = numpyro.sample("noise", dist.HalfNormal(2.0))
        x = numpyro.sample("x", KroneckerNormal(scales))
        numpyro.sample("y", KroneckerLinear(factors, x, noise), obs=y)

    found = read(program)
    assert (found.coefficients, found.observed, found.noise) == ("x", "y", "noise")
    assert found.scales == ("gamma_0", "gamma_1")
    assert (found.sizes, found.batch, found.pairs, found.mask) == ((4, 5), (), False, None)
    for axis in found.model.axes:
        assert axis.prior is not None
        assert (axis.prior.kind, axis.prior.power) == ("HalfCauchy", 1)
        assert [float(p) for p in axis.prior.parameters] == [1.0]
    prior = found.model.noise.prior
    assert prior is not None
    assert (prior.kind, prior.power, float(prior.parameters[0])) == ("HalfNormal", 2, 2.0)
    np.testing.assert_array_equal(found.y, Y[None])
    for mine, given in zip(found.factors, FACTORS, strict=True):
        np.testing.assert_array_equal(mine, given)


@pytest.mark.parametrize(
    "square",
    [lambda s: s**2, lambda s: s * s, jnp.square, lambda s: jnp.power(s, 2), lambda s: s**2.0],
    ids=["power", "product", "square", "jnp.power", "float"],
)
def test_variances_may_be_squares_of_scales(square):
    def program(factors, y=None):
        observed(factors, [square(half("s", 4)), half("t", 5)], 0.5, y)

    found = read(program)
    assert found.scales == ("s", "t")
    assert [axis.prior.power for axis in found.model.axes] == [2, 1]


def test_the_noise_is_a_deviation_the_root_of_a_variance_or_given():
    def deviation(factors, y=None):
        observed(
            factors, [half("s", 4), half("t", 5)], numpyro.sample("n", dist.Gamma(2.0, 3.0)), y
        )

    def root(factors, y=None):
        variance = numpyro.sample("n", dist.InverseGamma(2.0, 3.0))
        observed(factors, [half("s", 4), half("t", 5)], jnp.sqrt(variance), y)

    def power(factors, y=None):
        variance = numpyro.sample("n", dist.InverseGamma(2.0, 3.0))
        observed(factors, [half("s", 4), half("t", 5)], variance**0.5, y)

    def number(factors, y=None):
        observed(factors, [half("s", 4), half("t", 5)], 0.5, y)

    def data(factors, sd, y=None):
        observed(factors, [half("s", 4), half("t", 5)], 2.0 * sd, y)

    for program, kind, exponent in (
        (deviation, "Gamma", 2),
        (root, "InverseGamma", 1),
        (power, "InverseGamma", 1),
    ):
        found = read(program)
        assert found.noise == "n"
        assert (found.model.noise.prior.kind, found.model.noise.prior.power) == (kind, exponent)
        assert [float(p) for p in found.model.noise.prior.parameters] == [2.0, 3.0]
    for found in (read(number), read(data, {**DATA, "sd": 0.25})):
        assert found.noise is None
        assert found.model.noise.prior is None
        assert found.model.noise.given == pytest.approx(0.25, rel=1e-15)


def test_variances_may_be_given_and_come_from_data():
    def program(factors, profile, y=None):
        observed(factors, [jnp.exp(profile), half("t", 5)], 0.5, y)

    profile = np.array([0.1, 0.2, -0.3, 0.4])
    found = read(program, {**DATA, "profile": profile})
    assert found.scales == (None, "t")
    assert found.model.axes[0].prior is None
    np.testing.assert_allclose(found.model.axes[0].given, np.exp(profile), rtol=1e-15)


def test_operators():
    """One axis of learned blocks, one of a given profile through an operator."""
    blocks = np.kron(np.eye(2), np.ones((2, 1)))
    wide = np.abs(np.random.default_rng(1).normal(size=(5, 3)))

    def program(factors, blocks, y=None):
        variances = [half("s", 2) ** 2, jnp.ones(3)]
        x = numpyro.sample("x", KroneckerNormal(variances, operators=[blocks, wide]))
        numpyro.sample("y", KroneckerLinear(factors, x, 0.5), obs=y)

    found = read(program, {**DATA, "blocks": blocks})
    assert found.sizes == (4, 5)
    assert [axis.length for axis in found.model.axes] == [2, 3]
    np.testing.assert_array_equal(found.model.axes[0].operator, blocks)
    np.testing.assert_array_equal(found.model.axes[1].operator, wide)
    np.testing.assert_array_equal(found.model.axes[1].given, np.ones(3))


def test_parameters_of_priors_may_be_vectors_come_from_data_and_broadcast():
    def program(factors, rates, y=None):
        one = numpyro.sample("s", dist.Gamma(0.5, rates).to_event(1))
        other = numpyro.sample("t", dist.Gamma(jnp.array([0.5]), 2.0).expand([5]).to_event(1))
        observed(factors, [one, other], 0.5, y)

    rates = np.array([1.0, 2.0, 3.0, 4.0])
    found = read(program, {**DATA, "rates": rates})
    one, other = (axis.prior for axis in found.model.axes)
    np.testing.assert_array_equal(one.parameters[1], rates)
    # Those of some elements, as where others are pruned.
    kept = one.of(np.array([1, 3])).parameters
    np.testing.assert_array_equal(np.broadcast_to(kept[0], 2), [0.5, 0.5])
    np.testing.assert_array_equal(kept[1], [2.0, 4.0])
    assert [float(p) for p in other.of(np.arange(3)).parameters] == [0.5, 2.0]


@pytest.mark.parametrize(
    "prior",
    [
        dist.ImproperUniform(constraints.positive, (), event_shape=(4,)),
        dist.ImproperUniform(constraints.positive, (4,), event_shape=()).to_event(1),
        dist.Exponential(2.0).expand([4]).to_event(1),
        dist.InverseGamma(2.0, 3.0).expand([4]).to_event(1),
    ],
    ids=["improper", "improper batch", "exponential", "inverse gamma"],
)
def test_other_priors(prior):
    def program(factors, y=None):
        observed(factors, [numpyro.sample("s", prior), half("t", 5)], 0.5, y)

    base = prior.base_dist if isinstance(prior, dist.Independent) else prior
    kind = "ImproperUniform" if "Improper" in type(base).__name__ else None
    found = read(program).model.axes[0].prior
    assert found.kind == (kind or type(base.base_dist).__name__)
    assert found.is_flat is (kind is not None)


def test_scales_may_be_in_plates():
    def program(factors, y=None):
        with numpyro.plate("row", 4):
            s = numpyro.sample("s", dist.HalfNormal(1.0))
        observed(factors, [s, half("t", 5)], 0.5, y)

    assert read(program).scales == ("s", "t")


def snapshots(factors, p, q=None, mask=None, y=None):
    with numpyro.plate("p", p, dim=-1):
        if q is None:
            observed(factors, [jnp.ones(4), jnp.ones(5)], 0.5, y, mask=mask)
        else:
            with numpyro.plate("q", q, dim=-2):
                observed(factors, [jnp.ones(4), jnp.ones(5)], 0.5, y, mask=mask)


def test_snapshots_in_one_plate_and_in_two():
    y = RNG.normal(size=(6, 3, 4))
    one = read(snapshots, {"factors": FACTORS, "p": 6, "y": y})
    assert one.batch == (6,)
    np.testing.assert_array_equal(one.y, y)
    two = read(snapshots, {"factors": FACTORS, "p": 2, "q": 3, "y": y.reshape(3, 2, 3, 4)})
    assert two.batch == (3, 2)
    np.testing.assert_array_equal(two.y, y)


@pytest.mark.parametrize("joined", [False, True])
def test_snapshots_without_a_plate(joined):
    def program(factors, count, y=None):
        prior = KroneckerNormal([jnp.ones(4), jnp.ones(5)]).expand([count])
        x = numpyro.sample("x", prior.to_event(1) if joined else prior)
        likelihood = KroneckerLinear(factors, x, 0.5)
        numpyro.sample("y", likelihood.to_event(1) if joined else likelihood, obs=y)

    y = RNG.normal(size=(2, 3, 4))
    found = read(program, {"factors": FACTORS, "count": 2, "y": y})
    assert found.batch == (2,)
    np.testing.assert_array_equal(found.y, y)


def test_complex_numbers():
    def program(factors, y=None):
        x = numpyro.sample("x", ComplexKroneckerNormal([half("s", 4), half("t", 5)]))
        numpyro.sample("y", ComplexKroneckerLinear(factors, x, 0.5), obs=y)

    factors = [f + 1j * RNG.normal(size=f.shape) for f in FACTORS]
    y = Y + 1j * RNG.normal(size=Y.shape)
    found = read(program, {"factors": factors, "y": np.asarray(as_pairs(y))})
    assert found.pairs
    assert (found.batch, found.sizes) == ((), (4, 5))
    np.testing.assert_array_equal(found.y, y[None])
    np.testing.assert_array_equal(found.factors[0], factors[0])


class TestMask:
    def masked(self, factors, mask, y=None):
        observed(factors, [half("s", 4), half("t", 5)], 0.5, y, mask=mask)

    def test_what_is_missing_is_zero(self):
        mask = np.random.default_rng(2).random(Y.shape) > 0.4
        y = np.where(mask, Y, np.nan)
        found = read(self.masked, {"factors": FACTORS, "y": y, "mask": mask})
        np.testing.assert_array_equal(found.mask, mask[None])
        np.testing.assert_array_equal(found.y[0], np.where(mask, Y, 0.0))

    def test_nothing_is_missing(self):
        data = {**DATA, "mask": np.ones(Y.shape, bool)}
        assert read(self.masked, data).mask is None

    def test_masks_may_follow_from_data_and_not_from_latent_sites(self):
        def program(factors, least, y=None):
            observed(factors, [half("s", 4), half("t", 5)], 0.5, y, mask=y > least)

        def latent(factors, y=None):
            t = half("t", 5)
            observed(factors, [half("s", 4), t], 0.5, y, mask=jnp.full((3, 4), t[0] > 0.5))

        found = read(program, {**DATA, "least": -0.5})
        np.testing.assert_array_equal(found.mask[0], Y > -0.5)
        with pytest.raises(bayes.UnsupportedModelError, match="the mask depends on latent sites"):
            read(latent)

    @pytest.mark.parametrize("lead", [(), (2,), (1, 2), (3, 1), (3, 2)])
    def test_a_mask_of_some_snapshots_is_of_all_that_share_it(self, lead):
        y = RNG.normal(size=(3, 2, 3, 4))
        mask = np.random.default_rng(4).random((*lead, 3, 4)) > 0.4
        data = {"factors": FACTORS, "p": 2, "q": 3, "mask": mask, "y": y}
        found = read(snapshots, data)
        everywhere = np.broadcast_to(mask, y.shape)
        np.testing.assert_array_equal(found.mask, everywhere.reshape(6, 3, 4))
        np.testing.assert_array_equal(found.y, np.where(everywhere, y, 0.0).reshape(6, 3, 4))


def test_what_else_the_program_computes_does_not_matter():
    """Deterministic sites, of the coefficients too, and other uses of the scales."""

    def program(factors, y=None):
        s = half("s", 4)
        numpyro.deterministic("largest", s.max())
        x = numpyro.sample("x", KroneckerNormal([s, half("t", 5)]))
        numpyro.deterministic("total", x.sum())
        numpyro.sample("y", KroneckerLinear(factors, x, 0.5), obs=y)

    assert read(program, reparam="auto").scales == ("s", "t")


# ----------------------------------------------------------------------- what is refused


def scaled(factors, y=None):
    with handlers.scale(scale=2.0):
        observed(factors, [half("s", 4), half("t", 5)], 0.5, y)


def scaled_prior(factors, y=None):
    with handlers.scale(scale=2.0):
        s = half("s", 4)
    observed(factors, [s, half("t", 5)], 0.5, y)


def masked(factors, y=None):
    with numpyro.plate("snapshot", 2):
        x = numpyro.sample("x", KroneckerNormal([jnp.ones(4), jnp.ones(5)]))
        with handlers.mask(mask=jnp.array([True, False])):
            numpyro.sample("y", KroneckerLinear(factors, x, 0.5), obs=jnp.stack([y, y]))


def lognormal(factors, y=None):
    s = numpyro.sample("s", dist.LogNormal(0.0, 1.0).expand([4]).to_event(1))
    observed(factors, [s, half("t", 5)], 0.5, y)


def improper_real(factors, y=None):
    s = numpyro.sample("s", dist.ImproperUniform(constraints.real, (), event_shape=(4,)))
    observed(factors, [s**2, half("t", 5)], 0.5, y)


def hyperprior(factors, y=None):
    tau = numpyro.sample("tau", dist.HalfCauchy(1.0))
    s = numpyro.sample("s", dist.HalfNormal(tau).expand([4]).to_event(1))
    observed(factors, [s, half("t", 5)], 0.5, y)


def other_latent(factors, y=None):
    half("extra", 2)
    observed(factors, [half("s", 4), half("t", 5)], 0.5, y)


def other_observed(factors, y=None):
    observed(factors, [half("s", 4), half("t", 5)], 0.5, y)
    numpyro.sample("z", dist.Normal(0.0, 1.0), obs=0.3)


def factor(factors, y=None):
    observed(factors, [half("s", 4), half("t", 5)], 0.5, y)
    numpyro.factor("more", -1.0)


def doubled(factors, y=None):
    x = numpyro.sample("x", KroneckerNormal([half("s", 4), half("t", 5)]))
    numpyro.sample("y", KroneckerLinear(factors, 2 * x, 0.5), obs=y)


def ordinary_coefficients(factors, y=None):
    x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([4, 5]).to_event(2))
    numpyro.sample("y", KroneckerLinear(factors, x, 0.5), obs=y)


def ordinary_likelihood(factors, y=None):
    x = numpyro.sample("x", KroneckerNormal([half("s", 4), half("t", 5)]))
    mean = factors[0] @ x @ factors[1].T
    numpyro.sample("y", dist.Normal(mean, 0.5).to_event(2), obs=y)


def twice(factors, y=None):
    s = half("s", 4)
    observed([factors[0], factors[0]], [s, s], 0.5, y[:, :3])


def discrete(factors, y=None):
    z = numpyro.sample("z", dist.Bernoulli(0.5))
    observed(factors, [half("s", 4), half("t", 5)], 0.5 + z, y)


def two_noises(factors, y=None):
    a, b = (numpyro.sample(name, dist.HalfNormal(1.0)) for name in "ab")
    observed(factors, [half("s", 4), half("t", 5)], jnp.sqrt(a**2 + b**2), y)


def squared_noise(factors, y=None):
    a = numpyro.sample("a", dist.HalfNormal(1.0))
    observed(factors, [half("s", 4), half("t", 5)], a**2, y)


def exponentials(factors, y=None):
    s = numpyro.sample("s", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
    observed(factors, [jnp.exp(s), half("t", 5)], 0.5, y)


def latent_factor(factors, y=None):
    t = half("t", 5)
    observed([factors[0], factors[1] * t[None]], [half("s", 4), jnp.ones(5)], 0.5, y)


def varying_noise(factors, y=None):
    with numpyro.plate("snapshot", 2):
        noise = numpyro.sample("noise", dist.HalfNormal(1.0))
        observed(factors, [jnp.ones(4), jnp.ones(5)], noise, jnp.stack([y, y]))


def varying_variances(factors, y=None):
    with numpyro.plate("snapshot", 2):
        s = numpyro.sample("s", dist.HalfNormal(1.0).expand([4]).to_event(1))
        observed(factors, [s, jnp.ones(5)], 0.5, jnp.stack([y, y]))


def shared_coefficients(factors, y=None):
    x = numpyro.sample("x", KroneckerNormal([half("s", 4), half("t", 5)]))
    with numpyro.plate("snapshot", 2):
        numpyro.sample("y", KroneckerLinear(factors, x, 0.5), obs=jnp.stack([y, y]))


REFUSED = {
    "no Kronecker site": (ordinary_likelihood, "no observed site is a KroneckerLinear"),
    "prior of coefficients": (ordinary_coefficients, "'x' are Normal, not KroneckerNormal"),
    "prior": (lognormal, "'s' is LogNormal; priors of .* are ImproperUniform, Gamma"),
    "improper on reals": (improper_real, r"'s' is ImproperUniform; .*on positive numbers"),
    "hyperprior": (hyperprior, "the prior of 's' depends on latent sites"),
    "another latent site": (other_latent, "latent site 'extra' is neither"),
    "another observed site": (other_observed, "another observed site, 'z'"),
    "factor": (factor, "'more' is a numpyro.factor"),
    "scaled": (scaled, "'y' is scaled"),
    "scaled prior": (scaled_prior, "'s' is scaled"),
    "masked": (masked, r"'y' is masked by numpyro; KroneckerLinear\(\.\.\., mask=\)"),
    "changed on the way": (doubled, "coefficients of 'y' are not the value of a latent site"),
    "used twice": (twice, "'s' is both variances 0 and variances 1"),
    "discrete": (discrete, "'z' is Bernoulli"),
    "noise of two sites": (two_noises, "the noise is computed from latent sites"),
    "squared noise": (squared_noise, "the noise is computed from latent sites"),
    "computed variances": (exponentials, "variances 0 are computed|'s' is Normal"),
    "latent factor": (latent_factor, "factor 1 depends on latent sites"),
    "noise by snapshot": (varying_noise, r"noise has shape \(2,\), which is not one number"),
    "variances by snapshot": (varying_variances, r"variances 0 have shape \(2, 4\)"),
    "shared coefficients": (shared_coefficients, "'y' has other snapshots than 'x'"),
}


@pytest.mark.parametrize(("program", "reason"), REFUSED.values(), ids=REFUSED)
def test_other_programs_are_refused_with_the_reason(program, reason):
    """And with methods that take them; the others still fit, and "auto" takes one of those."""
    problem = bind(program)
    with computing(), pytest.raises(bayes.UnsupportedModelError, match=reason) as caught:
        bayes.KroneckerSBL().check(problem)
    assert str(caught.value).endswith("method='nuts' and method='vi' take any program")
    with computing():
        assert "kronecker_sbl" not in fitting_methods(problem)


@pytest.mark.filterwarnings("ignore::bayes.DataWarning")
def test_observations_that_are_all_zero_are_refused():
    """They have no scale; given variances need none."""
    with pytest.raises(bayes.UnsupportedModelError, match="all of 'y' is zero"):
        read(sparse, {**DATA, "y": np.zeros((3, 4))})

    def given(factors, y=None):
        observed(factors, [jnp.ones(4), jnp.ones(5)], 0.5, y)

    with pytest.warns(bayes.ConvergenceWarning, match="no variance"):
        post = bayes.fit(given, {**DATA, "y": np.zeros((3, 4))}, "kronecker_sbl")
    assert np.all(post.moments("x")["mean"] == 0)
    assert np.all(post.moments("x")["sd"] > 0)


def test_fit_refuses_before_anything_is_done():
    with pytest.raises(bayes.UnsupportedModelError, match="no observed site is a KroneckerLinear"):
        bayes.fit(schools, SCHOOLS_DATA, "kronecker_sbl")


# ----------------------------------------------------------------------- who picks it


def test_auto_picks_it_and_says_why():
    problem = sparse_problem(0)
    post = bayes.fit(sparse, problem.data, "auto", seed=0, refine="psis")
    assert post.method.name == "kronecker_sbl"
    assert post.method.reason.startswith("auto: kronecker_sbl solves the structure of this model")
    assert post.method.reason.endswith("there is nothing to refine")
    other = bayes.fit(normal_mean, {"n": 3, "y": np.arange(3.0)}, "auto", seed=0)
    assert other.method.name == "nuts"


def test_it_is_among_the_methods_that_fit():
    problem = bind(sparse)
    with computing():
        assert {"kronecker_sbl", "nuts"} <= set(fitting_methods(problem))


# ----------------------------------------------------------------------- what it costs


def test_nothing_of_the_size_of_the_coefficients_is_made(monkeypatch):
    """Of 4 million coefficients, 33 MB a copy, seen through 64 observations."""
    length = 160

    def program(factors, y=None):
        scales = [half(f"s_{i}", length) ** 2 for i in range(3)]
        noise = numpyro.sample("v", dist.Gamma(2.0, 2.0)) ** 0.5
        observed([2.0 * f for f in factors], scales, noise, y)

    rng = np.random.default_rng(0)
    data = {
        "factors": [rng.normal(size=(4, length)) for _ in range(3)],
        "y": rng.normal(size=(4, 4, 4)),
    }
    problem = bind(program, data)
    made = []

    def evaluate(steps, known):
        before = set(known)
        recognition_evaluate(steps, known)
        made.extend(np.size(known[name]) for name in set(known) - before)

    recognition_evaluate = recognition.evaluate
    monkeypatch.setattr(recognition, "evaluate", evaluate)
    tracemalloc.start()
    try:
        with computing():
            found = recognise(problem)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found.sizes == (length,) * 3
    np.testing.assert_array_equal(found.factors[0], 2.0 * data["factors"][0])
    assert made
    assert max(made) <= 4 * length  # a factor
    assert peak < 8e6


def test_a_program_is_read_once():
    problem = bind(sparse)
    with computing():
        assert recognise(problem) is recognise(problem)
