"""Mixtures that are fitted to the posterior by the importance weights of their own draws."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from bayes.inference.mixtures import Mixture, component, log_prob, mixture_of
from bayes.normals import Normal, covariance, normal_of_covariance

__all__ = ["adapted", "heavy_tailed"]

_WIDE_SHARE = 0.2
_LEAST_SHARE = 0.02


def heavy_tailed(mixture: Mixture) -> Mixture:
    """A mixture of t distributions about the normals of a mixture, some of them wider.

    Weights of draws are bounded only where tails are at least as heavy as the posterior's. In many
    dimensions draws of a t distribution, or of one twice as wide, hardly ever come near: tails
    and widths are then more like those of the normal.
    """
    d = mixture.normals.mean.shape[1]
    normals = [component(mixture, i) for i in range(len(mixture.log_weights))]
    wide = [n._replace(scale=n.scale * (1.0 + 1.5 / np.sqrt(d))) for n in normals]
    weights = np.exp(mixture.log_weights)
    shares = np.concatenate([(1.0 - _WIDE_SHARE) * weights, _WIDE_SHARE * weights])
    degrees = np.repeat([max(10.0, d), max(5.0, d / 2.0)], len(normals))
    return mixture_of(normals + wide, shares, degrees)


def adapted(
    mixture: Mixture, x: Float[np.ndarray, "n d"], log_weights: Float[np.ndarray, " n"]
) -> Mixture:
    """The mixture whose components have the weighted moments of the draws that are theirs.

    Parameters
    ----------
    mixture : Mixture
        A mixture of normals.
    x : array of shape (n, d)
        Draws of its heavy-tailed version.
    log_weights : array of shape (n,)
        Logs of their importance weights, which sum to one.

    Returns
    -------
    Mixture
        Of normals. Where few draws carry the weight of a component, it moves little.

    References
    ----------
    Cappé, Douc, Guillin, Marin and Robert (2008), Adaptive importance sampling in general mixture
    classes.
    """
    d = x.shape[1]
    count = len(mixture.log_weights)
    whole = log_prob(mixture, x)
    normals, shares = [], np.empty(count)
    for i in range(count):
        old = component(mixture, i)
        alone = Mixture(Normal(*(part[None] for part in old)), np.zeros(1), np.full(1, np.inf))
        own = mixture.log_weights[i] + log_prob(alone, x) - whole
        weights = np.exp(log_weights + own)
        shares[i] = weights.sum()
        normals.append(_moved(old, x, weights / max(shares[i], 1e-300), d))
    shares = np.maximum(np.nan_to_num(shares), _LEAST_SHARE)
    return mixture_of(normals, shares)


def _moved(old: Normal, x: np.ndarray, weights: np.ndarray, d: int) -> Normal:
    """A normal with weighted moments, as far as there are draws that tell them."""
    known = 1.0 / np.square(weights).sum() if weights.any() else 0.0
    trust = known / (known + d)
    with np.errstate(invalid="ignore"):
        mean = weights @ x
        centred = x - mean
        sigma = (centred * weights[:, None]).T @ centred
    sigma = trust * sigma + (1.0 - trust) * covariance(old)
    mean = trust * mean + (1.0 - trust) * old.mean
    if not (np.isfinite(sigma).all() and np.isfinite(mean).all()):
        return old
    try:
        return normal_of_covariance(mean, sigma)
    except np.linalg.LinAlgError:
        return old
