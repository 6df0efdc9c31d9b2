"""Programs of hyperparameters alone: coefficients are integrated out of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array
from numpyro import handlers
from numpyro.primitives import Messenger

from bayes.dependence import NOTHING, dependence
from bayes.distributions import (
    ComplexKroneckerLinear,
    ComplexKroneckerNormal,
    KroneckerLinear,
    KroneckerNormal,
    from_pairs,
)
from bayes.errors import ModelError, UnsupportedModelError
from bayes.inference.kronecker.collapsed_evidence import log_evidence_of, observe_data
from bayes.model import Model
from bayes.precision import double_precision
from bayes.problem import Problem
from bayes.supports import base_distribution

__all__ = [
    "Collapsed",
    "collapsed_model",
    "log_evidence_of",
    "require_collapsible",
    "variances_at",
]

_PRIORS = (KroneckerNormal, ComplexKroneckerNormal)
_LIKELIHOODS = (KroneckerLinear, ComplexKroneckerLinear)
_OTHERWISE = "; method='nuts' samples the coefficients as the program has them"


class _Evidence(dist.Unit):
    """A factor of the density that knows the variances it is made of, and the design."""

    pytree_data_fields: ClassVar[tuple[str, ...]] = ("relevances", "noise_variance", "design")

    def __init__(
        self, log_factor: Array, relevances: tuple[Array, ...], noise_variance: Array, design: Any
    ) -> None:
        self.relevances, self.noise_variance, self.design = relevances, noise_variance, design
        super().__init__(log_factor)


class Collapsed(Messenger):
    """A program without its coefficients: the evidence takes the place of their likelihood.

    The site of the coefficients is not sampled and has the value zero; the observed site is a
    factor. Deterministic sites, which may depend on the coefficients, are left out.

    Parameters
    ----------
    fn : callable
        The program.
    x, y : str
        Its latent site with Kronecker-structured variances, and the observed site that is linear
        in it.

    Raises
    ------
    ModelError, UnsupportedModelError
        When it is run: what about the sites does not allow it.
    """

    def __init__(self, fn: Callable, x: str, y: str) -> None:
        super().__init__(fn)
        self.x, self.y = x, y
        self._met: tuple[Any, Any] | None = None
        self._done = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program."""
        self._met, self._done = None, False
        try:
            found = super().__call__(*args, **kwargs)
            if not self._done:
                raise ModelError(f"the program has no site '{self.y}'")
            return found
        finally:
            self._met = None

    def process_message(self, msg: Any) -> None:
        """Take the two sites out of the program, and all deterministic ones."""
        if msg["type"] == "deterministic":
            msg["stop"] = True
        elif msg["type"] == "sample" and msg["name"] == self.x:
            self._integrate_out(msg)
        elif msg["type"] == "sample" and msg["name"] == self.y:
            self._replace(msg)

    def _integrate_out(self, msg: Any) -> None:
        fn = self._plain(msg, _PRIORS)
        if msg["is_observed"]:
            raise ModelError(f"site '{self.x}' is observed: there is nothing to integrate out")
        shape = tuple(msg["kwargs"].get("sample_shape", ())) + msg["fn"].shape()
        msg["value"], msg["stop"] = jnp.zeros(shape), True
        self._met = fn, msg["value"]

    def _replace(self, msg: Any) -> None:
        fn = self._plain(msg, _LIKELIHOODS)
        if self._met is None:
            raise ModelError(f"the program has no site '{self.x}' before '{self.y}'")
        prior, x = self._met
        if fn.coef is not x:
            raise UnsupportedModelError(
                f"site '{self.y}' does not have site '{self.x}' itself for its coefficients, so "
                f"that they cannot be integrated out{_OTHERWISE}"
            )
        if not msg["is_observed"]:
            raise ModelError(f"site '{self.y}' is not observed: give its data")
        if fn.observed is not None:
            raise UnsupportedModelError(
                f"site '{self.y}' has a mask: coefficients are integrated out only where all of it "
                f"is observed{_OTHERWISE}"
            )
        shape = np.broadcast_shapes(np.shape(msg["value"]), msg["fn"].shape())
        snapshots = int(np.prod(shape[: len(shape) - fn.event_dim]))
        if x.size != snapshots * int(np.prod(prior.event_shape)):
            raise UnsupportedModelError(
                f"site '{self.y}' has {snapshots} snapshots and site '{self.x}' other coefficients "
                f"(shape {x.shape}) than one set for each: put both in the same plate{_OTHERWISE}"
            )
        value = jnp.broadcast_to(jnp.asarray(msg["value"]), shape)
        value = value.reshape(snapshots, *fn.event_shape)
        value = from_pairs(value) if isinstance(fn, ComplexKroneckerLinear) else value
        noise = self._only(fn.noise, np.shape(fn.noise), self.y, "noise")
        relevances = tuple(
            self._only(g, np.shape(g)[:-1], self.x, "variances") for g in prior.relevances
        )
        found = log_evidence_of(*observe_data(fn.factors, value), relevances, noise**2)
        msg["fn"] = _Evidence(found, relevances, noise**2, (fn.factors, value))
        # No plate: it is one number of all snapshots.
        msg["value"], msg["cond_indep_stack"] = jnp.zeros((0,)), []
        self._done = True

    def _plain(self, msg: Any, kinds: tuple[type, ...]) -> Any:
        """The distribution without what expands it; neither masked nor scaled."""
        name, fn = msg["name"], base_distribution(msg["fn"])
        if not isinstance(fn, kinds):
            names = " or ".join(kind.__name__ for kind in kinds)
            raise UnsupportedModelError(
                f"site '{name}' is a {type(fn).__name__}, not a {names}{_OTHERWISE}"
            )
        wrapped = msg["fn"]
        while wrapped is not fn:
            if isinstance(wrapped, dist.MaskedDistribution):
                raise UnsupportedModelError(
                    f"site '{name}' is masked: coefficients are integrated out only where all "
                    f"is observed{_OTHERWISE}"
                )
            wrapped = wrapped.base_dist
        if msg["scale"] is not None:
            raise UnsupportedModelError(
                f"the log density of site '{name}' is scaled, so that it is no normal density: its "
                f"coefficients cannot be integrated out{_OTHERWISE}"
            )
        return fn

    @staticmethod
    def _only(value: Any, lead: tuple[int, ...], name: str, what: str) -> Array:
        """The one that all snapshots share."""
        if int(np.prod(lead)) != 1:
            raise UnsupportedModelError(
                f"site '{name}': {what} differ among snapshots (leading shape {lead}); those that "
                f"are to be integrated over share one{_OTHERWISE}"
            )
        return jnp.reshape(jnp.asarray(value), np.shape(value)[len(lead) :])

    # The same program is the same, so that what is compiled for it is found again.
    def __eq__(self, other: object) -> bool:
        mine = (self.fn, self.x, self.y)
        return isinstance(other, Collapsed) and mine == (other.fn, other.x, other.y)

    def __hash__(self) -> int:
        return hash((Collapsed, self.fn, self.x, self.y))


