"""Mixtures of normals in triangular form beside SciPy's, and fitted to draws."""

import time

import jax
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

from bayes.compilation import computing
from bayes.errors import SettingsError
from bayes.surrogates.fitting import fit_mixture, resized
from bayes.surrogates.mixtures import (
    Mixture,
    conditional_sample,
    covariances,
    element_log_probs,
    from_tokens,
    head,
    log_prob,
    mixture_of_covariances,
    moments,
    moved,
    sample,
    to_tokens,
    token_size,
)

D, K = 4, 3


@pytest.fixture(autouse=True)
def _computing():
    with computing():
        yield


def parts(rng, k=K, d=D):
    """Weights, means and covariances with standard deviations over two decades."""
    a = rng.normal(size=(k, d, d))
    scales = np.exp(rng.uniform(-2.3, 2.3, d))
    spreads = (a @ np.swapaxes(a, 1, 2) / d + 0.2 * np.eye(d)) * np.outer(scales, scales)
    return rng.dirichlet(np.full(k, 3.0)), 2.0 * scales * rng.normal(size=(k, d)), spreads


def dense_log_prob(weights, means, spreads, x):
    each = [
        np.log(w) + multivariate_normal(m, s).logpdf(x).reshape(len(x))
        for w, m, s in zip(weights, means, spreads, strict=True)
    ]
    return logsumexp(each, axis=0)


