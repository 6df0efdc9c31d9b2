"""R-hat and effective sample sizes of many elements at once: the numbers of ArviZ for each."""

import arviz_stats
import numpy as np
import pytest
import xarray as xr
from arviz_stats.base import array_stats

from bayes.diagnostics import blocks
from bayes.diagnostics.normal_scores import normal_scores, score_table, sort_draws
from bayes.diagnostics.ranks import bulk_ess, mean_ess, rank_rhat, rank_statistics, tail_ess
from bayes.diagnostics.table import summary

STATISTICS = ("rhat", "bulk", "tail", "mean")


def autoregressive(rng, chains, draws, coefficient, elements=12):
    values = rng.normal(size=(chains, draws, elements))
    for t in range(1, draws):
        values[:, t] *= np.sqrt(1 - coefficient**2)
        values[:, t] += coefficient * values[:, t - 1]
    return values


def by_arviz(values):
    axes = {"chain_axis": 0, "draw_axis": 1}
    with np.errstate(all="ignore"):
        return {
            "rhat": array_stats.rhat(values, **axes),
            "bulk": array_stats.ess(values, method="bulk", **axes),
            "tail": array_stats.ess(values, method="tail", prob=(0.05, 0.95), **axes),
            "mean": array_stats.ess(values, method="mean", **axes),
        }


def by_bayes(values):
    return {**vars(rank_statistics(values)), "mean": mean_ess(values)}


def assert_same(found, expected, **tolerance):
    for name in STATISTICS:
        np.testing.assert_allclose(found[name], expected[name], err_msg=name, **tolerance)


@pytest.mark.parametrize("coefficient", [0.0, 0.5, 0.9, 0.99, 0.999, -0.5, -0.95])
@pytest.mark.parametrize(("chains", "draws"), [(4, 500), (4, 401), (3, 130), (1, 300), (1, 301)])
def test_autoregressive_chains(rng, chains, draws, coefficient):
    values = autoregressive(rng, chains, draws, coefficient)
    assert_same(by_bayes(values), by_arviz(values), rtol=1e-9)


@pytest.mark.parametrize("draws", range(1, 21))
@pytest.mark.parametrize("chains", [1, 2, 4])
def test_short_chains(rng, chains, draws):
    values = autoregressive(rng, chains, draws, 0.3)
    assert_same(by_bayes(values), by_arviz(values), rtol=1e-9)


def heavy(rng):
    return rng.standard_cauchy((4, 500, 12))


def heavy_and_slow(rng):
    return np.tan(autoregressive(rng, 4, 501, 0.9))


def counts(rng):
    return rng.poisson(3, (4, 500, 12)).astype(float)


def slow_counts(rng):
    return np.round(2 * autoregressive(rng, 4, 501, 0.9))


def binary(rng):
    return rng.integers(0, 2, (4, 500, 12)).astype(float)


def balanced_binary(rng):
    """Equally many of both: every draw is as far from the median, and folding leaves nothing."""
    return rng.permuted(np.repeat([[0.0, 1.0]], 1000, axis=0).repeat(12).reshape(2000, 12), axis=0)


def rejections(rng):
    values, stay = autoregressive(rng, 4, 500, 0.5), rng.random((4, 500, 12)) < 0.4
    for t in range(1, 500):
        values[:, t] = np.where(stay[:, t], values[:, t - 1], values[:, t])
    return values


def antithetic(rng):
    return (-1.0) ** np.arange(500)[None, :, None] + 0.1 * rng.normal(size=(4, 500, 12))


def far_from_zero(rng):
    return 1e8 + autoregressive(rng, 4, 500, 0.5)


def next_to_nothing(rng):
    return 1e-17 * autoregressive(rng, 4, 500, 0.5)


def single_precision(rng):
    return autoregressive(rng, 4, 500, 0.5).astype(np.float32).astype(float)


