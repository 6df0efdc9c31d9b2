"""Columns of data as what a network reads: centred, scaled, bent where tails are heavy."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

__all__ = ["Columns", "measure_columns"]

_MOST_LEVELS = 16
"""Whole numbers with so many values at most are told apart one by one."""
_MOST_PRODUCTS = 8
"""Columns up to which all products of two are formed."""
_FARTHEST = 10.0
"""Scaled numbers beyond are read by their logarithms only."""
_TINY = 1e-4
_NUMBER, _COUNT, _LEVELS = "number", "count", "levels"


@dataclasses.dataclass(frozen=True)
class Columns:
    """How the columns of a table are read.

    A number is read three times: as it is, up to ten scales from its centre, by its inverse
    hyperbolic sine and by the logarithm of its square, so that the scales of heavy-tailed priors
    are told apart. Products of two columns are the sufficient statistics of linear models. Whole
    numbers of few values are read as indicators.

    Parameters
    ----------
    kinds : tuple of {"number", "count", "levels"}
        By column.
    location, scale : tuple of float
        Centre and scale by column, of the logarithms for counts.
    levels : tuple of int
        Number of values, which count from 0, by column; 0 where they are not told apart.
    """

    kinds: tuple[str, ...]
    location: tuple[float, ...]
    scale: tuple[float, ...]
    levels: tuple[int, ...]

    @property
    def size(self) -> int:
        """Numbers that a row becomes."""
        plain = sum(kind != _LEVELS for kind in self.kinds)
        products = self._centred_size if self._centred_size <= _MOST_PRODUCTS else 0
        return 2 * plain + self._centred_size + products * (products + 1) // 2

    @property
    def _centred_size(self) -> int:
        return sum(
            n if kind == _LEVELS else 1 for kind, n in zip(self.kinds, self.levels, strict=True)
        )

    def read(self, table: Float[Array, "*rows c"]) -> Float[Array, "*rows f"]:
        """The features of every row."""
        if not self.kinds:
            return jnp.zeros((*table.shape[:-1], 0), table.dtype)
        centred, bent = [], []
        for i, kind in enumerate(self.kinds):
            value = table[..., i]
            if kind == _LEVELS:
                levels = jnp.clip(jnp.round(value).astype(int), 0, self.levels[i] - 1)
                centred.append(jax.nn.one_hot(levels, self.levels[i], dtype=table.dtype))
                continue
            if kind == _COUNT:
                value = jnp.log1p(jnp.maximum(value, 0.0))
            z = (value - self.location[i]) / self.scale[i]
            centred.append(jnp.clip(z, -_FARTHEST, _FARTHEST)[..., None])
            bent += [jnp.arcsinh(z)[..., None], 0.25 * jnp.log(jnp.square(z) + _TINY)[..., None]]
        first = jnp.concatenate(centred, axis=-1)
        parts = [first, *bent]
        if self._centred_size <= _MOST_PRODUCTS:
            rows, columns = np.tril_indices(self._centred_size)
            # Of the order of one, as the others are.
            parts.append(jnp.arcsinh(first[..., rows] * first[..., columns]))
        return jnp.concatenate(parts, axis=-1)

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Columns:
        """Back from JSON values."""
        return cls(
            tuple(str(v) for v in values["kinds"]),
            tuple(float(v) for v in values["location"]),
            tuple(float(v) for v in values["scale"]),
            tuple(int(v) for v in values["levels"]),
        )


def measure_columns(table: Float[np.ndarray, "n c"], whole: tuple[bool, ...]) -> Columns:
    """How columns are to be read, by what many simulations bring.

    Parameters
    ----------
    table : array of shape (n, c)
        Rows of many data sets.
    whole : tuple of bool
        Which columns are whole numbers.

    Returns
    -------
    Columns
    """
    kinds, locations, scales, levels = [], [], [], []
    for values, integer in zip(table.T, whole, strict=True):
        values = values[np.isfinite(values)]
        lowest, highest = (values.min(), values.max()) if values.size else (0.0, 0.0)
        kind, count = _NUMBER, 0
        if integer and lowest >= 0:
            few = highest < _MOST_LEVELS
            kind, count = (_LEVELS, max(2, int(highest) + 1)) if few else (_COUNT, 0)
        if kind == _COUNT:
            values = np.log1p(values)
        location, scale = _robust(values) if kind != _LEVELS else (0.0, 1.0)
        kinds.append(kind)
        locations.append(location)
        scales.append(scale)
        levels.append(count)
    return Columns(tuple(kinds), tuple(locations), tuple(scales), tuple(levels))


def _robust(values: np.ndarray) -> tuple[float, float]:
    """Median, and the standard deviation of a normal distribution with these quartiles."""
    if not values.size:
        return 0.0, 1.0
    lower, middle, upper = np.quantile(values, [0.25, 0.5, 0.75])
    scale = (upper - lower) / 1.349
    if not scale > 0:
        scale = float(values.std())
    return float(middle), float(scale) if scale > 0 else 1.0
