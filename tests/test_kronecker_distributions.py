"""Kronecker distributions beside dense normals, under NumPyro's handlers and under bayes."""

import functools
import itertools
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.test_util import check_grads
from numpyro import handlers
from numpyro.infer import SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from scipy.stats import multivariate_normal

import bayes
from bayes.data import Data, Signature
from bayes.distributions import (
    ComplexKroneckerLinear,
    ComplexKroneckerNormal,
    KroneckerLinear,
    KroneckerNormal,
    as_pairs,
    from_pairs,
)
from bayes.distributions.products import cheapest_order, contract, mode_products, scale_modes
from bayes.reading import Reading, read_program
from bayes.tracing import Traced

SHAPES = [
    [(4, 5)],
    [(5, 3), (2, 4)],
    [(2, 2), (1, 3), (4, 3)],
    [(2, 3), (3, 2), (1, 2), (2, 2)],
]
EACH_SHAPE = pytest.mark.parametrize("shapes", SHAPES, ids=["I=1", "I=2", "I=3", "I=4"])
EACH_FIELD = pytest.mark.parametrize("pairs", [False, True], ids=["real", "complex"])


@pytest.fixture(autouse=True)
def _in_double_precision():
    with jax.enable_x64(True):
        yield


# Compiled whole and without optimisation: what runs once takes longer to compile than to run.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
log_prob = compiled(lambda fn, value: fn.log_prob(value))
mean_and_variance = compiled(lambda fn: (fn.mean, fn.variance))
draws_of = compiled(lambda fn, key, shape: fn.sample(key, shape), static_argnums=2)


def kron(matrices):
    return functools.reduce(np.kron, matrices)


def numbers(rng, shape, pairs):
    z = rng.normal(size=shape)
    return z + 1j * rng.normal(size=shape) if pairs else z


def stored(z, pairs):
    return as_pairs(z) if pairs else z


def some_factors(rng, shapes, pairs=False):
    return [numbers(rng, shape, pairs) for shape in shapes]


def prior_class(pairs):
    return ComplexKroneckerNormal if pairs else KroneckerNormal


def linear_class(pairs):
    return ComplexKroneckerLinear if pairs else KroneckerLinear


def dense_log_prob(value, mean, variance, pairs):
    """Log density of flat numbers of a diagonal covariance; each part has half of a variance."""
    value, mean = (np.ravel(stored(v, pairs)) for v in (value, mean))
    variance = np.repeat(variance / 2, 2) if pairs else variance
    return multivariate_normal.logpdf(value, mean, np.diag(variance))


