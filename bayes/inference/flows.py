"""A normalizing flow of couplings: both its draws and its log density take one pass.

Halves of the elements move each other by affine maps (Dinh, Sohl-Dickstein and Bengio 2017), and
in the end each element is shifted, scaled, skewed and given heavier or lighter tails by the
sinh-arcsinh map (Jones and Pewsey 2009). At the start it is the identity. The sticking-the-landing
gradient needs the inverse at the draws, which autoregressive flows have only element by element.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from bayes.inference.families import Family, Params

__all__ = ["CouplingFlow"]

_LOG_TAU = float(np.log(2.0 * np.pi))
_MOST, _MOST_TAIL = 2.0, 0.5
"""Log scales of a coupling, and of the tails, stay within this."""
_NETWORK = ("first", "first_bias", "second", "second_bias", "last", "last_bias")


@dataclasses.dataclass(frozen=True)
class CouplingFlow(Family):
    """A flow of affine couplings and a sinh-arcsinh map.

    Parameters
    ----------
    layers : int
        Couplings; each moves every other element, in turns.
    width : int
        Width of the two hidden layers of a coupling's network.

    References
    ----------
    Dinh, Sohl-Dickstein and Bengio (2017), Density estimation using Real NVP. Jones and Pewsey
    (2009), Sinh-arcsinh distributions. Agrawal and Domke (2024), Disentangling impact of capacity,
    objective, batchsize, estimators, and step-size on flow VI.
    """

    adaptive = True
    rough = 2.0
    layers: int = 6
    width: int = 32

    def init(self, size: int, generator: np.random.Generator) -> Params:
        """Parameters of a standard normal: the last layer of each network is zero."""
        count, width = (self.layers if size > 1 else 0), self.width

        def weights(rows: int, columns: int) -> np.ndarray:
            return generator.standard_normal((count, rows, columns)) / np.sqrt(rows)

        return {
            "first": weights(size, width),
            "first_bias": np.zeros((count, width)),
            "second": weights(width, width),
            "second_bias": np.zeros((count, width)),
            "last": np.zeros((count, width, 2 * size)),
            "last_bias": np.zeros((count, 2 * size)),
            "shift": np.zeros(size),
            "log_scale": np.zeros(size),
            "skew": np.zeros(size),
            "log_tail": np.zeros(size),
        }

    def step(self, size: int, pairs: int) -> float:
        """Step size of Adam to begin with."""
        return 0.003

    def draw(self, params: Params, noise: Float[Array, "n k"]) -> Float[Array, "n d"]:
        """Draws of noise."""

        def layer(z: Array, given: tuple[Params, Array]) -> tuple[Array, None]:
            shift, log_scale = _coupling(*given, z)
            return z * jnp.exp(log_scale) + shift, None

        z, _ = lax.scan(layer, noise, _layers(params))
        tail = jnp.exp(_log_tail(params))[None]
        z = jnp.sinh((jnp.arcsinh(z) + params["skew"][None]) * tail)
        return params["shift"][None] + jnp.exp(params["log_scale"])[None] * z

    def log_prob(self, params: Params, x: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Log density at positions, by the inverse."""

        def layer(carry: tuple[Array, Array], given: tuple[Params, Array]) -> Any:
            z, total = carry
            shift, log_scale = _coupling(*given, z)
            return ((z - shift) * jnp.exp(-log_scale), total - log_scale.sum(-1)), None

        log_tail = _log_tail(params)
        y = (x - params["shift"][None]) * jnp.exp(-params["log_scale"])[None]
        inner = jnp.arcsinh(y) * jnp.exp(-log_tail)[None] - params["skew"][None]
        # dz/dy = cosh(inner) / (tail sqrt(1 + y^2)).
        log_slope = _log_cosh(inner) - 0.5 * jnp.log1p(y * y)
        total = log_slope.sum(-1) - (params["log_scale"] + log_tail).sum()
        (z, total), _ = lax.scan(layer, (jnp.sinh(inner), total), _layers(params), reverse=True)
        return total - 0.5 * (z * z + _LOG_TAU).sum(-1)


def _layers(params: Params) -> tuple[Params, Array]:
    """Parameters of the couplings' networks, and which elements each moves."""
    networks = {name: params[name] for name in _NETWORK}
    count, size = params["first"].shape[0], params["shift"].shape[0]
    return networks, (jnp.arange(size)[None] + jnp.arange(count)[:, None]) % 2 == 1


def _coupling(
    network: Params, move: Array, z: Float[Array, "n d"]
) -> tuple[Float[Array, "n d"], Float[Array, "n d"]]:
    """Shift and log scale of the elements that move, from those that stay; zero of the others."""
    hidden = jnp.where(move[None], 0.0, z)
    for name in ("first", "second"):
        hidden = jnp.tanh(hidden @ network[name] + network[f"{name}_bias"][None])
    shift, raw = jnp.split(hidden @ network["last"] + network["last_bias"][None], 2, axis=-1)
    log_scale = _MOST * jnp.tanh(raw / _MOST)
    return jnp.where(move[None], shift, 0.0), jnp.where(move[None], log_scale, 0.0)


def _log_tail(params: Params) -> Array:
    return _MOST_TAIL * jnp.tanh(params["log_tail"] / _MOST_TAIL)


def _log_cosh(x: Array) -> Array:
    size = jnp.abs(x)
    return size + jnp.log1p(jnp.exp(-2.0 * size)) - np.log(2.0)
