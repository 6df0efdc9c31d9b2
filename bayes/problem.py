"""Problem: a model bound to data. What every method works on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.infer.initialization import init_to_sample

from bayes.bounds import check_indices
from bayes.building import build_program
from bayes.checks_on_data import check_observed, check_variation
from bayes.data import Data
from bayes.dims import site_coords, site_dims
from bayes.errors import DataError, ModelError, UnsupportedModelError
from bayes.parameters import check_parameters
from bayes.precision import double_precision
from bayes.program import Position
from bayes.reparam import apply_reparam
from bayes.sources import observed_sources
from bayes.structure import Site, read_sites, trace_program

if TYPE_CHECKING:
    from bayes.model import Model

__all__ = ["Problem"]

_DRAWS_AT_ONCE = 256


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

    def __init__(self, model: Model, data: Data, *, need_observed: bool = True) -> None:
        self.model = model
        self.data = data
        self.notes = list(data.notes)
        with double_precision():
            self._read(need_observed)

    # ---------------------------------------------------------------- structure

    def _read(self, need_observed: bool) -> None:
        arrays = jax.tree.map(jnp.asarray, self.data.arrays)
        on_device = Data({**self.data.arguments, **arrays}, self.data.columns, self.data.coords)
        fn = self.model.fn
        sources = observed_sources(fn, on_device)
        self.observed_arguments = tuple(sorted({a for s in sources.values() for a in s}))
        self._check_covariates()
        traces = [trace_program(fn, on_device, seed) for seed in range(2)]
        self.sites: dict[str, Site] = read_sites(traces[0])
        self._check_roles(need_observed)
        note = check_indices(fn, on_device, traces[0])
        self.notes += [note] if note is not None else []
        check_parameters(traces, lambda seed: trace_program(fn, on_device, seed))
        self.notes += check_observed(traces, self.data, sources)
        self.frozen = check_variation(traces[0], self.data, sources)
        self.dims = site_dims(self.sites, self.model.dims)
        self.coords = site_coords(self.sites, self.dims, self.data, self.model.coords)
        fn, self.reparametrised = apply_reparam(
            fn, self.model.reparam, on_device, traces[0], self.sites
        )
        trace = trace_program(fn, on_device, 0) if self.reparametrised else traces[0]
        self._build(fn, trace)
        self._check_density()

    def _check_roles(self, need_observed: bool) -> None:
        kinds = {site.kind for site in self.sites.values()}
        name = self.model.name
        if not kinds & {"latent", "discrete"}:
            raise ModelError(f"{name} has no latent site: there is nothing to infer")
        if "latent" not in kinds:
            names = [s.name for s in self.sites.values() if s.kind == "discrete"]
            raise UnsupportedModelError(
                f"{name} has only discrete latent sites ({', '.join(names)}); the methods here "
                "need at least one continuous one"
            )
        if need_observed and not kinds & {"observed", "factor"}:
            signature = self.model.signature
            absent = [n for n in signature.optional if self.data.arguments.get(n) is None]
            hint = f" (not given: {', '.join(absent)})" if absent else ""
            raise ModelError(
                f"{name} has no observed site{hint}: give the data, or use "
                "bayes.Model(..., allow_prior=True) to draw from the prior"
            )

    def _build(self, fn: Any, trace: Mapping[str, Any]) -> None:
        self.discrete = tuple(n for n, s in self.sites.items() if s.kind == "discrete")
        self.program, notes = build_program(self.model.fn, fn, self.data, trace, self.discrete)
        self.notes += notes
        self.size = self.program.size

    # ------------------------------------------------------------ checks of data

    def _check_covariates(self) -> None:
        """NaN is refused at once where no observed value can excuse it."""
        for name, column in self.data.columns.items():
            if len(column.missing) and name not in self.observed_arguments:
                raise DataError(self.data.missing_text(name))

    def _check_density(self) -> None:
        position = np.zeros(self.size)
        missing = [n for n, c in self.data.columns.items() if len(c.missing)]
        if missing:
            # A program may mask its missing values; then density and gradient are finite.
            value, gradient = self.value_and_grad(position)
            if not (np.isfinite(value) and np.isfinite(gradient).all()):
                raise DataError(self.data.missing_text(missing[0]))
            self.notes.append(f"missing values in {', '.join(missing)} are masked by the program")
        shape = jax.eval_shape(self.program.log_density, position, self.data.arrays)
        if not jnp.issubdtype(shape.dtype, jnp.floating):
            complex_names = [n for n, v in self.data.arrays.items() if np.iscomplexobj(v)]
            raise DataError(
                f"the log density is {shape.dtype}, not real"
                + (f": {', '.join(complex_names)} is complex" if complex_names else "")
            )

    # ------------------------------------------------------------------ numbers

    @property
    def arrays(self) -> dict[str, Any]:
        """The data's arrays, arguments of every compiled function."""
        return self.data.arrays

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the sites that a posterior reports: latent and deterministic ones."""
        return tuple(n for n, s in self.sites.items() if s.kind in ("latent", "deterministic"))

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
        if self.discrete:
            raise UnsupportedModelError(
                f"log probabilities by site need values of the enumerated sites "
                f"({', '.join(self.discrete)})"
            )
        return self._over_draws(
            "log_probs", self.program.site_log_probs, self._sampled(values), lead
        )

    def _sampled(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {s.name: np.asarray(values[s.name]) for s in self.program.latents}

    def _over_draws(self, key: str, fn: Callable, draws: Any, lead: int) -> Any:
        """Run a function of one draw and the arrays at every draw, some hundreds at once."""
        with double_precision():
            run = self.program.once(
                key,
                lambda: jax.jit(
                    lambda v, a: jax.lax.map(lambda one: fn(one, a), v, batch_size=_DRAWS_AT_ONCE)
                ),
            )
            shape = jax.tree.leaves(draws)[0].shape[:lead]
            flat = jax.tree.map(lambda v: v.reshape(-1, *v.shape[lead:]), draws)
            out = run(flat, self.arrays)
            return jax.tree.map(lambda v: np.asarray(v).reshape(*shape, *v.shape[1:]), out)

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
        strategy = init_to_sample() if strategy is None else strategy
        program = self.program

        def one(k: Array, arrays: Any) -> Array:
            fn = handlers.substitute(handlers.seed(program.fn, k), substitute_fn=strategy)
            with jax.numpy_rank_promotion("allow"):
                trace = handlers.trace(fn).get_trace(**program.arguments(arrays))
            values = {s.name: jnp.asarray(trace[s.name]["value"]) for s in program.latents}
            return program.unconstrain(values, arrays)

        with double_precision():
            keys = jax.random.split(key, count)
            return np.asarray(jax.jit(jax.vmap(one, (0, None)))(keys, self.arrays))

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
            keys = jax.random.split(jax.random.key(seed), draws)
            run = program.once(
                "prior",
                lambda: jax.jit(
                    lambda k, a: jax.lax.map(lambda x: program.simulate(x, a), k, batch_size=64)
                ),
            )
            try:
                out = run(keys, self.arrays)
            except NotImplementedError as error:
                flat = [s.name for s in self.sites.values() if "Improper" in s.distribution]
                raise UnsupportedModelError(
                    f"no prior draws: the prior of {', '.join(flat) or 'a site'} is improper"
                ) from error
        return {k: np.asarray(v) for k, v in out.items()}