class TestPrior:
    @EACH_FIELD
    @EACH_SHAPE
    @pytest.mark.parametrize("blocks", [False, True])
    def test_log_prob_is_the_dense_one(self, shapes, pairs, blocks, rng):
        """To rounding; with operators on every other mode."""
        sizes = [n for _, n in shapes]
        variances = [np.exp(rng.normal(size=n)) for n in sizes]
        relevances, operators = list(variances), None
        if blocks:
            operators = [None] * len(sizes)
            for i in range(0, len(sizes), 2):
                operators[i] = rng.uniform(size=(sizes[i], sizes[i] + 1))
                variances[i] = np.exp(rng.normal(size=sizes[i] + 1))
                relevances[i] = operators[i] @ variances[i]
        fn = prior_class(pairs)(variances, operators)
        x = numbers(rng, sizes, pairs)
        found = log_prob(fn, stored(x, pairs))
        gamma = kron(relevances)
        assert found.shape == fn.batch_shape == ()
        np.testing.assert_allclose(found, dense_log_prob(x, 0 * x, gamma, pairs), rtol=1e-12)
        mean, variance = mean_and_variance(fn)
        expected = np.repeat(gamma / 2, 2) if pairs else gamma
        np.testing.assert_allclose(np.ravel(variance), expected, rtol=1e-12)
        assert np.shape(mean) == fn.event_shape == ((*sizes, 2) if pairs else tuple(sizes))
        for one, other in zip(fn.relevances, relevances, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-14)

    @EACH_FIELD
    def test_batch_is_several_of_them(self, pairs, rng):
        """Leading dimensions of variances, operators and values broadcast as a loop does."""
        first, second = np.exp(rng.normal(size=(3, 1, 4))), np.exp(rng.normal(size=(2, 5)))
        operator = rng.uniform(size=(6, 5))
        kind = prior_class(pairs)
        fn = kind([first, second], [None, operator])
        assert fn.batch_shape == (3, 2)
        x = stored(numbers(rng, (4, 3, 2, 4, 6), pairs), pairs)
        found, variance = log_prob(fn, x), mean_and_variance(fn)[1]
        assert found.shape == (4, 3, 2)
        for s, i, j in np.ndindex(4, 3, 2):
            alone = kind([first[i, 0], second[j]], [None, operator])
            np.testing.assert_allclose(found[s, i, j], log_prob(alone, x[s, i, j]), rtol=1e-12)
            np.testing.assert_allclose(variance[i, j], mean_and_variance(alone)[1], rtol=1e-12)
        one = x[0, 0, 0]  # a value without the batch stands for all of it
        np.testing.assert_allclose(log_prob(fn, one), log_prob(fn, np.stack([[one] * 2] * 3)))

    @EACH_FIELD
    def test_draws_have_the_moments(self, pairs, rng):
        """Means and covariances within 5 standard errors: a false alarm in 10 000."""
        g = [np.exp(rng.normal(size=n)) for n in (2, 3)]
        fn = prior_class(pairs)(g)
        draws = draws_of(fn, jax.random.key(1), (20_000,))
        assert draws.shape == (20_000, *fn.event_shape)
        assert_moments(draws, *mean_and_variance(fn))

    def test_draws_of_a_batch(self):
        fn = KroneckerNormal([np.array([[1e-8], [1e8]]), np.ones(5)])
        draws = draws_of(fn, jax.random.key(0), (4,))
        assert draws.shape == (4, 2, 1, 5)
        sizes = np.abs(draws).max(axis=(0, 2, 3))
        assert sizes[0] < 1e-3 < 1e3 < sizes[1]

    def test_no_array_is_larger_than_the_value(self):
        sizes = (20, 30, 40)
        jaxpr = jax.make_jaxpr(lambda v, x: KroneckerNormal(v).log_prob(x))(
            [np.ones(n) for n in sizes], np.ones(sizes)
        )
        assert largest(jaxpr.jaxpr) == math.prod(sizes)


def largest(jaxpr):
    """Elements of the largest array that a program computes."""
    found = 0
    for equation in jaxpr.eqns:
        found = max([found, *(math.prod(v.aval.shape) for v in equation.outvars)])
        inner = [p.jaxpr for p in equation.params.values() if hasattr(p, "jaxpr")]
        found = max([found, *map(largest, inner)])
    return found


def assert_moments(draws, mean, variance):
    """Draws of independent elements beside their means and variances."""
    draws = np.asarray(draws).reshape(len(draws), -1)
    sd = np.sqrt(np.ravel(variance))
    z = (draws - np.ravel(mean)) / sd
    count, d = z.shape
    assert np.abs(z.mean(0)).max() * np.sqrt(count) < 5
    errors = (z.T @ z / count - np.eye(d)) / np.sqrt((1 + np.eye(d)) / count)
    assert np.abs(errors).max() < 5


