"""What a network reads of data: columns, places, padding, and that only what there is counts."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bayes.precision import single_precision
from bayes.surrogates.features import Columns, measure_columns
from bayes.surrogates.layout import Inputs, Layout, Source, leaves_of, padded, table_of, with_leaves
from bayes.surrogates.network import Network, Sizes, pooled
from bayes.surrogates.row_sizes import shortened

RNG = np.random.default_rng(0)
NUMBERS = measure_columns(RNG.normal(3.0, 2.0, size=(1000, 2)), (False, False))
NONE = Columns((), (), (), ())


def source(rows, *, placed=False, columns=NUMBERS, resizable=True):
    return Source("y", ("x",), rows, resizable, placed, columns)


# --------------------------------------------------------------------- columns


def test_numbers_are_centred_and_scaled_by_quartiles():
    """A few wild values change neither; Monte Carlo errors of 1000 draws, five of them."""
    table = RNG.normal(3.0, 2.0, size=(1000, 1))
    table[:20] = 1e8
    found = measure_columns(table, (False,))
    assert found.kinds == ("number",)
    assert found.location[0] == pytest.approx(3.0, abs=5 * 2.0 * 1.25 / np.sqrt(1000) + 0.1)
    assert found.scale[0] == pytest.approx(2.0, rel=0.25)


def test_kinds_follow_from_values():
    table = np.stack([np.arange(100) % 3, np.arange(100), -np.arange(100), np.ones(100)], axis=1)
    found = measure_columns(table.astype(float), (True, True, True, False))
    assert found.kinds == ("levels", "count", "number", "number")
    assert found.levels == (3, 0, 0, 0)
    assert found.scale[3] == 1.0  # a constant is not divided by its spread


def test_levels_become_indicators():
    columns = measure_columns(np.arange(3.0)[:, None], (True,))
    read = np.asarray(columns.read(jnp.array([[2.0], [0.0], [7.0]])))
    np.testing.assert_array_equal(read[:, :3], np.eye(3)[[2, 0, 2]])


def test_a_number_is_read_three_times_and_products_are_formed():
    columns = Columns(("number", "number"), (1.0, 0.0), (2.0, 1.0), (0, 0))
    read = np.asarray(columns.read(jnp.array([[3.0, 4.0]], jnp.float32)))[0]
    z = np.array([1.0, 4.0])
    bent = np.stack([np.arcsinh(z), 0.25 * np.log(z**2 + 1e-4)], axis=1).ravel()
    products = np.arcsinh([z[0] * z[0], z[1] * z[0], z[1] * z[1]])
    np.testing.assert_allclose(read, np.concatenate([z, bent, products]), atol=1e-5)
    assert columns.size == len(read)


def test_heavy_tails_stay_bounded_but_are_told_apart():
    columns = Columns(("number",), (0.0,), (1.0,), (0,))
    read = np.asarray(columns.read(jnp.array([[1e6], [1e12]], jnp.float32)))
    assert np.all(np.isfinite(read))
    assert np.abs(read).max() < 30
    assert np.abs(read[0] - read[1]).max() > 1


def test_counts_are_read_by_their_logarithms():
    columns = Columns(("count",), (np.log1p(20.0),), (1.0,), (0,))
    read = np.asarray(columns.read(jnp.array([[20.0], [200.0]], jnp.float32)))
    np.testing.assert_allclose(read[:, 0], [0, np.log(201 / 21)], atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 8, 9])
def test_the_size_is_that_of_what_is_read(count):
    """Products up to eight columns, none beyond."""
    columns = measure_columns(RNG.normal(size=(50, count)), (False,) * count)
    assert columns.read(jnp.zeros((3, count))).shape == (3, columns.size)
    assert columns.size == 3 * count + (count * (count + 1) // 2 if count <= 8 else 0)


# ---------------------------------------------------------------------- layout


def test_layouts_survive_json():
    levels = measure_columns(np.arange(3.0)[:, None], (True,))
    layout = Layout((source(8, placed=True), source(64, columns=levels)), ("tau", "f.0"), NUMBERS)
    assert Layout.from_dict(json.loads(json.dumps(layout.to_dict(), allow_nan=False))) == layout


@pytest.mark.parametrize("rows", [5, 32, 33, 100])
def test_places_tell_rows_apart(rows):
    placed = source(rows, placed=True)
    read = placed.read(jnp.zeros((1, rows, 2)), jnp.array([rows]))
    assert read.features.shape == (1, rows, placed.size)
    places = np.asarray(read.features)[0, :, NUMBERS.size :]
    assert len(np.unique(places.round(5), axis=0)) == rows


def test_rows_that_are_not_there_are_blank():
    read = source(6).read(jnp.ones((2, 6, 2)), jnp.array([2, 6]))
    np.testing.assert_array_equal(read.there.sum(axis=1), [2, 6])
    assert np.all(np.asarray(read.features)[0, 2:] == 0)
    assert np.all(np.any(np.asarray(read.features)[1] != 0, axis=-1))


def test_tables_have_observed_values_first():
    layout = Layout((source(3),), ("tau",), NUMBERS)
    y, x = np.arange(3.0), 10 * np.arange(6.0).reshape(3, 2)
    found = layout.inputs({"y": y}, {"x": x, "tau": np.float64(2.0)}, np)
    np.testing.assert_array_equal(found.tables[0], np.column_stack([y, x]))
    assert found.extra.tolist() == [2.0]
    assert found.counts.tolist() == [3]
    wide = padded(found, (5,))
    np.testing.assert_array_equal(wide.tables[0][3:], 0)
    assert wide.counts.tolist() == [3]
    many = table_of(layout.sources[0], {"y": y[None]}, {"x": x[None]}, np, (1,))
    np.testing.assert_array_equal(many[0], found.tables[0])


def test_leaves_are_named_and_put_back():
    arguments = {"factors": [np.ones(2), np.zeros(3)], "x": np.arange(2)}
    found = leaves_of(arguments)
    assert set(found) == {"factors.0", "factors.1", "x"}
    new = with_leaves(arguments, {"factors.1": np.full(3, 7.0)})
    np.testing.assert_array_equal(new["factors"][1], np.full(3, 7.0))
    np.testing.assert_array_equal(new["factors"][0], np.ones(2))


def test_numbers_of_rows_are_spread_over_the_logarithm(key):
    """A quarter are whole; of the others half are below the root: 5 sd of 4000, 6e-7 each."""
    inputs = Inputs((jnp.zeros((4000, 64, 2)),), jnp.full((4000, 1), 64), jnp.zeros((4000, 0)))
    count = np.asarray(shortened(inputs, Layout((source(64),), (), NONE), key, 64, 1).counts[:, 0])
    assert count.min() == 1
    assert count.max() == 64
    fewer = 0.75 * np.log(8) / np.log(65)
    assert abs((count < 8).mean() - fewer) < 5 * np.sqrt(fewer * (1 - fewer) / 4000)
    fixed = Layout((source(64, resizable=False),), (), NONE)
    assert np.all(np.asarray(shortened(inputs, fixed, key, 64, 1).counts) == 64)


# --------------------------------------------------------------------- network


def network_for(rows, placed=False):
    """A network whose every weight counts, and what it makes of tables."""
    layout = Layout((source(rows, placed=placed),), (), NONE)
    sizes = Sizes(
        token=6, components=3, sources=(layout.sources[0].size,), rows=(rows,), extra=0,
        width=16, layers=2, heads=2, informed=False,
    )  # fmt: skip
    with single_precision():
        network = Network(jax.random.key(0), sizes)
        weights, static = eqx.partition(network, eqx.is_array)
        leaves, structure = jax.tree.flatten(weights)
        keys = jax.random.split(jax.random.key(1), len(leaves))
        moved = [w + 0.2 * jax.random.normal(k, w.shape) for w, k in zip(leaves, keys, strict=True)]
        network = eqx.combine(jax.tree.unflatten(structure, moved), static)

    def run(table, size):
        inputs = padded(Inputs((table,), np.array([len(table)]), np.zeros(0)), (size,))
        one = Inputs(*(jax.tree.map(lambda v: jnp.asarray(v)[None], tuple(inputs))))
        with single_precision():
            memory = network.memory(*layout.features(one))
            tokens = network.condition(jnp.ones((1, 3, 16)), *memory)
            return np.concatenate([np.ravel(tokens), np.ravel(pooled(*memory))])

    return run


TABLE = RNG.normal(3.0, 2.0, size=(10, 2)).astype(np.float32)


@pytest.mark.parametrize("rows", [16, 64], ids=["each a token", "summaries"])
def test_padding_changes_nothing(rows):
    """But rounding of float32: sums are in another order."""
    run = network_for(rows)
    np.testing.assert_allclose(run(TABLE, 16), run(TABLE, 64), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("rows", [16, 64], ids=["each a token", "summaries"])
def test_the_order_of_exchangeable_rows_changes_nothing(rows):
    run = network_for(rows)
    np.testing.assert_allclose(run(TABLE, 16), run(TABLE[::-1], 16), rtol=2e-4, atol=2e-5)


def test_the_order_of_rows_with_places_matters():
    run = network_for(10, placed=True)
    assert np.abs(run(TABLE, 10) - run(TABLE[::-1], 10)).max() > 1e-2


@pytest.mark.parametrize("rows", [16, 64], ids=["each a token", "summaries"])
def test_the_number_of_rows_matters(rows):
    """Rows said twice have the same average; that there are twice as many is seen."""
    run = network_for(rows)
    twice = np.concatenate([TABLE[:5], TABLE[:5]])
    assert np.abs(run(TABLE[:5], 16) - run(twice, 16)).max() > 1e-2
