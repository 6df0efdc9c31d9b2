"""Fits where observations are missing: what they find, what they say of it, and how they go on."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from kronecker_for_tests import Dense, numbers
from numpyro.distributions import constraints

import bayes
from bayes.distributions import (
    ComplexKroneckerLinear,
    ComplexKroneckerNormal,
    KroneckerLinear,
    KroneckerNormal,
    as_pairs,
    from_pairs,
)
from bayes.inference.kronecker import masked_climb, run
from bayes.inference.kronecker.tensors import along

SBL = bayes.KroneckerSBL
# Problems this small have few observations a variance, which the verdict says.
pytestmark = pytest.mark.filterwarnings("ignore::bayes.ConvergenceWarning")


def flat(name, *shape):
    return numpyro.sample(name, dist.ImproperUniform(constraints.positive, (), shape))


def sparse(factors, sd=None, mask=None, y=None):
    """Flat priors of everything; noise that is known where it is given."""
    scales = [flat(f"gamma_{i}", h.shape[1]) for i, h in enumerate(factors)]
    noise = flat("noise") if sd is None else sd
    x = numpyro.sample("x", KroneckerNormal(scales))
    numpyro.sample("y", KroneckerLinear(factors, x, noise, mask=mask), obs=y)


def snapshots(factors, count, mask=None, y=None):
    """Several real ones."""
    scales = [flat(f"gamma_{i}", h.shape[1]) for i, h in enumerate(factors)]
    noise = flat("noise")
    with numpyro.plate("snapshot", count):
        x = numpyro.sample("x", KroneckerNormal(scales))
        numpyro.sample("y", KroneckerLinear(factors, x, noise, mask=mask), obs=y)


def complex_snapshots(factors, count, mask=None, y=None):
    """Several complex ones; y as pairs, where a mask is of complex numbers."""
    scales = [flat(f"gamma_{i}", h.shape[1]) for i, h in enumerate(factors)]
    noise = flat("noise")
    with numpyro.plate("snapshot", count):
        x = numpyro.sample("x", ComplexKroneckerNormal(scales))
        likelihood = ComplexKroneckerLinear(factors, x, noise, mask=mask)
        numpyro.sample("y", likelihood, obs=None if y is None else as_pairs(y))


def sparse_problem(rng, sizes, count, active, missing, noise, kind="real", snapshots=None):
    """Sparse coefficients on a product of supports, and their observations.

    Without snapshots there is one, and no axis for it; with them each has a mask of its own.
    """
    lead = 1 if snapshots is None else snapshots
    factors = [numbers(rng, kind, m, count) / np.sqrt(m) for m in sizes]
    x = np.zeros((lead, *[count] * len(sizes)), factors[0].dtype)
    support = [np.sort(rng.choice(count, active, replace=False)) for _ in sizes]
    x[np.ix_(np.arange(lead), *support)] = numbers(rng, kind, lead, *[active] * len(sizes))
    y = along(x, factors)
    variance = float(np.mean(np.abs(y) ** 2)) * noise
    y = y + np.sqrt(variance) * numbers(rng, kind, *y.shape)
    mask = rng.random(y.shape) >= missing
    if snapshots is None:
        x, y, mask = x[0], y[0], mask[0]
    return factors, x, y, mask, variance, support


def dense_of(post, factors, y, mask):
    """The model of one or more snapshots at the variances that a fit found."""
    if y.ndim == len(factors):
        y, mask = y[None], mask[None]
    return Dense(factors, y, mask, post.structure.relevances, post.structure.noise**2)


def test_sweeps_climb_the_dense_evidence_to_its_maximum(rng):
    """An EM algorithm with exact expectations is monotone; 547 probes leave it all but that."""
    factors, _, y, mask, *_ = sparse_problem(rng, (5, 6), 7, 2, 0.3, 0.02)
    data = {"factors": factors, "y": np.where(mask, y, np.nan), "mask": mask}
    heights = []
    for sweeps in (5, 10, 25, 1000):
        post = bayes.fit(sparse, data, SBL(sweeps=sweeps, draws=2), seed=0)
        heights.append(dense_of(post, factors, y, mask).log_evidence)
        info = post.method.info
        assert abs(info["log_evidence"] - heights[-1]) < 4.5 * info["log_evidence_error"]
        assert bool(info["not_converged"]) == (info["sweeps"] == sweeps)
    assert np.diff(heights).min() > -1e-3
    assert heights[-1] - heights[0] > 5.0
    # The best of exact majorise-minimise steps from there.
    relevances, v = list(post.structure.relevances), post.structure.noise**2
    for _ in range(300):
        slices, noise = Dense(factors, y[None], mask, relevances, v).statistics(relevances)
        ratios = [np.divide(a, b, out=np.zeros_like(a), where=b > 0) for a, b in slices]
        relevances = [g * r**0.25 for g, r in zip(relevances, ratios, strict=True)]
        v *= float(np.sqrt(noise[0] / noise[1]))
    best = Dense(factors, y[None], mask, relevances, v).log_evidence
    assert abs(best - heights[-1]) < 0.05


def test_sparse_coefficients_are_recovered_with_a_third_missing(rng):
    """To 20 % of the error that those have for whom nothing is missing, and zeros are no help."""
    factors, x, y, mask, variance, support = sparse_problem(rng, (8, 10, 12), 14, 3, 0.3, 0.01)

    def error(post):
        return np.sum((post.moments("x")["mean"].values - x) ** 2) / np.sum(x**2)

    data = {"factors": factors, "y": np.where(mask, y, np.nan), "mask": mask}
    post = bayes.fit(sparse, data, SBL(draws=10), seed=0)
    zeros = bayes.fit(sparse, {"factors": factors, "y": y * mask}, SBL(draws=10), seed=0)
    whole = bayes.fit(sparse, {"factors": factors, "y": y}, SBL(draws=10), seed=0)
    assert error(post) < 0.01
    assert error(post) < 4 * error(whole)
    assert error(zeros) > 20 * error(post)
    assert post.method.info["not_converged"] == ""
    assert post.structure.noise**2 == pytest.approx(variance, rel=0.2)
    for g, places in zip(post.structure.relevances, support, strict=True):
        np.testing.assert_array_equal(np.sort(np.argsort(g)[-3:]), places)
    # Other probes, nearly the same.
    again = bayes.fit(sparse, data, SBL(draws=10), seed=7)
    assert error(again) == pytest.approx(error(post), rel=0.2)


def test_noise_that_is_known_is_kept(rng):
    factors, _, y, mask, variance, _ = sparse_problem(rng, (5, 6), 7, 2, 0.3, 0.02)
    data = {"factors": factors, "y": np.where(mask, y, np.nan), "mask": mask}
    post = bayes.fit(sparse, {**data, "sd": variance**0.5}, SBL(draws=2), seed=0)
    assert post.structure.noise == pytest.approx(variance**0.5, rel=1e-12)
    assert "noise" not in post.data["posterior"]
    assert "noise_share" not in post.method.info


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_each_snapshot_may_have_its_own_mask(rng, kind):
    """Means are exact at the variances found; so are variances but for what is missing.

    That part has a relative error of sqrt(2 / 64), of 64 probes: above 5 of these a false alarm
    has a probability below 1e-5 for each of the coefficients that are not pruned, some dozen.
    """
    factors, x, y, mask, variance, support = sparse_problem(
        rng, (5, 6, 6), 7, 2, 0.3, 0.005, kind, 3
    )
    program = snapshots if kind == "real" else complex_snapshots
    data = {"factors": factors, "count": 3, "y": np.where(mask, y, np.nan), "mask": mask}
    post = bayes.fit(program, data, SBL(draws=2), seed=0)
    assert np.sum(np.abs(post.structure.mean - x) ** 2) < 0.05 * np.sum(np.abs(x) ** 2)
    assert post.structure.noise**2 == pytest.approx(variance, rel=0.3)
    for g, places in zip(post.structure.relevances, support, strict=True):
        np.testing.assert_array_equal(np.sort(np.argsort(g)[-2:]), places)
    dense = dense_of(post, factors, y, mask)
    exact = dense.mean
    np.testing.assert_allclose(post.structure.mean, exact, atol=1e-6 * np.abs(exact).max())
    moments = post.moments("x")
    mean, sd = moments["mean"].values, moments["sd"].values
    np.testing.assert_allclose(
        np.asarray(from_pairs(mean)) if kind == "complex" else mean, post.structure.mean
    )
    if kind == "complex":
        np.testing.assert_allclose(sd[..., 0], sd[..., 1])
        sd = np.sqrt(np.sum(sd**2, axis=-1))
    np.testing.assert_allclose(sd, post.structure.sd)
    whole = Dense(
        factors, y, np.ones_like(mask), post.structure.relevances, post.structure.noise**2
    )
    least = np.diag(whole.posterior()).real.reshape(dense.shape)
    for snapshot in range(3):
        variances = np.diag(dense.posterior(snapshot)).real.reshape(dense.shape)
        added = variances - least
        assert added.max() > 0.1 * least.max()
        away = np.abs(sd[snapshot] ** 2 - variances)
        assert np.all(away <= 5 * np.sqrt(2 / 64) * added + 1e-9 * variances.max())


def test_draws_spread_as_moments_say(rng):
    """A variance of 4000 draws has a relative error of sqrt(2 / 4000).

    That of what is missing has one of sqrt(2 / 64). Above 5 of these a false alarm has a
    probability below 1e-5 for each of the coefficients that are not pruned, some dozen.
    """
    factors, _, y, mask, *_ = sparse_problem(rng, (6, 6), 7, 2, 0.4, 0.02)
    data = {"factors": factors, "y": np.where(mask, y, np.nan), "mask": mask}
    post = bayes.fit(sparse, data, SBL(draws=4000), seed=0)
    dense = dense_of(post, factors, y, mask)
    exact = np.diag(dense.posterior()).reshape(dense.shape)
    draws = post.draws("x").values[0]
    kept = exact > 1e-6 * exact.max()
    assert kept.sum() >= 4
    away = draws.var(axis=0)[kept] / exact[kept] - 1.0
    assert np.abs(away).max() < 5 * np.sqrt(2 / 4000)
    z = (draws.mean(axis=0) - dense.mean[0])[kept] / np.sqrt(exact[kept] / 4000)
    assert np.abs(z).max() < 4.5
    told = post.moments("x")["sd"].values ** 2
    between = 5 * np.hypot(np.sqrt(2 / 4000), np.sqrt(2 / 64))
    assert np.abs(told[kept] / draws.var(axis=0)[kept] - 1.0).max() < between
    assert not draws[:, ~(told > 0)].any()


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_a_mask_of_which_nothing_is_missing_changes_no_bit(rng, kind):
    factors, _, y, *_ = sparse_problem(rng, (5, 6), 7, 2, 0.0, 0.02, kind, 2)
    program = snapshots if kind == "real" else complex_snapshots
    data = {"factors": factors, "count": 2, "y": y}
    whole = bayes.fit(program, data, SBL(draws=20), seed=0)
    masked = bayes.fit(program, {**data, "mask": np.ones(y.shape, bool)}, SBL(draws=20), seed=0)
    for site in ("x", "gamma_0", "gamma_1", "noise"):
        np.testing.assert_array_equal(masked.draws(site), whole.draws(site))
    assert masked.method.info["objective"] == whole.method.info["objective"]
    assert "masked" not in masked.method.info


def test_missing_observations_without_a_mask_are_refused(rng):
    """And so they are where the mask calls them observed."""
    factors, _, y, mask, *_ = sparse_problem(rng, (5, 6), 7, 2, 0.3, 0.02)
    data = {"factors": factors, "y": np.where(mask, y, np.nan)}
    with pytest.raises(bayes.DataError, match=r"'y' has 5 rows with missing values \(NaN\)"):
        bayes.fit(sparse, data, SBL(), seed=0)
    seen = mask.copy()
    seen[tuple(np.argwhere(~mask)[0])] = True
    with pytest.raises(bayes.DataError, match="'y' has"):
        bayes.fit(sparse, {**data, "mask": seen}, SBL(), seed=0)
    with pytest.raises(bayes.DataError, match="nothing of 'y' was observed"):
        bayes.fit(sparse, {**data, "mask": np.zeros_like(mask)}, SBL(), seed=0)


class Killed(Exception):
    pass


@pytest.mark.parametrize("block", [3, -2])
def test_a_run_that_was_killed_ends_with_the_same_bits(rng, tmp_path, monkeypatch, block):
    """In one of its rounds, and among the draws."""
    factors, _, y, mask, *_ = sparse_problem(rng, (5, 6), 7, 2, 0.3, 0.02)
    data = {"factors": factors, "y": np.where(mask, y, np.nan), "mask": mask}
    method = SBL(sweeps=50, draws=30)
    monkeypatch.setattr(run, "_NUMBERS", 10 * y.size)
    whole = bayes.fit(sparse, data, method, seed=4)
    blocks = whole.method.info["sweeps"] // 5 + 3
    step, count = masked_climb.MaskedClimb.step, iter(range(10**6))

    def dying(self, problem, state):
        if next(count) == block % blocks:
            raise Killed
        return step(self, problem, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masked_climb.MaskedClimb, "step", dying)
        with pytest.raises(Killed):
            bayes.fit(sparse, data, method, seed=4, checkpoint=tmp_path / "c")
    resumed = bayes.fit(sparse, data, method, seed=4, checkpoint=tmp_path / "c")
    assert next(count) == block % blocks + 1
    for site in ("x", "gamma_0", "gamma_1", "noise"):
        np.testing.assert_array_equal(resumed.draws(site), whole.draws(site))
    draws = resumed.draws("x").values
    assert draws.shape == (1, 30, 7, 7)
    assert len(np.unique(draws.reshape(30, -1), axis=0)) == 30  # each block has its own
    assert resumed.method.info["objective"] == whole.method.info["objective"]
    assert resumed.method.info["log_evidence"] == whole.method.info["log_evidence"]
