"""Stochastic ascent of the ELBO in rounds of constant steps whose iterates are averaged.

Iterates of a constant step size come to a stationary distribution about the optimum, and their
average is far nearer to it than any of them. A round lasts until the averages of the third and the
fourth quarter of its iterates agree; then the step is cut, until the averages of two rounds agree:
a smaller step would not change the answer (Welandawe, Andersen, Vehtari and Huggins 2022).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from bayes.inference.families import Family, Params

__all__ = ["BINS", "Ascent", "Frame", "Given", "judge", "merge"]

BINS = 8
"""Stretches of a round whose averages are kept; where all are full, two become one."""
_LARGEST = 0.3
"""No element of a change is larger than this, in units of the family's frame."""

Density = Callable[[Array, Array, Any], tuple[Array, Array]]
"""From positions (n, d), key data (n, 2) and what else is given, to log densities and gradients."""


class Frame(NamedTuple):
    """Standardised coordinates u of positions x = centre + S u.

    Parameters
    ----------
    centre : array of shape (d,)
        Where u is zero.
    scale : array of shape (d,) or (d, d)
        The matrix S, or its diagonal.
    """

    centre: Array
    scale: Array

    def positions(self, u: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Positions of coordinates."""
        moved = u * self.scale[None] if self.scale.ndim == 1 else u @ self.scale.T
        return self.centre[None] + moved

    def gradients(self, slopes: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Gradients by the coordinates, of those by the positions."""
        return slopes * self.scale[None] if self.scale.ndim == 1 else slopes @ self.scale

    def log_volume(self) -> Array:
        """Log determinant of S."""
        if self.scale.ndim == 1:
            return jnp.log(jnp.abs(self.scale)).sum()
        return jnp.linalg.slogdet(self.scale)[1]


class Given(NamedTuple):
    """What a block of steps is given.

    Parameters
    ----------
    params, optimizer : array of shape (p,), array of shape (q,)
        Parameters, and the state of the optimiser, each as one vector.
    step_size : array of shape ()
        Step size.
    noise : array of shape (steps, pairs, k)
        Standard normal noise of one draw of each antithetic pair.
    words : array of shape (steps, 2 pairs, 2)
        Data of a key for each draw, for its subsample.
    frame : Frame
        Coordinates.
    metric : array of shape (d, d) or (0, 0)
        Inverse curvature on them, as far as it is known.
    """

    params: Array
    optimizer: Array
    step_size: Array
    noise: Array
    words: Array
    frame: Frame
    metric: Array


@dataclasses.dataclass(frozen=True)
class Ascent:
    """Functions of one family at one size, on parameters as one vector.

    Parameters
    ----------
    family : Family
        The family.
    size : int
        Elements of a position.
    """

    family: Family
    size: int

    @property
    def length(self) -> int:
        """Parameters in number."""
        return sum(np.size(v) for v in jax.tree.leaves(self.template()))

    def template(self) -> Params:
        """Parameters, for their shapes."""
        return self.family.init(self.size, np.random.default_rng(0))

    def optimizer(self) -> optax.GradientTransformation:
        """What makes a change of a direction: natural gradients are of the right scale already."""
        return optax.scale_by_adam() if self.family.adaptive else optax.identity()

    def unravel(self, flat: Array) -> Params:
        """Parameters by name."""
        return ravel_pytree(self.template())[1](flat)

    def start(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """First parameters and the first state of the optimiser, as vectors."""
        params = self.family.init(self.size, generator)
        flat = np.concatenate([np.ravel(v) for v in jax.tree.leaves(params)])
        state = jax.eval_shape(self.optimizer().init, params)
        return flat, np.zeros(sum(int(np.prod(v.shape)) for v in jax.tree.leaves(state)))

    def draws(self, flat: Array, noise: Array, frame: Frame) -> tuple[Array, Array]:
        """Positions of noise, and the log density of the approximation there."""
        params = self.unravel(flat)
        u = self.family.draw(params, noise)
        return frame.positions(u), self.family.log_prob(params, u) - frame.log_volume()

    def gradient(
        self, params: Params, noise: Array, words: Array, frame: Frame, density: Density, more: Any
    ) -> tuple[Params, Array]:
        """The gradient of the ELBO by the path of the draws alone, and the ELBO.

        The part by the density of the draws with their place fixed has mean zero, and is left out:
        without it the gradient at the exact posterior is zero for every draw (Roeder, Wu and
        Duvenaud 2017, Sticking the landing).
        """
        u, pull = jax.vjp(lambda p: self.family.draw(p, noise), params)
        lp, slopes = density(frame.positions(u), words, more)
        log_q, back = jax.vjp(lambda v: self.family.log_prob(params, v), u)
        (own,) = back(jnp.ones_like(log_q))
        (gradient,) = pull((frame.gradients(slopes) - own) / u.shape[0])
        elbo = (lp - log_q).mean() + frame.log_volume()
        return gradient, elbo

    def block(self, given: Given, density: Density, more: Any) -> dict[str, Array]:
        """A block of steps; one whose gradient is not finite is skipped."""
        optimizer = self.optimizer()
        unravel = ravel_pytree(self.template())[1]
        blank, unravel_state = ravel_pytree(optimizer.init(unravel(given.params)))
        assert blank.shape == given.optimizer.shape

        def step(carry: tuple[Array, Array], random: tuple[Array, Array]) -> Any:
            flat, state = carry
            half, words = random
            params = unravel(flat)
            noise = jnp.concatenate([half, -half])
            gradient, elbo = self.gradient(params, noise, words, given.frame, density, more)
            direction = self.family.direction(params, gradient, given.metric)
            change, new_state = optimizer.update(direction, unravel_state(state), params)
            largest = jnp.max(jnp.abs(ravel_pytree(change)[0])) * given.step_size
            factor = given.step_size * _LARGEST / jnp.maximum(largest, _LARGEST)
            moved = self.family.move(params, jax.tree.map(lambda v: factor * v, change))
            new, new_opt = ravel_pytree(moved)[0], ravel_pytree(new_state)[0]
            new_opt = new_opt.astype(state.dtype)
            fine = jnp.isfinite(elbo) & jnp.isfinite(new).all() & jnp.isfinite(new_opt).all()
            kept = jnp.where(fine, new, flat), jnp.where(fine, new_opt, state)
            return kept, (kept[0], jnp.where(fine, elbo, 0.0), fine)

        def summed(carry: tuple, random: tuple[Array, Array]) -> tuple[tuple, None]:
            iterate, (total, elbos, count) = carry
            iterate, (flat, elbo, fine) = step(iterate, random)
            return (iterate, (total + flat, elbos + elbo, count + fine)), None

        zero = jnp.zeros(())
        begin = (
            (given.params, given.optimizer),
            (jnp.zeros_like(given.params), zero, jnp.zeros((), jnp.int64)),
        )
        (iterate, sums), _ = jax.lax.scan(summed, begin, (given.noise, given.words))
        total, elbos, count = sums
        return {
            "params": iterate[0],
            "optimizer": iterate[1],
            "mean": total / given.noise.shape[0],
            "elbo": elbos / count,
            "skipped": given.noise.shape[0] - count,
        }

    def compare(self, pair: Array, bins: Array, noise: Array) -> tuple[Array, Array]:
        """How far two sets of parameters are apart, and whether that is drift.

        Parameters
        ----------
        pair : array of shape (2, p)
            Two sets of parameters.
        bins : array of shape (4, p)
            Averages of four stretches in turn.
        noise : array of shape (n, k)
            Noise of the draws that tell it.

        Returns
        -------
        divergence : array of shape ()
            Symmetrised Kullback-Leibler divergence of the pair, by draws with common noise.
        drift : array of shape ()
            Cosine of the moves from the first to the third and from the second to the fourth
            stretch: 1 where both go the same way, near 0 where they are noise.
        """
        first, second = self.unravel(pair[0]), self.unravel(pair[1])

        def ratio(at: Params) -> Array:
            x = self.family.draw(at, noise)
            return self.family.log_prob(first, x) - self.family.log_prob(second, x)

        divergence = (ratio(first) - ratio(second)).mean()
        places = [self.family.draw(self.unravel(flat), noise) for flat in bins]
        a, b = places[2] - places[0], places[3] - places[1]
        norm = jnp.sqrt((a * a).sum() * (b * b).sum())
        return divergence, (a * b).sum() / jnp.where(norm > 0, norm, 1.0)


def merge(bins: Float[np.ndarray, "bins p"]) -> Float[np.ndarray, "bins p"]:
    """Bins of twice the length: each two as one, in the first half."""
    half = 0.5 * (bins[0::2] + bins[1::2])
    return np.concatenate([half, np.zeros_like(half)])


def judge(
    divergence: float, drift: float, before: float, size: int, tolerance: float
) -> tuple[bool, bool]:
    """Whether averages of two stretches agree, and whether the step is far too large for it.

    Parameters
    ----------
    divergence, drift : float
        What :meth:`Ascent.compare` found.
    before : float
        The divergence of stretches of half the length; infinite where there were none.
    size : int
        Elements of a position.
    tolerance : float
        How far apart they may be, in standard deviations of an element. Where they drift they may
        be half as far apart if the drift is coming to its end, else a tenth: the end may be far.

    Returns
    -------
    agree, noisy : bool
    """
    apart = float(np.sqrt(max(divergence, 0.0) / size))
    drifts = drift > 0.8
    if drifts:
        # A steady drift is four times as large over twice the length.
        tolerance = tolerance * (0.5 if divergence < 0.25 * before else 0.1)
    agree = bool(np.isfinite(divergence)) and apart <= tolerance
    return agree, not drifts and not apart <= 10.0 * tolerance