class TestLikelihood:
    @EACH_FIELD
    @EACH_SHAPE
    @pytest.mark.parametrize("masked", [False, True])
    def test_log_prob_is_the_dense_one(self, shapes, pairs, masked, rng):
        """To rounding; entries that are masked are NaN and are left out of the dense normal."""
        factors = some_factors(rng, shapes, pairs)
        rows, columns = zip(*shapes, strict=True)
        x, y, noise = numbers(rng, columns, pairs), numbers(rng, rows, pairs), 0.7
        seen = rng.uniform(size=rows) < 0.6 if masked else np.ones(rows, bool)
        mean = kron(factors) @ x.ravel()
        fn = linear_class(pairs)(factors, stored(x, pairs), noise, seen if masked else None)
        y[~seen] = np.nan
        found = log_prob(fn, stored(y, pairs))
        kept = seen.ravel()
        variance = np.full(kept.sum(), noise**2)
        expected = dense_log_prob(y.ravel()[kept], mean[kept], variance, pairs)
        assert found.shape == fn.batch_shape == ()
        np.testing.assert_allclose(found, expected, rtol=1e-11)
        own_mean, own_variance = mean_and_variance(fn)
        np.testing.assert_allclose(np.ravel(own_mean), np.ravel(stored(mean, pairs)), atol=1e-12)
        np.testing.assert_allclose(own_variance, noise**2 / (2 if pairs else 1))
        assert own_variance.shape == fn.event_shape

    def test_real_factors_of_complex_numbers(self, rng):
        factors = some_factors(rng, [(3, 2), (2, 4)])
        x = numbers(rng, (2, 4), True)
        whole = [f + 0j for f in factors]
        real, whole = (
            mean_and_variance(ComplexKroneckerLinear(f, as_pairs(x), 1.0))[0]
            for f in (factors, whole)
        )
        np.testing.assert_allclose(real, whole, atol=1e-14)
        np.testing.assert_allclose(from_pairs(real), factors[0] @ x @ factors[1].T, atol=1e-14)

    @EACH_FIELD
    @pytest.mark.parametrize("own_mask", [False, True])
    def test_batch_is_several_of_them(self, pairs, own_mask, rng):
        """Snapshots with noise of their own, and one mask for all or one for each."""
        factors = some_factors(rng, [(3, 2), (2, 4)], pairs)
        kind = linear_class(pairs)
        x, noise = stored(numbers(rng, (5, 2, 4), pairs), pairs), np.exp(rng.normal(size=5))
        seen = rng.uniform(size=(5, 3, 2) if own_mask else (3, 2)) < 0.5
        fn = kind(factors, x, noise, seen)
        assert fn.batch_shape == (5,)
        y = numbers(rng, (6, 5, 3, 2), pairs)
        y[np.broadcast_to(~seen, y.shape)] = np.nan
        y = stored(y, pairs)
        found = log_prob(fn, y)
        assert found.shape == (6, 5)
        for s, i in np.ndindex(6, 5):
            alone = kind(factors, x[i], noise[i], seen[i] if own_mask else seen)
            np.testing.assert_allclose(found[s, i], log_prob(alone, y[s, i]), rtol=1e-12)

    @EACH_FIELD
    def test_draws_have_the_moments(self, pairs, rng):
        """As the prior's do, masked entries too: a false alarm in 10 000."""
        factors = some_factors(rng, [(3, 2), (2, 4)], pairs)
        x = stored(numbers(rng, (2, 4), pairs), pairs)
        fn = linear_class(pairs)(factors, x, 0.3, np.arange(6).reshape(3, 2) > 2)
        draws = draws_of(fn, jax.random.key(2), (20_000,))
        assert_moments(draws, *mean_and_variance(fn))

    def test_draws_of_a_batch_have_its_noise(self, rng):
        factors = some_factors(rng, [(30, 2)])
        fn = KroneckerLinear(factors, np.zeros((4, 1, 2)), np.array([1e-6, 1e6]))
        draws = draws_of(fn, jax.random.key(0), (3,))
        assert draws.shape == (3, 4, 2, 30)
        sizes = np.abs(draws).max(axis=(0, 1, 3))
        assert sizes[0] < 1e-4 < 1e4 < sizes[1]

    def test_the_kronecker_product_is_never_formed(self):
        shapes = [(6, 10), (7, 12), (5, 9)]
        rows, columns = zip(*shapes, strict=True)
        jaxpr = jax.make_jaxpr(lambda h, x, y: KroneckerLinear(h, x, 1.0).log_prob(y))(
            [np.ones(s) for s in shapes], np.ones(columns), np.ones(rows)
        )
        assert largest(jaxpr.jaxpr) <= math.prod(columns)


class TestGradients:
    """By finite differences along random directions, to 1e-6."""

    @EACH_FIELD
    def test_of_the_prior(self, pairs, rng):
        v, operator = [np.exp(rng.normal(size=n)) for n in (2, 3)], rng.uniform(size=(4, 3))
        x = stored(numbers(rng, (2, 4), pairs), pairs)
        kind = prior_class(pairs)
        density = compiled(lambda *a: kind(a[:2], [None, operator]).log_prob(a[2]))
        check_grads(density, (*v, x), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)

    @EACH_FIELD
    def test_of_the_likelihood_with_missing_entries(self, pairs, rng):
        """Also the gradient in the value is finite: 0 where it is masked."""
        factors = some_factors(rng, [(3, 2), (2, 4)], pairs)
        x, y = (numbers(rng, shape, pairs) for shape in ((2, 4), (3, 2)))
        seen = np.array([[True, False], [True, True], [False, True]])
        y[~seen] = np.nan
        x, y = stored(x, pairs), stored(y, pairs)
        kind = linear_class(pairs)

        @compiled
        def density(x, noise, scale):
            return kind([scale * factors[0], factors[1]], x, noise, seen).log_prob(y)

        check_grads(density, (x, 0.6, 1.3), order=1, modes=["rev"], atol=1e-6, rtol=1e-6)
        fn = kind(factors, x, 0.6, seen)
        slope = np.asarray(compiled(jax.grad(fn.log_prob))(y))
        assert np.all(slope[~seen] == 0)
        assert np.all(slope[seen] != 0)


