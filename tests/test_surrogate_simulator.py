"""Draws of a program that a network learns from."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import Predictive
from simulators_for_tests import (
    CODES,
    LINE,
    WIDE,
    N,
    X,
    assert_near,
    design,
    drawn,
    line,
    made,
    needs_y,
    scaled,
    two_sites,
)

from bayes.precision import simulating

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def simulator():
    return made(line, LINE)


def test_draws_are_those_of_the_program(simulator):
    """Positions and data against NumPyro's own draws, at the covariates that were drawn.

    Some 40 numbers within five Monte Carlo errors: a false alarm has probability 2e-5.
    """
    whole = drawn(simulator)
    x, code = (jnp.asarray(whole.arrays[n], jnp.float32) for n in ("x", "code"))

    def one(key, x, code):
        return Predictive(line, num_samples=1)(key, x, code)

    with simulating():
        keys = jax.random.split(jax.random.key(7), N)
        other = jax.tree.map(lambda v: np.asarray(v[:, 0]), jax.jit(jax.vmap(one))(keys, x, code))
    assert_near(whole.position[:, 0], other["a"])
    assert_near(whole.position[:, 1], np.log(other["s"]))
    y = whole.inputs.tables[0][..., 0]
    assert_near(y, other["y"])
    # Jointly: what is left of the data is the noise of these very parameters.
    a, s = whole.position[:, :1], np.exp(whole.position[:, 1:])
    z = (y - a * whole.arrays["x"] - whole.arrays["code"]) / s
    assert_near(z, np.random.default_rng(3).normal(size=z.shape))


def test_tables_are_what_the_program_is_bound_to(simulator):
    whole = drawn(simulator)
    table = whole.inputs.tables[0]
    names = ("y", *simulator.layout.sources[0].covariates)
    assert set(names) == {"y", "x", "code"}
    for i, name in enumerate(names):
        np.testing.assert_array_equal(table[..., i], whole.arrays[name].astype(np.float32))
    assert np.all(whole.inputs.counts == 6)


def test_data_at_a_position_have_the_right_moments(simulator):
    """Standard scores of data at one position: false alarm rate 1e-5 for all twelve numbers."""
    position = np.array([2.0, np.log(3.0)], np.float32)
    with simulating():
        run = jax.jit(jax.vmap(lambda k: simulator.draw_at(k, jnp.asarray(position), 6)))
        inputs = jax.tree.map(np.asarray, run(jax.random.split(jax.random.key(2), N)))
    names = ("y", *simulator.layout.sources[0].covariates)
    column = {n: inputs.tables[0][..., i] for i, n in enumerate(names)}
    z = (column["y"] - 2.0 * column["x"] - column["code"]) / 3.0
    assert np.all(np.abs(z.mean(axis=0)) < WIDE / np.sqrt(N))
    assert np.all(np.abs(z.var(axis=0) - 1) < WIDE * np.sqrt(2 / N))


def test_covariates_are_rows_of_the_users_own(simulator):
    """Positive ones stay positive, codes stay codes, and columns of a row stay together."""
    whole = drawn(simulator)
    x, code = whole.arrays["x"], whole.arrays["code"]
    assert x.min() >= X.min()
    assert x.max() <= X.max()
    assert code.dtype.kind == "i"
    assert set(np.unique(code)) == set(CODES)
    own = X[np.searchsorted(CODES, 7)]
    assert np.all(np.abs(x[code == 7] - own) <= 0.1 * (own - X.min()) + 1e-5)
    assert len(np.unique(x)) > 100  # but they are not the user's alone


def test_columns_of_codes_in_a_matrix_stay_codes():
    x = np.stack([RNG.normal(size=8), np.array([0, 0, 1, 2, 1, 0, 2, 1.0])], axis=1)

    def matrix(x, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with numpyro.plate("row", x.shape[0]):
            numpyro.sample("y", dist.Normal(x @ b, 1.0), obs=y)

    whole = drawn(made(matrix, {"x": x, "y": np.zeros(8)}))
    np.testing.assert_array_equal(np.unique(whole.arrays["x"][..., 1]), [0.0, 1.0, 2.0])
    assert len(np.unique(whole.arrays["x"][..., 0])) > 100


def test_the_same_key_gives_the_same_draw(simulator):
    with simulating():
        first, second, other = (simulator.draw(jax.random.key(s), 6) for s in (3, 3, 4))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1].tables[0], second[1].tables[0])
    assert np.any(first[0] != other[0])


def test_fewer_and_more_rows_are_drawn(simulator):
    for rows in (1, 9):
        with simulating():
            position, inputs = simulator.draw(jax.random.key(0), rows)
            at = simulator.draw_at(jax.random.key(0), position, rows)
        assert inputs.tables[0].shape == at.tables[0].shape == (rows, 3)


def test_a_program_that_needs_its_data_is_drawn_site_by_site():
    found = made(needs_y, {"y": np.array([1.0, 2.0, 3.0])})
    whole = drawn(found)
    y = whole.inputs.tables[0][..., 0]
    noise = np.random.default_rng(2).normal(scale=np.sqrt(1 / 3), size=N)
    assert_near(y.mean(axis=1) - whole.position[:, 0], noise)
    # In two compiled programs, equal to a few units in the last place.
    np.testing.assert_allclose(whole.arrays[found.observed["y"]], y, rtol=1e-5, atol=1e-5)


def test_two_observed_sites_have_a_table_each():
    t = np.array([0.5, 1.0, 1.0, 1.5])
    data = {"x": X, "t": t, "y": np.zeros(6), "z": np.zeros(4, int)}
    found = made(two_sites, data)
    assert {s.site: s.rows for s in found.layout.sources} == {"y": 6, "z": 4}
    whole = drawn(found)
    tables = {s.site: t for s, t in zip(found.layout.sources, whole.inputs.tables, strict=True)}
    assert tables["y"].shape == (N, 6, 2)
    assert tables["z"].shape[:2] == (N, 4)
    rate = np.exp(whole.position)
    assert_near(
        tables["z"][..., 0].sum(axis=1), np.random.default_rng(1).poisson(4.0 * rate[:, 0]) * 1.0
    )


def test_what_a_design_draws_reaches_the_program():
    """Its rows and its numbers; draws of the parameter have the scale that it gave."""
    found = made(scaled, {"x": X, "tau": 2.0, "y": np.zeros(6)}, design=design)
    assert found.layout.extra == ("tau",)
    whole = drawn(found)
    tau = whole.inputs.extra[:, 0]
    assert 1.0 <= tau.min() < 1.1
    assert 2.9 < tau.max() <= 3.0
    assert whole.inputs.tables[0][..., 1].min() >= 20.0
    z = whole.position[:, 0] / tau
    assert abs(z.var() - 1) < WIDE * np.sqrt(2 / N)
    assert found.resizable
    with simulating():
        at = found.draw_at(jax.random.key(0), jnp.zeros(1), 6)
    assert at.tables[0].shape == (6, 2)


def test_a_design_is_cut_to_the_rows_that_are_drawn():
    found = made(scaled, {"x": X, "tau": 2.0, "y": np.zeros(6)}, design=design)
    with simulating():
        position, inputs = found.draw(jax.random.key(0), 4)
        at = found.draw_at(jax.random.key(0), position, 4)
    assert inputs.tables[0].shape == at.tables[0].shape == (4, 2)
