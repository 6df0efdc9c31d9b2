"""A NumPyro program as pure functions of one flat unconstrained vector and the data's arrays."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.infer.util import compute_log_probs, constrain_fn, potential_energy
from numpyro.primitives import Messenger

from bayes.density import Split, split_by_dependence
from bayes.dependence import NOTHING, dependence
from bayes.precision import double_precision
from bayes.supports import base_distribution

__all__ = ["Latent", "Position", "Program", "Unobserve", "cached_program", "is_factor"]


_COMPILERS = ThreadPoolExecutor(4, "bayes-compile")
_QUICKLY: dict[str, bool | str] = {"xla_backend_optimization_level": "0"}

Position = Float[Array, " d"] | Float[np.ndarray, " d"]
"""A flat unconstrained vector."""


@dataclasses.dataclass(frozen=True)
class Latent:
    """A continuous latent site and its place in the flat vector.

    Parameters
    ----------
    name : str
        Site name.
    shape : tuple of int
        Shape on the constrained space.
    flat_shape : tuple of int
        Shape on the unconstrained space.
    start, stop : int
        Its slice of the flat vector.
    """

    name: str
    shape: tuple[int, ...]
    flat_shape: tuple[int, ...]
    start: int
    stop: int


def is_factor(site: Mapping[str, Any]) -> bool:
    """Whether a trace's site was made by ``numpyro.factor``."""
    return isinstance(base_distribution(site["fn"]), dist.Unit)


class Unobserve(Messenger):
    """Handler that turns observed sites into sampled ones, whatever the program was given."""

    def process_message(self, msg: Any) -> None:
        """Forget the observed value of a sample site; factors stay as they are."""
        if msg["type"] == "sample" and msg["is_observed"] and not is_factor(msg):
            msg["is_observed"] = False
            msg["value"] = None


