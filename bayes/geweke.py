"""geweke(): the joint distribution test of a transition kernel and a program.

Data are drawn given the parameters, the parameters are moved given the data, and so on. If the
kernel keeps the posterior and the log density is that of the program, the parameters' distribution
is then the prior, at every round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpyro import handlers

from bayes.calibration.judgement import LEVEL
from bayes.calibration.simulation import seeds_of
from bayes.calibration.uniformity import adjust
from bayes.choosing import as_method, bound_for
from bayes.compilation import computing
from bayes.design import Design, warnings_of_data_ignored
from bayes.errors import SettingsError, UnsupportedModelError
from bayes.inference.hamiltonian import Hamiltonian
from bayes.inference.metric import Metric
from bayes.inference.nuts import NUTS
from bayes.inference.settings import require_whole
from bayes.inference.transitions import Point
from bayes.inference.windows import metric_of
from bayes.method import Method
from bayes.problem import Problem
from bayes.program import Unobserve
from bayes.seeds import require_seed
from bayes.threefry import seed_key, split_key

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Geweke", "geweke"]

_PRIOR_DRAWS = 20_000
_DEPTH = 7
"""Deepest tree: any depth keeps the posterior, and chains side by side wait for the longest."""
_FEWEST_CHAINS = 16


@dataclasses.dataclass(frozen=True)
class Geweke:
    """Result of a joint distribution test.

    Parameters
    ----------
    model, method : str
        Names.
    chains, rounds : int
        Chains, and rounds of each; the first half of them is not counted.
    table : pandas.DataFrame
        One row a moment of an unconstrained parameter: its mean under the prior and along the
        chains, ``z``, ``p_adjusted`` for their number, and ``ok`` where that is at least 0.01.
    """

    model: str
    method: str
    chains: int
    rounds: int
    table: pd.DataFrame

    @property
    def ok(self) -> bool:
        """Whether all moments agree."""
        return bool(self.table["ok"].all())

    @property
    def verdict(self) -> str:
        """One sentence in words."""
        base = f"{self.chains} chains of {self.rounds} rounds, false alarms in {LEVEL:.0%} of runs"
        bad = self.table.loc[~self.table["ok"]].sort_values(by="p_adjusted")
        if bad.empty:
            return f"ok: {self.method} keeps the prior of {self.model} ({base})"
        worst = "; ".join(f"{name} (z = {z:.1f})" for name, z in bad["z"].head(5).items())
        return (
            f"not ok: {len(bad)} of {len(self.table)} moments are not those of the prior ({base}): "
            f"{worst}. Either the log density of {self.model} is not that of what it draws, or "
            f"{self.method} does not keep the posterior"
        )

    def __str__(self) -> str:
        return self.verdict


def geweke(
    model: Any,
    data: Any,
    method: str | Method = "nuts",
    *,
    chains: int = 64,
    rounds: int = 1000,
    iterations: int = 1,
    seed: int = 0,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Any] | None = None,
    reparam: Any = None,
) -> Geweke:
    """Joint distribution test of NUTS or HMC on a program.

    Step size and metric are those that the method finds on a first data set, and stay fixed.

    Parameters
    ----------
    model : callable or Model
        A NumPyro program with a proper prior.
    data : dict, pandas.DataFrame, xarray.Dataset or polars.DataFrame
        Covariates and sizes, as for :func:`bayes.sbc`.
    method : str or Method
        NUTS or HMC.
    chains : int
        Independent chains, 16 at least; their spread gives the Monte Carlo error.
    rounds : int
        How often data are drawn anew.
    iterations : int
        Transitions a round.
    seed : int
        All randomness comes from it.
    dims, coords, reparam : optional
        See :func:`bayes.fit`.

    Returns
    -------
    Geweke

    Raises
    ------
    UnsupportedModelError
        Where the method has no transition to test, a prior is improper or nothing is observed.

    References
    ----------
    Geweke (2004), Getting it right: joint distribution tests of posterior simulators.

    Examples
    --------
    >>> bayes.geweke(regression, {"x": x}, "nuts").ok
    """
    require_seed(seed)
    for name, value in {"rounds": rounds, "iterations": iterations}.items():
        require_whole(name, value)
    require_whole("chains", chains, _FEWEST_CHAINS)
    chosen = as_method(method) or NUTS()
    if not isinstance(chosen, Hamiltonian):
        raise UnsupportedModelError(
            f"geweke moves parameters by transitions of 'nuts' or 'hmc'; {chosen.name} has no such "
            "transition, bayes.sbc tests every method"
        )
    if chosen.store is not None:
        raise SettingsError("geweke keeps no draws: leave store out")
    bound = bound_for(chosen, model, dims, coords, reparam)
    with computing(), warnings_of_data_ignored():
        design = Design(bound, data)
        draw_seed, fit_seed, chain_seed = seeds_of(seed, 0)
        problem = design.bind(design.draw(draw_seed))
        chosen.check(problem)
        if problem.program.constants is not None:
            raise UnsupportedModelError(
                f"{bound.name} computes with its data in Python, so that each data set makes "
                "another program; use jax.numpy there"
            )
        metric, step = _tune(problem, chosen, fit_seed)
        chain_key, prior_key = split_key(seed_key(chain_seed))
        kernel = _kernel(problem, chosen, metric, step, iterations)
        draws = _joint_draws(design, problem, kernel, chain_key, (chains, rounds))
        prior = _prior_positions(problem, prior_key)
    return Geweke(bound.name, chosen.name, chains, rounds, _table(problem, draws, prior))


def _tune(problem: Problem, method: Hamiltonian, seed: int) -> tuple[Metric, float]:
    """Metric and step size that a fit ends with."""
    state = method.init(problem, seed_key(seed))
    while not method.done(problem, state):
        state, _ = method.step(problem, state)
    return metric_of(state), float(np.exp(np.min(state["log_step"])))


def _kernel(
    problem: Problem, method: Hamiltonian, metric: Metric, step: float, iterations: int
) -> Callable:
    """A function of a position, data and a key that gives the position after some transitions."""
    program = problem.program
    depth = jnp.asarray(min(_DEPTH, method.max_depth))

    def move(position: Array, arrays: Any, key: Array) -> Array:
        gradient = jax.value_and_grad(program.log_density)

        def once(point: Point, key: Array) -> tuple[Point, None]:
            momentum_key, seed_key_ = jax.random.split(key)
            moved, _ = method.transition(
                lambda x: gradient(x, arrays),
                metric,
                point,
                jax.random.normal(momentum_key, position.shape),
                jax.random.bits(seed_key_, (), jnp.uint64),
                jnp.asarray(step),
                depth,
            )
            return moved, None

        point = Point(position, *gradient(position, arrays))
        return jax.lax.scan(once, point, jax.random.split(key, iterations))[0].x

    return move


def _prior_position(problem: Problem) -> Callable:
    """A function of a key that gives a draw of the prior on the unconstrained space."""

    def start(key: Array, arrays: Any) -> Array:
        return problem.program.unconstrain(problem.program.simulate(key, arrays), arrays)

    return start


def _joint_draws(
    design: Design, problem: Problem, move: Callable, key: Array, size: tuple[int, int]
) -> Float[np.ndarray, "chain round d"]:
    """Positions after every round, of chains that begin with draws of the prior."""
    chains, rounds = size
    start = _prior_position(problem)
    names = [n for n, s in problem.sites.items() if s.kind == "latent"]
    drawing = design.simulator.program
    given = design.simulator.arrays

    def redraw(position: Array, arrays: Any, key: Array) -> dict[str, Any]:
        """The data's arrays with observed values drawn given the parameters."""
        values = problem.program.constrain(position, arrays)
        known = {n: values[n] for n in names}
        fn = handlers.seed(handlers.substitute(Unobserve(drawing.fn), data=known), key)
        trace = handlers.trace(fn).get_trace(**drawing.arguments(given))
        return {**arrays, **{a: trace[s]["value"] for s, a in design.observed.items()}}

    def chain(key: Array, arrays: Any) -> Array:
        start_key, key = jax.random.split(key)

        def one_round(position: Array, key: Array) -> tuple[Array, Array]:
            data_key, move_key = jax.random.split(key)
            moved = move(position, redraw(position, arrays, data_key), move_key)
            return moved, moved

        keys = jax.random.split(key, rounds)
        return jax.lax.scan(one_round, start(start_key, arrays), keys)[1]

    with jax.numpy_rank_promotion("allow"):
        run = jax.jit(jax.vmap(chain, (0, None)))
        return np.asarray(run(jax.random.split(key, chains), problem.arrays))