class TestUnderTransformations:
    def test_under_jit_and_vmap(self, rng):
        """What jit and vmap give is what a loop gives."""
        factors = some_factors(rng, [(3, 2), (2, 4)])
        v, x = np.exp(rng.normal(size=(6, 4))), rng.normal(size=(6, 2, 4))
        y = rng.normal(size=(3, 2))

        def density(v, x):
            prior = KroneckerNormal([np.ones(2), v]).log_prob(x)
            return prior + KroneckerLinear(factors, x, 0.5).log_prob(y)

        found, one = compiled(jax.vmap(density))(v, x), compiled(density)
        np.testing.assert_allclose(
            found, [one(*both) for both in zip(v, x, strict=True)], rtol=1e-12
        )
        draw = compiled(lambda k, v: KroneckerNormal([np.ones(2), v]).sample(k))
        keys = jax.random.split(jax.random.key(0), 6)
        alone = [draw(*both) for both in zip(keys, v, strict=True)]
        np.testing.assert_allclose(jax.vmap(draw)(keys, v), alone, rtol=1e-12)

    def test_made_under_one_vmap_and_used_under_another(self, rng):
        v, x = np.exp(rng.normal(size=(6, 4))), rng.normal(size=(6, 4))
        fns = jax.vmap(lambda v: KroneckerNormal([v]))(v)
        found = jax.vmap(lambda fn, x: fn.log_prob(x))(fns, x)
        np.testing.assert_allclose(found, dist.Normal(0, np.sqrt(v)).log_prob(x).sum(-1))


def distributions(rng):
    """One of each, with and without what is optional."""
    seen = np.array([[True, False], [True, True], [False, True]])
    x, v = rng.normal(size=(2, 4)), [np.ones(2), np.full(3, 2.0)]
    found = []
    for pairs in (False, True):
        factors = some_factors(rng, [(3, 2), (2, 4)], pairs)
        prior, linear = prior_class(pairs), linear_class(pairs)
        coef = stored(x + 0j, pairs) if pairs else x
        found += [prior(v), prior(v, [None, np.ones((4, 3))])]
        found += [linear(factors, coef, 0.5), linear(tuple(factors), coef, np.ones(3), seen)]
    return found


@pytest.mark.parametrize("index", range(8))
class TestAsNumPyroDistributions:
    def test_round_trip_through_leaves(self, index, rng):
        fn = distributions(rng)[index]
        leaves, structure = jax.tree.flatten(fn)
        back = jax.tree.unflatten(structure, leaves)
        assert type(back) is type(fn)
        for name, value in vars(fn).items():
            one, other = jax.tree.leaves(value), jax.tree.leaves(vars(back)[name])
            assert all(a is b for a, b in zip(one, other, strict=True)), name
        value = np.ones(fn.event_shape)
        np.testing.assert_array_equal(log_prob(fn, value), log_prob(back, value))

    def test_support_and_supported_values(self, index, rng):
        fn = distributions(rng)[index]
        assert fn.support.event_dim == fn.event_dim
        assert bool(fn.support(np.zeros(fn.event_shape)))
        assert fn.has_rsample


@pytest.mark.parametrize("index", [1, 3, 5, 7])
def test_masked_expanded_and_joined(index, rng):
    fn = distributions(rng)[index]
    value = rng.normal(size=fn.event_shape)
    own = log_prob(fn, value)
    wide = fn.expand((4, *fn.batch_shape))
    draws = jax.eval_shape(lambda k: wide.sample(k, (2,)), jax.random.key(0))
    assert draws.shape == (2, 4, *fn.batch_shape, *fn.event_shape)
    values = np.broadcast_to(value, wide.shape())
    np.testing.assert_allclose(log_prob(wide, values), np.broadcast_to(own, wide.batch_shape))
    joint = wide.to_event()
    assert joint.event_dim == fn.event_dim + 1 + len(fn.batch_shape)
    np.testing.assert_allclose(log_prob(joint, values), 4 * own.sum(), rtol=1e-12)
    assert np.all(log_prob(fn.mask(False), value) == 0)


