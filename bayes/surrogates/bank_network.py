"""A network from data to the posterior mean of every unknown, by which data sets are compared."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from bayes.surrogates.network import Rows, _Block, _Encoder, _Norm, _Perceptron, memory_of

__all__ = ["SummaryNetwork", "SummarySizes"]


class SummarySizes(NamedTuple):
    """Sizes of a network.

    Parameters
    ----------
    unknowns : int
        Numbers that it predicts.
    sources : tuple of int
        Features a row, by source.
    rows : tuple of int
        Largest number of rows, by source.
    extra : int
        Features that come once a data set.
    width, layers, heads : int
        Width of a token, and layers and heads of attention.
    """

    unknowns: int
    sources: tuple[int, ...]
    rows: tuple[int, ...]
    extra: int
    width: int
    layers: int
    heads: int


class SummaryNetwork(eqx.Module):
    """One learned token that looks at the data, encoded as for a Distribution Transformer.

    Parameters
    ----------
    key : key
        Random key of the first weights.
    sizes : SummarySizes
        Sizes.
    """

    encoders: tuple[_Encoder, ...]
    extra: _Perceptron
    blocks: tuple[_Block, ...]
    leave: _Perceptron
    norm: _Norm
    memory_norm: _Norm
    asked: Float[Array, "1 w"]

    def __init__(self, key: Array, sizes: SummarySizes) -> None:
        keys = iter(jax.random.split(key, 3 + len(sizes.sources) + sizes.layers))
        width, heads = sizes.width, sizes.heads
        self.extra = _Perceptron(next(keys), sizes.extra + 1, width, width)
        self.leave = _Perceptron(next(keys), width, width, sizes.unknowns)
        self.asked = jax.random.normal(next(keys), (1, width))
        self.encoders = tuple(
            _Encoder(next(keys), features, rows, width, heads)
            for features, rows in zip(sizes.sources, sizes.rows, strict=True)
        )
        self.blocks = tuple(_Block(next(keys), width, heads) for _ in range(sizes.layers))
        self.norm, self.memory_norm = _Norm(width), _Norm(width)

    def __call__(
        self, sources: tuple[Rows, ...], extra: Float[Array, "b e"]
    ) -> Float[Array, "b d"]:
        """Predicted posterior means of a batch of data sets."""
        tokens, there = memory_of(self.encoders, self.extra, sources, extra)
        memory = self.memory_norm(tokens)
        x = jnp.broadcast_to(self.asked, (extra.shape[0], *self.asked.shape))
        for block in self.blocks:
            x = block(x, memory, there)
        return self.leave(self.norm(x))[:, 0]
