"""What the Kronecker distributions of real and of complex numbers share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpyro.distributions import Distribution, constraints
from numpyro.distributions.util import validate_sample

from bayes.distributions.kronecker_checks import (
    check_numbers,
    check_shapes,
    each_nonnegative,
    each_positive,
    sizes_of_modes,
)
from bayes.distributions.products import contract, mode_products, of_one_rank, scale_modes
from bayes.errors import ShapeError

__all__ = ["KroneckerLikelihood", "KroneckerPrior"]


class _Tensor(Distribution):
    """Normal tensors: trailing modes, and real numbers or pairs of them."""

    _parts: ClassVar[int] = 1
    """Real numbers an entry: 2 where complex numbers are pairs on a trailing axis."""

    @property
    def support(self) -> Any:
        """Real numbers, all of them one event."""
        return constraints.independent(constraints.real, self.event_dim)

    @property
    def _trailing(self) -> int:
        """Axes behind the modes."""
        return self._parts - 1

    @property
    def _modes(self) -> tuple[int, ...]:
        """The axes of the modes once those behind are summed over."""
        return tuple(range(self._trailing - self.event_dim, 0))

    def _begin(
        self, leads: Sequence[tuple[int, ...]], modes: tuple[int, ...], validate: bool | None
    ) -> None:
        try:
            batch = np.broadcast_shapes(*leads)
        except ValueError:
            shown = ", ".join(map(str, leads))
            raise ShapeError(
                f"{type(self).__name__}: leading dimensions do not broadcast to one batch shape: "
                f"{shown}"
            ) from None
        event = (*modes, *(self._parts,) * self._trailing)
        super().__init__(batch, event, validate_args=validate)

    def _standard(self, key: Any, sample_shape: tuple[int, ...], dtype: Any) -> Array:
        """Normals of mean 0; the parts of an entry together have variance 1."""
        draws = jax.random.normal(key, self.shape(tuple(sample_shape)), dtype)
        return draws / math.sqrt(self._parts)

    def _squares(self, x: Array) -> Array:
        """Squared absolute values of the entries."""
        return jnp.square(x).sum(-1) if self._trailing else jnp.square(x)

    def _log_density(self, quadratic: Any, log_variance: Any, count: Any) -> Array:
        """Log density of some entries, from sums over them: of squares over variances, of logs."""
        quadratic, log_variance, count = of_one_rank(quadratic, log_variance, count)
        log_tau = math.log(2.0 * math.pi / self._parts)
        return -0.5 * self._parts * (quadratic + log_variance + count * log_tau)

    def _require_shape(self, value: Any) -> None:
        if np.shape(value)[-self.event_dim :] != self.event_shape:
            raise ShapeError(
                f"{type(self).__name__}: a value has shape {np.shape(value)}, but the event shape "
                f"is {self.event_shape}"
            )


class KroneckerPrior(_Tensor):
    """Base of KroneckerNormal and ComplexKroneckerNormal, which document its arguments."""

    arg_constraints: ClassVar[dict[str, Any]] = {
        "variances": each_positive,
        "operators": each_nonnegative,
    }
    reparametrized_params: ClassVar[list[str]] = ["variances", "operators"]
    pytree_data_fields = ("variances", "operators")

    def __init__(
        self,
        variances: Sequence[Any],
        operators: Sequence[Any] | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        # Neither cast nor broadcast: a solver recognises them as the values of other sites.
        self.variances = tuple(variances)
        self.operators = None if operators is None else tuple(operators)
        sizes = sizes_of_modes(type(self).__name__, self.variances, self.operators)
        self._begin([np.shape(v)[:-1] for v in self.variances], sizes, validate_args)

    @property
    def relevances(self) -> tuple[Array, ...]:
        """The factors g_i of the variance, arrays of shape (..., N_i)."""
        operators = self.operators or (None,) * len(self.variances)
        return tuple(
            jnp.asarray(v) if c is None else jnp.matmul(jnp.asarray(v), jnp.asarray(c).T)
            for v, c in zip(self.variances, operators, strict=True)
        )

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws of shape (*sample_shape, *batch_shape, *event_shape)."""
        relevances = self.relevances
        draws = self._standard(key, sample_shape, jnp.result_type(float, *relevances))
        return scale_modes(draws, [jnp.sqrt(g) for g in relevances], self._trailing)

    @validate_sample
    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        """Log density; no array larger than the value is formed."""
        self._require_shape(value)
        relevances = self.relevances
        size = math.prod(g.shape[-1] for g in relevances)
        quadratic = contract(self._squares(jnp.asarray(value)), [1.0 / g for g in relevances])
        logs = of_one_rank(*(size / g.shape[-1] * jnp.log(g).sum(-1) for g in relevances))
        return self._log_density(quadratic, sum(logs), size)

    @property
    def mean(self) -> Array:
        """Zeros."""
        return jnp.zeros(self.shape(), jnp.result_type(float, *self.relevances))

    @property
    def variance(self) -> Array:
        """Variance of each real number: the outer product of the relevances over the parts."""
        ones = jnp.ones(self.shape(), jnp.result_type(float, *self.relevances))
        return scale_modes(ones / self._parts, self.relevances, self._trailing)