def test_validation_does_not_look_at_masked_entries(rng):
    seen, y = np.array([True, False]), np.array([1.0, np.nan])
    fn = KroneckerLinear([np.ones((2, 1))], np.ones(1), 1.0, seen, validate_args=True)
    assert np.isfinite(fn.log_prob(y))
    whole = KroneckerLinear([np.ones((2, 1))], np.ones(1), 1.0, validate_args=True)
    with pytest.warns(UserWarning, match="Out-of-support"):
        assert whole.log_prob(y) == -np.inf


# ------------------------------------------------------------------- programs


def sparse(factors, y=None):
    scales = [
        numpyro.sample(f"gamma_{i}", dist.HalfCauchy(1.0).expand([h.shape[1]]).to_event(1))
        for i, h in enumerate(factors)
    ]
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    x = numpyro.sample("x", KroneckerNormal(scales))
    numpyro.sample("y", KroneckerLinear(factors, x, noise), obs=y)


def complex_sparse(factors, y=None):
    scales = [
        numpyro.sample(f"gamma_{i}", dist.HalfCauchy(1.0).expand([h.shape[1]]).to_event(1))
        for i, h in enumerate(factors)
    ]
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    x = numpyro.sample("x", ComplexKroneckerNormal(scales))
    numpyro.sample("y", ComplexKroneckerLinear(factors, x, noise), obs=as_pairs(y))


def snapshots(factors, count, y=None):
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    gamma = numpyro.sample("gamma", dist.HalfCauchy(1.0).expand([4]).to_event(1))
    with numpyro.plate("snapshot", count):
        x = numpyro.sample("x", KroneckerNormal([np.ones(3), gamma]))
        seen = None if y is None else ~jnp.isnan(y)
        numpyro.sample("y", KroneckerLinear(factors, x, noise, seen), obs=y)


def data_of(program):
    rng = np.random.default_rng(3)
    pairs = program is complex_sparse
    shape = (5, 4, 2) if program is snapshots else (4, 2)
    y = numbers(rng, shape, pairs)
    data = {"factors": some_factors(rng, [(4, 3), (2, 4)], pairs), "y": y}
    if program is snapshots:
        y[2, 1, 0] = np.nan
        data["count"] = 5
    return data


def traced(program, data):
    """A trace of a program, of abstract values, so that nothing is compiled."""
    found = {}

    def run(key):
        with jax.numpy_rank_promotion("allow"):
            seeded = handlers.seed(program, key)
            found.update(handlers.trace(seeded).get_trace(**data))

    jax.eval_shape(run, jax.random.key(0))
    return found


EACH_PROGRAM = pytest.mark.parametrize("program", [sparse, complex_sparse, snapshots])


@EACH_PROGRAM
class TestPrograms:
    def test_arguments_are_the_values_of_other_sites(self, program):
        """By identity, which is how a solver recognises the model."""
        trace = traced(program, data_of(program))
        prior, linear = trace["x"]["fn"], trace["y"]["fn"]
        if program is snapshots:
            prior = prior.base_dist
            assert prior.variances[1] is trace["gamma"]["value"]
        else:
            for i in range(2):
                assert prior.variances[i] is trace[f"gamma_{i}"]["value"]
        assert linear.coef is trace["x"]["value"]
        assert linear.noise is trace["noise"]["value"]

    def test_it_is_read_without_being_run(self, program):
        """And what is read keeps the identities."""
        data = Data.read(data_of(program), Signature.of(program))
        Traced(program, data)
        reading = read_program(program, data)
        assert type(reading) is not Reading
        trace = reading.trace(0)
        assert trace["y"]["fn"].coef is trace["x"]["value"]
        assert trace["y"]["fn"].noise is trace["noise"]["value"]
        with jax.numpy_rank_promotion("allow"):
            written = Reading(program, data).trace(0)
            for name in ("x", "y"):
                one, other = (log_prob(t[name]["fn"], t[name]["value"]) for t in (trace, written))
                np.testing.assert_allclose(one, other, rtol=1e-9)

    def test_prior_draws(self, program):
        draws = bayes.Model(program).bind(data_of(program)).prior(5)
        lead, trail = ((5,), ()) if program is snapshots else ((), ())
        if program is complex_sparse:
            trail = (2,)
        assert draws["x"].shape == (5, *lead, 3, 4, *trail)
        assert draws["y"].shape == (5, *lead, 4, 2, *trail)
        assert all(np.isfinite(v).all() for v in draws.values())


