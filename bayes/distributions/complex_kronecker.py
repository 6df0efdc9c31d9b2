"""The Kronecker distributions of complex numbers, which are pairs of real ones."""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from bayes.distributions.pairs import as_pairs, from_pairs
from bayes.distributions.products import mode_products
from bayes.distributions.structured import KroneckerLikelihood, KroneckerPrior

__all__ = ["ComplexKroneckerLinear", "ComplexKroneckerNormal"]


class ComplexKroneckerNormal(KroneckerPrior):
    """Circular complex normals whose variances are an outer product, one vector a mode.

    x ~ CN(0, diag(g_1 ⊗ … ⊗ g_I)): real and imaginary part are independent, each with half of the
    variance. A value is an array of pairs, of shape (..., N_1, ..., N_I, 2).

    Parameters
    ----------
    variances : sequence of array of shape (..., N_i)
        Positive factors of the variance E|x|², one array a mode; their product is in squared units
        of x. Leading dimensions broadcast to the batch shape.
    operators : sequence of (array of shape (N_i, V_i) or None), optional
        Non-negative matrices C_i. Where there is one, ``variances[i]`` is v_i of shape (..., V_i)
        and g_i = C_i v_i.
    validate_args : bool, optional
        Whether to check values, as everywhere in NumPyro.

    Attributes
    ----------
    variances, operators : tuple
        The objects that were given; ``operators`` is None without any.
    relevances : tuple of array of shape (..., N_i)
        The g_i.

    Raises
    ------
    ShapeError, ModelError
        Names the mode at fault.

    References
    ----------
    He and Joseph (2023), Bayesian algorithms for Kronecker-structured sparse vector recovery with
    application to IRS-MIMO channel estimation, arXiv 2307.14719.
    """

    _parts: ClassVar[int] = 2


class ComplexKroneckerLinear(KroneckerLikelihood):
    """Linear observations of complex numbers by a Kronecker product of matrices.

    y ~ CN((H_1 ⊗ … ⊗ H_I) x, noise²) with circular noise: each part of y has half of its variance.
    Coefficients and values are pairs: :func:`as_pairs` makes them of complex numbers, so that
    ``obs=as_pairs(y)``.

    Parameters
    ----------
    factors : sequence of array of shape (M_i, N_i)
        The matrices H_i, complex or real, one a mode.
    coef : array of shape (..., N_1, ..., N_I, 2)
        The coefficients x in pairs; leading dimensions are a batch.
    noise : float or array
        Square root of the noise's variance E|n|², in units of y; its shape broadcasts with the
        batch.
    mask : bool array of shape (..., M_1, ..., M_I), optional
        True where y is observed. Other entries do not count and may be NaN; draws have them all.
    validate_args : bool, optional
        Whether to check values, as everywhere in NumPyro.

    Attributes
    ----------
    factors : tuple
        The objects that were given, as are ``coef`` and ``noise``.
    observed : array or None
        The mask that was given; ``mask`` itself is a method of every distribution of NumPyro.

    Raises
    ------
    ShapeError, ModelError
        Names the mode at fault.

    References
    ----------
    He and Joseph (2023), Bayesian algorithms for Kronecker-structured sparse vector recovery with
    application to IRS-MIMO channel estimation, arXiv 2307.14719.
    """

    _parts: ClassVar[int] = 2

    def _noiseless(self) -> Array:
        if not any(np.iscomplexobj(factor) for factor in self.factors):
            return super()._noiseless()
        coef = from_pairs(jnp.asarray(self.coef))
        return as_pairs(mode_products(coef, self.factors))