class TestBesideScipy:
    def test_log_density_of_one_and_of_many(self, rng):
        given = parts(rng)
        mixture = mixture_of_covariances(*given)
        x = rng.normal(size=(7, D))
        expected = dense_log_prob(*given, x)
        np.testing.assert_allclose(log_prob(mixture, x), expected, rtol=1e-10)
        np.testing.assert_allclose(log_prob(mixture, x[0]), expected[0], rtol=1e-10)
        both = Mixture(*(np.stack([v, v]) for v in mixture))
        np.testing.assert_allclose(log_prob(both, x[:2]), expected[:2], rtol=1e-10)

    def test_elements_follow_the_chain_rule(self, rng):
        """Each conditional is a ratio of two marginal densities, by SciPy."""
        weights, means, spreads = parts(rng)
        mixture = mixture_of_covariances(weights, means, spreads)
        x = rng.normal(size=(5, D))
        found = element_log_probs(mixture, x)
        before = np.zeros(5)
        for i in range(1, D + 1):
            here = dense_log_prob(weights, means[:, :i], spreads[:, :i, :i], x[:, :i])
            np.testing.assert_allclose(found[:, i - 1], here - before, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(log_prob(head(mixture, i), x[:, :i]), here, rtol=1e-9)
            before = here

    def test_covariances_and_moments(self, rng):
        weights, means, spreads = parts(rng)
        mixture = mixture_of_covariances(weights, means, spreads)
        np.testing.assert_allclose(covariances(mixture), spreads, rtol=1e-9, atol=1e-12)
        mean, spread = moments(mixture)
        np.testing.assert_allclose(mean, weights @ means)
        second = sum(
            w * (s + np.outer(m, m)) for w, m, s in zip(weights, means, spreads, strict=True)
        )
        np.testing.assert_allclose(spread, second - np.outer(mean, mean), rtol=1e-9, atol=1e-9)

    def test_moved_is_a_change_of_variables(self, rng):
        mixture = mixture_of_covariances(*parts(rng))
        shift, scale = rng.normal(size=D), np.exp(rng.normal(size=D))
        x = rng.normal(size=(6, D))
        found = log_prob(moved(mixture, shift, scale), shift + scale * x)
        np.testing.assert_allclose(found, log_prob(mixture, x) - np.log(scale).sum(), rtol=1e-10)

    def test_tokens_and_back(self, rng):
        mixture = mixture_of_covariances(*parts(rng))
        tokens = to_tokens(mixture)
        assert tokens.shape == (K, token_size(D))
        for a, b in zip(from_tokens(tokens, D), mixture, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-14)


def mean_error(draws, mean, spread):
    """Largest error of a mean in its own standard errors."""
    return np.abs((draws.mean(0) - mean) / np.sqrt(np.diagonal(spread) / len(draws))).max()


class TestDraws:
    """Means within 4.5 standard errors: 1 false alarm in 10 000 for each test's few means."""

    def test_moments(self, rng, key):
        mixture = mixture_of_covariances(*parts(rng))
        draws = np.asarray(sample(mixture, key, 20_000))
        mean, spread = moments(mixture)
        assert mean_error(draws, mean, spread) < 4.5
        away = draws - mean
        squares = np.square(away / np.sqrt(np.diagonal(spread)))
        assert (np.abs(squares.mean(0) - 1) / squares.std(0) * np.sqrt(20_000)).max() < 4.5
        # The coefficients too: the mean log density is that of an independent estimate.
        other = np.asarray(sample(mixture, jax.random.key(1), 20_000))
        a, b = (np.asarray(log_prob(mixture, x)) for x in (draws, other))
        assert abs(a.mean() - b.mean()) < 4.5 * np.hypot(a.std(), b.std()) / np.sqrt(20_000)

    def test_of_many_at_once(self, rng, key):
        given = [mixture_of_covariances(*parts(rng)) for _ in range(2)]
        many = Mixture(*(np.stack(v) for v in zip(*given, strict=True)))
        draws = np.asarray(sample(many, key, 5000))
        assert draws.shape == (5000, 2, D)
        for i, mixture in enumerate(given):
            assert mean_error(draws[:, i], *moments(mixture)) < 4.5

    @pytest.mark.parametrize("s", [0, 1, 3])
    def test_conditional_draws(self, s, rng, key):
        """Against the conditional mixture in closed form, by blocks of the covariances."""
        weights, means, spreads = parts(rng)
        mixture = mixture_of_covariances(weights, means, spreads)
        before = means[0, :s] + 0.3
        rest, shares, within = [], [], []
        for w, m, c in zip(weights, means, spreads, strict=True):
            gain = c[s:, :s] @ np.linalg.inv(c[:s, :s])
            rest.append(m[s:] + gain @ (before - m[:s]))
            within.append(c[s:, s:] - gain @ c[:s, s:])
            known = multivariate_normal(m[:s], c[:s, :s]).logpdf(before) if s else 0.0
            shares.append(np.log(w) + known)
        shares = np.exp(np.array(shares) - logsumexp(shares))
        expected = mixture_of_covariances(shares, np.array(rest), np.array(within))
        draws = np.asarray(conditional_sample(mixture, before, key, (100, 200)))
        assert draws.shape == (100, 200, D - s)
        mean, spread = moments(expected)
        draws = draws.reshape(-1, D - s)
        assert mean_error(draws, mean, spread) < 4.5
        cross = (draws[:, 0] - mean[0]) * (draws[:, -1] - mean[-1])
        error = cross.std() / np.sqrt(len(cross))
        assert abs(cross.mean() - spread[0, -1]) < 4.5 * error


class TestFit:
    @pytest.mark.parametrize("d", [1, 2, 4, 10])
    def test_a_known_mixture_is_found(self, d, rng, key):
        """With p parameters new draws lose p / 2n nats in theory; 4.5 errors above twice that."""
        given = mixture_of_covariances(*parts(rng, K, d))
        x = np.asarray(sample(given, key, 8000))
        fitted = fit_mixture(x[:4000], K, rng)
        loss = np.asarray(log_prob(given, x[4000:]) - log_prob(fitted, x[4000:]))
        expected = K * (1 + d + d * (d + 1) // 2) / (2 * 4000)
        assert loss.mean() < 2 * expected + 4.5 * loss.std() / np.sqrt(4000)
        np.testing.assert_allclose(np.exp(fitted.log_weights).sum(), 1.0)

    def test_one_component_has_the_moments_of_the_draws(self, rng):
        x = rng.standard_t(3, size=(500, 3)) @ rng.normal(size=(3, 3)) + 7.0
        weights = rng.uniform(-2, 2, 500)
        fitted = fit_mixture(x, 1, rng, log_weights=weights + 1000.0)
        share = np.exp(weights)
        np.testing.assert_allclose(fitted.means[0], np.average(x, axis=0, weights=share))
        expected = np.cov(x.T, aweights=share, bias=True)
        np.testing.assert_allclose(covariances(fitted)[0], expected, rtol=1e-9)

    def test_weights_count_as_repeated_draws(self, rng):
        """Draws of one mixture with weights are draws of another: here of its first half alone."""
        x = np.concatenate([rng.normal(-4, 1, (3000, 1)), rng.normal(4, 1, (3000, 1))])
        odds = np.where(x[:, 0] < 0, np.log(3.0), 0.0)
        fitted = fit_mixture(x, 2, rng, log_weights=odds)
        low = np.argmin(fitted.means[:, 0])
        # The share of the lower half is exact but for draws beyond 4 standard deviations.
        np.testing.assert_allclose(np.exp(fitted.log_weights[low]), 0.75, atol=1e-3)
        gone = fit_mixture(x, 1, rng, log_weights=np.where(x[:, 0] < 0, 0.0, -np.inf))
        np.testing.assert_allclose(gone.means[0, 0], x[x[:, 0] < 0].mean())

    def test_units_do_not_matter(self, rng):
        x = rng.normal(size=(1000, 2)) + 3.0 * rng.integers(0, 2, (1000, 1))
        scale = np.array([1e8, 1e-8])
        one = fit_mixture(x, 2, np.random.default_rng(1))
        other = fit_mixture(x * scale, 2, np.random.default_rng(1))
        np.testing.assert_allclose(other.means / scale, one.means, rtol=1e-5)
        np.testing.assert_allclose(other.log_weights, one.log_weights, rtol=1e-5)

    def test_few_draws_get_fewer_components_and_share_them(self, rng):
        x = rng.normal(size=(30, 3))
        fitted = fit_mixture(x, 4, rng)
        assert fitted.components == 4
        np.testing.assert_allclose(np.exp(fitted.log_weights), 0.25)
        np.testing.assert_allclose(fitted.means, np.tile(x.mean(0), (4, 1)), rtol=1e-9)

    def test_draws_on_a_line_get_the_floor(self, rng):
        line = rng.normal(size=2000)
        fitted = fit_mixture(np.stack([line, 2 * line], axis=1), 2, rng)
        _, spread = moments(fitted)
        assert np.isfinite(log_prob(fitted, np.zeros(2)))
        np.testing.assert_allclose(spread[0, 0], line.var(), rtol=1e-3)
        correlation = spread[0, 1] / np.sqrt(spread[0, 0] * spread[1, 1])
        assert 1 - 1e-4 < correlation < 1

    def test_repeated_draws_do_not_collapse(self, rng):
        """One draw 300 times, as resampling may leave it: no component is below the floor."""
        x = rng.normal(size=(1000, 2))
        x[:300] = x[0]
        fitted = fit_mixture(x, 3, rng)
        values = np.linalg.eigvalsh(covariances(fitted))
        assert (values > 0.9e-6 * np.linalg.eigvalsh(np.cov(x.T))[0]).all()

    def test_more_components_than_clusters_stay_finite(self, rng):
        x = np.repeat(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 400, axis=0)
        fitted = fit_mixture(x, 8, rng)
        assert all(np.isfinite(v).all() for v in fitted)
        np.testing.assert_allclose(moments(fitted)[0], 1 / 3, atol=1e-6)

    def test_the_same_generator_gives_the_same_mixture(self, rng):
        x = rng.normal(size=(500, 2))
        one, other = (fit_mixture(x, 3, np.random.default_rng(5)) for _ in range(2))
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)

    def test_heavy_tails_are_no_centres(self, rng):
        """Draws of a Cauchy distribution: the middle half is fitted to 0.05 in its shares.

        The error of a share of 4000 draws is 0.008.
        """
        x = rng.standard_cauchy((4000, 1))
        x = x[np.abs(x[:, 0]) < 1000]
        fitted = fit_mixture(x, 8, rng)
        scale = np.exp(fitted.log_scales[:, 0])
        below = norm.cdf((np.array([-1.0, 1.0])[:, None] - fitted.means[:, 0]) / scale)
        shares = below @ np.exp(fitted.log_weights)
        np.testing.assert_allclose(shares, [0.25, 0.75], atol=0.05)

    def test_it_is_fast(self, rng, key):
        given = mixture_of_covariances(*parts(rng, 8, 4))
        x = np.asarray(sample(given, key, 4000))
        seconds = []
        for _ in range(3):
            begin = time.perf_counter()
            fit_mixture(x, 8, rng)
            seconds.append(time.perf_counter() - begin)
        assert min(seconds) < 0.5  # 0.04 on an idle core

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda x, w: (x[:1], w[:1]), "at least two draws"),
            (lambda x, w: (np.where(x == x[3, 1], np.nan, x), w), "1 of 20 draws are not finite"),
            (lambda x, w: (np.column_stack([x[:, 0], np.full(20, 3.0)]), w), "element 1 is 3 in"),
            (lambda x, w: (x, w[:5]), r"log_weights of shape \(5,\)"),
            (lambda x, w: (x, w - np.inf), "all of them are -inf"),
            (lambda x, w: (x, np.where(w == w[0], np.nan, w)), "NaN"),
            (lambda x, w: (x, np.where(np.arange(20) == 0, 0.0, -np.inf)), "element 0 is"),
        ],
    )
    def test_refusals(self, change, message, rng, unchecked):
        x, weights = change(rng.normal(size=(20, 2)), rng.normal(size=20))
        with pytest.raises(SettingsError, match=message):
            fit_mixture(x, 2, rng, log_weights=weights)

    def test_no_components(self, rng):
        with pytest.raises(SettingsError, match="components=0"):
            fit_mixture(rng.normal(size=(20, 2)), 0, rng)


