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
