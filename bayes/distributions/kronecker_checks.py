"""What the arguments of Kronecker distributions must be, and what is said where they are not."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints

from bayes.errors import ModelError, ShapeError

__all__ = ["check_numbers", "check_shapes", "each_nonnegative", "each_positive", "sizes_of_modes"]


class _Each(constraints.ParameterFreeConstraint):
    """Arrays each of which has no negative element; None stands for an array that is not given."""

    def __call__(self, x: Any) -> Any:
        valid: Any = True
        for array in x or ():
            if array is not None:
                valid = valid & jnp.all(self._meets(jnp.asarray(array)))
        return valid

    def _meets(self, array: Any) -> Any:
        return array >= 0


class _EachPositive(_Each):
    """Arrays each of which is positive."""

    def _meets(self, array: Any) -> Any:
        return array > 0


each_nonnegative = _Each()
each_positive = _EachPositive()


def sizes_of_modes(
    name: str, variances: tuple[Any, ...], operators: tuple[Any, ...] | None
) -> tuple[int, ...]:
    """Sizes of the modes of a prior.

    Parameters
    ----------
    name : str
        The distribution, for messages.
    variances : tuple of array of shape (..., V_i)
        Factors of the variance.
    operators : tuple of (array of shape (N_i, V_i) or None), optional
        What they are multiplied by.

    Raises
    ------
    ShapeError, ModelError
        Names the mode at fault.
    """
    if not variances:
        raise ModelError(f"{name} needs variances of at least one mode, got none")
    for i, v in enumerate(variances):
        if np.ndim(v) == 0:
            raise ShapeError(f"{name}: variances[{i}] is a number; its shape must be (N_{i},)")
        if np.iscomplexobj(v):
            raise ModelError(f"{name}: variances[{i}] is complex; variances are positive numbers")
    sizes = [np.shape(v)[-1] for v in variances]
    if operators is None:
        return tuple(sizes)
    if len(operators) != len(variances):
        raise ShapeError(
            f"{name}: there are {len(operators)} operators for {len(variances)} variances; give "
            "one a mode, of shape (N_i, V_i), or None where a mode has none"
        )
    for i, operator in enumerate(operators):
        if operator is None:
            continue
        if np.ndim(operator) != 2 or np.shape(operator)[1] != sizes[i]:
            raise ShapeError(
                f"{name}: operator {i} has shape {np.shape(operator)}, but variances[{i}] has "
                f"{sizes[i]} entries; it must be (N_{i}, {sizes[i]})"
            )
        if np.iscomplexobj(operator):
            raise ModelError(f"{name}: operator {i} is complex; it must not be negative anywhere")
        sizes[i] = np.shape(operator)[0]
    return tuple(sizes)


def check_numbers(
    name: str, factors: tuple[Any, ...], coef: Any, noise: Any, mask: Any, *, pairs: bool
) -> None:
    """Refuse complex numbers where an imaginary part would be lost, and masks of other kinds.

    Parameters
    ----------
    name : str
        The distribution, for messages.
    factors, coef, noise, mask : object
        Its arguments.
    pairs : bool
        Whether it is the one of complex numbers, which takes them in pairs.
    """
    if not factors:
        raise ModelError(f"{name} needs at least one factor, got none")
    for i, factor in enumerate(factors):
        if np.iscomplexobj(factor) and not pairs:
            raise ModelError(
                f"{name}: factor {i} is complex: ComplexKroneckerLinear takes it, and coef and y "
                "in pairs (as_pairs)"
            )
    if np.iscomplexobj(coef):
        hint = "" if pairs else "ComplexKroneckerLinear with "
        raise ModelError(f"{name}: coef is complex: {hint}as_pairs(coef)")
    if np.iscomplexobj(noise):
        raise ModelError(f"{name}: noise is complex; it is a standard deviation")
    if mask is not None and not jnp.issubdtype(jnp.result_type(mask), jnp.bool_):
        raise ModelError(
            f"{name}: mask must be of dtype bool, True where an entry is observed, not "
            f"{jnp.result_type(mask)}"
        )


def check_shapes(
    name: str, factors: tuple[Any, ...], coef: Any, mask: Any, *, pairs: bool
) -> tuple[int, ...]:
    """Sizes M_i of the modes of observations; refuses what does not fit.

    Raises
    ------
    ShapeError
        Names the mode at fault.
    """
    shape, count = np.shape(coef), len(factors)
    if pairs and shape[-1:] != (2,):
        raise ShapeError(
            f"{name}: coef has shape {shape}; real and imaginary part must stand on a trailing "
            "axis of size 2: as_pairs(coef)"
        )
    modes = shape[:-1] if pairs else shape
    if len(modes) < count:
        raise ShapeError(
            f"{name}: there are {count} factors, but coef has {len(modes)} modes (shape {shape})"
        )
    for i, (factor, size) in enumerate(zip(factors, modes[len(modes) - count :], strict=True)):
        if np.ndim(factor) != 2:
            raise ShapeError(
                f"{name}: factor {i} has shape {np.shape(factor)}; it must be a matrix (M_{i}, "
                f"{size})"
            )
        if np.shape(factor)[1] != size:
            raise ShapeError(
                f"{name}: factor {i} is {np.shape(factor)}, but coef has {size} entries along "
                f"mode {i} (shape {shape})"
            )
    rows = tuple(np.shape(factor)[0] for factor in factors)
    if mask is not None and np.shape(mask)[-count:] != rows:
        raise ShapeError(
            f"{name}: mask has shape {np.shape(mask)}, but the observations have {rows}"
        )
    return rows
