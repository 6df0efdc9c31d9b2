"""Indices that lie outside of the array they index are refused, wherever the program uses them."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from numpyro.contrib.control_flow import scan

import bayes

GROUP = np.repeat(np.arange(4), 5)
Y = np.random.default_rng(0).normal(size=20)


def effects(size=4):
    return numpyro.sample("a", dist.Normal(0, 1).expand([size]))


def by_index(g, y=None):
    numpyro.sample("y", dist.Normal(effects()[g], 1), obs=y)


def by_shifted_index(g, y=None):
    numpyro.sample("y", dist.Normal(effects()[g - 1], 1), obs=y)


def by_second_axis(g, y=None):
    a = numpyro.sample("a", dist.Normal(0, 1).expand([2, 4]))
    numpyro.sample("y", dist.Normal(a[0, g], 1), obs=y)


def in_jax_scan(g, y=None):
    a = effects()
    _, mean = jax.lax.scan(lambda carry, i: (carry, a[i]), 0.0, g)
    numpyro.sample("y", dist.Normal(mean, 1), obs=y)


def in_numpyro_scan(g, y=None):
    a = effects()

    def step(carry, row):
        i, value = row
        numpyro.sample("y", dist.Normal(0.5 * carry + a[i], 1), obs=value)
        return carry + a[i], None

    scan(step, 0.0, (g, y))


def in_cond(g, y=None):
    a = effects()
    mean = jax.lax.cond(a[0] > 0, lambda: a[g], lambda: 2 * a[g])
    numpyro.sample("y", dist.Normal(mean, 1), obs=y)


def in_vmap(g, y=None):
    a = effects()
    numpyro.sample("y", dist.Normal(jax.vmap(lambda i: a[i])(g), 1), obs=y)


def with_python_size(g, y=None):
    numpyro.sample("y", dist.Normal(effects(len(np.unique(g)))[g], 1), obs=y)


INDEXING = [
    by_index, by_second_axis, in_jax_scan, in_numpyro_scan, in_cond, in_vmap, with_python_size,
]  # fmt: skip


@pytest.mark.parametrize("program", INDEXING)
def test_right_indices_are_accepted(program):
    bayes.Model(program).bind({"g": GROUP, "y": Y})


@pytest.mark.parametrize("program", INDEXING)
def test_group_that_counts_from_one_is_refused(program):
    with pytest.raises(bayes.DataError, match=r"'g' is used as an index.*size 4.*rows 15, 16"):
        bayes.Model(program).bind({"g": GROUP + 1, "y": Y})


@pytest.mark.parametrize("program", INDEXING)
def test_negative_group_is_refused(program):
    codes = np.where(GROUP == 1, -1, GROUP)
    if program is with_python_size:
        codes = GROUP - 1
    with pytest.raises(bayes.DataError, match=r"'g' is used as an index.*from -1 to.*count from 0"):
        bayes.Model(program).bind({"g": codes, "y": Y})


def test_index_computed_from_data_names_what_it_is_made_of():
    bayes.Model(by_shifted_index).bind({"g": GROUP + 1, "y": Y})
    with pytest.raises(bayes.DataError, match="index -1 for an array of size 4; it is made of g"):
        bayes.Model(by_shifted_index).bind({"g": GROUP, "y": Y})


def test_size_read_from_the_data_in_python_still_finds_negative_codes():
    def program(g, y=None):
        numpyro.sample("y", dist.Normal(effects(int(np.max(g)) + 1)[g], 1), obs=y)

    bayes.Model(program).bind({"g": GROUP, "y": Y})
    with pytest.raises(bayes.DataError, match="'g' is used as an index"):
        bayes.Model(program).bind({"g": GROUP - 1, "y": Y})


def test_of_two_indices_the_wrong_one_is_named():
    def program(g, h, y=None):
        a = numpyro.sample("a", dist.Normal(0, 1).expand([4, 3]))
        numpyro.sample("y", dist.Normal(a[g, h], 1), obs=y)

    h = np.arange(20) % 3
    bayes.Model(program).bind({"g": GROUP, "h": h, "y": Y})
    with pytest.raises(bayes.DataError, match="'h' is used as an index into an array of size 3"):
        bayes.Model(program).bind({"g": GROUP, "h": h + 1, "y": Y})


def test_scattered_positions_are_checked():
    def program(at, y=None):
        whole = jnp.zeros(20).at[at].set(y)
        numpyro.factor("f", dist.Normal(numpyro.sample("m", dist.Normal(0, 1)), 1).log_prob(whole))

    bayes.Model(program).bind({"at": np.arange(20), "y": Y})
    with pytest.raises(bayes.DataError, match="'at' is used as an index into an array of size 20"):
        bayes.Model(program).bind({"at": np.arange(20) + 1, "y": Y})


def test_static_index_is_checked():
    with pytest.raises(bayes.DataError, match="index 7 for an array of size 4"):
        bayes.Model(by_index).bind({"g": 7, "y": 1.0})


def test_integer_covariate_and_literal_index_are_not_taken_for_wrong_indices():
    def program(x, g, y=None):
        a = effects()
        numpyro.sample("y", dist.Normal(a[g] + a[-1] * x, 1), obs=y)

    bayes.Model(program).bind({"x": np.arange(20) - 30, "g": GROUP, "y": Y})


def test_negative_time_that_is_shifted_before_it_indexes_is_accepted():
    def program(t, y=None):
        numpyro.sample("y", dist.Normal(effects(20)[t + 5], 1), obs=y)

    bayes.Model(program).bind({"t": np.arange(20) - 5, "y": Y})


def test_padding_that_is_replaced_before_it_indexes_is_accepted():
    def program(g, y=None):
        a = effects()
        mean = jnp.where(g < 0, 0.0, a[jnp.where(g < 0, 0, g)])
        numpyro.sample("y", dist.Normal(mean, 1), obs=y)

    bayes.Model(program).bind({"g": np.where(GROUP == 1, -1, GROUP), "y": Y})


def test_program_that_says_what_lies_beyond_the_end_is_accepted_with_a_note():
    def program(g, y=None):
        mean = effects().at[g].get(mode="fill", fill_value=0.0)
        numpyro.sample("y", dist.Normal(mean, 1), obs=y)

    problem = bayes.Model(program).bind({"g": GROUP + 1, "y": Y})
    assert any("indices were not checked" in note for note in problem.notes)


def test_index_of_real_numbers_names_the_column_and_the_way_out():
    with pytest.raises(bayes.DataError, match=r"real numbers \(g\).*astype\('category'\)"):
        bayes.Model(by_index).bind({"g": GROUP.astype(float), "y": Y})


def test_unused_first_level_shifts_codes_and_is_refused_by_its_row_labels():
    labels = [f"r{i}" for i in range(20)]
    group = pd.Categorical(np.array(list("abcd"))[GROUP], categories=list("zabcd"))
    frame = pd.DataFrame({"g": group, "y": Y}, index=labels)
    with pytest.raises(bayes.DataError, match="rows 'r15', 'r16'"):
        bayes.Model(by_index).bind(frame)