def _prior_positions(problem: Problem, key: Array) -> Float[np.ndarray, "draw d"]:
    start = _prior_position(problem)

    def all_of_them(keys: Array, arrays: Any) -> Array:
        return jax.lax.map(lambda k: start(k, arrays), keys, batch_size=64)

    with jax.numpy_rank_promotion("allow"):
        run = jax.jit(all_of_them)
        return np.asarray(run(jax.random.split(key, _PRIOR_DRAWS), problem.arrays))


def _table(
    problem: Problem,
    draws: Float[np.ndarray, "chain round d"],
    prior: Float[np.ndarray, "draw d"],
) -> pd.DataFrame:
    """Z scores of first and second moments, of parameters standardised by the prior draws."""
    import pandas as pd
    from scipy.stats import t

    centre, scale = prior.mean(axis=0), prior.std(axis=0)
    prior, draws = (prior - centre) / scale, (draws - centre) / scale
    # Chains begin in the prior, but what a fault leads to takes some rounds.
    late = draws[:, draws.shape[1] // 2 :]
    rows = []
    for name, power in (("mean", 1), ("square", 2)):
        exact, means = prior**power, (late**power).mean(axis=1)
        error = np.sqrt(exact.var(axis=0) / len(exact) + means.var(axis=0, ddof=1) / len(means))
        z = (means.mean(axis=0) - exact.mean(axis=0)) / error
        for i, label in enumerate(problem.program.coordinates):
            along = means[:, i].mean()
            rows.append((f"{label} ({name})", exact[:, i].mean(), along, z[i]))
    table = pd.DataFrame(rows, columns=["moment", "prior", "chains", "z"]).set_index("moment")
    p_values = 2 * t.sf(np.abs(table["z"].to_numpy()), len(draws) - 1)
    table["p_adjusted"] = adjust(p_values)
    table["ok"] = table["p_adjusted"] >= LEVEL
    return table
