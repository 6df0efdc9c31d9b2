"""What follows from the data alone is split off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes.density import split_by_dependence
from bayes.precision import double_precision


@pytest.fixture(autouse=True)
def precision():
    with double_precision():
        yield


def count_operations(function, *arguments):
    return len(jax.make_jaxpr(function)(*arguments).eqns)


def compare(function, position, data):
    split = split_by_dependence(function, position, data)
    found = split.run(position, split.prepare(data))
    expected = function(position, data)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13), found, expected)
    return split


def test_a_gradient_is_the_same_and_what_data_give_is_done_once(rng):
    data = {"x": rng.normal(size=(30, 3)), "k": rng.poisson(4.0, 30).astype(float)}

    def density(beta, data):
        scaled = (data["x"] - data["x"].mean()) / data["x"].std()
        rate = jnp.exp(scaled @ beta)
        return (data["k"] * jnp.log(rate) - rate - jax.scipy.special.gammaln(data["k"] + 1)).sum()

    gradient = jax.value_and_grad(density)
    beta = rng.normal(size=3)
    split = compare(gradient, beta, data)
    prepared = split.prepare(data)
    text = str(jax.make_jaxpr(split.run)(beta, prepared))
    assert "lgamma" not in text
    assert "sqrt" not in text
    assert "lgamma" in str(jax.make_jaxpr(split.prepare)(data))


def test_other_data_of_the_same_shapes_need_no_other_split(rng):
    gradient = jax.value_and_grad(lambda x, y: -jnp.sum((x - jnp.sort(y)) ** 2))
    split = split_by_dependence(gradient, np.zeros(4), np.zeros(4))
    x, y = rng.normal(size=4), rng.normal(size=4)
    value, slope = split.run(x, split.prepare(y))
    np.testing.assert_allclose(value, -np.sum((x - np.sort(y)) ** 2))
    np.testing.assert_allclose(slope, -2 * (x - np.sort(y)))


def test_large_arrays_are_not_kept_where_a_small_one_makes_them(rng):
    def density(x, y):
        return -jnp.sum((x + jnp.broadcast_to(jnp.mean(y), (10_000,))) ** 2) - jnp.sum(x)

    split = compare(jax.value_and_grad(density), np.zeros(10_000), rng.normal(size=5))
    assert sum(np.size(v) for v in split.prepare(np.zeros(5))) <= 5


def test_loops_branches_and_repeated_calls(rng):
    @jax.jit
    def square(v):
        return v * v

    def density(x, y):
        total = jax.lax.scan(lambda c, v: (c + square(v * x).sum(), None), 0.0, square(y))[0]
        other = jax.lax.cond(y[0] > 0, lambda: square(x).sum(), lambda: jnp.sum(x))
        return square(total) + other + square(y).sum() + jax.nn.softplus(x).sum()

    compare(jax.value_and_grad(density), rng.normal(size=3), rng.normal(size=4))
    compare(jax.value_and_grad(density), rng.normal(size=3), -np.abs(rng.normal(size=4)))


def test_results_that_do_not_depend_on_the_position(rng):
    compare(lambda x, y: (x.sum(), y.sum(), 3.0 * jnp.ones(2)), np.ones(2), rng.normal(size=3))


def test_arrays_that_the_function_closes_over(rng):
    table = jnp.asarray(rng.normal(size=50))
    compare(lambda x, y: (x * jnp.exp(table)).sum() + y, rng.normal(size=50), np.asarray(1.0))


@pytest.mark.parametrize(
    ("product", "shapes"),
    [
        (lambda x, b: x @ b, [(3, 40)]),
        (lambda x, b: b @ x.T, [(3, 40)]),
        (lambda x, b: (x @ b) * x[:, 0], [(3, 40), (40, 1)]),  # both are read
        (lambda x, b: x @ jnp.stack([b, b], axis=1), [(40, 3)]),  # a product of matrices
    ],
)
def test_a_narrow_matrix_is_kept_by_columns(rng, product, shapes):
    x = rng.normal(size=(40, 3))
    density = jax.value_and_grad(lambda b, x: -jnp.log1p(jnp.exp(product(x, b))).sum())
    split = compare(density, rng.normal(size=3), x)
    assert sorted(v.shape for v in split.prepare(x) if v.ndim) == shapes


def test_a_wide_matrix_is_kept_as_it_is(rng):
    x = rng.normal(size=(10, 8))
    density = jax.value_and_grad(lambda b, x: -jnp.log1p(jnp.exp(x @ b)).sum())
    split = compare(density, rng.normal(size=8), x)
    assert [v.shape for v in split.prepare(x) if v.ndim] == [(10, 8)]


@pytest.mark.parametrize(
    "density",
    [
        lambda x, g: jnp.exp(x[:8][g]).sum(),
        lambda x, g: jnp.exp(x[:8].at[g + 3].get(mode="fill", fill_value=1.0)).sum(),  # beyond
        lambda x, g: (jnp.cos(x.reshape(8, 2)[g]) @ jnp.arange(2.0)).sum(),  # rows
        lambda x, g: (jnp.cos(x.reshape(2, 8)[:, g]) * jnp.arange(30.0)[None]).sum(),  # columns
        lambda x, g: jnp.sin(jnp.zeros(8).at[g].add(x[g] ** 2)).sum(),
        lambda x, g: jnp.sin(x.at[jnp.arange(4) * 2].set(x[:4] ** 2)).sum(),
        lambda x, g: jnp.sin(x[3] * x[g[0]]),
    ],
)
def test_updates_made_one_after_another(rng, density):
    g = rng.integers(0, 8, 30)
    split = compare(jax.value_and_grad(density), rng.normal(size=16), g)
    text = str(jax.make_jaxpr(split.run)(np.ones(16), split.prepare(g)))
    assert "scatter" not in text or "while" in text or "scan" in text


def test_updates_beside_a_factorisation_are_made_at_once(rng):
    def density(x, g):
        factor = jnp.linalg.cholesky(jnp.eye(3) * jnp.exp(x[0]))
        return jnp.exp(x[g]).sum() + jnp.log(jnp.diagonal(factor)).sum()

    g = rng.integers(0, 8, 30)
    split = compare(jax.value_and_grad(density), np.ones(8), g)
    assert "while" not in str(jax.make_jaxpr(split.run)(np.ones(8), split.prepare(g)))


def test_many_updates_are_made_at_once(rng):
    g = rng.integers(0, 8, 5000)
    split = compare(jax.value_and_grad(lambda x, g: jnp.exp(x[g]).sum()), np.ones(8), g)
    assert "while" not in str(jax.make_jaxpr(split.run)(np.ones(8), split.prepare(g)))
