"""Problem: a model bound to data. What every method works on."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.infer.initialization import init_to_sample

from bayes.building import build_program
from bayes.checks_on_data import check_observed, check_variation
from bayes.data import Data
from bayes.dims import site_coords, site_dims
from bayes.errors import BayesError, DataError, ModelError, UnsupportedModelError
from bayes.parameters import check_parameters
from bayes.precision import double_precision
from bayes.program import Position
from bayes.reading import Reading, read_program
from bayes.reparam import apply_reparam, may_be_centred
from bayes.structure import Site, read_sites
from bayes.threefry import seed_key

if TYPE_CHECKING:
    from bayes.model import Model

__all__ = ["Problem"]

_DRAWS_AT_ONCE, _NUMBERS_AT_ONCE = 256, 10**6


class Problem:
    """A model bound to data.

    Parameters
    ----------
    model : Model
        The program and the names of its dimensions.
    data : Data
        Checked data.
    need_observed : bool
        Whether to refuse a program without observed sites.
    marginal : bool
        Whether discrete latent sites are summed out. If not, a method draws them itself, and the
        log density takes values of them from a fixed key: it tells one program from another.

    Attributes
    ----------
    sites : dict of Site
        The program's sites in its order, as written (before any reparametrisation).
    observed_arguments : tuple of str
        Arguments that observed values are made of.
    notes : list of str
        Conversions and checks that could not be made.
    frozen : list of str
        Continuous observed sites without variance.
    size : int
        Length of the flat unconstrained vector.
    """

    def __init__(
        self, model: Model, data: Data, *, need_observed: bool = True, marginal: bool = True
    ) -> None:
        self.model = model
        self.data = data
        self.marginal = marginal
        self.notes = list(data.notes)
        self._prepared: list[Array] | None = None
        self._found: dict[Hashable, Any] = {}
        with double_precision():
            self._read(model.fn, need_observed)

    # ---------------------------------------------------------------- structure

    def _read(self, fn: Callable, need_observed: bool) -> None:
        notes = list(self.notes)
        reading = read_program(fn, self.data)
        try:
            self._judge(reading, need_observed)
        except BayesError:
            if type(reading) is Reading:
                raise
            # What is refused is refused for what JAX itself computes.
            self.notes = notes
            self._judge(Reading(fn, self.data), need_observed)

    def _judge(self, reading: Reading, need_observed: bool) -> None:
        sources = reading.sources
        self.observed_arguments = tuple(sorted({a for s in sources.values() for a in s}))
        self._check_covariates()
        first = reading.trace(0)
        self.sites: dict[str, Site] = read_sites(first, enumerated=self.marginal)
        self._check_roles(need_observed)
        note = reading.check_indices()
        self.notes += [note] if note is not None else []
        check_parameters(reading.traces, reading.trace)
        self.notes += check_observed(reading.traces, self.data, sources)
        self.frozen = check_variation(first, self.data, sources)
        self.dims = site_dims(self.sites, self.model.dims)
        self.coords = site_coords(self.sites, self.dims, self.data, self.model.coords)
        reparam = self.model.reparam
        if reparam == "auto" and not may_be_centred(first, reading.trace(1), self.sites):
            reparam = None
        data = self.data if reparam is None else reading.on_device
        fn, self.reparametrised = apply_reparam(self.model.fn, reparam, data, first, self.sites)
        if self.reparametrised:
            reading = read_program(fn, self.data)
        self._build(fn, reading.trace(0), reading.identity)
        self._check_missing()

    def _check_roles(self, need_observed: bool) -> None:
        kinds = {site.kind for site in self.sites.values()}
        name = self.model.name
        if not kinds & {"latent", "discrete"}:
            raise ModelError(f"{name} has no latent site: there is nothing to infer")
        if "latent" not in kinds and self.marginal:
            names = [s.name for s in self.sites.values() if s.kind == "discrete"]
            raise UnsupportedModelError(
                f"{name} has only discrete latent sites ({', '.join(names)}); this method needs at "
                "least one continuous one, bayes.NumPyroKernel with a kernel for discrete sites "
                "does not"
            )
        if need_observed and not kinds & {"observed", "factor"}:
            signature = self.model.signature
            absent = [n for n in signature.optional if self.data.arguments.get(n) is None]
            hint = f" (not given: {', '.join(absent)})" if absent else ""
            raise ModelError(
                f"{name} has no observed site{hint}: give the data, or use "
                "bayes.Model(..., allow_prior=True) to draw from the prior"
            )

    def _build(self, fn: Any, trace: Mapping[str, Any], identity: str | None = None) -> None:
        discrete = tuple(n for n, s in self.sites.items() if s.kind == "discrete")
        self.discrete = discrete if self.marginal else ()
        self.program, notes = build_program(
            self.model.fn, fn, self.data, trace, self.discrete, identity
        )
        self.notes += notes
        self.size = self.program.size
        if self.discrete:
            without = self.program.find_undetermined(self.arrays)
            if without:
                self.notes.append(
                    f"deterministic {', '.join(without)} depends on discrete sites, which are "
                    "summed out, and has no draws"
                )

    # ------------------------------------------------------------ checks of data

    def _check_covariates(self) -> None:
        """NaN is refused at once where no observed value can excuse it."""
        for name, column in self.data.columns.items():
            if len(column.missing) and name not in self.observed_arguments:
                raise DataError(self.data.missing_text(name))

    def _check_missing(self) -> None:
        missing = [n for n, c in self.data.columns.items() if len(c.missing)]
        if missing:
            # A program may mask its missing values; then density and gradient are finite.
            value, gradient = self.value_and_grad(np.zeros(self.size))
            if not (np.isfinite(value) and np.isfinite(gradient).all()):
                raise DataError(self.data.missing_text(missing[0]))
            self.notes.append(f"missing values in {', '.join(missing)} are masked by the program")

    # ------------------------------------------------------------------ numbers

    def once(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """Find out once what follows from model and data, and keep it."""
        if key not in self._found:
            self._found[key] = build()
        return self._found[key]

    @property
    def arrays(self) -> dict[str, Any]:
        """The data's arrays, arguments of every compiled function."""
        return self.data.arrays

    @property
    def prepared_shapes(self) -> list[jax.ShapeDtypeStruct]:
        """Shapes of ``prepared``."""
        split = self.program.gradient(self.arrays)
        with double_precision():
            return self.program.once(
                "prepared shapes", lambda: jax.eval_shape(split.prepare, self.arrays)
            )

    @property
    def prepared(self) -> list[Array]:
        """What the gradient of the log density needs of the data, computed once."""
        if self._prepared is None:
            run = self.compile_prepare().result()
            with double_precision():
                found: list[Array] = run(self.arrays)
            self._prepared = found
            return found
        return self._prepared

    def compile_prepare(self) -> Future[Callable]:
        """Begin to compile what computes ``prepared``."""
        split = self.program.gradient(self.arrays)
        return self.program.compile_ahead("prepare", split.prepare, self.array_shapes, quickly=True)

    @property
    def array_shapes(self) -> Any:
        """Shapes and types of ``arrays``."""
        return jax.tree.map(
            lambda v: jax.ShapeDtypeStruct(np.shape(v), np.asarray(v).dtype), self.arrays
        )

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the sites that a posterior reports: latent and deterministic ones."""
        drawn = self.drawn_discrete
        kinds = ("latent", "deterministic")
        without = self.program.undetermined
        return tuple(
            n for n, s in self.sites.items() if (s.kind in kinds or n in drawn) and n not in without
        )

    @property
    def drawn_discrete(self) -> tuple[str, ...]:
        """Discrete latent sites that are not summed out."""
        names = tuple(n for n, s in self.sites.items() if s.kind == "discrete")
        return () if self.marginal else names

    @property
    def judged(self) -> tuple[str, ...]:
        """Sites whose spread is judged: the continuous ones as written, where there are any."""
        continuous = tuple(s.name for s in self.sites.values() if s.kind == "latent")
        return continuous or tuple(self.drawn_discrete)

    def log_density(self, position: Position) -> Float[Array, ""]:
        """Log joint density at a flat unconstrained position, log Jacobians included."""
        with double_precision():
            run = self.program.once("density", lambda: jax.jit(self.program.log_density))
            return run(jnp.asarray(position), self.arrays)

    def value_and_grad(self, position: Position) -> tuple[Array, Array]:
        """Log density and its gradient at a flat unconstrained position."""
        with double_precision():
            run = self.program.once(
                "gradient", lambda: jax.jit(jax.value_and_grad(self.program.log_density))
            )
            return run(jnp.asarray(position), self.arrays)

    def constrain(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Values of latent and deterministic sites at many positions.

        Parameters
        ----------
        positions : array of shape (..., d)
            Flat unconstrained positions.

        Returns
        -------
        dict
            Arrays of shape (..., *site shape).
        """
        positions = np.asarray(positions)
        return self._over_draws("constrain", self.program.constrain, positions, positions.ndim - 1)

    def unconstrain(self, values: Mapping[str, np.ndarray], lead: int = 2) -> np.ndarray:
        """Flat unconstrained positions of draws of the sampled sites.

        Parameters
        ----------
        values : mapping
            Arrays of shape (*lead, *site shape) for every sampled latent site.
        lead : int
            Number of leading dimensions.

        Returns
        -------
        array of shape (*lead, d)
        """
        return self._over_draws(
            "unconstrain", self.program.unconstrain, self._sampled(values), lead
        )

    def site_log_probs(
        self, values: Mapping[str, np.ndarray], lead: int = 2
    ) -> dict[str, np.ndarray]:
        """Log probability of every sample site, elementwise, on the constrained space.

        Parameters
        ----------
        values : mapping
            Draws of the sampled latent sites, of shape (*lead, *site shape).
        lead : int
            Number of leading dimensions.

        Returns
        -------
        dict
            Arrays of shape (*lead, *batch shape of the site).
        """
        discrete = self.discrete + self.drawn_discrete
        if discrete:
            raise UnsupportedModelError(
                f"log probabilities by site need values of the discrete sites "
                f"({', '.join(discrete)})"
            )
        return self._over_draws(
            "log_probs", self.program.site_log_probs, self._sampled(values), lead
        )

    def _sampled(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {s.name: np.asarray(values[s.name], float) for s in self.program.latents}

    @property
    def value_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what ``constrain`` gives for one position."""
        with double_precision():
            found = self.program.once(
                "value shapes",
                lambda: jax.eval_shape(self.program.constrain, self._flat_draw, self.arrays),
            )
        return {name: value.shape for name, value in found.items()}

    def compile_constrain(self) -> Future[Callable]:
        """Begin to compile what maps draws to the constrained space."""
        return self._compile_over_draws("constrain", self.program.constrain, self._flat_draw)

    @property
    def _flat_draw(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.size,), np.float64)

    def _compile_over_draws(self, key: str, fn: Callable, draw: Any) -> Future[Callable]:
        batch = jax.tree.map(
            lambda v: jax.ShapeDtypeStruct((self._draws_at_once, *v.shape), v.dtype), draw
        )
        mapped = jax.vmap(fn, in_axes=(0, None))
        return self.program.compile_ahead(key, mapped, batch, self.array_shapes)

    @property
    def _draws_at_once(self) -> int:
        return int(np.clip(_NUMBERS_AT_ONCE // max(self.size, 1), 1, _DRAWS_AT_ONCE))

    def _over_draws(self, key: str, fn: Callable, draws: Any, lead: int) -> Any:
        """Run a function of one draw and the arrays at every draw, a fixed number at once."""
        shape = jax.tree.leaves(draws)[0].shape[:lead]
        count = int(np.prod(shape))
        flat = jax.tree.map(lambda v: np.asarray(v).reshape(count, *v.shape[lead:]), draws)
        draw = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), flat)
        run = self._compile_over_draws(key, fn, draw).result()
        size = self._draws_at_once
        found = []
        with double_precision():
            for begin in range(0, count, size):
                part = jax.tree.map(lambda v, b=begin: _padded(v[b : b + size], size), flat)
                kept = min(size, count - begin)
                out = run(part, self.arrays)
                found.append(jax.tree.map(lambda v, k=kept: np.asarray(v)[:k], out))
        joined = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
        return jax.tree.map(lambda v: v.reshape(*shape, *v.shape[1:]), joined)

    def log_prior(self, position: Position) -> dict[str, float]:
        """Log prior of every latent site at a position, without log Jacobians."""
        return self._parts(position, observed=False)

    def log_likelihood(self, position: Position) -> dict[str, float]:
        """Log likelihood of every observed site and factor at a position."""
        return self._parts(position, observed=True)

    def _parts(self, position: Position, *, observed: bool) -> dict[str, float]:
        values = self.constrain(np.asarray(position)[None])
        parts = self.site_log_probs(values, lead=1)
        latent = {s.name for s in self.program.latents}
        return {n: float(v.sum()) for n, v in parts.items() if (n not in latent) == observed}

    # -------------------------------------------------------------------- prior

    def starts(self, key: Array, count: int, strategy: Any = None) -> np.ndarray:
        """Unconstrained positions drawn by one of NumPyro's init strategies.

        Parameters
        ----------
        key : key
            Random key.
        count : int
            How many.
        strategy : callable
            An init strategy of ``numpyro.infer.initialization``; the prior by default.

        Returns
        -------
        array of shape (count, d)
        """
        asked: Any = init_to_sample() if strategy is None else strategy

        def start(site: Any) -> Any:  # a program may index what it is given with a tracer
            value = asked(site)
            return value if value is None else jnp.asarray(value)

        program = self.program

        def one(k: Array, arrays: Any) -> Array:
            fn = handlers.substitute(handlers.seed(program.fn, k), substitute_fn=start)
            with jax.numpy_rank_promotion("allow"):
                trace = handlers.trace(fn).get_trace(**program.arguments(arrays))
            values = {s.name: jnp.asarray(trace[s.name]["value"]) for s in program.latents}
            return program.unconstrain(values, arrays)

        def all_of_them(k: Array, arrays: Any) -> Array:
            return jax.vmap(one, (0, None))(jax.random.split(k, count), arrays)

        with double_precision():
            return np.asarray(jax.jit(all_of_them)(key, self.arrays))

    def prior(self, draws: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Prior draws of every site, observed ones included (the prior predictive).

        Parameters
        ----------
        draws : int
            How many.
        seed : int
            Seed.

        Returns
        -------
        dict
            Arrays of shape (draws, *site shape) by site.

        Raises
        ------
        UnsupportedModelError
            Where a prior is improper and cannot be drawn from.
        """
        program = self.program

        with double_precision():
            run = program.once(
                ("prior", draws),
                lambda: jax.jit(
                    lambda k, a: jax.lax.map(
                        lambda x: program.simulate(x, a), jax.random.split(k, draws), batch_size=64
                    )
                ),
            )
            try:
                out = run(seed_key(seed), self.arrays)
            except NotImplementedError as error:
                flat = [s.name for s in self.sites.values() if "Improper" in s.distribution]
                raise UnsupportedModelError(
                    f"no prior draws: the prior of {', '.join(flat) or 'a site'} is improper"
                ) from error
        return {k: np.asarray(v) for k, v in out.items()}


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    """The values with their last one repeated, so that every batch has the same shape."""
    if len(values) == size:
        return values
    return np.concatenate([values, np.repeat(values[-1:], size - len(values), axis=0)])
