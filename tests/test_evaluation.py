"""Traced programs evaluated with NumPy give what JAX gives."""

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import lax

from bayes import threefry
from bayes.evaluation import interpreter
from bayes.evaluation.indexing import OutOfBounds
from bayes.evaluation.interpreter import Unsuitable, evaluate

X = np.random.default_rng(0).normal(size=(3, 4))
V = np.array([-2.5, -1.0, -0.5, 0.0, 0.5, 1.5, 2.5])
U = np.array([0.1, 0.3, 0.5, 0.9])
INTEGERS = np.array([-7, -3, -1, 2, 5, 9])
SPD = X @ X.T + np.eye(3)


def by_numpy(fn, *inputs):
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        closed = jax.make_jaxpr(fn)(*inputs)
        return evaluate(closed.jaxpr, closed.consts, jax.tree.leaves(inputs))


def by_jax(fn, *inputs):
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        return [np.asarray(v) for v in jax.tree.leaves(jax.jit(fn)(*inputs))]


def assert_same(fn, *inputs):
    found, exact = by_numpy(fn, *inputs), by_jax(fn, *inputs)
    assert len(found) == len(exact)
    for a, b in zip(found, exact, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.fixture
def nothing_compiled(monkeypatch):
    """Fails a test in which a primitive is left to JAX."""

    def refuse(equation, inputs):
        raise AssertionError(f"NumPy lacks {equation.primitive.name}")

    monkeypatch.setattr(interpreter, "_compiled", refuse)


ELEMENTWISE = {
    "trigonometric": lambda x: [jnp.sin(x), jnp.cos(x), jnp.tan(x), jnp.arctan(x), jnp.sinh(x)],
    "inverse": lambda x: [jnp.arcsin(x / 9), jnp.arccosh(1 + x**2), jnp.arctanh(x / 9)],
    "exponential": lambda x: [jnp.exp(x), jnp.expm1(x), jnp.exp2(x), jnp.log1p(x**2), jnp.cbrt(x)],
    "logarithms": lambda x: [jnp.log(x), jnp.log(jnp.abs(x) + 1), jnp.logaddexp(x, 1.0)],
    "sigmoid": lambda x: [jax.nn.sigmoid(x), jax.nn.softplus(x), jnp.tanh(x)],
    "roots": lambda x: [jnp.sqrt(x), lax.rsqrt(x**2 + 1), jnp.square(x), x**3, x**-2, x**2.5],
    "rounding": lambda x: [jnp.round(x), jnp.floor(x), jnp.ceil(x), lax.round(x), jnp.sign(x)],
    "gamma": lambda x: [jsp.special.gammaln(x**2 + 1), jsp.special.digamma(x**2 + 1)],
    "incomplete": lambda x: [jsp.special.gammainc(2.0, x**2), jsp.special.betainc(2.0, 3.0, x / 5)],
    "error": lambda x: [jsp.special.erf(x), jsp.special.erfc(x), jsp.special.erfinv(x / 3)],
    "bessel": lambda x: [jsp.special.i0e(x), jsp.special.i1e(x)],
    "normal": lambda x: [jsp.stats.norm.logcdf(x), jsp.special.ndtri(x / 9 + 0.4)],
    "selection": lambda x: [jnp.where(x > 0, x, -x), jnp.clip(x, -1, 1), jnp.maximum(x, 0.5)],
    "comparison": lambda x: [x > 0, x <= 1.5, jnp.isfinite(1 / x), jnp.isnan(jnp.log(x)), x != 0],
    "conversion": lambda x: [(10 * x).astype(int), x.astype("float32"), jnp.log(x).astype(int)],
    "remainder": lambda x: [x % 2, jnp.fmod(x, 2.0), lax.rem(x, 2.0), jnp.arctan2(x, 2.0)],
    "overflow": lambda x: [(x * 1e300).astype("int32"), (x * 1e300).astype("uint8")],
    "complex": lambda x: [jnp.abs(lax.complex(x, 2 * x)), jnp.real(jnp.conj(x + 1j * x))],
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_functions(name, nothing_compiled):
    assert_same(ELEMENTWISE[name], V)


@pytest.mark.parametrize(
    "fn",
    [
        lambda i: [i // 2, i % 4, lax.div(i, 2), lax.rem(i, 4), -i, abs(i), i**2],
        lambda i: [i & 3, i | 8, i ^ 5, ~i, i << 2, i >> 1, lax.shift_right_logical(i, 3)],
        lambda i: [i > 0, ~(i > 0), (i > 0) & (i < 6), i.astype(bool), i.astype(float) / 3],
        lambda i: [jnp.sum(i), jnp.prod(i), jnp.max(i), jnp.argmin(i), jnp.cumsum(i), jnp.sort(i)],
        lambda i: jax.nn.one_hot(jnp.abs(i) % 4, 4),
    ],
)
def test_whole_numbers(fn, nothing_compiled):
    assert_same(fn, INTEGERS)


SHAPES = {
    "reshape": lambda x: [x.reshape(2, 6), x.T, x[None], x.ravel(), jnp.squeeze(x[:1])],
    "slices": lambda x: [x[1:], x[::2, ::-1], x[..., 1], jnp.flip(x), jnp.roll(x, 1)],
    "joined": lambda x: [jnp.concatenate([x, x]), jnp.stack([x, 2 * x], 1), jnp.tile(x, (2, 1))],
    "padded": lambda x: [jnp.pad(x, 1), lax.pad(x, 7.0, [(1, 0, 1), (0, 2, 2)])],
    "made": lambda x: [jnp.arange(4.0) + x, jnp.eye(3) @ x, jnp.zeros(3), jnp.linspace(0, 1, 5)],
    "split": lambda x: [*jnp.split(x, 2, axis=1), *jnp.unstack(x)],
    "sums": lambda x: [x.sum(), x.sum(0), x.mean(1), x.prod(0), x.max(1), x.min(), x.var(0)],
    "places": lambda x: [x.argmax(1), x.argmin(0), jnp.any(x > 1, 0), jnp.all(x > -9)],
    "sorted": lambda x: [jnp.sort(x, 0), jnp.argsort(x, 1), jnp.median(x, 0)],
    "running": lambda x: [
        jnp.cumsum(x, 1), jnp.cumprod(x, 0), lax.cummax(x, 1), lax.cumsum(x, 0, reverse=True),
        lax.cumlogsumexp(x, 1),
    ],
    "products": lambda x: [
        x @ x.T, jnp.einsum("ij,kj->ik", x, x), jnp.einsum("ij,ij->i", x, x), x @ x[0],
        jnp.einsum("bij,bjk->bik", x[:, :, None], x[:, None, :]), jnp.outer(x[0], x[1]),
    ],
    "softmax": lambda x: [jax.nn.softmax(x), jax.nn.logsumexp(x, 0), jax.nn.log_softmax(x, 1)],
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_reductions_and_products(name, nothing_compiled):
    assert_same(SHAPES[name], X)


def test_linear_algebra():
    solve = jsp.linalg.solve_triangular
    factor = np.linalg.cholesky(SPD)
    assert_same(jnp.linalg.cholesky, SPD)
    assert_same(jnp.linalg.cholesky, np.stack([SPD, 2 * SPD]))
    assert_same(lambda a, b: [solve(a, b, lower=True), solve(a, b, lower=True, trans=1)], factor, X)
    assert_same(lambda a, b: solve(a, b, lower=True, unit_diagonal=True), factor, X)
    assert_same(lambda a, b: jsp.linalg.cho_solve((a, True), b), factor, X)
    assert_same(jnp.linalg.solve, SPD, X)


def test_a_matrix_without_factor_gives_nan_and_leaves_others_alone():
    assert_same(jnp.linalg.cholesky, np.stack([SPD, -SPD]))


INDEXING = {
    "row": lambda x, i: [x[i], x[:, i], x[i, i], x[1], x[-1], x[i[0]]],
    "grid": lambda x, i: [x[i[:, None], i[None, :]], x[jnp.array([0, 2])][:, jnp.array([3, 1])]],
    "along": lambda x, i: [jnp.take(x, i, axis=1), jnp.take_along_axis(x, i[:, None], 1)],
    "mapped": lambda x, i: jax.vmap(lambda row, j: row[j])(x, i),
    "window": lambda x, i: lax.dynamic_slice(x, (i[0], i[1]), (1, 2)),
    "update": lambda x, i: lax.dynamic_update_slice(x, jnp.ones((1, 2)), (i[1], i[0])),
    "set": lambda x, i: [x.at[i].set(0.0), x.at[i, i].add(2.0), x.at[:, i].multiply(3.0)],
    "extremes": lambda x, i: [x.at[i].max(0.1), x.at[0, i].min(0.2), x.at[1:, i[0]].set(5.0)],
    "repeated": lambda x, i: x.at[jnp.array([1, 1, 1])].add(1.0),
    "segments": lambda x, i: jax.ops.segment_sum(x, i, 3),
}


@pytest.mark.parametrize("name", INDEXING)
def test_indexing(name, nothing_compiled):
    assert_same(INDEXING[name], X, np.array([2, 0, 1]))


@pytest.mark.parametrize("name", ["row", "mapped", "window", "set", "segments"])
def test_place_outside_of_an_array_is_refused(name):
    with pytest.raises(OutOfBounds):
        by_numpy(INDEXING[name], X, np.array([4, 0, 1]))


def test_loops_and_branches(nothing_compiled):
    def program(x, n):
        total, steps = lax.scan(lambda c, row: (c + row.sum(), c * row), 0.0, x)
        back = lax.scan(lambda c, row: (c * 0.5 + row[0], c), 1.0, x, reverse=True)
        halved = lax.while_loop(lambda v: v[0] > 0.01, lambda v: (v[0] / 2, v[1] + 1), (1.0, 0))
        either = lax.cond(x[0, 0] > 0, lambda: x, lambda: -x)
        chosen = lax.switch(n, [lambda: 1.0, lambda: 2.0, lambda: 3.0])
        looped = lax.fori_loop(0, 5, lambda i, v: v + i, 0)
        return total, steps, back, halved, either, chosen, looped, lax.map(jnp.exp, x)

    assert_same(program, X, 1)


def test_rules_for_derivatives_are_passed_over(nothing_compiled):
    assert_same(lambda x: [jax.nn.relu(x), jax.nn.silu(x), jax.checkpoint(jnp.sin)(x)], V)


def test_what_numpy_lacks_is_left_to_jax():
    assert_same(lambda a: jnp.linalg.eigvalsh(a), SPD)


def test_long_loop_is_not_for_numpy():
    with pytest.raises(Unsuitable, match="loops for long"):
        by_numpy(lambda x: lax.fori_loop(0, 100_000, lambda i, v: v * 1.5 + i, x), 1.0)


RANDOM = {
    "keys": lambda k: [
        jax.random.key_data(jax.random.split(k, (2, 3))), jax.random.key_data(jax.random.key(-5)),
        jax.random.key_data(jax.random.fold_in(k, 9)), jax.random.bits(k, (3,), "uint8"),
    ],
    "uniform": lambda k: [jax.random.uniform(k, (3, 2)), jax.random.uniform(k, dtype="float32")],
    "normal": lambda k: [jax.random.normal(k, (5,)), jax.random.cauchy(k), jax.random.laplace(k)],
    "choice": lambda k: [jax.random.bernoulli(k, 0.3, (9,)), jax.random.categorical(k, V)],
    "integers": lambda k: [jax.random.randint(k, (9,), -3, 7), jax.random.permutation(k, 5)],
    "counts": lambda k: [jax.random.poisson(k, 3.0, (5,)), dist.Binomial(9, 0.4).sample(k, (4,))],
}  # fmt: skip


@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_are_those_of_jax(name):
    assert_same(lambda data: RANDOM[name](jax.random.wrap_key_data(data)), np.uint32([7, 11]))


def test_gamma_variates_have_their_distribution():
    """Means of 40 000 draws; |z| < 4.5."""
    shapes = np.array([0.01, 0.5, 3.0])

    def draws(data):
        return jax.random.gamma(jax.random.wrap_key_data(data), shapes, (40_000, 3))

    (found,) = by_numpy(draws, np.uint32([1, 2]))
    assert (np.abs(found.mean(axis=0) - shapes) / np.sqrt(shapes / 40_000) < 4.5).all()
    assert np.isfinite(np.log(found[:, 1:])).all()


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63 - 1])
def test_keys_made_on_the_host_are_those_of_jax(seed):
    with jax.enable_x64(True):
        key = jax.random.key(seed)
        assert (threefry.seed_key(seed) == key).all()
        assert (jnp.stack(threefry.split_key(key, 3)) == jax.random.split(key, 3)).all()


def test_keys_of_another_kind_stay_so():
    with jax.default_prng_impl("rbg"):
        key = threefry.seed_key(3)
        assert (key == jax.random.key(3)).all()
        assert (jnp.stack(threefry.split_key(key)) == jax.random.split(key)).all()
