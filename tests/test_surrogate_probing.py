"""What is found of a program before anything is learned from it, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from models_for_tests import SCHOOLS_DATA, normal_mean, schools
from simulators_for_tests import (
    LINE,
    SIX,
    N,
    X,
    by_factor,
    by_index,
    discrete,
    drawn,
    fixed_plate,
    lagged,
    line,
    local,
    made,
    needs_y,
    no_plate,
    overflowing,
    scaled,
)

import bayes
from bayes.model import Model
from bayes.surrogates.layout import leaves_of
from bayes.surrogates.simulator import Simulator


@pytest.mark.parametrize(
    ("fn", "data", "resizable", "placed"),
    [
        (line, LINE, True, False),
        (fixed_plate, SIX, False, False),
        (no_plate, SIX, False, True),
        (schools, SCHOOLS_DATA, False, True),
        (by_index, {"group": np.array([0, 1, 2, 1]), "y": np.zeros(4)}, True, False),
        (normal_mean, {"n": 5, "y": np.zeros(5)}, False, False),
        (needs_y, {"y": np.zeros(5)}, True, False),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_whether_rows_may_vary_is_found(fn, data, resizable, placed):
    found = Simulator(Model(fn, reparam="auto"), data)
    assert found.resizable == resizable
    (source,) = found.layout.sources
    assert (source.resizable, source.placed) == (resizable, placed)
    assert found.rows == (1 if fn is no_plate else len(data["y"]))  # of what may be repeated
    assert source.rows == len(data["y"])


def test_rows_that_cannot_vary_are_refused():
    with pytest.raises(bayes.SettingsError, match="rows=9: fixed_plate cannot be drawn"):
        made(fixed_plate, SIX, rows=9)
    assert made(fixed_plate, SIX, rows=6).rows == 6
    assert made(line, LINE, rows=40).rows == 40


def test_what_is_observed_is_no_covariate():
    """A program that takes its size from its data still observes them, and only once."""
    found = made(needs_y, {"y": np.array([1.0, 2.0, 3.0])})
    assert found.layout.sources[0].covariates == ()
    assert not found.constants
    assert drawn(found).inputs.tables[0].shape == (N, 3, 1)


def test_what_did_not_vary_is_kept():
    found = made(scaled, {"x": X, "tau": 2.0, "y": np.zeros(6)})
    assert set(found.constants) == {"tau"}
    assert set(leaves_of(found.constants)) == {"tau"}
    assert not found.layout.extra


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (lambda key: {"w": jnp.zeros(6)}, "gives 'w', which is not an array argument"),
        (lambda key: {"x": jnp.zeros(5)}, r"gives 'x' of shape \(5,\).*\(6,\)"),
        (lambda key: jnp.zeros(6), "a dict of arguments"),
        ("uniform", "design is a function"),
    ],
    ids=["unknown", "shape", "no dict", "no function"],
)
def test_designs_that_do_not_fit_are_refused(given, match, unchecked):
    with pytest.raises(bayes.SettingsError, match=match):
        made(fixed_plate, SIX, design=given)


@pytest.mark.parametrize(
    ("fn", "data", "match"),
    [
        (discrete, SIX, r"discrete latent sites \(k\)"),
        (
            local,
            {"x": np.arange(40.0), "y": np.zeros(40)},
            "41 unknowns, at most 32.*theta has an element for each row",
        ),
        (lagged, {"y": np.arange(5.0)}, "computed from what is observed"),
        (overflowing, SIX, "not finite in single precision"),
        (by_factor, SIX, "numpyro.factor"),
    ],
    ids=["discrete", "local", "lagged", "overflowing", "factor"],
)
def test_programs_that_cannot_be_amortized_are_refused(fn, data, match):
    with pytest.raises(bayes.UnsupportedModelError, match=match):
        made(fn, data)
