"""Data: every container that is taken, what each becomes, and what is refused by name."""

import datetime

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import polars as pl
import pytest
import xarray as xr
from numpyro import handlers

import bayes
from bayes.data import Data, Signature

X = np.array([0.5, -1.0, 2.0, 0.0])
Y = np.array([1.0, 2.0, 3.0, 5.0])
KINDS = ["b", "a", "c", "a"]


def line(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(slope * x, 1), obs=y)


def groups(g, n_g, y=None):
    with numpyro.plate("g", n_g):
        a = numpyro.sample("a", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(a[g], 1), obs=y)


def read(data, fn=line, **options):
    return Data.read(data, Signature.of(fn), **options)


@pytest.mark.parametrize(
    "data",
    [
        {"x": X, "y": Y},
        {"x": jnp.asarray(X), "y": Y.tolist()},
        {"x": pd.Series(X), "y": pl.Series(Y)},
        {"x": xr.DataArray(X), "y": tuple(Y)},
        {"x": pd.Index(X), "y": Y},
        pd.DataFrame({"x": X, "y": Y}),
        pl.DataFrame({"x": X, "y": Y}),
        xr.Dataset({"x": ("row", X), "y": ("row", Y)}),
        pd.DataFrame({"x": pd.array(X, dtype="Float64"), "y": Y}),
    ],
    ids=lambda d: type(d).__name__,
)
def test_containers_give_the_same_arrays(data):
    found = read(data)
    np.testing.assert_array_equal(found.arguments["x"], X)
    np.testing.assert_array_equal(found.arguments["y"], Y)
    assert all(type(v) is np.ndarray and v.dtype == float for v in found.arrays.values())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_shorter_floats_become_double_precision(dtype):
    assert read({"x": X.astype(dtype), "y": Y}).arguments["x"].dtype == np.float64


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64"])
def test_integers_stay_integers(dtype):
    value = read({"x": np.arange(4, dtype=dtype), "y": Y}).arguments["x"]
    assert value.dtype == np.int64
    np.testing.assert_array_equal(value, np.arange(4))


def test_booleans_stay_booleans():
    assert read({"x": X > 0, "y": Y}).arguments["x"].dtype == bool


def test_nullable_integers_and_booleans_become_plain_ones():
    frame = pd.DataFrame({"x": pd.array([1, 2, 3], "Int64"), "y": pd.array([True] * 3, "boolean")})
    found = read(frame)
    assert (found.arguments["x"].dtype, found.arguments["y"].dtype) == (np.int64, bool)


def test_nullable_integer_with_a_gap_is_refused_by_row():
    frame = pd.DataFrame({"x": pd.array([1, None, 3], "Int64"), "y": Y[:3]}, index=list("abc"))
    with pytest.raises(bayes.DataError, match="column 'x' has missing values: row 'b'"):
        read(frame)


@pytest.mark.parametrize("value", [3, True, "kind", np.int32(3), np.bool_(True)])
def test_python_constants_stay_static(value):
    found = read({"x": value, "y": Y})
    assert found.statics == {"x": value}
    assert type(found.statics["x"]) in (int, bool, str)


@pytest.mark.parametrize("value", [2.5, np.float32(2.5), np.array(2.5)])
def test_real_number_is_an_array_without_dimensions(value):
    found = read({"x": value, "y": Y})
    assert found.arguments["x"].shape == ()
    assert "x" in found.arrays


def test_integer_without_dimensions_is_an_array():
    assert read({"x": np.array(3), "y": Y}).arguments["x"].shape == ()


def test_pytrees_keep_their_structure():
    found = read({"x": [X, Y[:2]], "y": {"a": Y, "b": (X, X)}})
    assert type(found.arguments["x"]) is list
    assert found.arguments["y"]["b"][1].shape == (4,)
    assert set(found.arrays) == {"x", "y"}


def test_nan_inside_a_pytree_names_its_place():
    with pytest.raises(bayes.DataError, match=r"'x\[1\]' has NaN: row 2"):
        read({"x": [X, np.array([1, 2, np.nan])], "y": Y})