class Program:
    """Pure functions of a program whose static arguments and shapes are fixed.

    Parameters
    ----------
    fn : callable
        The NumPyro program, reparametrised where asked.
    statics : mapping
        Static arguments.
    latents : sequence of (name, shape, support)
        Continuous latent sites in trace order.
    plate_nesting : int or None
        Depth of plates when discrete sites are enumerated, else None.
    constants : mapping or None
        Arrays to close over when the program cannot be traced in its data.
    """

    def __init__(
        self,
        fn: Callable,
        statics: Mapping[str, Any],
        latents: list[tuple[str, tuple[int, ...], Any]],
        plate_nesting: int | None = None,
        constants: Mapping[str, Any] | None = None,
    ) -> None:
        self.fn = fn if constants is None else _eager_in_data(fn)
        self.statics = dict(statics)
        self.plate_nesting = plate_nesting
        self.constants = None if constants is None else jax.tree.map(jnp.asarray, dict(constants))
        self.compiled: dict[Hashable, Any] = {}
        self.undetermined: frozenset[str] = frozenset()
        entries, start = [], 0
        for name, shape, support in latents:
            flat_shape = tuple(biject_to(support).inverse_shape(shape))
            stop = start + int(np.prod(flat_shape, dtype=int))
            entries.append(Latent(name, tuple(shape), flat_shape, start, stop))
            start = stop
        self.latents = tuple(entries)
        self.size = start

    @property
    def coordinates(self) -> list[str]:
        """Names of the elements of a flat unconstrained vector, such as ``theta[3]``."""
        return [
            f"{s.name}[{i}]" if s.flat_shape else s.name
            for s in self.latents
            for i in range(s.stop - s.start)
        ]

    def once(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """Build a compiled function once for this program and keep it."""
        if key not in self.compiled:
            self.compiled[key] = build()
        return self.compiled[key]

    def compile_ahead(
        self, key: Hashable, function: Callable, *shapes: Any, quickly: bool = False
    ) -> Future[Callable]:
        """Compile a function of arguments of these shapes in a thread, once for this program.

        XLA compiles without holding Python's lock, so that the caller can go on meanwhile. What
        runs only a few times is compiled ``quickly``, for slower code.
        """
        options = _QUICKLY if quickly else {}

        def start() -> Future[Callable]:
            with double_precision():
                lowered = jax.jit(function).lower(*shapes)

            def compile_it() -> Callable:
                with double_precision():
                    return lowered.compile(compiler_options=options)

            return _COMPILERS.submit(compile_it)

        return self.once(key, start)

    def gradient(self, arrays: Any) -> Split:
        """Log density and its gradient, with what follows from the data alone split off."""

        def build() -> Split:
            with double_precision():
                position = jax.ShapeDtypeStruct((self.size,), np.float64)
                return split_by_dependence(jax.value_and_grad(self.log_density), position, arrays)

        return self.once("gradient split", build)

    def arguments(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments of the program."""
        return {**self.statics, **(arrays if self.constants is None else self.constants)}

    def unpack(self, position: Position) -> dict[str, Any]:
        """Flat vector to unconstrained values by site."""
        return {s.name: position[s.start : s.stop].reshape(s.flat_shape) for s in self.latents}

    def pack(self, values: Mapping[str, Array]) -> Float[Array, " d"]:
        """Unconstrained values by site to the flat vector."""
        return jnp.concatenate([jnp.ravel(values[s.name]) for s in self.latents])

    def log_density(self, position: Position, arrays: Any) -> Float[Array, ""]:
        """Log joint density on the unconstrained space, log Jacobians included."""
        enumerate_sites = self.plate_nesting is not None
        fn = self._potential_fn()
        with numpyro.validation_enabled(False), jax.numpy_rank_promotion("allow"):
            energy = potential_energy(
                fn, (), self.arguments(arrays), self.unpack(position), enum=enumerate_sites
            )
        return -jnp.asarray(energy)

    def _potential_fn(self) -> Callable:
        if self.plate_nesting is None:
            return handlers.seed(self.fn, jax.random.key(0))
        from numpyro.contrib.funsor import config_enumerate, enum

        return enum(config_enumerate(self.fn), -self.plate_nesting - 1)

    def constrain(self, position: Position, arrays: Any) -> dict[str, Array]:
        """Values of the latent and deterministic sites at a position.

        Deterministic sites that depend on discrete ones, which are summed out, have none.
        """
        found = self._constrain(jax.random.key(0), position, arrays)
        return {name: value for name, value in found.items() if name not in self.undetermined}

    def _constrain(self, key: Array, position: Position, arrays: Any) -> dict[str, Array]:
        fn = handlers.seed(self.fn, key)
        with numpyro.validation_enabled(False), jax.numpy_rank_promotion("allow"):
            return constrain_fn(
                fn, (), self.arguments(arrays), self.unpack(position), return_deterministic=True
            )

    def find_undetermined(self, arrays: Any) -> tuple[str, ...]:
        """Names of the sites whose values depend on discrete sites; they have none from then on."""

        def values(words: Array, position: Array, arrays: Any) -> dict[str, Array]:
            return self._constrain(jax.random.wrap_key_data(words), position, arrays)

        words, position = np.zeros(2, np.uint32), np.zeros(self.size)
        closed, sites = jax.make_jaxpr(values, return_shape=True)(words, position, arrays)
        key = frozenset(("key",))
        others = [NOTHING] * (len(closed.jaxpr.invars) - 1)
        found = dependence(closed.jaxpr, [key, *others], [NOTHING] * len(closed.consts)).outputs
        random = jax.tree.unflatten(jax.tree.structure(sites), [bool(names) for names in found])
        self.undetermined = frozenset(name for name, depends in random.items() if depends)
        return tuple(sorted(self.undetermined))

    def unconstrain(self, values: Mapping[str, Array], arrays: Any) -> Float[Array, " d"]:
        """Flat vector of the values of the latent sites (supports may depend on other sites)."""
        fn = handlers.substitute(handlers.seed(self.fn, jax.random.key(0)), data=dict(values))
        with numpyro.validation_enabled(False), jax.numpy_rank_promotion("allow"):
            trace = handlers.trace(fn).get_trace(**self.arguments(arrays))
            flat = {
                s.name: biject_to(trace[s.name]["fn"].support).inv(values[s.name])
                for s in self.latents
            }
        return self.pack(flat)

    def site_log_probs(self, values: Mapping[str, Array], arrays: Any) -> dict[str, Array]:
        """Log probability of every sample site, elementwise, on the constrained space."""
        fn = handlers.seed(self.fn, jax.random.key(0))
        with numpyro.validation_enabled(False), jax.numpy_rank_promotion("allow"):
            parts, _ = compute_log_probs(
                fn, (), self.arguments(arrays), dict(values), sum_log_prob=False
            )
        return parts

    def simulate(self, key: Array, arrays: Any) -> dict[str, Array]:
        """One run of the program with every site drawn, observed ones included.

        Parameters
        ----------
        key : key
            Random key.
        arrays : pytree
            Array arguments.

        Returns
        -------
        dict
            Value of every sample and deterministic site.
        """
        fn = handlers.seed(Unobserve(self.fn), key)
        with numpyro.validation_enabled(False), jax.numpy_rank_promotion("allow"):
            trace = handlers.trace(fn).get_trace(**self.arguments(arrays))
        return {
            name: site["value"]
            for name, site in trace.items()
            if site["type"] == "deterministic" or (site["type"] == "sample" and not is_factor(site))
        }


_PROGRAMS: OrderedDict[Hashable, Program] = OrderedDict()
_MOST_PROGRAMS = 64


def cached_program(key: Hashable, build: Callable[[], Program]) -> Program:
    """The program of a (function, shapes, statics) key: built once, so compiled once.

    The most recently used programs are kept, so that memory does not grow without bound.
    """
    if key in _PROGRAMS:
        _PROGRAMS.move_to_end(key)
        return _PROGRAMS[key]
    program = build()
    _PROGRAMS[key] = program
    while len(_PROGRAMS) > _MOST_PROGRAMS:
        _PROGRAMS.popitem(last=False)
    return program


def _eager_in_data(fn: Callable) -> Callable:
    """The program with what follows from its data alone computed at once, as Python needs it."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with jax.ensure_compile_time_eval():
            return fn(*args, **kwargs)

    return run
