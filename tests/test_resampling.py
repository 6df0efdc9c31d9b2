"""Importance ratios and what is chosen by them, beside weights and targets that are known."""

import json

import numpy as np
import pytest
from arviz_stats.base import array_stats
from scipy.stats import norm, t

from bayes.diagnostics.importance import importance_ratios
from bayes.errors import NoDrawsError
from bayes.inference.resampling import choose, importance_info, resample
from bayes.method import Draws

WORDS = np.array([3, 7], np.uint32)


def draws_of(x, lp, log_q, **changes):
    """Draws of two sites that tell which draw they are."""
    n = len(x)
    values = {"x": x[None, :, 0], "pair": np.stack([x[:, 0], 2.0 * x[:, 0]], axis=1)[None]}
    stats = {"lp": lp[None], "number": np.arange(n)[None], "vector": np.zeros((1, n, 3))}
    options = {"positions": x[None], "info": {"route": "raw", "own": 1}, **changes}
    return Draws(values, stats, chains=1, log_q=log_q[None], **options)


def wide_draws(rng, count=4000, scale=1.5, target=norm.logpdf):
    x = scale * rng.normal(size=(count, 1))
    return draws_of(x, target(x[:, 0]), norm.logpdf(x[:, 0], scale=scale))


class TestChoose:
    @pytest.mark.parametrize("count", [1, 7, 100, 1234])
    def test_each_comes_as_often_as_its_weight_says_up_to_one(self, count, rng):
        """The expected number of times, rounded down or up."""
        log_weights = 2.0 * rng.normal(size=100)
        weights = np.exp(log_weights)
        expected = count * weights / weights.sum()
        for _ in range(20):
            chosen = choose(log_weights, count, rng)
            assert chosen.shape == (count,)
            found = np.bincount(chosen, minlength=100)
            assert (found >= np.floor(expected - 1e-9)).all()
            assert (found <= np.ceil(expected + 1e-9)).all()

    def test_on_average_each_comes_as_often_as_its_weight_says(self, rng):
        """Over 4000 repetitions, within 5 Monte Carlo errors; a false alarm in 100 000."""
        log_weights = rng.normal(size=10)
        counts = np.stack(
            [np.bincount(choose(log_weights, 7, rng), minlength=10) for _ in range(4000)]
        )
        expected = 7 * np.exp(log_weights) / np.exp(log_weights).sum()
        error = counts.std(axis=0) / np.sqrt(len(counts)) + 1e-12
        assert (np.abs(counts.mean(axis=0) - expected) < 5.0 * error).all()

    def test_equal_weights_take_each_once(self, rng):
        chosen = choose(np.full(50, -3.0), 50, rng)
        np.testing.assert_array_equal(np.sort(chosen), np.arange(50))
        assert not np.array_equal(chosen, np.arange(50))

    def test_weights_of_zero_are_never_chosen(self, rng):
        log_weights = np.full(9, -np.inf)
        log_weights[[2, 5]] = 0.0
        for _ in range(50):
            assert set(choose(log_weights, 10, rng)) <= {2, 5}

    def test_the_last_draws_may_be_without_weight(self, rng):
        """A mark that rounding puts at the end of the sum belongs to none of them."""
        log_weights = np.concatenate([np.zeros(1000), np.full(5, -np.inf)])
        for _ in range(100):
            assert choose(log_weights, 999, rng).max() < 1000

    def test_weights_need_not_sum_to_one(self):
        log_weights = np.linspace(-1, 1, 20)
        first, second = (
            choose(log_weights + shift, 40, np.random.default_rng(0)) for shift in (0.0, 900.0)
        )
        np.testing.assert_array_equal(first, second)

    def test_the_order_is_random(self, rng):
        """Of 1000 in order, about half are greater than the one before: 5 sds of 9."""
        chosen = choose(np.zeros(1000), 1000, rng)
        assert abs((np.diff(chosen) > 0).sum() - 500) < 50