CATEGORIES = {
    "pandas": pd.DataFrame({"g": pd.Categorical(KINDS), "y": Y}),
    "series": {"g": pd.Series(KINDS, dtype="category"), "y": Y},
    "categorical": {"g": pd.Categorical(KINDS), "y": Y},
    "polars": pl.DataFrame({"g": pl.Series(KINDS, dtype=pl.Categorical), "y": Y}),
    "enum": pl.DataFrame({"g": pl.Series(KINDS, dtype=pl.Enum(["a", "b", "c"])), "y": Y}),
}


@pytest.mark.parametrize("name", CATEGORIES)
def test_categories_become_codes_with_levels_and_their_number(name):
    found = read(CATEGORIES[name], groups)
    np.testing.assert_array_equal(found.arguments["g"], [1, 0, 2, 0])
    assert found.levels["g"].tolist() == ["a", "b", "c"]
    assert found.arguments["n_g"] == 3
    problem = bayes.Model(groups).bind(CATEGORIES[name])
    assert problem.coords["g"].tolist() == ["a", "b", "c"]


def test_given_number_of_levels_is_kept():
    assert read({**CATEGORIES["series"], "n_g": 5}, groups).arguments["n_g"] == 5


def test_category_without_rows_keeps_its_code_and_is_noted():
    order = pl.Enum(["c", "z", "b", "a"])
    found = read(pl.DataFrame({"g": pl.Series(KINDS, dtype=order), "y": Y}), groups)
    np.testing.assert_array_equal(found.arguments["g"], [2, 3, 0, 3])
    assert found.notes == ("levels of 'g' without rows: z",)


def test_levels_of_an_earlier_fit_set_the_codes():
    levels = {"g": np.array(["c", "b", "a"])}
    for new in ({"g": pd.Series(["a", "c"])}, pl.DataFrame({"g": ["a", "c"]})):
        found = Data.read(new, levels=levels)
        np.testing.assert_array_equal(found.arguments["g"], [2, 0])


@pytest.mark.parametrize("new", [["a", "new"], ["new", "newer"]])
def test_category_the_fit_has_not_seen_is_refused_or_added(new):
    levels, data = {"g": np.array(["a", "b"])}, {"g": pd.Series(new, dtype="category")}
    with pytest.raises(bayes.DataError, match=r"levels that the fit has not seen: 'new'.*row"):
        Data.read(data, levels=levels)
    found = Data.read(data, levels=levels, new_groups="sample")
    assert found.levels["g"].tolist() == ["a", "b", *[n for n in new if n != "a"]]


def test_labels_of_a_dataset_become_coords():
    data = xr.Dataset({"x": ("city", X), "y": ("city", Y)}, coords={"city": list("abcd")})
    found = read(data)
    assert found.coords["city"].tolist() == list("abcd")
    assert found.columns["x"].dims == ("city",)


def test_row_labels_of_a_frame_stand_in_messages():
    frame = pd.DataFrame({"x": [1.0, np.nan, np.nan, 4.0], "y": Y}, index=list("abcd"))
    with pytest.raises(bayes.DataError, match=r"column 'x' has 2 rows.*rows 'b', 'c'; drop these"):
        bayes.Model(line).bind(frame)


def test_many_bad_rows_are_counted_not_listed():
    frame = {"x": np.full(9, np.inf), "y": np.zeros(9)}
    with pytest.raises(bayes.DataError, match="rows 0, 1, 2, 3, 4 and 4 more"):
        read(frame)


@pytest.mark.parametrize(
    "value",
    [
        np.array(["2020-01-01", "2020-01-02"], "datetime64[D]"),
        pd.Series(pd.date_range("2020", periods=2)),
        np.array([1, 2], "timedelta64[s]"),
        pl.Series([datetime.date(2020, 1, 1)]),
    ],
)
def test_dates_are_refused_with_the_way_out(value):
    with pytest.raises(bayes.DataError, match=r"'x' holds dates or times.*convert it to numbers"):
        read({"x": value, "y": Y})