class KroneckerLikelihood(_Tensor):
    """Base of KroneckerLinear and ComplexKroneckerLinear, which document its arguments."""

    arg_constraints: ClassVar[dict[str, Any]] = {
        "factors": constraints.dependent,
        "coef": constraints.real,
        "noise": constraints.positive,
    }
    reparametrized_params: ClassVar[list[str]] = ["factors", "coef", "noise"]
    pytree_data_fields = ("factors", "coef", "noise", "observed")

    def __init__(
        self,
        factors: Sequence[Any],
        coef: Any,
        noise: Any,
        mask: Any = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.factors = tuple(factors)
        # Not `mask`, which is a method of every distribution of NumPyro.
        self.coef, self.noise, self.observed = coef, noise, mask
        name, pairs = type(self).__name__, self._parts == 2
        check_numbers(name, self.factors, coef, noise, mask, pairs=pairs)
        modes = check_shapes(name, self.factors, coef, mask, pairs=pairs)
        lead = np.ndim(coef) - self._trailing - len(modes)
        leads = [np.shape(coef)[:lead], np.shape(noise), np.shape(mask)[: -len(modes)]]
        self._begin(leads, modes, validate_args)

    def _noiseless(self) -> Array:
        return mode_products(self.coef, self.factors, self._trailing)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draws of shape (*sample_shape, *batch_shape, *event_shape), unobserved entries too."""
        mean = self._noiseless()
        draws = self._standard(key, sample_shape, jnp.result_type(float, mean, self.noise))
        mean, noise, draws = of_one_rank(mean, self._noise_of_entries, draws)
        return mean + noise * draws

    @validate_sample
    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        """Log density of the observed entries, by one product a mode."""
        self._require_shape(value)
        count: Any = math.prod(self.event_shape) // self._parts
        value, mean = of_one_rank(value, self._noiseless())
        if self.observed is None:
            residual = value - mean
        else:
            value, mean, observed = of_one_rank(value, mean, self._observed_entries)
            # Before it is squared: the gradient of a difference is finite where the value is NaN.
            residual = jnp.where(observed, value - mean, 0.0)
            count = jnp.asarray(self.observed).sum(self._modes)
        squares = self._squares(residual).sum(self._modes)
        squares, noise, count = of_one_rank(squares, self.noise, count)
        return self._log_density(squares / noise / noise, 2.0 * count * jnp.log(noise), count)

    def _validate_sample(self, value: Any) -> Any:
        if self.observed is not None:
            value, observed = of_one_rank(value, self._observed_entries)
            value = jnp.where(observed, value, 0.0)
        return super()._validate_sample(value)

    @property
    def _noise_of_entries(self) -> Array:
        return jnp.asarray(self.noise)[(..., *(None,) * self.event_dim)]

    @property
    def _observed_entries(self) -> Array:
        return jnp.asarray(self.observed)[(..., *(None,) * self._trailing)]

    @property
    def mean(self) -> Array:
        """The noiseless observations."""
        return jnp.broadcast_to(self._noiseless(), self.shape())

    @property
    def variance(self) -> Array:
        """Variance of each real number."""
        return jnp.broadcast_to(jnp.square(self._noise_of_entries) / self._parts, self.shape())