FITS = [
    (sparse, "vi"),
    *[(p, bayes.NUTS(chains=2, warmup=100, draws=50)) for p in (sparse, complex_sparse, snapshots)],
]


@pytest.mark.parametrize(("program", "method"), FITS)
def test_it_is_fitted(program, method):
    """Draws are finite and move, whatever the short run's verdict is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bayes.ConvergenceWarning)
        post = bayes.fit(program, data_of(program), method=method, seed=0)
    draws = post.data["posterior"]
    assert all(np.isfinite(v).all() for v in draws.values())
    assert np.ptp(draws["x"].values, axis=1).min() > 0


def test_under_numpyros_own_inference(key):
    """Stochastic variational inference with missing data, and prior predictive draws."""
    data = data_of(snapshots)
    unseen = {name: v for name, v in data.items() if name != "y"}
    with jax.numpy_rank_promotion("allow"):
        svi = SVI(snapshots, AutoNormal(snapshots), numpyro.optim.Adam(0.01), Trace_ELBO())
        state = compiled(lambda k, y: svi.init(k, **{**data, "y": y}))(key, data["y"])
        state, loss = compiled(lambda s, y: svi.update(s, **{**data, "y": y}))(state, data["y"])
        moved = svi.get_params(state)
        predicted = Predictive(snapshots, num_samples=4)(key, **unseen)
    assert np.isfinite(loss)
    assert all(np.isfinite(v).all() for v in moved.values())
    assert predicted["y"].shape == (4, *data["y"].shape)


def test_values_are_conditioned_and_substituted():
    data, x = data_of(sparse), np.ones((3, 4))
    conditioned = handlers.condition(sparse, {"x": x})
    substituted = handlers.substitute(sparse, {"x": x})
    for program, observed in ((conditioned, True), (substituted, False)):
        trace = traced(program, data)
        assert trace["x"]["value"] is trace["y"]["fn"].coef is x
        assert trace["x"]["is_observed"] is observed


@EACH_FIELD
def test_posterior_of_known_scales_is_the_dense_one(pairs, rng):
    """4000 independent draws beside the exact normal, 5 standard errors: an alarm in 10 000."""
    factors = some_factors(rng, [(3, 2), (2, 3)], pairs)
    g, noise, y = (
        [np.array([0.5, 2.0]), np.array([1.0, 3.0, 0.2])],
        0.5,
        numbers(rng, (3, 2), pairs),
    )

    def program(factors, y=None):
        x = numpyro.sample("x", prior_class(pairs)(g))
        y = as_pairs(y) if pairs else y
        numpyro.sample("y", linear_class(pairs)(factors, x, noise), obs=y)

    post = bayes.fit(program, {"factors": factors, "y": y}, method="laplace", seed=1)
    draws = post.data["posterior"]["x"].values.reshape(4000, *((6, 2) if pairs else (6,)))
    matrix = kron(factors)
    sigma = np.linalg.inv(np.diag(1 / kron(g)) + matrix.conj().T @ matrix / noise**2)
    exact = sigma @ matrix.conj().T @ y.ravel() / noise**2
    draws = from_pairs(draws) if pairs else draws
    sd = np.sqrt(np.diagonal(sigma).real)
    # Of a complex number, the variance of the mean is shared by its parts.
    assert np.abs((draws.mean(0) - exact) / sd).max() * np.sqrt(4000) < 5
    error = (draws.T @ draws.conj() / 4000 - np.outer(exact, exact.conj()) - sigma) / np.outer(
        sd, sd
    )
    size = (1 + np.abs(exact) / sd).max()
    assert np.abs(error).max() < 5 * 2 * size * np.sqrt(2 / 4000)


# --------------------------------------------------------------------- errors


MATRIX = np.ones((8, 14))


@pytest.mark.parametrize(
    ("make", "kind", "text"),
    [
        (
            lambda: KroneckerLinear([MATRIX, MATRIX], np.ones((14, 15)), 1.0),
            bayes.ShapeError,
            r"factor 1 is \(8, 14\), but coef has 15 entries along mode 1",
        ),
        (
            lambda: KroneckerLinear([MATRIX, MATRIX], np.ones(14), 1.0),
            bayes.ShapeError,
            "2 factors, but coef has 1 modes",
        ),
        (
            lambda: KroneckerLinear([MATRIX, np.ones(14)], np.ones((14, 14)), 1.0),
            bayes.ShapeError,
            r"factor 1 has shape \(14,\); it must be a matrix",
        ),
        (
            lambda: KroneckerLinear([1j * MATRIX], np.ones(14), 1.0),
            bayes.ModelError,
            "factor 0 is complex: ComplexKroneckerLinear",
        ),
        (
            lambda: KroneckerLinear([MATRIX], 1j * np.ones(14), 1.0),
            bayes.ModelError,
            r"coef is complex: ComplexKroneckerLinear with as_pairs",
        ),
        (
            lambda: ComplexKroneckerLinear([MATRIX], 1j * np.ones(14), 1.0),
            bayes.ModelError,
            r"coef is complex: as_pairs\(coef\)",
        ),
        (
            lambda: ComplexKroneckerLinear([MATRIX], np.ones(14), 1.0),
            bayes.ShapeError,
            r"coef has shape \(14,\); real and imaginary part",
        ),
        (
            lambda: KroneckerLinear([MATRIX], np.ones(14), 1j),
            bayes.ModelError,
            "noise is complex",
        ),
        (lambda: KroneckerLinear([], np.ones(14), 1.0), bayes.ModelError, "at least one factor"),
        (
            lambda: KroneckerLinear([MATRIX], np.ones(14), 1.0, np.ones(9, bool)),
            bayes.ShapeError,
            r"mask has shape \(9,\), but the observations have \(8,\)",
        ),
        (
            lambda: KroneckerLinear([MATRIX], np.ones(14), 1.0, np.ones(8)),
            bayes.ModelError,
            "mask must be of dtype bool",
        ),
        (
            lambda: KroneckerLinear([MATRIX], np.ones((3, 14)), np.ones(2)),
            bayes.ShapeError,
            r"do not broadcast to one batch shape: \(3,\), \(2,\)",
        ),
        (
            lambda: KroneckerLinear([MATRIX], np.ones(14), 1.0).log_prob(np.ones((8, 1))),
            bayes.ShapeError,
            r"a value has shape \(8, 1\), but the event shape is \(8,\)",
        ),
        (lambda: KroneckerNormal([]), bayes.ModelError, "at least one mode"),
        (
            lambda: KroneckerNormal([np.ones(3), 2.0]),
            bayes.ShapeError,
            r"variances\[1\] is a number",
        ),
        (lambda: KroneckerNormal([1j * np.ones(3)]), bayes.ModelError, "variances are positive"),
        (
            lambda: KroneckerNormal([np.ones(3)], [None, None]),
            bayes.ShapeError,
            "2 operators for 1 variances",
        ),
        (
            lambda: KroneckerNormal([np.ones(3), np.ones(2)], [None, np.ones((4, 3))]),
            bayes.ShapeError,
            r"operator 1 has shape \(4, 3\), but variances\[1\] has 2 entries",
        ),
        (
            lambda: KroneckerNormal([np.ones(3)]).log_prob(np.ones((3, 1))),
            bayes.ShapeError,
            "a value has shape",
        ),
        (
            lambda: KroneckerNormal([np.array([1.0, -1.0])], validate_args=True),
            ValueError,
            "invalid variances parameter",
        ),
        (
            lambda: KroneckerNormal([np.ones(2)], [-np.eye(2)], validate_args=True),
            ValueError,
            "invalid operators parameter",
        ),
        (
            lambda: KroneckerLinear([MATRIX], np.ones(14), -1.0, validate_args=True),
            ValueError,
            "invalid noise parameter",
        ),
        (lambda: from_pairs(np.ones((2, 3))), bayes.ShapeError, r"shape \(\.\.\., 2\)"),
    ],
)
def test_what_does_not_fit_is_refused(make, kind, text):
    with pytest.raises(kind, match=text):
        make()


def test_framework_names_what_does_not_fit():
    def program(factors, y=None):
        x = numpyro.sample("x", KroneckerNormal([np.ones(3), np.ones(5)]))
        numpyro.sample("y", KroneckerLinear(factors, x, 1.0), obs=y)

    with pytest.raises(bayes.ShapeError, match=r"factor 1 is \(2, 4\), but coef has 5 entries"):
        bayes.Model(program).bind(data_of(sparse))


def test_framework_names_a_noise_that_is_not_positive():
    def program(factors, y=None):
        x = numpyro.sample("x", KroneckerNormal([np.ones(3), np.ones(4)]))
        numpyro.sample("y", KroneckerLinear(factors, x, -1.0), obs=y)

    with pytest.raises(bayes.ModelError, match="'noise' of KroneckerLinear is invalid"):
        bayes.Model(program).bind(data_of(sparse))


# ---------------------------------------------------------------- what is below


class TestPairs:
    @pytest.mark.parametrize("module", [np, jnp])
    def test_there_and_back(self, module, rng):
        z = module.asarray(numbers(rng, (3, 2), True))
        pairs = as_pairs(z)
        assert isinstance(pairs, jax.Array) == (module is jnp)
        assert pairs.shape == (3, 2, 2)
        assert pairs.dtype == np.float64
        assert isinstance(from_pairs(pairs), jax.Array) == (module is jnp)
        np.testing.assert_array_equal(from_pairs(pairs), z)

    @pytest.mark.parametrize("module", [np, jnp])
    @pytest.mark.parametrize("dtype", ["int64", "float64", "float32"])
    def test_real_numbers_have_no_imaginary_part(self, module, dtype):
        pairs = as_pairs(module.arange(3).astype(dtype))
        np.testing.assert_array_equal(pairs, [[0, 0], [1, 0], [2, 0]])
        assert pairs.dtype == ("float32" if dtype == "float32" else "float64")

    def test_nothing_stays_nothing(self):
        assert as_pairs(None) is None
        assert from_pairs(None) is None

    def test_under_jit(self):
        z = np.array([1 + 2j, 3.0])
        np.testing.assert_array_equal(compiled(lambda z: from_pairs(2 * as_pairs(z)))(z), 2 * z)


class TestProducts:
    @EACH_SHAPE
    @pytest.mark.parametrize("trailing", [0, 2])
    def test_products_are_those_of_the_dense_matrix(self, shapes, trailing, rng):
        factors = some_factors(rng, shapes)
        columns, rows = [n for _, n in shapes], [m for m, _ in shapes]
        x = rng.normal(size=(3, *columns, *range(2, 2 + trailing)))
        found = compiled(mode_products, static_argnums=2)(x, factors, trailing)
        assert found.shape == (3, *rows, *x.shape[1 + len(shapes) :])
        flat = x.reshape(3, math.prod(columns), -1)
        np.testing.assert_allclose(found.reshape(3, math.prod(rows), -1), kron(factors) @ flat)

    @EACH_SHAPE
    def test_sums_and_scales_are_those_of_the_outer_product(self, shapes, rng):
        sizes = [n for _, n in shapes]
        x, weights = rng.normal(size=(3, *sizes)), [rng.normal(size=n) for n in sizes]
        whole = kron(weights).reshape(sizes)
        expected = (x * whole).sum(tuple(range(1, x.ndim)))
        both = compiled(lambda x, w: (contract(x, w), scale_modes(x[..., None], w, 1)[..., 0]))
        found = both(x, weights)
        np.testing.assert_allclose(found[0], expected, atol=1e-13)
        np.testing.assert_allclose(found[1], x * whole)

    @pytest.mark.parametrize("seed", range(20))
    def test_no_order_is_cheaper(self, seed):
        """Beside all orders of four random matrices."""
        rng = np.random.default_rng(seed)
        shapes = [tuple(rng.integers(1, 12, size=2).tolist()) for _ in range(4)]

        def cost(order):
            sizes, total = [n for _, n in shapes], 0
            for mode in order:
                total += math.prod(sizes) * shapes[mode][0]
                sizes[mode] = shapes[mode][0]
            return total

        assert cost(cheapest_order(shapes)) == min(map(cost, itertools.permutations(range(4))))