def odd_ones_out(rng):
    values = autoregressive(rng, 4, 503, 0.3)
    values[..., 1] = 1e8 + 1 / 3
    values[..., 2] = 0.1
    values[1, :, 3] = 0.1
    values[..., 4] = np.arange(4)[:, None] + 0.01 * values[..., 4]
    values[2, :, 5] += 5
    values[0, 3, 6] = np.nan
    values[..., 7] = np.arange(503)
    values[0, 7, 8] = np.inf
    values[:3, :, 9] = np.inf
    values[0, 251, 10] = np.nan
    return values


CASES = [
    heavy,
    heavy_and_slow,
    counts,
    slow_counts,
    binary,
    balanced_binary,
    rejections,
    antithetic,
    far_from_zero,
    next_to_nothing,
    single_precision,
    odd_ones_out,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_odd_draws(rng, case):
    values = case(rng).reshape(4, -1, 12)
    assert_same(by_bayes(values), by_arviz(values), rtol=1e-9)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_elements_do_not_touch_each_other(rng, case, monkeypatch):
    """Neither in one block nor over many, whatever the memory's order."""
    values = case(rng).reshape(4, -1, 12)
    together = by_bayes(values)
    alone = [by_bayes(values[..., [i]]) for i in range(12)]
    joined = {name: np.concatenate([one[name] for one in alone]) for name in STATISTICS}
    assert_same(joined, together, rtol=1e-12)
    monkeypatch.setattr(blocks, "_BLOCK", 5 * values[..., 0].size)
    assert_same(by_bayes(np.asfortranarray(values)), together, rtol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_alone_and_together(rng, case):
    values = case(rng).reshape(4, -1, 12)
    found = rank_statistics(values)
    np.testing.assert_array_equal(rank_rhat(values), found.rhat)
    np.testing.assert_array_equal(bulk_ess(values), found.bulk)
    np.testing.assert_array_equal(tail_ess(values), found.tail)


def test_no_elements():
    found = rank_statistics(np.empty((4, 100, 0)))
    assert found.rhat.shape == found.bulk.shape == found.tail.shape == (0,)


def test_scores_of_ties_are_those_of_their_mean_rank():
    rows = np.array([[[3.0, 1.0], [3.0, 3.0]], [[1.0, 2.0], [4.0, 4.0]]])
    table = score_table(4)
    scores = normal_scores(sort_draws(rows), table)
    ranks = np.array([[[3.0, 1.0], [3.0, 3.0]], [[1.0, 2.0], [3.5, 3.5]]])
    np.testing.assert_array_equal(scores, table[(2 * ranks - 2).astype(int)])
    assert table[3] == 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"round_to": "none"},
        {"round_to": 3, "ci_kind": "hdi", "ci_prob": 0.5},
        {"kind": "all_median"},
        {"var_names": ["mu", "x"], "kind": "mc_diagnostics"},
        {"fmt": "xarray", "round_to": "none"},
        {"var_names": ["x"], "kind": "diagnostics"},
    ],
    ids=str,
)
@pytest.mark.parametrize("draws", [200, 201])
def test_the_table_is_that_of_arviz(rng, options, draws):
    dims = ("chain", "draw")
    values = {
        "mu": (dims, rng.normal(size=(4, draws))),
        "x": ((*dims, "a", "b"), rng.normal(size=(4, draws, 2, 3))),
        "count": ((*dims, "a"), rng.poisson(2, (4, draws, 2))),
        "fixed": (dims, np.ones((4, draws))),
    }
    tree = xr.DataTree.from_dict({"posterior": xr.Dataset(values)})
    with np.errstate(all="ignore"):
        expected, found = arviz_stats.summary(tree, **options), summary(tree, **options)
    assert type(found) is type(expected)
    if options.get("fmt") == "xarray":
        xr.testing.assert_allclose(found, expected, rtol=1e-9)
        return
    assert list(found.columns) == list(expected.columns)
    assert list(found.index) == list(expected.index)
    assert repr(found) == repr(expected)
    np.testing.assert_allclose(found.to_numpy(float), expected.to_numpy(float), rtol=1e-9)