class TestResized:
    def test_more_components_are_the_same_density(self, rng):
        mixture = mixture_of_covariances(*parts(rng))
        x = rng.normal(size=(30, mixture.size))
        found = resized(mixture, mixture.components + 5)
        assert found.components == mixture.components + 5
        np.testing.assert_allclose(log_prob(found, x), log_prob(mixture, x), atol=1e-12)
        # The heaviest are split: no share is more than twice another that was split.
        assert np.exp(found.log_weights).max() <= np.exp(mixture.log_weights).max()

    def test_the_heaviest_are_split(self):
        mixture = mixture_of_covariances(
            np.array([0.7, 0.25, 0.05]), np.zeros((3, 1)), np.ones((3, 1, 1))
        )
        found = np.exp(resized(mixture, 5).log_weights)
        np.testing.assert_allclose(sorted(found), [0.05, 0.7 / 3, 0.7 / 3, 0.7 / 3, 0.25])

    def test_fewer_components_keep_the_moments(self, rng):
        """4096 draws of a mixture: means within 4.5 errors, 1 false alarm in 40 000 for each."""
        mixture = mixture_of_covariances(*parts(rng))
        found = resized(mixture, 1)
        mean, spread = moments(mixture)
        errors = (found.means[0] - mean) / np.sqrt(np.diagonal(spread) / 4096)
        assert np.abs(errors).max() < 4.5
        again = resized(mixture, 1)
        np.testing.assert_array_equal(found.means, again.means)

    def test_none_at_all(self, rng):
        with pytest.raises(SettingsError, match="at least one"):
            resized(mixture_of_covariances(*parts(rng)), 0)
