"""Mixtures fitted by importance weights: what they recover, what they keep, and their tails."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from bayes.diagnostics.importance import importance_ratios
from bayes.inference.adaptive_importance import adapted, heavy_tailed
from bayes.inference.mixtures import component, draw, log_prob, mixture_of
from bayes.normals import covariance, independent, normal_of_covariance

COUNT = 4000


def rounds(mixture, target, rng, count):
    """Some rounds of adaptation; the mixture, and k-hat and effective number of each round."""
    history = []
    for _ in range(count):
        proposal = heavy_tailed(mixture)
        x = draw(proposal, rng, COUNT)
        found = importance_ratios(target(x), log_prob(proposal, x))
        history.append((found.khat, found.ess))
        mixture = adapted(mixture, x, found.log_weights)
    return mixture, history


def correlated(d, rng):
    basis, _ = np.linalg.qr(rng.normal(size=(d, d)))
    sigma = (basis * np.geomspace(0.2, 5.0, d)) @ basis.T
    return rng.normal(size=d), 0.5 * (sigma + sigma.T)


class TestHeavyTailed:
    @pytest.mark.parametrize("d", [1, 4, 50])
    def test_it_has_the_means_and_a_fifth_of_wider_ones(self, d, rng):
        mixture = mixture_of(
            [independent(rng.normal(size=d), np.ones(d)) for _ in range(2)], np.array([3.0, 1.0])
        )
        found = heavy_tailed(mixture)
        weights = np.exp(found.log_weights)
        np.testing.assert_allclose(weights, [0.6, 0.2, 0.15, 0.05])
        for i in range(4):
            one = component(found, i)
            np.testing.assert_array_equal(one.mean, mixture.normals.mean[i % 2])
            wider = 1.0 + 1.5 / np.sqrt(d) if i > 1 else 1.0
            np.testing.assert_allclose(one.scale, wider)
        assert np.isfinite(found.degrees).all()
        assert (found.degrees[2:] <= found.degrees[:2]).all()

    @pytest.mark.parametrize("d", [1, 10, 100])
    def test_it_is_near_the_normal_and_its_ratios_are_bounded(self, d, rng):
        """Of a normal to its heavy-tailed self: k-hat is low, and half of the draws count."""
        normal = independent(np.zeros(d), np.ones(d))
        proposal = heavy_tailed(mixture_of([normal]))
        x = draw(proposal, rng, COUNT)
        found = importance_ratios(log_prob(mixture_of([normal]), x), log_prob(proposal, x))
        assert found.khat < 0.5
        assert found.ess > 0.5 * COUNT

    def test_tails_are_heavier_than_a_normals(self):
        """Far out by any factor, in every direction."""
        mixture = mixture_of([independent(np.zeros(2), np.ones(2))])
        x = 12.0 * np.array([[1.0, 0.0], [0.0, -1.0], [0.6, 0.8]])
        assert (log_prob(heavy_tailed(mixture), x) > log_prob(mixture, x) + 20.0).all()


class TestGaussian:
    @pytest.mark.parametrize("d", [1, 2, 5])
    def test_mean_and_covariance_are_recovered_from_a_shifted_start(self, d, rng):
        """From two standard deviations off and half or twice as wide, to within the weights' error.

        Of 4000 draws of which at least half count, means are known to 1/45 and covariances to
        1/32 standard deviations; bounds are six of them, for up to 20 numbers.
        """
        mean, sigma = correlated(d, rng)
        target = multivariate_normal(mean, sigma).logpdf
        sd = np.sqrt(np.diagonal(sigma))
        for width in (0.5, 2.0):
            start = mixture_of([independent(mean + 2.0 * sd / np.sqrt(d), width * sd)])
            found, history = rounds(start, lambda x: np.atleast_1d(target(x)), rng, 6)
            normal = component(found, 0)
            np.testing.assert_allclose((normal.mean - mean) / sd, 0.0, atol=6.0 / 45)
            difference = (covariance(normal) - sigma) / np.outer(sd, sd)
            np.testing.assert_allclose(difference, 0.0, atol=6.0 / 32)
            assert history[-1][1] > 0.5 * COUNT
            assert history[-1][0] < 0.5

    def test_a_right_normal_stays(self, rng):
        mean, sigma = correlated(4, rng)
        target = multivariate_normal(mean, sigma).logpdf
        start = mixture_of([normal_of_covariance(mean, sigma)])
        found, _ = rounds(start, target, rng, 3)
        sd = np.sqrt(np.diagonal(sigma))
        normal = component(found, 0)
        np.testing.assert_allclose((normal.mean - mean) / sd, 0.0, atol=6.0 / 45)
        difference = (covariance(normal) - sigma) / np.outer(sd, sd)
        np.testing.assert_allclose(difference, 0.0, atol=6.0 / 32)


def two_modes(share):
    """Normals of sd 1 and .5, ten apart."""
    at = [multivariate_normal(m, s) for m, s in ((np.zeros(2), 1.0), (np.full(2, 10.0), 0.25))]

    def target(x):
        logs = np.log([share, 1.0 - share])
        return logsumexp([w + p.logpdf(x) for w, p in zip(logs, at, strict=True)], axis=0)

    return target


class TestTwoModes:
    @pytest.mark.parametrize("share", [0.5, 0.8, 0.1])
    def test_both_components_get_the_weights_of_their_modes(self, share, rng):
        """From equal weights, to .08: six errors of a share known by 2000 draws' worth."""
        at = [independent(np.full(2, m), np.ones(2)) for m in (0.5, 9.5)]
        found, history = rounds(mixture_of(at), two_modes(share), rng, 5)
        weights = np.exp(found.log_weights)
        np.testing.assert_allclose(weights, [share, 1.0 - share], atol=0.08)
        np.testing.assert_allclose(component(found, 0).mean, 0.0, atol=0.25)
        np.testing.assert_allclose(component(found, 1).mean, 10.0, atol=0.15)
        np.testing.assert_allclose(component(found, 1).sd, 0.5, atol=0.12)
        assert history[-1][0] < 0.5

    def test_a_component_without_mass_keeps_a_little(self, rng):
        """So that draws still look there; it stays where it was, as no draw tells otherwise."""
        at = [independent(np.full(2, m), np.ones(2)) for m in (0.0, 60.0)]
        target = multivariate_normal(np.zeros(2), 1.0).logpdf
        found, _ = rounds(mixture_of(at), target, rng, 3)
        assert np.exp(found.log_weights[1]) == pytest.approx(0.02, rel=0.05)
        np.testing.assert_allclose(component(found, 1).mean, 60.0, atol=1.0)
        np.testing.assert_allclose(component(found, 1).sd, 1.0, rtol=0.2)