class TestRatios:
    def test_the_tail_is_that_of_the_posterior_over_the_approximation(self, rng):
        """ArviZ's function takes minus the log ratios: the sign tells a narrow q from a wide one.

        A t of 3 degrees of freedom about normal draws has ratios without a mean; the other way
        round they are bounded.
        """
        x = rng.normal(size=4000)
        narrow = importance_ratios(t.logpdf(x, 3), norm.logpdf(x))
        x = rng.standard_t(3, size=4000)
        wide = importance_ratios(norm.logpdf(x), t.logpdf(x, 3))
        assert wide.khat < 0.0
        assert narrow.khat > 0.5
        weights, khat = array_stats.psislw(t.logpdf(x, 3) - norm.logpdf(x))
        assert wide.khat == pytest.approx(float(khat))
        np.testing.assert_allclose(wide.log_weights, weights, atol=1e-10)

    @pytest.mark.parametrize("d", [1, 5, 20])
    def test_a_narrow_approximation_is_told(self, d, rng):
        """Of a fifth of the width in each of d dimensions: ratios have a tail of 1 - 1/25.

        In one dimension 4000 draws see that tail half of the time or so, in five always.
        """
        x = rng.normal(size=(11, 4000, d)) / 5.0
        log_p, log_q = (norm.logpdf(x, scale=s).sum(axis=2) for s in (1.0, 1.0 / 5.0))
        khats = [importance_ratios(p, q).khat for p, q in zip(log_p, log_q, strict=True)]
        assert np.median(khats) > 0.7
        assert d == 1 or min(khats) > 0.7

    @pytest.mark.parametrize("d", [1, 5, 20])
    def test_a_wide_one_is_no_harm(self, d, rng):
        """A fifth wider: ratios are bounded."""
        x = 1.2 * rng.normal(size=(10, 4000, d))
        log_p, log_q = (norm.logpdf(x, scale=s).sum(axis=2) for s in (1.0, 1.2))
        assert all(importance_ratios(p, q).khat < 0.5 for p, q in zip(log_p, log_q, strict=True))

    def test_the_right_one_has_equal_weights(self, rng):
        log_p = rng.normal(size=500)
        found = importance_ratios(log_p + 7.0, log_p + 1e-9 * rng.normal(size=500))
        assert found.khat == -np.inf
        assert found.ess == 500
        np.testing.assert_allclose(found.log_weights, -np.log(500))

    def test_weights_sum_to_one_and_keep_their_order(self, rng):
        x = 1.5 * rng.normal(size=2000)
        found = importance_ratios(norm.logpdf(x), norm.logpdf(x, scale=1.5))
        assert np.exp(found.log_weights).sum() == pytest.approx(1.0)
        assert found.ess == pytest.approx(1.0 / np.exp(2.0 * found.log_weights).sum())
        assert found.log_ratios.max() == 0.0
        order = np.argsort(found.log_ratios, kind="stable")
        assert (np.diff(found.log_weights[order]) > -1e-12).all()

    def test_a_constant_in_either_density_does_not_matter(self, rng):
        x = 1.5 * rng.normal(size=2000)
        log_p, log_q = norm.logpdf(x), norm.logpdf(x, scale=1.5)
        first, second = importance_ratios(log_p, log_q), importance_ratios(log_p - 1e4, log_q + 1e4)
        assert second.khat == pytest.approx(first.khat, abs=1e-6)
        np.testing.assert_allclose(second.log_weights, first.log_weights, atol=1e-6)

    def test_draws_without_density_have_no_weight(self, rng):
        """The others have the weights that they have among themselves."""
        x = 1.5 * rng.normal(size=2000)
        log_p, log_q = norm.logpdf(x), norm.logpdf(x, scale=1.5)
        outside = rng.uniform(size=2000) < 0.3
        found = importance_ratios(np.where(outside, -np.inf, log_p), log_q)
        alone = importance_ratios(log_p[~outside], log_q[~outside])
        assert np.isneginf(found.log_weights[outside]).all()
        np.testing.assert_allclose(found.log_weights[~outside], alone.log_weights)
        assert found.khat == alone.khat
        assert found.ess == pytest.approx(alone.ess)

    @pytest.mark.parametrize("there", [1, 2, 5, 10])
    def test_few_draws_with_density(self, there, rng):
        log_p = np.full(1000, -np.inf)
        log_p[:there] = rng.normal(size=there)
        found = importance_ratios(log_p, np.zeros(1000))
        assert np.exp(found.log_weights).sum() == pytest.approx(1.0)
        assert 1.0 - 1e-9 <= found.ess <= there + 1e-9
        assert np.isneginf(found.log_weights[there:]).all()

    def test_ratios_that_are_equal_in_their_tail(self, rng):
        """They are bounded: the weights are the ratios themselves."""
        x = rng.uniform(size=1000)
        log_p = np.where(x > 0.5, 0.0, np.log(0.5 + x))
        found = importance_ratios(log_p, np.zeros(1000))
        np.testing.assert_allclose(np.exp(found.log_weights), np.exp(log_p) / np.exp(log_p).sum())
        assert found.khat < 0.0