def test_masked_entries_are_refused_and_a_mask_without_any_is_not():
    np.testing.assert_array_equal(read({"x": np.ma.array(X), "y": Y}).arguments["x"], X)
    masked = np.ma.array(X, mask=[0, 0, 1, 0])
    with pytest.raises(bayes.DataError, match="'x' has masked values: row 2"):
        read({"x": masked, "y": Y})


def test_none_leaves_an_optional_argument_out():
    assert "y" not in read({"x": X, "y": None}).arguments


def test_missing_argument_is_named_with_what_there_is():
    with pytest.raises(bayes.DataError, match=r"line\(x, y\) needs 'x'; the data have 'y'"):
        read({"y": Y})


def test_misspelt_key_is_reported_with_the_nearest_argument():
    with pytest.warns(bayes.DataWarning, match=r"ignored: 'Y' \(did you mean 'y'\?\)"):
        read({"x": X, "Y": Y})


def test_other_columns_of_a_frame_are_ignored_in_silence():
    found = read(pd.DataFrame({"x": X, "y": Y, "note": list("abcd")}))
    assert set(found.arguments) == {"x", "y"}


def test_program_with_open_keywords_takes_every_entry():
    def program(**data):
        line(data["x"], data["y"])

    assert set(read({"x": X, "y": Y}, program).arguments) == {"x", "y"}
    bayes.Model(program).bind({"x": X, "y": Y})


def test_keys_that_are_no_names_are_refused():
    with pytest.raises(bayes.DataError, match="argument names, strings; got 1"):
        read({1: X})


@pytest.mark.parametrize("data", [X, [X, Y], "file.csv", 3])
def test_other_containers_are_refused(data):
    with pytest.raises(bayes.DataError, match=r"data must be a dict, pandas.DataFrame"):
        read(data)


def test_lazy_frame_is_refused_with_the_way_out():
    with pytest.raises(bayes.DataError, match=r"collect\(\) it first"):
        read(pl.LazyFrame({"x": X}))


@pytest.mark.parametrize("as_object", [[1.0, None], [1.0, "two"], [[1, 2], [3]], [{}, {}]])
def test_ragged_and_mixed_lists_are_refused_by_name(as_object):
    with pytest.raises(bayes.DataError, match="'x"):
        read({"x": as_object, "y": Y})


def masked_by_handler(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    with handlers.mask(mask=~jnp.isnan(y)):
        numpyro.sample("y", dist.Normal(slope * x, 1), obs=jnp.nan_to_num(y))


def masked_by_site(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    with numpyro.plate("row", x.shape[0]):
        known = ~jnp.isnan(y)
        numpyro.sample("y", dist.Normal(slope * x, 1), obs=jnp.nan_to_num(y), obs_mask=known)


@pytest.mark.parametrize("program", [masked_by_handler, masked_by_site])
def test_missing_values_that_the_program_masks_are_accepted_and_noted(program):
    data = {"x": X, "y": np.array([1.0, np.nan, 3.0, 4.0])}
    problem = bayes.Model(program).bind(data)
    assert "missing values in y are masked by the program" in problem.notes
    with pytest.raises(bayes.DataError, match=r"column 'x' has a missing value.*row 1"):
        bayes.Model(program).bind({"x": data["y"], "y": data["y"]})


def test_constant_covariate_is_reported():
    with pytest.warns(bayes.DataWarning, match=r"column 'x' is constant \(2.0\)"):
        bayes.Model(line).bind({"x": np.full(4, 2.0), "y": Y})


def test_known_scale_and_number_of_trials_may_be_constant():
    def known_scale(scale, y=None):
        numpyro.sample("y", dist.Normal(numpyro.sample("m", dist.Normal(0, 1)), scale), obs=y)

    def trials(n, y=None):
        numpyro.sample("y", dist.Binomial(n, numpyro.sample("p", dist.Beta(1, 1))), obs=y)

    bayes.Model(known_scale).bind({"scale": np.full(4, 0.5), "y": Y})
    bayes.Model(trials).bind({"n": np.full(4, 9), "y": Y.astype(int)})