class TestFewDraws:
    def test_a_single_heavy_draw_moves_little(self, rng):
        """All weight on one: it counts for 1 in 1 + d, and the covariance stays one."""
        d = 9
        start = mixture_of([independent(np.zeros(d), np.ones(d))])
        x = rng.normal(size=(100, d))
        log_weights = np.full(100, -np.inf)
        log_weights[0] = 0.0
        normal = component(adapted(start, x, log_weights), 0)
        np.testing.assert_allclose(normal.mean, x[0] / 10.0, rtol=1e-10)
        np.testing.assert_allclose(covariance(normal), 0.9 * np.eye(d), atol=1e-12)

    def test_fewer_draws_than_dimensions_leave_it_positive_definite(self, rng):
        start = mixture_of([independent(np.zeros(50), np.ones(50))])
        x = rng.normal(size=(10, 50))
        normal = component(adapted(start, x, np.full(10, -np.log(10.0))), 0)
        assert (np.linalg.eigvalsh(covariance(normal)) > 0.5).all()

    def test_draws_that_overflow_leave_it_as_it_was(self):
        start = mixture_of([independent(np.zeros(2), np.ones(2))])
        x = np.array([[1.0, 2.0], [np.inf, 0.0]])
        with np.errstate(all="ignore"):
            found = adapted(start, x, np.log([0.5, 0.5]))
        np.testing.assert_array_equal(component(found, 0).mean, 0.0)
        np.testing.assert_allclose(covariance(component(found, 0)), np.eye(2))

    def test_it_is_exact_given_the_weights(self, rng):
        """With one component: weighted moments, mixed with the old by how many draws count."""
        d = 3
        old = independent(np.full(d, 0.3), np.full(d, 1.2))
        x = 0.3 + 1.2 * rng.normal(size=(500, d))
        log_weights = rng.normal(size=500)
        log_weights -= logsumexp(log_weights)
        weights = np.exp(log_weights)
        trust = (1.0 / np.square(weights).sum()) / (1.0 / np.square(weights).sum() + d)
        mean = weights @ x
        sigma = np.cov(x, rowvar=False, aweights=weights, bias=True)
        normal = component(adapted(mixture_of([old]), x, log_weights), 0)
        expected = trust * sigma + (1.0 - trust) * 1.44 * np.eye(d)
        np.testing.assert_allclose(covariance(normal), expected, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(normal.mean, trust * mean + (1.0 - trust) * 0.3, rtol=1e-10)

    def test_draws_belong_to_components_by_their_posterior_shares(self, rng):
        """With two that overlap: the update of Cappé et al. (2008) by SciPy's densities."""
        d, weights = 2, np.array([0.8, 0.2])
        old = [independent(np.zeros(d), np.ones(d)), independent(np.full(d, 1.5), np.full(d, 2.0))]
        x = rng.normal(size=(300, d)) + 1.0
        log_weights = rng.normal(size=300)
        log_weights -= logsumexp(log_weights)
        parts = [multivariate_normal(n.mean, covariance(n)).pdf(x) for n in old]
        joint = weights * np.stack(parts, axis=1)
        own = np.exp(log_weights)[:, None] * joint / joint.sum(axis=1, keepdims=True)
        found = adapted(mixture_of(old, weights), x, log_weights)
        np.testing.assert_allclose(np.exp(found.log_weights), own.sum(axis=0), rtol=1e-10)
        for i, before in enumerate(old):
            share = own[:, i] / own[:, i].sum()
            trust = 1.0 / (1.0 + d * np.square(share).sum())
            mean = trust * share @ x + (1.0 - trust) * before.mean
            sigma = trust * np.cov(x, rowvar=False, aweights=share, bias=True)
            sigma += (1.0 - trust) * covariance(before)
            np.testing.assert_allclose(component(found, i).mean, mean, rtol=1e-10)
            np.testing.assert_allclose(covariance(component(found, i)), sigma, rtol=1e-8)