def collapsed_model(model: Model, x: str, y: str) -> Model:
    """The model of the hyperparameters alone, with the same data as arguments.

    Parameters
    ----------
    model : Model
        The model.
    x, y : str
        Sites as for :class:`Collapsed`.

    Returns
    -------
    Model
        Without names of dimensions, which may be of sites that are gone.
    """
    found = copy.copy(model)
    found.fn, found.dims, found.coords = Collapsed(model.fn, x, y), {}, {}
    if isinstance(model.reparam, Mapping):
        found.reparam = {name: how for name, how in model.reparam.items() if name not in (x, y)}
    return found


def variances_at(
    problem: Problem, values: Mapping[str, np.ndarray]
) -> tuple[list[np.ndarray], np.ndarray]:
    """The variances at draws of the hyperparameters.

    Parameters
    ----------
    problem : Problem
        Of a :func:`collapsed_model`.
    values : mapping
        Draws of its sampled latent sites, of shape (S, *site shape).

    Returns
    -------
    relevances : list of array of shape (S, n_i)
        Factors of the prior variances.
    variances : array of shape (S,)
        Variance of the noise.
    """
    program = problem.program

    def at(draw: dict[str, Any], arrays: Any) -> Any:
        trace = _trace_at(program.fn, draw, program.arguments(arrays))
        fn = next(s["fn"] for s in trace.values() if isinstance(s.get("fn"), _Evidence))
        return fn.relevances, fn.noise_variance

    draws = {s.name: np.asarray(values[s.name], float) for s in program.latents}
    with double_precision():
        run = program.once("variances", lambda: jax.jit(jax.vmap(at, (0, None))))
        relevances, variances = run(draws, problem.arrays)
    return [np.asarray(g) for g in relevances], np.asarray(variances)


def require_collapsible(problem: Problem, x: str, y: str) -> None:
    """Refuse a program whose coefficients cannot be integrated out.

    Parameters
    ----------
    problem : Problem
        Of the program with its coefficients.
    x, y : str
        Sites as for :class:`Collapsed`.

    Raises
    ------
    ModelError, UnsupportedModelError
        What does not allow it: another site that depends on the coefficients, for instance.
    """
    program = problem.program

    def design(draw: dict[str, Any], arrays: Any) -> dict[str, Any]:
        collapsed = Collapsed(program.fn, x, y)
        return {y: _trace_at(collapsed, draw, program.arguments(arrays))[y]["fn"].design}

    draw = {s.name: np.zeros(s.shape) for s in program.latents}
    by_x = _names(program.site_log_probs, draw, problem.arrays)
    others = [name for name, found in by_x.items() if x in found[0] and name not in (x, y)]
    if others:
        raise UnsupportedModelError(
            f"site '{others[0]}' depends on the coefficients '{x}', which can be integrated out "
            f"only where '{y}' alone depends on them{_OTHERWISE}"
        )
    of_design = NOTHING.union(*_names(design, draw, problem.arrays)[y])
    if of_design:
        raise UnsupportedModelError(
            f"factors or value of site '{y}' depend on latent sites "
            f"({', '.join(sorted(of_design))}){_OTHERWISE}"
        )


def _names(
    function: Callable, draw: dict[str, Any], arrays: Any
) -> dict[str, list[frozenset[str]]]:
    """Latent sites that each part of what a function gives depends on."""
    with double_precision():
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(draw, arrays)
    latents = [frozenset((name,)) for name in sorted(draw)]
    data = [NOTHING] * (len(closed.jaxpr.invars) - len(latents))
    found = dependence(closed.jaxpr, [*latents, *data], [NOTHING] * len(closed.consts)).outputs
    rest = iter(found)
    return {n: [next(rest) for _ in jax.tree.leaves(shapes[n])] for n in sorted(shapes)}


def _trace_at(fn: Callable, draw: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
    """A trace with latent sites at these values."""
    seeded = handlers.substitute(handlers.seed(fn, jax.random.key(0)), data=dict(draw))
    with jax.numpy_rank_promotion("allow"):
        return handlers.trace(seeded).get_trace(**arguments)
