"""Effective sample sizes of many elements at once, from their autocovariances."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.fft
from jaxtyping import Float

__all__ = ["Chains", "centre", "effective_size"]

_FEW_LAGS = 64
"""Lags of the first pass: chains worth keeping have forgotten their past by then."""


class Chains(NamedTuple):
    """Chains without their means, and how they vary.

    Parameters
    ----------
    centred : array of shape (element, chain, draw)
        Draws without their chain's mean.
    within : array of shape (element,)
        Mean over chains of the variance of a chain.
    between : array of shape (element,)
        Variance of the chains' means.
    spread : array of shape (element,)
        Largest draw less the smallest.
    """

    centred: Float[np.ndarray, "element chain draw"]
    within: Float[np.ndarray, " element"]
    between: Float[np.ndarray, " element"]
    spread: Float[np.ndarray, " element"]


def centre(values: Float[np.ndarray, "element chain draw"]) -> Chains:
    """Take the mean of every chain away; two chains and two draws at least."""
    _, chains, draws = values.shape
    means = values.mean(axis=2)
    centred = values - means[..., None]
    within = np.einsum("ecd,ecd->e", centred, centred) / (chains * (draws - 1))
    spread = values.max(axis=(1, 2)) - values.min(axis=(1, 2))
    return Chains(centred, within, means.var(axis=1, ddof=1), spread)


def effective_size(chains: Chains) -> Float[np.ndarray, " element"]:
    """Effective sample size for the mean of every element.

    Parameters
    ----------
    chains : Chains
        Chains, split in halves already.

    Returns
    -------
    array of shape (element,)
        The number of draws for an element that does not vary at all, as ArviZ has it.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), Rank-normalization, folding, and
    localization: an improved R-hat for assessing convergence of MCMC, section 3.2; Geyer (1992),
    Practical Markov chain Monte Carlo, section 3.3.
    """
    _, number, draws = chains.centred.shape
    size = number * draws
    time, settled = _correlation_time(chains, min(_FEW_LAGS, draws))
    if not settled.all():
        slow = Chains(*(part[~settled] for part in chains))
        time[~settled], _ = _correlation_time(slow, draws)
    # Antithetic chains may do better than independent draws, but not beyond every bound.
    found = size / np.where(time < 1 / np.log10(size), 1 / np.log10(size), time)
    return np.where(chains.spread < np.finfo(float).resolution, float(size), found)


def _correlation_time(chains: Chains, lags: int) -> tuple[np.ndarray, np.ndarray]:
    """Integrated autocorrelation times by Geyer's initial monotone sequence.

    Also, whether the sequence ended within these lags; the time is wrong where it did not.
    """
    draws = chains.centred.shape[2]
    # rho_t = 1 - (W - mean of the chains' autocovariances at lag t) / var+.
    total = (chains.within * (draws - 1) / draws + chains.between)[:, None]
    rho = 1 - (chains.within[:, None] - _autocovariances(chains.centred, lags)) / total
    rho[:, 0] = 1
    rho = rho[:, : lags - lags % 2]
    # Sums of neighbours are positive in theory: the first that is not is noise, and so is what
    # follows. The last draws of a chain say nothing of long lags: ArviZ stops before lag n - 2.
    even, pairs = rho[:, ::2], rho[:, ::2] + rho[:, 1::2]
    longest = max(0, (draws - 1) // 2 - 1)
    ended = ~(pairs > 0)
    first = np.where(ended.any(axis=1), ended.argmax(axis=1), draws)
    last = np.minimum(first, longest)
    settled = last < pairs.shape[1]
    last = np.where(settled, last, 0)
    # They fall in theory, too, so each counts for no more than the one before.
    monotone = np.minimum.accumulate(pairs, axis=1)
    sums = np.concatenate((np.zeros((len(pairs), 1)), monotone.cumsum(axis=1)), axis=1)
    rows = np.arange(len(pairs))
    # Of the pair that ends the sequence, the even lag counts where it is positive.
    tip = np.where(pairs[rows, last] >= 0, even[rows, last], np.fmax(even[rows, last], 0))
    time = -1 + 2 * sums[rows, last] + np.where(last == 0, 1, tip)
    return np.where(np.isnan(rho).any(axis=1), np.nan, time), settled


def _autocovariances(
    centred: Float[np.ndarray, "element chain draw"], lags: int
) -> Float[np.ndarray, "element lag"]:
    """Means over chains of the autocovariances at the first lags."""
    count, chains, draws = centred.shape
    # So many zeros behind a chain that these lags do not reach around to its start.
    length = scipy.fft.next_fast_len(draws + lags - 1, real=True)
    spectra = np.asarray(scipy.fft.rfft(centred, length, axis=2)).view(float)
    # The transform back is linear: one for all chains of an element.
    power = np.einsum("ecf,ecf->ef", spectra, spectra).reshape(count, -1, 2).sum(axis=2)
    return np.asarray(scipy.fft.irfft(power, length, axis=1))[:, :lags] / (chains * draws)
