"""A normal whose scores match those of the posterior at a batch of draws, in closed form."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from bayes.normals import Normal, normal_of_covariance, push, whiten

__all__ = ["match"]

_SHRINK = 0.5
"""What scales are multiplied by where a batch tells nothing."""


def match(
    normal: Normal,
    positions: Float[np.ndarray, "n d"],
    gradients: Float[np.ndarray, "n d"],
    weight: float,
) -> Normal:
    """The normal that matches scores at a batch, and stays near another as far as it is told.

    Parameters
    ----------
    normal : Normal
        The normal to stay near.
    positions, gradients : array of shape (n, d)
        Draws, and gradients of the log density there. Draws with any that is not finite are left
        out; where fewer than two are left, the normal shrinks about its mean.
    weight : float
        What the batch counts, in the paper lambda: the normal stays as it is near 0, and follows
        the batch alone at infinity. That takes more draws than dimensions; where there are not as
        many, infinity stands for their number.

    Returns
    -------
    Normal

    References
    ----------
    Cai et al. (2024), section 3.2.
    """
    fine = np.isfinite(positions).all(axis=1) & np.isfinite(gradients).all(axis=1)
    count, d = int(fine.sum()), positions.shape[1]
    if count < 2:
        return normal._replace(scale=_SHRINK * normal.scale)
    if not fine.all():
        positions, gradients = positions[fine], gradients[fine]
    if np.isinf(weight) and count <= d:
        weight = float(count)
    # Once whitened the normal is standard, and numbers are of the order of one.
    stretch = np.sqrt(normal.values) - 1.0
    z = whiten(normal, positions)
    g = gradients * normal.scale
    g = g + ((g @ normal.vectors) * stretch) @ normal.vectors.T
    z_mean, g_mean = z.mean(axis=0), g.mean(axis=0)
    z, g = z - z_mean, g - g_mean
    # The paper's U and V, both over lambda: nothing is large where lambda is.
    near, both = 1.0 / weight, 1.0 / (1.0 + weight)
    u = g.T @ g / count + both * np.outer(g_mean, g_mean)
    v = z.T @ z / count + both * np.outer(z_mean, z_mean)
    v[np.diag_indices(d)] += near
    # S U S + S / lambda = V with V = L L' is solved by S = L X L', where X has the eigenvectors of
    # L' U L: its eigenvalues x and those m of L' U L obey m x^2 + x / lambda = 1.
    try:
        factor = np.linalg.cholesky(v)
        m, vectors = np.linalg.eigh(factor.T @ u @ factor)
        m = np.maximum(m, 1e-15 * m[-1])
        x = 2.0 / (near + np.hypot(near, 2.0 * np.sqrt(m)))
        root = (factor @ vectors) * np.sqrt(x)
        shift = (1.0 - both) * (root @ (root.T @ g_mean) + z_mean)
        root = root + normal.vectors @ (stretch[:, None] * (normal.vectors.T @ root))
        root = normal.scale[:, None] * root
        found = normal_of_covariance(normal.mean + push(normal, shift[None])[0], root @ root.T)
    except np.linalg.LinAlgError:
        return normal._replace(scale=_SHRINK * normal.scale)
    if not all(np.isfinite(part).all() for part in found):
        return normal._replace(scale=_SHRINK * normal.scale)
    return found
