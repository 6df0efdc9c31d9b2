"""Bad data never give a silent number: each is refused by column and row, or reported."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr

import bayes

ROWS = 20
RNG = np.random.default_rng(0)
X = RNG.normal(size=ROWS)
Y = 1 + 2 * X + 0.3 * RNG.normal(size=ROWS)
GROUP = np.repeat(np.arange(4), 5)
FAST = bayes.NUTS(warmup=200, draws=200)


def line(x, y=None):
    a = numpyro.sample("a", dist.Normal(0, 1))
    b = numpyro.sample("b", dist.Normal(0, 1))
    s = numpyro.sample("s", dist.HalfNormal(1))
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(a + b * x, s), obs=y)


def scale_only(y=None):
    m = numpyro.sample("m", dist.ImproperUniform(dist.constraints.real, (), ()))
    s = numpyro.sample("s", dist.ImproperUniform(dist.constraints.positive, (), ()))
    numpyro.sample("y", dist.Normal(m, s), obs=y)


def coin(y=None):
    numpyro.sample("y", dist.Bernoulli(numpyro.sample("p", dist.Beta(1, 1))), obs=y)


def counts(y=None):
    numpyro.sample("y", dist.Poisson(numpyro.sample("rate", dist.Gamma(1, 1))), obs=y)


def by_group(g, n_g=4, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    with numpyro.plate("g", n_g):
        a = numpyro.sample("a", dist.Normal(mu, 1))
    numpyro.sample("y", dist.Normal(a[g], 1), obs=y)


def replaced(values, row, value):
    values = np.array(values, dtype=np.result_type(values, type(value)))
    values[row] = value
    return values


def refused(program, data, error, match):
    with pytest.raises(error, match=match) as caught:
        bayes.fit(program, data, method=FAST)
    return str(caught.value)


def test_nan_in_the_observed_column():
    data = {"x": X, "y": replaced(Y, 3, np.nan)}
    refused(line, data, bayes.DataError, r"column 'y' has a missing value.*row 3; drop.*mask")


def test_infinity_in_the_observed_column():
    data = {"x": X, "y": replaced(Y, 3, -np.inf)}
    refused(line, data, bayes.DataError, "column 'y' has infinite values: row 3")


def test_nan_in_a_covariate():
    data = {"x": replaced(X, 7, np.nan), "y": Y}
    refused(line, data, bayes.DataError, r"column 'x' has a missing value.*row 7; drop")


def test_columns_of_unequal_length():
    refused(line, {"x": X, "y": Y[:-3]}, bayes.ShapeError, r"site 'y': 'y' has shape \(17,\).*20")
    refused(line, {"x": X[:-3], "y": Y}, bayes.ShapeError, r"site 'y': 'y' has shape \(20,\).*17")


def test_covariate_of_a_single_row():
    message = r"'y' has shape \(20,\), but column 'x' has a single row.*one value a row"
    refused(line, {"x": X[:1], "y": Y}, bayes.ShapeError, message)


def test_observed_column_as_a_matrix_of_one_column():
    data = {"x": X, "y": Y[:, None]}
    message = r"site 'y': 'y' has shape \(20, 1\).*shape \(20,\).*probably meant as \(20,\)"
    refused(line, data, bayes.ShapeError, message)


def test_covariate_as_a_matrix_of_one_column():
    data = {"x": X[:, None], "y": Y}
    message = r"site 'y': 'y' has shape \(20,\).*'x' of shape \(20, 1\) is probably meant as"
    refused(line, data, bayes.ShapeError, message)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ({"x": X[:0], "y": Y[:0]}, "'x' is empty"),
        (pd.DataFrame({"x": X[:0], "y": Y[:0]}), "the frame has no rows"),
        ({"x": [], "y": []}, "'x' is empty"),
        (xr.Dataset({"x": ("row", X[:0]), "y": ("row", Y[:0])}), "'x' is empty"),
    ],
    ids=["arrays", "frame", "lists", "dataset"],
)
def test_no_rows(data, match):
    refused(line, data, bayes.DataError, match)


def test_observed_column_without_variance_is_reported_and_fails_the_verdict():
    with (
        pytest.warns(bayes.DataWarning, match="site 'y' has zero variance: all 20 values of 'y'"),
        pytest.warns(bayes.ConvergenceWarning),
    ):
        post = bayes.fit(scale_only, {"y": np.full(ROWS, 2.0)}, method=FAST)
    assert not post.diagnostics.ok
    assert not post.diagnostics["data"].passed
    assert "observed y has no variance" in post.diagnostics["data"].advice


def test_covariate_without_variance():
    with pytest.warns(bayes.DataWarning, match="column 'x' is constant.*told from an intercept"):
        bayes.Model(line).bind({"x": np.ones(ROWS), "y": Y})


def test_observed_column_of_objects():
    data = {"x": X, "y": Y.astype(object)}
    refused(line, data, bayes.DataError, r"'y' has object dtype; .*\.astype\(float\)")


@pytest.mark.parametrize("frame", [dict, pd.DataFrame], ids=["dict", "frame"])
def test_observed_column_of_strings(frame):
    data = frame({"x": X, "y": ["low", "high"] * 10})
    refused(line, data, bayes.DataError, r"column 'y' holds strings.*astype\('category'\)")


@pytest.mark.parametrize("name", ["x", "y"])
def test_complex_numbers(name, unchecked):
    refused(line, {"x": X, "y": Y, name: X + 1j}, bayes.DataError, f"'?{name}'? is complex")


def test_integers_observed_as_real_numbers_are_noted():
    problem = bayes.Model(line).bind({"x": X, "y": np.arange(ROWS)})
    assert "'y' holds integers; site 'y' uses them as real numbers" in problem.notes


@pytest.mark.parametrize(
    ("codes", "rows"),
    [
        (GROUP + 1, "rows 15, 16"),
        (replaced(GROUP, 2, -1), "row 2"),
        (replaced(GROUP, 2, 9), "row 2"),
    ],
    ids=["from one", "negative", "beyond"],
)
def test_group_index_out_of_range(codes, rows):
    data = {"g": codes, "y": Y}
    message = f"column 'g' is used as an index into an array of size 4.*{rows}.*count from 0"
    refused(by_group, data, bayes.DataError, message)


@pytest.fixture(scope="module")
def grouped():
    frame = pd.DataFrame({"g": pd.Categorical(np.array(list("abcd"))[GROUP]), "y": Y})
    return bayes.fit(by_group, frame, method=bayes.NUTS(warmup=300, draws=500))


def test_category_that_the_fit_has_not_seen_at_prediction(grouped, unchecked):
    new = pd.DataFrame({"g": pd.Categorical(["a", "new"])})
    with pytest.raises(bayes.DataError, match=r"column 'g'.*not seen: 'new' \(row 1\); new_groups"):
        grouped.predict(new)


def test_missing_category():
    frame = pd.DataFrame({"g": pd.Categorical(["a", None, "b", "c"]), "y": Y[:4]})
    message = "category column 'g' has missing values: row 1; drop these rows or give them a level"
    refused(by_group, frame, bayes.DataError, message)


def test_bernoulli_of_two():
    data = {"y": replaced(GROUP % 2, 4, 2)}
    refused(coin, data, bayes.DataError, r"site 'y': 'y' .*Bernoulli.* 2 \(row 4\).*must be 0 or 1")


def test_negative_count():
    message = r"site 'y': 'y' .*Poisson.* -1 \(row 4\).*whole numbers of at least 0"
    refused(counts, {"y": replaced(GROUP, 4, -1)}, bayes.DataError, message)


def test_labels_of_another_length_than_their_dimension():
    with pytest.raises(bayes.ShapeError, match=r"coords of 'row' have 3 labels.*size 20"):
        bayes.fit(line, {"x": X, "y": Y}, method=FAST, coords={"row": list("abc")})


def test_duplicate_column_names():
    frame = pd.DataFrame(np.c_[X, Y, Y], columns=["x", "y", "y"])
    refused(line, frame, bayes.DataError, "duplicate column names in the frame: y")


def test_duplicate_row_labels():
    frame = pd.DataFrame({"x": X, "y": Y}, index=[0, 0, *range(2, ROWS)])
    refused(line, frame, bayes.DataError, r"index has duplicate labels: 0; use reset_index")


def test_duplicate_labels_of_a_dataset():
    data = xr.Dataset({"x": ("r", X[:2]), "y": ("r", Y[:2])}, coords={"r": ["a", "a"]})
    refused(line, data, bayes.DataError, "coordinate 'r' has duplicate labels: 'a'")


@dataclasses.dataclass(frozen=True)
class NeverRun(bayes.Method):
    """A method that must not be reached; without a name, so that it is not found as one."""

    name: ClassVar[str] = ""

    def check(self, problem):
        raise AssertionError("the data were not checked first")

    init = step = done = finish = check


def test_data_are_checked_before_any_method_is_asked():
    with pytest.raises(bayes.DataError, match="column 'y' has a missing value"):
        bayes.fit(line, {"x": X, "y": replaced(Y, 3, np.nan)}, method=NeverRun())


def test_prediction_where_the_covariate_has_another_shape(unchecked):
    def plane(design, y=None):
        b = numpyro.sample("b", dist.Normal(0, 1).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(design @ b, 1), obs=y)

    method = bayes.NUTS(warmup=300, draws=500)
    post = bayes.fit(plane, {"design": np.c_[np.ones(ROWS), X], "y": Y}, method=method)
    with pytest.raises(bayes.ShapeError, match=r"design \(5, 3\)"):
        post.predict({"design": jnp.ones((5, 3))})
