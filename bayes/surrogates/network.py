"""The Distribution Transformer: components of a prior become components of a posterior.

Whittle, Ziomek, Rawling and Osborne (2025), Distribution Transformers: fast approximate Bayesian
inference with on-the-fly prior adaptation, arXiv 2502.02463, section 3. Tokens of the components
attend to each other and to the data; one map back to components serves prior and posterior.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

__all__ = ["Network", "Rows", "Sizes", "memory_of", "pooled"]

_SHOWN_ROWS = 16
"""Rows up to which every one is a token; more are summarised by as many tokens."""


class Rows(NamedTuple):
    """What was read of one source of data, for a batch of data sets.

    Parameters
    ----------
    features : array of shape (b, r, f)
        Features of the rows.
    there : array of shape (b, r)
        Which rows there are.
    """

    features: Float[Array, "b r f"]
    there: Bool[Array, "b r"]


class Sizes(NamedTuple):
    """Sizes of a network.

    Parameters
    ----------
    token : int
        Numbers that describe a component.
    components : int
        Components.
    sources : tuple of int
        Features a row, by source.
    rows : tuple of int
        Largest number of rows, by source.
    extra : int
        Features that come once a data set.
    width, layers, heads : int
        Width of a token, and layers and heads of attention.
    informed : bool
        Whether components updated by the likelihood's derivatives are given.
    """

    token: int
    components: int
    sources: tuple[int, ...]
    rows: tuple[int, ...]
    extra: int
    width: int
    layers: int
    heads: int
    informed: bool


class _Linear(eqx.Module):
    weight: Float[Array, "i o"]
    bias: Float[Array, " o"]

    def __init__(self, key: Array, inputs: int, outputs: int, *, zero: bool = False) -> None:
        spread = 0.0 if zero else 1.0 / np.sqrt(max(inputs, 1))
        normal = jax.random.truncated_normal(key, -2.0, 2.0, (inputs, outputs))
        self.weight = spread * normal
        self.bias = jnp.zeros(outputs)

    def __call__(self, x: Array) -> Array:
        return jnp.matmul(x, self.weight) + self.bias


class _Perceptron(eqx.Module):
    """One hidden layer."""

    first: _Linear
    second: _Linear

    def __init__(
        self, key: Array, inputs: int, hidden: int, outputs: int, *, zero: bool = False
    ) -> None:
        a, b = jax.random.split(key)
        self.first = _Linear(a, inputs, hidden)
        self.second = _Linear(b, hidden, outputs, zero=zero)

    def __call__(self, x: Array) -> Array:
        return self.second(jax.nn.gelu(self.first(x)))


class _Norm(eqx.Module):
    gain: Float[Array, " w"]

    def __init__(self, width: int) -> None:
        self.gain = jnp.ones(width)

    def __call__(self, x: Array) -> Array:
        away = x - x.mean(-1, keepdims=True)
        return away * jax.lax.rsqrt(jnp.square(away).mean(-1, keepdims=True) + 1e-5) * self.gain


class _Attention(eqx.Module):
    query: _Linear
    known: _Linear
    out: _Linear
    heads: int = eqx.field(static=True)

    def __init__(self, key: Array, width: int, heads: int) -> None:
        a, b, c = jax.random.split(key, 3)
        self.query = _Linear(a, width, width)
        self.known = _Linear(b, width, 2 * width)
        self.out = _Linear(c, width, width, zero=True)
        self.heads = heads

    def __call__(self, x: Array, memory: Array, there: Array | None = None) -> Array:
        each = x.shape[-1] // self.heads
        query = self.query(x).reshape(*x.shape[:-1], self.heads, each)
        known = self.known(memory).reshape(*memory.shape[:-1], 2, self.heads, each)
        score = jnp.einsum("bthe,bmhe->bhtm", query, known[..., 0, :, :]) / np.sqrt(each)
        if there is not None:
            score = jnp.where(there[:, None, None, :], score, -1e9)
        mixed = jnp.einsum("bhtm,bmhe->bthe", jax.nn.softmax(score, -1), known[..., 1, :, :])
        return self.out(mixed.reshape(x.shape))


class _Block(eqx.Module):
    """Attention among the components, attention to the data, and a perceptron."""

    among: _Attention
    towards: _Attention
    perceptron: _Perceptron
    norms: tuple[_Norm, _Norm, _Norm]

    def __init__(self, key: Array, width: int, heads: int) -> None:
        a, b, c = jax.random.split(key, 3)
        self.among = _Attention(a, width, heads)
        self.towards = _Attention(b, width, heads)
        self.perceptron = _Perceptron(c, width, 2 * width, width, zero=True)
        self.norms = (_Norm(width), _Norm(width), _Norm(width))

    def __call__(self, x: Array, memory: Array, there: Array) -> Array:
        own = self.norms[0](x)
        x = x + self.among(own, own)
        x = x + self.towards(self.norms[1](x), memory, there)
        return x + self.perceptron(self.norms[2](x))


class _Encoder(eqx.Module):
    """Rows of a source as tokens: each of a few or summaries of many, and their average.

    Attention averages, so that it cannot count: the number of rows is told to it.
    """

    row: _Perceptron
    average: _Perceptron
    whole: _Perceptron
    norm: _Norm
    summaries: Float[Array, "s w"] | None
    attention: _Attention | None

    def __init__(self, key: Array, features: int, rows: int, width: int, heads: int) -> None:
        a, b, c, d, e = jax.random.split(key, 5)
        self.row = _Perceptron(a, features, width, width)
        self.average = _Perceptron(b, features, 2 * width, 2 * width)
        self.whole = _Perceptron(c, 2 * width + 2, 2 * width, width)
        self.norm = _Norm(width)
        many = rows > _SHOWN_ROWS
        self.summaries = jax.random.normal(d, (_SHOWN_ROWS, width)) if many else None
        self.attention = _Attention(e, width, heads) if many else None

    def __call__(self, rows: Rows) -> tuple[Array, Array]:
        count = rows.there.sum(-1, keepdims=True)
        weight = (rows.there / jnp.maximum(count, 1))[..., None]
        average = (weight * self.average(rows.features)).sum(-2)
        told = jnp.concatenate([jnp.log1p(count), 1.0 / jnp.sqrt(count + 1.0)], -1)
        whole = self.whole(jnp.concatenate([average, told], -1))[:, None]
        tokens, there = self.norm(self.row(rows.features)), rows.there
        if self.attention is not None and self.summaries is not None:
            asked = jnp.broadcast_to(self.summaries, (tokens.shape[0], *self.summaries.shape))
            tokens = asked + self.attention(asked, tokens, there)
            there = jnp.ones(tokens.shape[:2], bool)
        always = jnp.ones((tokens.shape[0], 1), bool)
        return jnp.concatenate([tokens, whole], 1), jnp.concatenate([there, always], 1)


class Network(eqx.Module):
    """Components of a prior and data to components of the posterior.

    Parameters
    ----------
    key : key
        Random key of the first weights.
    sizes : Sizes
        Sizes.
    """

    enter: _Perceptron
    keep: _Linear
    encoders: tuple[_Encoder, ...]
    extra: _Perceptron
    blocks: tuple[_Block, ...]
    leave: _Perceptron
    norm: _Norm
    memory_norm: _Norm
    marks: Float[Array, "k w"]

    def __init__(self, key: Array, sizes: Sizes) -> None:
        keys = iter(jax.random.split(key, 5 + len(sizes.sources) + sizes.layers))
        width, heads = sizes.width, sizes.heads
        self.enter = _Perceptron(next(keys), (1 + sizes.informed) * sizes.token, width, width)
        self.keep = _Linear(next(keys), width, sizes.token, zero=True)
        self.extra = _Perceptron(next(keys), sizes.extra + 1, width, width)
        self.leave = _Perceptron(next(keys), width, width, sizes.token, zero=True)
        # Equal components must be able to part.
        self.marks = 0.1 * jax.random.normal(next(keys), (sizes.components, width))
        self.encoders = tuple(
            _Encoder(next(keys), features, rows, width, heads)
            for features, rows in zip(sizes.sources, sizes.rows, strict=True)
        )
        self.blocks = tuple(_Block(next(keys), width, heads) for _ in range(sizes.layers))
        self.norm, self.memory_norm = _Norm(width), _Norm(width)

    def embed(
        self, prior: Float[Array, "b k t"], guess: Float[Array, "b k t"] | None
    ) -> Float[Array, "b k w"]:
        """Tokens of the components of priors, and of what they are updated to at first."""
        given = prior if guess is None else jnp.concatenate([prior, jnp.arcsinh(guess - prior)], -1)
        return self.enter(given) + self.marks

    def components(
        self,
        tokens: Float[Array, "b k w"],
        prior: Float[Array, "b k t"],
        guess: Float[Array, "b k t"] | None,
    ) -> Float[Array, "b k t"]:
        """The components that tokens stand for, as changes of the first guess and of the prior."""
        read = self.norm(tokens)
        change = self.leave(read)
        if guess is None:
            return prior + change
        return guess + self.keep(read) * (prior - guess) + change

    def memory(
        self, sources: tuple[Rows, ...], extra: Float[Array, "b e"]
    ) -> tuple[Float[Array, "b m w"], Bool[Array, "b m"]]:
        """What is known of the data: tokens, and which of them there are."""
        tokens, there = memory_of(self.encoders, self.extra, sources, extra)
        return self.memory_norm(tokens), there

    def condition(
        self,
        tokens: Float[Array, "b k w"],
        memory: Float[Array, "b m w"],
        there: Bool[Array, "b m"],
    ) -> Float[Array, "b k w"]:
        """Tokens of the posterior's components."""
        for block in self.blocks:
            tokens = block(tokens, memory, there)
        return tokens


def memory_of(
    encoders: tuple[_Encoder, ...],
    extra: _Perceptron,
    sources: tuple[Rows, ...],
    numbers: Float[Array, "b e"],
) -> tuple[Float[Array, "b m w"], Bool[Array, "b m"]]:
    """Tokens of the rows of all sources and one of what comes once; which of them there are."""
    read = [encoder(rows) for encoder, rows in zip(encoders, sources, strict=True)]
    one = jnp.ones((numbers.shape[0], 1), numbers.dtype)
    once = extra(jnp.concatenate([numbers, one], -1))[:, None]
    tokens = jnp.concatenate([*(tokens for tokens, _ in read), once], 1)
    return tokens, jnp.concatenate([*(there for _, there in read), one.astype(bool)], 1)


def pooled(memory: Float[Array, "b m w"], there: Bool[Array, "b m"]) -> Float[Array, "b w"]:
    """One vector a data set, by which data sets are told from those of the training."""
    weight = there / jnp.maximum(there.sum(-1, keepdims=True), 1)
    return (memory * weight[..., None]).sum(1)
