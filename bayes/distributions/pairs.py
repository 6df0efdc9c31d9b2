"""Complex numbers as pairs of real ones, so that draws, summaries and files stay real."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bayes.errors import ShapeError

__all__ = ["as_pairs", "from_pairs"]


def as_pairs(z: Any) -> Any:
    """Real and imaginary part on a trailing axis.

    Parameters
    ----------
    z : array of shape (...), or None
        Complex numbers; real ones have an imaginary part of zero. None, for what is not observed,
        stays None.

    Returns
    -------
    array of shape (..., 2), or None
        Of NumPy, unless an array of JAX is given; a view of the same numbers where it can be.
    """
    if z is None:
        return None
    if isinstance(z, jax.Array):
        if not jnp.issubdtype(z.dtype, jnp.inexact):
            z = z.astype(float)
        return jnp.stack([jnp.real(z), jnp.imag(z)], axis=-1)
    z = np.asarray(z)
    if not np.issubdtype(z.dtype, np.inexact):
        z = z.astype(float)
    if z.dtype.kind == "c" and z.ndim and z.flags.c_contiguous:
        return z.view(z.real.dtype).reshape(*z.shape, 2)
    return np.stack([z.real, z.imag], axis=-1)


def from_pairs(x: Any) -> Any:
    """The complex numbers that pairs stand for.

    Parameters
    ----------
    x : array of shape (..., 2), or None
        Real and imaginary part on the trailing axis.

    Returns
    -------
    complex array of shape (...), or None
        Of NumPy, unless an array of JAX is given.

    Raises
    ------
    ShapeError
        Where the trailing axis does not have the size 2.
    """
    if x is None:
        return None
    if np.shape(x)[-1:] != (2,):
        raise ShapeError(
            f"pairs of real and imaginary part have shape (..., 2), not {np.shape(x)}; as_pairs "
            "makes them of complex numbers"
        )
    if not isinstance(x, jax.Array):
        x = np.asarray(x)
    return x[..., 0] + 1j * x[..., 1]