class TestResample:
    def test_what_belongs_to_a_draw_stays_with_it(self, rng):
        draws = wide_draws(rng)
        found = resample(draws, WORDS)
        number = found.stats["number"][0]
        for name, value in {**draws.values, **draws.stats}.items():
            now = {**found.values, **found.stats}[name]
            np.testing.assert_array_equal(now, value[:, number], err_msg=name)
        np.testing.assert_array_equal(found.positions, draws.positions[:, number])
        np.testing.assert_array_equal(found.log_q, draws.log_q[:, number])
        assert found.chains == 1
        assert found.length == draws.length

    def test_draws_of_several_chains_are_joined(self, rng):
        whole = wide_draws(rng)
        halves = {k: v.reshape(2, 2000, *v.shape[2:]) for k, v in whole.values.items()}
        stats = {k: v.reshape(2, 2000, *v.shape[2:]) for k, v in whole.stats.items()}
        positions, log_q = whole.positions.reshape(2, 2000, 1), whole.log_q.reshape(2, 2000)
        split = Draws(halves, stats, chains=2, positions=positions, log_q=log_q)
        found, expected = resample(split, WORDS), resample(whole, WORDS)
        np.testing.assert_array_equal(found.values["pair"], expected.values["pair"])
        np.testing.assert_array_equal(found.positions, expected.positions)

    @pytest.mark.parametrize("scale", [0.9, 1.5, 3.0])
    def test_moments_are_those_of_the_posterior(self, scale, rng):
        """Mean and variance of a standard normal, within 5 errors of ess draws."""
        found = resample(wide_draws(rng, 20_000, scale), WORDS)
        x, ess = found.values["x"][0], found.info["importance"]["ess"]
        assert abs(x.mean()) < 5.0 / np.sqrt(ess)
        assert abs(np.square(x).mean() - 1.0) < 5.0 * np.sqrt(2.0 / ess)

    def test_a_skew_posterior_from_a_normal(self, rng):
        """log-gamma of shape 4: mean and sd by digamma and trigamma, within 5 errors."""
        from scipy.special import polygamma

        mean, sd = float(polygamma(0, 4)), float(np.sqrt(polygamma(1, 4)))
        x = mean + 1.4 * sd * rng.normal(size=(20_000, 1))
        lp = 4.0 * x[:, 0] - np.exp(x[:, 0])
        found = resample(draws_of(x, lp, norm.logpdf(x[:, 0], mean, 1.4 * sd)), WORDS)
        error = sd / np.sqrt(found.info["importance"]["ess"])
        assert abs(found.values["x"].mean() - mean) < 5.0 * error
        assert abs(found.values["x"].std() - sd) < 5.0 * error

    @pytest.mark.parametrize("outside", [-np.inf, np.nan])
    def test_draws_without_density_are_never_chosen(self, outside, rng):
        """Half of a standard normal: mean sqrt(2 / pi), within 5 errors."""

        def target(x):
            return np.where(x > 0, norm.logpdf(x), outside)

        found = resample(wide_draws(rng, 8000, 1.5, target), WORDS)
        x, ess = found.values["x"][0], found.info["importance"]["ess"]
        assert (x > 0).all()
        assert np.isfinite(found.stats["lp"]).all()
        error = np.sqrt((1.0 - 2.0 / np.pi) / ess)
        assert abs(x.mean() - np.sqrt(2.0 / np.pi)) < 5.0 * error

    def test_a_density_that_is_infinite_is_none_to_trust(self, rng):
        draws = wide_draws(rng)
        draws.stats["lp"][0, 17] = np.inf
        found = resample(draws, WORDS)
        assert 17 not in found.stats["number"]
        assert np.isfinite(found.stats["lp"]).all()
        assert not found.info["importance"]["khat"] < 0.7

    def test_without_any_density_there_are_no_draws(self, rng):
        draws = wide_draws(rng, 100, 1.0, lambda x: np.full_like(x, -np.inf))
        with pytest.raises(NoDrawsError, match=r"no draw .* has a finite log density"):
            resample(draws, WORDS)

    @pytest.mark.parametrize("count", [1, 500, 9000])
    def test_fewer_or_more(self, count, rng):
        draws = wide_draws(rng)
        found = resample(draws, WORDS, count)
        assert found.length == count
        assert found.positions.shape == (1, count, 1)
        assert found.info["importance"]["candidates"] == 4000
        assert found.candidates["lp"].shape == (4000,)

    def test_what_it_says_of_itself(self, rng):
        draws = wide_draws(rng)
        found = resample(draws, WORDS)
        assert found.info["route"] == "psis"
        assert found.info["own"] == 1
        assert draws.info["route"] == "raw"
        ratios = importance_ratios(draws.stats["lp"][0], draws.log_q[0])
        expected = {"khat": ratios.khat, "ess": ratios.ess, "candidates": 4000}
        assert found.info["importance"] == importance_info(ratios)
        assert found.info["importance"] == {**expected, "nearly_equal": False}
        np.testing.assert_array_equal(found.candidates["lp"], draws.stats["lp"][0])
        np.testing.assert_array_equal(found.candidates["log_q"], draws.log_q[0])

    def test_what_it_says_is_json_where_all_ratios_are_equal(self, rng):
        found = resample(wide_draws(rng, 100, 1.0), WORDS)
        info = found.info["importance"]
        assert json.loads(json.dumps(info, allow_nan=False)) == info
        assert info["khat"] < -1e300
        assert info["ess"] == 100
        np.testing.assert_array_equal(np.sort(found.stats["number"][0]), np.arange(100))

    def test_the_key_says_which(self, rng):
        draws = wide_draws(rng)
        first, second = resample(draws, WORDS), resample(draws, WORDS)
        other = resample(draws, WORDS + np.uint32(1))
        np.testing.assert_array_equal(first.stats["number"], second.stats["number"])
        assert not np.array_equal(first.stats["number"], other.stats["number"])

    def test_positions_are_optional(self, rng):
        draws = draws_of(rng.normal(size=(50, 1)), np.zeros(50), np.zeros(50), positions=None)
        assert resample(draws, WORDS).positions is None

    @pytest.mark.parametrize("count", [1, 2, 10, 24])
    def test_of_few_draws(self, count, rng):
        """As many as a run has that was stopped early; their k-hat is none to trust."""
        found = resample(wide_draws(rng, count), WORDS)
        assert found.length == count
        info = found.info["importance"]
        assert json.loads(json.dumps(info, allow_nan=False)) == info
        assert count == 1 or not info["khat"] < 0.7
