"""A trained Distribution Transformer: a method that answers in milliseconds, and is checked."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayes.errors import SettingsError
from bayes.precision import double_precision, simulating, single_precision
from bayes.problem import Problem
from bayes.surrogates.batch import BatchPosterior, batch_inputs
from bayes.surrogates.ground import Ground
from bayes.surrogates.layout import Inputs, Layout
from bayes.surrogates.mixtures import Mixture, from_tokens, to_tokens, token_size
from bayes.surrogates.network import Network, Sizes, pooled
from bayes.surrogates.network_files import arrays_of, network_of, require_arrays, sizes_of
from bayes.surrogates.priors import RuntimePrior
from bayes.surrogates.surrogate import Proposal, Surrogate

__all__ = ["Familiar", "TrainedTransformer"]

_FAMILIAR_SHARE = 0.99
_FAMILIAR = "familiar."


class Familiar(NamedTuple):
    """Summaries of data drawn in training, by their mean and covariance.

    Parameters
    ----------
    mean : array of shape (w,)
        Mean of the summaries.
    precision : array of shape (w, w)
        Inverse of their covariance, with a floor.
    limit : array of shape ()
        Distance that 99 of 100 of them do not exceed.
    """

    mean: Float[np.ndarray, " w"]
    precision: Float[np.ndarray, "w w"]
    limit: Float[np.ndarray, ""]

    @classmethod
    def of(cls, summaries: Float[np.ndarray, "n w"]) -> Familiar:
        """From summaries of many data sets; the limit is that of those the rest was not made of."""
        half = len(summaries) // 2
        mean = summaries[:half].mean(axis=0)
        sigma = np.cov(summaries[:half].T)
        floor = 1e-4 * np.trace(sigma) / len(sigma) + 1e-12
        precision = np.linalg.inv(sigma + floor * np.eye(len(sigma)))
        found = cls(mean, precision, np.asarray(np.inf))
        distances = [found.distance(s) for s in summaries[half:]]
        return found._replace(limit=np.asarray(np.quantile(distances, _FAMILIAR_SHARE)))

    def distance(self, summary: Float[np.ndarray, " w"]) -> float:
        """Mahalanobis distance of a summary."""
        away = np.asarray(summary, float) - self.mean
        return float(np.sqrt(max(away @ self.precision @ away, 0.0)))


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedTransformer(Surrogate):
    """A Distribution Transformer that :func:`bayes.amortize` has trained.

    Parameters
    ----------
    network : Network
        Its network.
    sizes : Sizes
        Sizes of that.
    ground : Ground
        The program it was trained for.
    familiar : Familiar
        What data in training were like.
    runtime : bool
        Whether it was trained with priors other than the program's own.
    training : dict
        Settings and course of the training, as JSON values.
    """

    name: ClassVar[str] = "distribution_transformer"

    network: Network = dataclasses.field(kw_only=True, repr=False)
    sizes: Sizes = dataclasses.field(kw_only=True, repr=False)
    ground: Ground = dataclasses.field(kw_only=True, repr=False)
    familiar: Familiar = dataclasses.field(kw_only=True, repr=False)
    runtime: bool = dataclasses.field(kw_only=True)
    training: Mapping[str, Any] = dataclasses.field(kw_only=True, repr=False)

    # ------------------------------------------------------------------- storing

    def parts(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """What it has learned as arrays by name and JSON values; all but the ground."""
        arrays = arrays_of(self.network)
        arrays |= {f"{_FAMILIAR}{n}": np.asarray(v) for n, v in self.familiar._asdict().items()}
        values = {
            "sizes": self.sizes._asdict(),
            "runtime": self.runtime,
            "training": dict(self.training),
            "checks": None if self.checks is None else dict(self.checks),
        }
        return arrays, values

    @classmethod
    def from_parts(
        cls, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any], ground: Ground
    ) -> TrainedTransformer:
        """The inverse of :meth:`parts`, with the ground that they were learned on.

        Raises
        ------
        FileError
            Where arrays are missing, or have shapes or types that the sizes do not give.
        """
        layout, own = ground.layout, ground.own_prior
        wanted = {
            "token": token_size(own.size),
            "components": own.components,
            "sources": tuple(source.size for source in layout.sources),
            "rows": tuple(source.rows for source in layout.sources),
            "extra": layout.extra_columns.size,
        }
        sizes = sizes_of(values["sizes"], wanted)
        familiar = {n: v for n, v in arrays.items() if n.startswith(_FAMILIAR)}
        shapes = {"mean": (sizes.width,), "precision": (sizes.width,) * 2, "limit": ()}
        doubles = {f"{_FAMILIAR}{n}": jax.ShapeDtypeStruct(s, float) for n, s in shapes.items()}
        network = network_of({n: v for n, v in arrays.items() if n not in familiar}, sizes)
        require_arrays(familiar, doubles)
        return cls(
            network=network,
            sizes=sizes,
            ground=ground,
            familiar=Familiar(*(familiar[f"{_FAMILIAR}{n}"] for n in Familiar._fields)),
            runtime=bool(values["runtime"]),
            training=dict(values["training"]),
            checks=values["checks"],
        )

    @property
    def reference(self) -> Problem:
        """The program bound to data drawn from it."""
        return self.ground.reference

    @property
    def components(self) -> int:
        """Components of its mixtures."""
        return self.sizes.components

    def with_prior(self, prior: Any, *, components: int | None = None, seed: int = 0) -> Any:
        """The surrogate with another prior; see :meth:`Surrogate.with_prior`."""
        if not self.runtime:
            raise SettingsError(
                "this network knows the program's own prior only: train it with "
                "DistributionTransformer(runtime_priors=0.5)"
            )
        return super().with_prior(prior, components=components, seed=seed)

    def verify(self, problem: Problem) -> None:
        """Refuse a problem of another program than that of training."""
        self.ground.verify(problem, own_prior=self.prior is None)

    def propose(self, problem: Problem, words: np.ndarray) -> Proposal:
        """The network's mixture for the problem's data, and how familiar these are."""
        inputs = self.ground.inputs(problem)
        one = jax.tree.map(lambda v: np.asarray(v)[None], inputs)
        tokens, summary = self._forward(self._prior(problem)[None], one)
        found = from_numpy(tokens[0], self.ground.own_prior.size)
        info = {
            "distance": self.familiar.distance(summary[0]),
            "distance_limit": float(self.familiar.limit),
            "out_of_range": self.ground.complaints(problem, inputs),
        }
        return Proposal(self.ground.unscaled(found), info)

    def mixtures(self, inputs: Inputs) -> Mixture:
        """The network's mixtures for a batch of data under the program's own prior."""
        count = inputs.counts.shape[0]
        tokens, _ = self._forward(
            np.broadcast_to(self._own_tokens, (count, *self._own_tokens.shape)), inputs
        )
        return self.ground.unscaled(from_numpy(tokens, self.ground.own_prior.size))

    def settings(self) -> dict[str, Any]:
        """What can be set after the training, and a digest of what was learned."""
        known = {"draws": self.draws, "route": self.route, "trained": self._digest}
        return known if self.prior is None else {**known, "prior": self.prior.describe()}

    @functools.cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(eqx.filter(self.network, eqx.is_array)):
            digest.update(np.asarray(leaf).tobytes())
        return digest.hexdigest()[:16]

    def posteriors(
        self, data: Mapping[str, Any], *, prior: Mixture | None = None
    ) -> BatchPosterior:
        """Posteriors of many data sets in one call, the network's own: not corrected, not judged.

        Parameters
        ----------
        data : mapping
            Arguments by name, each array with a leading dimension of data sets; arguments that did
            not vary in training may be left out. Of a program that does not run without what it
            observes, the values of its observed sites, by the sites' names.
        prior : Mixture, optional
            Another prior on the flat unconstrained space, of as many components as the network
            has; with a leading dimension one for each data set.

        Returns
        -------
        BatchPosterior
            Mixtures on the flat unconstrained space, and draws of them by site.
        """
        inputs, arrays = batch_inputs(self.ground, data)
        count = inputs.counts.shape[0]
        if prior is None:
            tokens = self._own_tokens
        else:
            self._require_runtime(prior)
            tokens = np.asarray(self._tokens_of(prior))
        tokens = np.broadcast_to(tokens, (count, *tokens.shape[-2:]))
        found, _ = self._forward(tokens, inputs)
        scaled = from_numpy(found, self.ground.own_prior.size)
        return BatchPosterior(self.ground.unscaled(scaled), self.reference, arrays)

    def _require_runtime(self, prior: Mixture) -> None:
        if not self.runtime:
            raise SettingsError("this network knows the program's own prior only")
        if prior.means.shape[-2:] != (self.components, self.ground.own_prior.size):
            raise SettingsError(
                f"the prior has means of shape {prior.means.shape}; expected (..., "
                f"{self.components}, {self.ground.own_prior.size})"
            )

    def _prior(self, problem: Problem) -> Float[np.ndarray, "k t"]:
        given: RuntimePrior | None = self.prior
        if given is None:
            return self._own_tokens
        return self._tokens_of(given.mixture(problem, self.components))

    @functools.cached_property
    def _own_tokens(self) -> Float[np.ndarray, "k t"]:
        with double_precision():
            return np.asarray(to_tokens(self.ground.own_prior))

    def _tokens_of(self, prior: Mixture) -> Float[np.ndarray, "*lead k t"]:
        with double_precision():
            return np.asarray(to_tokens(self.ground.scaled(prior)))

    def _forward(self, prior: np.ndarray, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
        prior = np.asarray(prior, float)
        guess = None
        if self.sizes.informed:
            with simulating():
                guess = np.asarray(_guess(self.ground, jnp.asarray(prior), inputs), np.float32)
        plain = inputs._replace(arrays=())
        with single_precision():
            given = jnp.asarray(prior.astype(np.float32))
            first = None if guess is None else jnp.asarray(guess)
            tokens, summary = _answer(self.network, self.ground.layout, given, first, plain)
            return np.asarray(tokens), np.asarray(summary)


@eqx.filter_jit
def _answer(
    network: Network,
    layout: Layout,
    prior: Float[Array, "b k t"],
    guess: Float[Array, "b k t"] | None,
    inputs: Inputs,
) -> tuple[Float[Array, "b k t"], Float[Array, "b w"]]:
    inputs = Inputs(*jax.tree.map(jnp.asarray, tuple(inputs)))
    memory, there = network.memory(*layout.features(inputs))
    tokens = network.condition(network.embed(prior, guess), memory, there)
    return network.components(tokens, prior, guess), pooled(memory, there)


@eqx.filter_jit
def _guess(ground: Ground, prior: Float[Array, "b k t"], inputs: Inputs) -> Array:
    return first_guess(ground, prior, inputs)


def first_guess(
    ground: Ground, prior: Float[Array, "b k t"], inputs: Inputs
) -> Float[Array, "b k t"]:
    """Tokens of priors updated by the likelihood's derivatives, for a batch."""
    d = ground.own_prior.size

    def one(tokens: Array, inputs: Inputs) -> Array:
        return to_tokens(ground.update(from_tokens(tokens, d), inputs))

    return jax.vmap(one)(prior, Inputs(*jax.tree.map(jnp.asarray, tuple(inputs))))


def from_numpy(tokens: np.ndarray, d: int) -> Mixture:
    """The mixture of a network's tokens, in double precision."""
    with double_precision():
        return Mixture(*map(np.asarray, from_tokens(jnp.asarray(tokens, float), d)))
