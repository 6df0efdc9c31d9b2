"""Observed values against their distributions: good models pass, silent mistakes do not."""

import functools

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from numpyro import handlers

import bayes

ROWS = 20
RNG = np.random.default_rng(0)
X = RNG.normal(size=ROWS)
Y = 1 + 2 * X + 0.3 * RNG.normal(size=ROWS)
UNIT = RNG.random(ROWS)
COUNT = RNG.poisson(3, size=ROWS)
SHARES = RNG.dirichlet([1, 2, 3], size=ROWS)
TABLE = RNG.multinomial(10, [0.2, 0.3, 0.5], size=ROWS)


def line(x, y=None):
    b = numpyro.sample("b", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(b * x, 1), obs=y)


def line_in_plate(x, y=None):
    b = numpyro.sample("b", dist.Normal(0, 1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(b * x, 1), obs=y)


def line_as_event(x, y=None):
    b = numpyro.sample("b", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(b * x, 1).to_event(1), obs=y)


def normal_vectors(x, y=None):
    m = numpyro.sample("m", dist.Normal(0, 1).expand([3]).to_event(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.MultivariateNormal(m, jnp.eye(3)), obs=y)


def two_plates(x, y=None):
    b = numpyro.sample("b", dist.Normal(0, 1))
    with numpyro.plate("r", 4, dim=-2), numpyro.plate("c", 5, dim=-1):
        numpyro.sample("y", dist.Normal(b * x, 1), obs=y)


LINES = [line, line_in_plate, line_as_event]


@pytest.mark.parametrize("program", LINES)
@pytest.mark.parametrize("shape", [(ROWS, 1), (1,), (ROWS - 1,), ()], ids=str)
def test_observed_value_of_another_shape_is_refused(program, shape):
    with pytest.raises(bayes.ShapeError, match="observed site 'y': 'y' has shape"):
        bayes.Model(program).bind({"x": X, "y": np.resize(Y, shape)})


@pytest.mark.parametrize("shape", [(ROWS,), (ROWS, 1), (3, ROWS), (3,), (ROWS, 1, 3)], ids=str)
def test_event_of_another_shape_is_refused(shape):
    bayes.Model(normal_vectors).bind({"x": X, "y": np.resize(Y, (ROWS, 3))})
    with pytest.raises(bayes.ShapeError, match="observed site 'y': 'y' has shape"):
        bayes.Model(normal_vectors).bind({"x": X, "y": np.resize(Y, shape)})


@pytest.mark.parametrize("shape", [(5,), (4, 1), (5, 4), (1,), (4, 5, 1)], ids=str)
def test_value_that_does_not_fill_two_plates_is_refused(shape):
    data = {"x": X.reshape(4, 5)}
    bayes.Model(two_plates).bind({**data, "y": Y.reshape(4, 5)})
    with pytest.raises(bayes.ShapeError, match="observed site 'y'"):
        bayes.Model(two_plates).bind({**data, "y": np.resize(Y, shape)})


def test_frame_of_one_column_is_refused_as_a_vector():
    with pytest.raises(bayes.ShapeError, match=r"probably meant as \(20,\)"):
        bayes.Model(line).bind({"x": X, "y": pd.DataFrame({"y": Y})})


def test_rows_that_no_plate_declares_are_reported():
    data = {"x": X[:4], "y": np.resize(Y, (4, 4))}
    with pytest.warns(bayes.DataWarning, match=r"'y' has shape \(4, 4\), its plates only \(4,\)"):
        bayes.Model(line_in_plate).bind(data)


def test_one_event_inside_a_plate_is_not_counted_for_every_row():
    def program(x, y=None):
        b = numpyro.sample("b", dist.Normal(0, 1))
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Normal(b * x, 1).to_event(1), obs=y)

    with pytest.raises(bayes.ShapeError, match=r"shape \(20,\).*shape \(20, 20\)"):
        bayes.Model(program).bind({"x": X, "y": Y})


def test_factor_for_every_pair_of_rows_is_reported():
    def program(x, y=None):
        b = numpyro.sample("b", dist.Normal(0, 1))
        numpyro.factor("f", dist.Normal(b * x, 1).log_prob(y))

    bayes.Model(program).bind({"x": X, "y": Y})
    with pytest.warns(bayes.DataWarning, match=r"factor 'f' has shape \(20, 20\).*column 'y'"):
        bayes.Model(program).bind({"x": X, "y": Y[:, None]})


def test_program_that_fails_on_a_shape_lists_the_shapes():
    def program(x, y=None):
        b = numpyro.sample("b", dist.Normal(0, 1).expand([x.shape[1]]))
        numpyro.sample("y", dist.Normal(x @ b, 1), obs=y)

    with pytest.raises(bayes.ShapeError, match=r"data: x \(20,\); y \(20,\)"):
        bayes.Model(program).bind({"x": X, "y": Y})


ONE = {
    "bernoulli": lambda p: dist.Bernoulli(p),
    "binomial": lambda p: dist.Binomial(10, p),
    "categorical": lambda p: dist.Categorical(jnp.array([p, 1 - p])),
    "poisson": lambda p: dist.Poisson(5 * p),
    "zero inflated": lambda p: dist.ZeroInflatedPoisson(p, 3.0),
    "multinomial": lambda p: dist.Multinomial(10, jnp.array([p, 1 - p, 0.5]) / 1.5),
    "ordered": lambda p: dist.OrderedLogistic(p, jnp.array([-1.0, 1.0])),
    "beta": lambda p: dist.Beta(1 + p, 2.0),
    "exponential": lambda p: dist.Exponential(p),
    "gamma": lambda p: dist.Gamma(1 + p, 1.0),
    "lognormal": lambda p: dist.LogNormal(p, 1),
    "dirichlet": lambda p: dist.Dirichlet(1 + p * jnp.ones(3)),
    "truncated": lambda p: dist.TruncatedNormal(p, 1.0, low=0.0),
    "mixture": lambda p: dist.MixtureSameFamily(
        dist.Categorical(jnp.array([0.5, 0.5])), dist.Gamma(jnp.array([1.5, 2.0]), 1 + p)
    ),
    "uniform": lambda p: dist.Uniform(0, 100 * p),
    "normal": lambda p: dist.Normal(p, 1),
    "general mixture": lambda p: dist.MixtureGeneral(
        dist.Categorical(jnp.array([0.5, 0.5])), [dist.Normal(0, 1), dist.Normal(p, 2)]
    ),
}


def observing(name):
    def program(y=None):
        p = numpyro.sample("p", dist.Beta(2, 2))
        numpyro.sample("y", ONE[name](p), obs=y)

    return program


GOOD = [
    ("bernoulli", COUNT % 2), ("bernoulli", COUNT % 2 == 0), ("bernoulli", (COUNT % 2) * 1.0),
    ("binomial", COUNT), ("categorical", COUNT % 2), ("poisson", COUNT), ("poisson", COUNT * 1.0),
    ("zero inflated", COUNT), ("multinomial", TABLE), ("multinomial", TABLE[0]),
    ("ordered", COUNT % 3), ("beta", UNIT), ("exponential", np.r_[0.0, UNIT]),
    ("exponential", COUNT), ("gamma", UNIT), ("lognormal", UNIT), ("dirichlet", SHARES),
    ("dirichlet", SHARES.astype("float32")), ("truncated", np.r_[0.0, UNIT]), ("mixture", UNIT),
    ("uniform", UNIT), ("normal", X), ("general mixture", X),
]  # fmt: skip


@pytest.mark.parametrize(("name", "y"), GOOD, ids=[name for name, _ in GOOD])
def test_values_that_a_distribution_can_give_are_accepted(name, y):
    bayes.Model(observing(name)).bind({"y": y})


BAD = [
    ("bernoulli", 2, "0 or 1"), ("bernoulli", -1, "0 or 1"), ("bernoulli", 0.5, "0 or 1"),
    ("binomial", 11, "whole numbers between 0 and 10"), ("binomial", -1, "between 0 and 10"),
    ("categorical", 2, "between 0 and 1; codes count from 0"), ("categorical", -1, "from 0"),
    ("poisson", 0.5, "whole numbers of at least 0"), ("poisson", -2, "at least 0"),
    ("zero inflated", 0.5, "whole numbers"), ("ordered", 3, "between 0 and 2; codes count"),
    ("beta", 0.0, "without exact 0 and 1"), ("beta", 1.0, "without exact 0 and 1"),
    ("beta", 1.5, "between 0 and 1"), ("gamma", 0.0, "greater than 0"),
    ("lognormal", -1.0, "greater than 0"), ("lognormal", 0.0, "greater than 0"),
    ("exponential", -1.0, "greater than 0"), ("truncated", -0.5, "at least 0"),
    ("mixture", -0.5, "greater than 0"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value", "must"), BAD, ids=[f"{n} {v}" for n, v, _ in BAD])
def test_value_that_a_distribution_cannot_give_is_refused_by_row(name, value, must):
    y = (COUNT % 2 if ONE[name](0.5).support.is_discrete else UNIT).astype(type(value))
    y[4] = value
    with pytest.raises(bayes.DataError, match=rf"site 'y': 'y' .*\(row 4\).*must be .*{must}"):
        bayes.Model(observing(name)).bind({"y": y})


@pytest.mark.parametrize(
    ("name", "y", "must"),
    [
        ("multinomial", TABLE + np.eye(ROWS, 3, dtype=int), "sum is total_count"),
        ("dirichlet", 100 * SHARES, "divide each row by its sum"),
        ("dirichlet", np.r_[[[0.0, 0.5, 0.5]], SHARES], "without exact 0 and 1"),
    ],
    ids=["sum", "percent", "zero"],
)
def test_row_that_a_vector_distribution_cannot_give_is_refused(name, y, must):
    with pytest.raises(bayes.DataError, match=rf"rows? 0.*{must}"):
        bayes.Model(observing(name)).bind({"y": y})


def test_count_beyond_its_own_total_is_refused():
    def program(n, y=None):
        numpyro.sample("y", dist.Binomial(n, numpyro.sample("p", dist.Beta(1, 1))), obs=y)

    total = COUNT + 1
    bayes.Model(program).bind({"n": total, "y": COUNT})
    total[4] = COUNT[4] - 1
    with pytest.raises(bayes.DataError, match=r"\(row 4\).*the row's own bound"):
        bayes.Model(program).bind({"n": total, "y": COUNT})


@pytest.mark.parametrize("name", ["normal", "poisson"])
def test_codes_of_a_category_are_neither_measurements_nor_counts(name):
    frame = pd.DataFrame({"y": pd.Categorical(list("abac"))})
    with pytest.raises(bayes.DataError, match="column 'y' is a category; its codes are not"):
        bayes.Model(observing(name)).bind(frame)
    bayes.Model(observing("ordered")).bind(frame)


def test_nan_that_the_program_makes_is_refused():
    def program(x, y=None):
        b = numpyro.sample("b", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(b * x, 1), obs=None if y is None else jnp.log(y))

    with pytest.raises(bayes.DataError, match="site 'y': the program computes NaN from 'y'"):
        bayes.Model(program).bind({"x": X, "y": Y})


def test_value_outside_of_the_support_may_be_masked():
    def program(known, y=None):
        p = numpyro.sample("p", dist.Beta(1, 1))
        with handlers.mask(mask=known):
            numpyro.sample("y", dist.Bernoulli(p), obs=y)

    y, known = np.r_[-9, COUNT % 2], np.r_[False, np.ones(ROWS, bool)]
    bayes.Model(program).bind({"known": known, "y": y})
    with pytest.raises(bayes.DataError, match=r"-9 \(row 0\)"):
        bayes.Model(program).bind({"known": ~known | known, "y": y})


@pytest.mark.parametrize("value", [0, 0.0, np.zeros(ROWS)], ids=["int", "float", "array"])
def test_constant_that_the_program_observes_is_meant(value):
    def program(x, y=None):
        b = numpyro.sample("b", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(b * x, 1), obs=y)
        numpyro.sample("soft", dist.Normal(b * x, 1), obs=value)

    bayes.Model(program).bind({"x": X, "y": Y})


class Line:
    def __call__(self, x, y=None):
        line(x, y)

    def method(self, x, y=None):
        line(x, y)


@pytest.mark.parametrize(
    "program",
    [Line(), Line().method, functools.partial(line), lambda x, y=None: line(x, y)],
    ids=["object", "method", "partial", "lambda"],
)
def test_any_callable_is_a_program(program):
    assert bayes.Model(program).bind({"x": X, "y": Y}).observed_arguments == ("y",)


def test_improper_priors_and_bounds_from_data_are_accepted():
    def program(x, y=None):
        a = numpyro.sample("a", dist.ImproperUniform(dist.constraints.real, (), ()))
        b = numpyro.sample("b", dist.Uniform(x.min(), x.max()))
        numpyro.sample("y", dist.Normal(a + b * x, 1), obs=y)

    bayes.Model(program).bind({"x": X, "y": Y})
