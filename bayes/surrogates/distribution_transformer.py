"""DistributionTransformer: a network from a mixture prior and data to a mixture posterior."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayes.checkpoint import Checkpoint
from bayes.errors import SettingsError
from bayes.inference.settings import require_whole
from bayes.precision import simulating, single_precision
from bayes.surrogates.amortizer import Amortizer
from bayes.surrogates.ground import Ground
from bayes.surrogates.layout import Inputs
from bayes.surrogates.meta_priors import MetaPrior, around
from bayes.surrogates.mixtures import (
    Mixture,
    from_tokens,
    log_prob,
    moved,
    sample,
    to_tokens,
    token_size,
)
from bayes.surrogates.network import Network, Sizes, pooled
from bayes.surrogates.row_sizes import row_sizes, shortened
from bayes.surrogates.simulator import Simulator
from bayes.surrogates.trained_transformer import Familiar, TrainedTransformer, first_guess
from bayes.surrogates.training import Lesson, Schedule, Trained, train

__all__ = ["DistributionTransformer"]

_ROWS_A_BATCH = 128
"""Rows up to which a batch is whole."""
_FAMILIAR = 4096
_STEPS, _UNBOUNDED = 20_000, 10**9
_WORST, _OVERFLOW = 1e4, 1e30


class _Batch(NamedTuple):
    """Simulations that a network is trained with.

    Parameters
    ----------
    prior : array of shape (b, k, t)
        Components of the priors.
    guess : array of shape (b, k, t) or None
        The same, updated by the likelihood's derivatives.
    x : array of shape (b, d)
        Parameters, in the network's coordinates.
    inputs : Inputs
        Data.
    fine : array of shape (b,)
        Which simulations are finite.
    """

    prior: Array
    guess: Array | None
    x: Array
    inputs: Inputs
    fine: Array


@dataclasses.dataclass(frozen=True)
class DistributionTransformer(Amortizer):
    """A transformer whose tokens are the components of a prior, and become those of the posterior.

    It is trained on parameters and data drawn from the program, whose prior is partly the
    program's own and partly another mixture, so that ``with_prior`` can change it afterwards and a
    posterior can be the next prior. Priors and posteriors are mixtures of normals with full
    covariances on the unconstrained space.

    Parameters
    ----------
    components : int
        Components of the mixtures.
    width, layers, heads : int
        Width of a token, and layers and heads of attention.
    batch : int
        Data sets a step.
    steps : int, optional
        Steps of training; by default as many as the budget has time for, or 20 000 without one.
    learning_rate : float
        Largest step size.
    runtime_priors : float
        Share of the data sets whose prior is not the program's own; 0 for a network that knows
        that one only, and knows it better.
    informed : bool
        Whether the network is given, beside the data, every component of the prior updated by the
        likelihood's first two derivatives at its mean; it then learns the departure from that. The
        published architecture has the data alone.
    meta_prior : callable, optional
        From a key to a ``bayes.surrogates.mixtures.Mixture`` on the flat unconstrained space, in
        JAX: the priors of these data sets. By default mixtures around the program's own prior.

    References
    ----------
    Whittle, Ziomek, Rawling and Osborne (2025), Distribution Transformers: fast approximate
    Bayesian inference with on-the-fly prior adaptation, arXiv 2502.02463.

    Examples
    --------
    >>> dt = bayes.amortize(schools, data, bayes.DistributionTransformer(), budget=300)
    >>> post = bayes.fit(schools, other_data, method=dt)
    """

    name: ClassVar[str] = "distribution_transformer"

    components: int = 8
    width: int = 64
    layers: int = 2
    heads: int = 4
    batch: int = 64
    steps: int | None = None
    learning_rate: float = 4e-3
    runtime_priors: float = 0.5
    informed: bool = True
    meta_prior: Callable | None = None

    def __post_init__(self) -> None:
        for field in ("components", "width", "layers", "heads", "batch"):
            require_whole(field, getattr(self, field))
        if self.steps is not None:
            require_whole("steps", self.steps)
        if self.width % self.heads:
            raise SettingsError(f"width={self.width} is not a multiple of heads={self.heads}")
        if not 0.0 <= self.runtime_priors <= 1.0:
            raise SettingsError(f"runtime_priors is a share, got {self.runtime_priors!r}")
        if not 0.0 < self.learning_rate < 1.0:
            raise SettingsError(f"learning_rate is between 0 and 1, got {self.learning_rate!r}")

    def train(
        self,
        simulator: Simulator,
        key: Array,
        *,
        budget: float | None = None,
        checkpoint: Checkpoint | None = None,
        progress: bool | None = None,
    ) -> TrainedTransformer:
        """Train the network on fresh draws of a simulator."""
        pilot, weights, run, after = jax.random.split(key, 4)
        ground = Ground.of(simulator, pilot, self.components)
        sizes = self._sizes(ground)
        with single_precision():
            network = Network(weights, sizes)
        steps = self.steps or (_STEPS if budget is None else _UNBOUNDED)
        schedule = Schedule(steps, self.learning_rate)
        trained = train(
            network,
            self._lessons(simulator, ground),
            schedule,
            run,
            budget=budget,
            checkpoint=checkpoint,
            progress=progress,
            name=self.name,
        )
        return TrainedTransformer(
            network=trained.network,
            sizes=sizes,
            ground=ground,
            familiar=self._familiar(trained, simulator, ground, after),
            runtime=self.runtime_priors > 0,
            training=self._record(trained),
        )

    def _record(self, trained: Trained) -> dict[str, Any]:
        return {
            "settings": self.settings(),
            "steps": trained.steps,
            "seconds": trained.seconds,
            "loss": trained.loss,
            "interrupted": trained.interrupted,
        }

    def _sizes(self, ground: Ground) -> Sizes:
        layout = ground.layout
        return Sizes(
            token=token_size(ground.own_prior.size),
            components=self.components,
            sources=tuple(source.size for source in layout.sources),
            rows=tuple(source.rows for source in layout.sources),
            extra=layout.extra_columns.size,
            width=self.width,
            layers=self.layers,
            heads=self.heads,
            informed=self.informed,
        )

    # ------------------------------------------------------------------- lessons

    def _lessons(self, simulator: Simulator, ground: Ground) -> list[Lesson]:
        """One for each number of rows that data sets are padded to."""
        with simulating():
            return [
                Lesson(self._draw(simulator, ground, rows, below), self._loss(ground))
                for rows, below in row_sizes(simulator)
            ]

    def _draw(
        self, simulator: Simulator, ground: Ground, rows: int, below: int
    ) -> Callable[[Array], _Batch]:
        """Parameters, priors and data of a batch."""
        batch = int(np.clip(self.batch * _ROWS_A_BATCH // rows, 8, self.batch))
        others = round(batch * self.runtime_priors)
        own = np.asarray(to_tokens(ground.own_prior))
        location, scale = ground.location, ground.scale
        meta = self._meta_prior(ground)

        def with_own(key: Array) -> tuple[Array, Array, Inputs]:
            position, inputs = simulator.draw(key, rows)
            return jnp.asarray(own), (position - location) / scale, inputs

        def with_other(key: Array) -> tuple[Array, Array, Inputs]:
            first, second, third = jax.random.split(key, 3)
            prior = Mixture(*(jnp.asarray(part, float) for part in meta(first)))
            x = sample(prior, second, 1)[0]
            return to_tokens(prior), x, simulator.draw_at(third, location + scale * x, rows)

        def draw(key: Array) -> _Batch:
            first, second = jax.random.split(key)
            keys = jax.random.split(first, batch)
            parts = []
            if batch > others:
                parts.append(jax.vmap(with_own)(keys[others:]))
            if others:
                parts.append(jax.vmap(with_other)(keys[:others]))
            prior, x, inputs = jax.tree.map(lambda *v: jnp.concatenate(v), *parts)
            if simulator.resizable:
                inputs = shortened(inputs, ground.layout, second, rows, below)
            guess = first_guess(ground, prior, inputs) if self.informed else None
            found = _Batch(prior, guess, x, inputs._replace(arrays=()), jnp.ones(batch, bool))
            fine = _finite(found)
            return _blanked(found, fine)._replace(fine=fine)

        return draw

    def _loss(self, ground: Ground) -> Callable[[Network, _Batch], Array]:
        layout, d = ground.layout, ground.own_prior.size
        others = self.runtime_priors > 0

        def loss(network: Network, batch: _Batch) -> Array:
            prior, guess, x, inputs, fine = batch
            tokens = network.embed(prior, guess)
            posterior = network.condition(tokens, *network.memory(*layout.features(inputs)))
            found = -log_prob(from_tokens(network.components(posterior, prior, guess), d), x)
            if others:  # without data a posterior is its prior, so that it can be the next one
                same = None if guess is None else prior
                before = network.components(network.embed(prior, same), prior, same)
                found = found - log_prob(from_tokens(before, d), x)
            found = jnp.where(fine & (found < _WORST), found, 0.0)
            return found.sum() / jnp.maximum(fine.sum(), 1)

        return loss

    def _meta_prior(self, ground: Ground) -> MetaPrior:
        if self.meta_prior is None:
            return around(ground.own_prior)
        given = self.meta_prior
        d, components = ground.own_prior.size, self.components
        with simulating():
            found = jax.eval_shape(given, jax.random.key(0))
        if not isinstance(found, Mixture) or found.means.shape != (components, d):
            shape = getattr(getattr(found, "means", None), "shape", None)
            raise SettingsError(
                f"meta_prior(key) gives a Mixture of {components} components in {d} dimensions, "
                f"with means of shape {(components, d)}; got {type(found).__name__} with {shape}"
            )
        shift, stretch = -ground.location / ground.scale, 1.0 / ground.scale
        return lambda key: moved(given(key), shift, stretch)

    # --------------------------------------------------------------------- range

    def _familiar(
        self, trained: Trained, simulator: Simulator, ground: Ground, key: Array
    ) -> Familiar:
        """What summaries of data drawn in training are like."""
        network, layout, sizes = trained.network, ground.layout, row_sizes(simulator)

        def drawn(key: Array, rows: int, below: int) -> Inputs:
            first, second = jax.random.split(key)
            _, inputs = jax.vmap(lambda k: simulator.draw(k, rows))(jax.random.split(first, 64))
            inputs = inputs._replace(arrays=())
            return shortened(inputs, layout, second, rows, below) if simulator.resizable else inputs

        def summary(inputs: Inputs) -> Float[Array, "b w"]:
            return pooled(*network.memory(*layout.features(inputs)))

        draw, summarise = jax.jit(drawn, static_argnums=(1, 2)), jax.jit(summary)
        parts = []
        for number, batch_key in enumerate(jax.random.split(key, _FAMILIAR // 64)):
            size = sizes[number * len(sizes) * 64 // _FAMILIAR]
            with simulating():
                inputs = draw(batch_key, *size)
            with single_precision():
                parts.append(np.asarray(summarise(inputs), float))
        found = np.stack(parts)
        found = found.reshape(-1, found.shape[-1])
        # Of all sizes are those that the mean is of, and those that the limit is of.
        found = np.concatenate([found[::2], found[1::2]])
        return Familiar.of(found[np.isfinite(found).all(axis=1)])


def _finite(batch: _Batch) -> Array:
    """Which data sets are finite throughout."""
    parts = [batch.prior, batch.x, *batch.inputs.tables, batch.inputs.extra]
    parts += [] if batch.guess is None else [batch.guess]
    # Also what would overflow in single precision.
    each = [(jnp.abs(p) < _OVERFLOW).reshape(p.shape[0], -1).all(-1) for p in parts]
    return jnp.stack(each).all(0)


def _blanked(batch: _Batch, fine: Array) -> _Batch:
    """The batch with zeros for data sets that are not finite."""
    return jax.tree.map(
        lambda v: jnp.where(fine.reshape(-1, *(1,) * (v.ndim - 1)), v, jnp.zeros_like(v)), batch
    )
