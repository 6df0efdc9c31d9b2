"""Normal priors and likelihoods whose structure is a Kronecker product, one factor a mode."""

from __future__ import annotations

from bayes.distributions.structured import KroneckerLikelihood, KroneckerPrior

__all__ = ["KroneckerLinear", "KroneckerNormal"]


class KroneckerNormal(KroneckerPrior):
    """Independent normals whose variances are an outer product, one vector a mode.

    x ~ N(0, diag(g_1 ⊗ … ⊗ g_I)): an index of a mode whose relevance is small switches off all
    entries of x there, so that the support of x is a product of supports. The scale of one g_i is
    not identified, that of their product is.

    Parameters
    ----------
    variances : sequence of array of shape (..., N_i)
        Positive factors of the variance, one array a mode; their product is in squared units of x.
        Leading dimensions broadcast to the batch shape.
    operators : sequence of (array of shape (N_i, V_i) or None), optional
        Non-negative matrices C_i. Where there is one, ``variances[i]`` is v_i of shape (..., V_i)
        and g_i = C_i v_i: neighbours share their relevance, and x is sparse by blocks.
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


class KroneckerLinear(KroneckerLikelihood):
    """Linear observations by a Kronecker product of matrices, with independent normal noise.

    y ~ N((H_1 ⊗ … ⊗ H_I) x, noise²), by one product a mode: the large matrix is never formed. With
    one factor it is ordinary linear regression.

    Parameters
    ----------
    factors : sequence of array of shape (M_i, N_i)
        The matrices H_i, one a mode.
    coef : array of shape (..., N_1, ..., N_I)
        The coefficients x; leading dimensions are a batch, of snapshots in a plate for instance.
    noise : float or array
        Standard deviation of the noise in units of y; its shape broadcasts with the batch.
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
    Kolda and Bader (2009), Tensor decompositions and applications, section 2.6.
    """
