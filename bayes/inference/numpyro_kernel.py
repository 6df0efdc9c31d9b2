"""NumPyro's own kernels, driven and judged as every other method."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Array
from numpyro.infer import HMCECS, NUTS
from numpyro.infer.mcmc import MCMCKernel

from bayes.errors import BayesError, InitError, SettingsError, UnsupportedModelError
from bayes.inference.kernel_states import potential
from bayes.inference.kernel_text import kernel_text
from bayes.inference.kernel_work import KernelWork
from bayes.method import Chunk, Draws, Method, Progress
from bayes.problem import Problem
from bayes.subsampling import Whole, subsampled, subsampled_plates

__all__ = ["NumPyroKernel"]

_REFUSALS = (ValueError, RuntimeError, AssertionError, NotImplementedError, ImportError)
"""What NumPyro's kernels raise of models and settings that they cannot treat."""


@dataclasses.dataclass(frozen=True)
class NumPyroKernel(Method):
    """A kernel of NumPyro's: discrete sites, subsampled plates, gradient-free moves, ensembles.

    Discrete latent sites that the kernel draws are in the posterior as other sites are. With
    ``HMCECS`` the posterior, its predictions and its log likelihood are of all data.

    Parameters
    ----------
    kernel : callable or numpyro.infer.MCMCKernel, optional
        Makes the kernel from a program: a class such as ``numpyro.infer.BarkerMH``, or a function,
        which is compiled once where it is one object and not a new lambda in each call. Or a kernel
        that was built with the program itself; then ``reparam=`` is not possible. By default
        ``numpyro.infer.NUTS``, which sums discrete sites out.
    chains : int
        Independent chains. Of an ensemble kernel the walkers: an even number, and at least twice
        the number of unknowns.
    warmup, draws : int
        Iterations that adapt the kernel and are thrown away, and those that are kept, a chain.

    Notes
    -----
    The kernel runs in double precision, its chains in threads. Data are arguments of what is
    compiled for it. The verdict on an ensemble takes walkers for chains, which they are nearly.

    ``HMCECS`` leaves the posterior as it is only as far as its estimate of the log likelihood is
    exact: without a proxy it may be far off, and with one it is perturbed by the cube of the error
    of the estimate (Dang et al. 2019). The statistic ``lp`` is that estimate.

    References
    ----------
    Phan, Pradhan and Jankowiak (2019), Composable effects for flexible and accelerated
    probabilistic programming in NumPyro. Dang et al. (2019), Hamiltonian Monte Carlo with energy
    conserving subsampling.

    Examples
    --------
    >>> from numpyro.infer import AIES, DiscreteHMCGibbs, NUTS
    >>> def gibbs(model):
    ...     return DiscreteHMCGibbs(NUTS(model), modified=True)
    >>> post = bayes.fit(mixture, data, method=bayes.NumPyroKernel(gibbs, draws=2000))
    >>> post.draws("component")  # a discrete site
    >>> bayes.fit(model, data, method=bayes.NumPyroKernel(AIES, chains=40, draws=5000))
    """

    name: ClassVar[str] = "numpyro_kernel"
    marginal: ClassVar[bool] = False

    kernel: Callable[[Callable], MCMCKernel] | MCMCKernel | None = None
    chains: int = 4
    warmup: int = 1000
    draws: int = 1000

    def __post_init__(self) -> None:
        for name in ("chains", "warmup", "draws"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
                raise SettingsError(f"{name} must be a whole number, got {value!r}")
            if value < 1:
                raise SettingsError(f"{name} must be at least 1, got {value}")
        kernel = self.kernel
        if kernel is not None and not callable(kernel) and not isinstance(kernel, MCMCKernel):
            hint = "; give it the MCMC object's kernel" if hasattr(kernel, "sampler") else ""
            raise SettingsError(
                "kernel is a kernel of NumPyro's or a callable that makes one from a program, got "
                f"{type(kernel).__name__}{hint}"
            )

    def settings(self) -> dict[str, Any]:
        """The settings as JSON values; the kernel in words."""
        return {**super().settings(), "kernel": self._text()}

    # ------------------------------------------------------------------ contract

    def check(self, problem: Problem) -> None:
        """Have the kernel look at the program, and pass on what it says against it."""
        kernel = self._kernel(problem)
        plates = subsampled_plates(problem.model.fn)
        self._check_plates(problem, kernel, plates)
        if kernel.is_ensemble_kernel and self.chains % 2:
            raise SettingsError(
                f"{type(kernel).__name__} moves one half of its walkers by the other: chains must "
                f"be even, got {self.chains}"
            )
        if self.kernel is None and not problem.drawn_discrete:
            return
        kind = type(kernel).__name__
        try:
            state = self._work(problem).template(problem.arrays)
        except BayesError:
            raise
        except _REFUSALS as error:
            raise UnsupportedModelError(
                f"{kind} cannot treat {problem.model.name}: {_first_line(error)}"
            ) from error
        if not jax.tree.leaves(getattr(state, kernel.sample_field)):
            raise UnsupportedModelError(
                f"{kind} sums out every latent site of {problem.model.name} and has nothing to "
                "draw; use a kernel for discrete sites, such as DiscreteHMCGibbs"
            )

    def init(self, problem: Problem, key: Array) -> dict[str, Any]:
        """First states of all chains."""
        work = self._work(problem)
        leaves = work.start(key, problem.arrays)
        structure = jax.tree.structure(work.template(problem.arrays))
        energy = potential(jax.tree.unflatten(structure, leaves))
        if energy is not None and not np.isfinite(energy).all():
            raise InitError(
                f"{self._text()} found no start with a finite log density; pass init_strategy= "
                "to the kernel, with values near the data, or check the priors"
            )
        return {"iteration": np.asarray(0), "leaves": leaves}

    def step(self, problem: Problem, state: dict[str, Any]) -> tuple[dict[str, Any], Chunk | None]:
        """Run a block of iterations of every chain; one is of the warm-up, or of draws."""
        iteration = int(state["iteration"])
        warming = iteration < self.warmup
        end = self.warmup if warming else self.warmup + self.draws
        count, leaves, rows = self._work(problem).block(
            state["leaves"], end - iteration, problem.arrays
        )
        new = {"iteration": state["iteration"] + count, "leaves": leaves}
        values = {f"value {n}": v for n, v in rows["values"].items()}
        return new, None if warming else {**values, **rows["stats"]}

    def done(self, problem: Problem, state: dict[str, Any]) -> bool:
        """Whether every chain has its draws."""
        return int(state["iteration"]) >= self.warmup + self.draws

    def finish(
        self, problem: Problem, state: dict[str, Any], chunks: list[Chunk], key: Array
    ) -> Draws:
        """The chunks as one; values are on the constrained space already."""
        joined = {k: np.concatenate([c[k] for c in chunks], axis=1) for k in chunks[0]}
        prefix = "value "
        values = {k.removeprefix(prefix): v for k, v in joined.items() if k.startswith(prefix)}
        values = {n: v for n, v in values.items() if _fits(problem, n, v)}
        stats = {k: v for k, v in joined.items() if not k.startswith(prefix)}
        discrete = any(site.kind == "discrete" for site in problem.sites.values())
        positions = None if discrete else problem.unconstrain(values)
        if positions is not None and not set(problem.parameters) <= set(values):
            values = {**problem.constrain(positions), **values}
        info = {"kernel": self._text()}
        return Draws(values, stats, self.chains, positions, info=info)

    def progress(self, problem: Problem, state: dict[str, Any]) -> Progress:
        """Iterations so far."""
        iteration = int(state["iteration"])
        text = "warmup" if iteration < self.warmup else "sampling"
        return Progress(iteration, self.warmup + self.draws, text)

    # ----------------------------------------------------------------- the kernel

    def _kernel(self, problem: Problem) -> MCMCKernel:
        """The kernel for a problem's program."""
        if not isinstance(self.kernel, MCMCKernel):
            model = subsampled(problem.program.fn)
            kernel = self._made(model)
            if getattr(kernel, "model", model) is not model:
                raise SettingsError(
                    f"{_name(self.kernel)} was given a program and made a kernel of another one"
                )
            return kernel
        written, model = problem.model.fn, getattr(self.kernel, "model", None)
        written = written.fn if isinstance(written, Whole) else written
        kind = type(self.kernel).__name__
        hint = f"or give a callable, NumPyroKernel(lambda model: {kind}(...))"
        if model is None:
            raise SettingsError(
                f"this {kind} has no program but a potential function; build it with the program, "
                + hint
            )
        if model != written:
            raise SettingsError(
                f"this {kind} was built with {_name(model)}, and the program to fit is "
                f"{problem.model.name}: build it with that, {hint}"
            )
        if problem.reparametrised or problem.program.constants is not None:
            raise SettingsError(
                f"this {kind} was built with the program as written, and it is to run changed "
                f"(reparam=, or data that are constants): give a callable instead, "
                f"NumPyroKernel(lambda model: {kind}(...))"
            )
        return self.kernel

    def _made(self, model: Callable) -> MCMCKernel:
        """What the callable makes of a program."""
        make: Any = NUTS if self.kernel is None else self.kernel
        try:
            kernel = make(model)
        except Exception as error:
            raise SettingsError(
                f"{_name(make)} failed to make a kernel: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(kernel, MCMCKernel):
            raise SettingsError(
                f"{_name(make)} must make a kernel of NumPyro's, got {type(kernel).__name__}"
            )
        return kernel

    def _work(self, problem: Problem) -> KernelWork:
        """The compiled work for a program, built once; it keeps no data."""
        program, statics = problem.program, dict(problem.data.statics)
        plates = tuple(sorted(subsampled_plates(problem.model.fn).items()))
        settings = (self.kernel, self.chains, self.warmup)
        key = ("numpyro_kernel", settings, tuple(sorted(statics.items())), plates)

        def build() -> KernelWork:
            kernel = self._kernel(problem)
            model = getattr(kernel, "model", None)
            return KernelWork(
                # A kernel keeps what it was initialised with; a copy has not been, and the program
                # is not copied.
                lambda: copy.deepcopy(kernel, {id(model): model}),
                lambda arrays: {**program.arguments(arrays), **statics},
                self.chains,
                self.warmup,
                sum(int(np.prod(problem.sites[n].shape)) for n in problem.parameters),
            )

        return program.once(key, build)

    def _check_plates(
        self, problem: Problem, kernel: MCMCKernel, plates: Mapping[str, tuple[int, int]]
    ) -> None:
        if not plates:
            return
        name, (size, part) = next(iter(plates.items()))
        kind = type(kernel).__name__
        if not isinstance(kernel, HMCECS):
            raise UnsupportedModelError(
                f"plate '{name}' takes a subsample ({part} of {size}), which {kind} would keep "
                "as it is: use HMCECS, or leave subsample_size out"
            )
        for site in problem.sites.values():
            if site.kind in ("latent", "discrete") and any(p in plates for p, _, _ in site.plates):
                raise UnsupportedModelError(
                    f"latent site '{site.name}' stands in a plate that takes a subsample; HMCECS "
                    "treats observed sites there only: leave subsample_size out"
                )

    def _text(self) -> str:
        """The kernel in words."""
        if isinstance(self.kernel, MCMCKernel):
            return kernel_text(self.kernel)
        try:
            return kernel_text(self._made(_no_program))
        except SettingsError:  # it needs a real one
            return _name(self.kernel)


def _no_program() -> None:
    """Stands for a program where a kernel is only described."""


def _fits(problem: Problem, name: str, value: np.ndarray) -> bool:
    """Whether draws have the shape of their site.

    What is derived from a summed-out site has all its values side by side, and what is derived from
    a subsample has the size of that.
    """
    site = problem.sites.get(name)
    return site is None or value.shape[2:] == site.shape


def _name(value: Any) -> str:
    return getattr(value, "__name__", type(value).__name__)


def _first_line(error: BaseException) -> str:
    return str(error).split("\n")[0] or type(error).__name__
