"""A trained surrogate held against simulations that it has not seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayes.errors import NoDrawsError
from bayes.precision import simulating
from bayes.surrogates.global_checks import GlobalChecks, judge_simulations
from bayes.surrogates.layout import Inputs
from bayes.surrogates.mixtures import Mixture, log_prob, sample
from bayes.surrogates.row_sizes import row_sizes
from bayes.surrogates.simulator import Simulator

__all__ = ["validate"]

_SIMULATIONS, _DRAWS = 1000, 200
_NUMBERS = 4e7
"""Rows for which a likelihood is computed, all in all, for one number of rows."""
_FEWEST = 40

Mixtures = Callable[[Inputs], Mixture]
"""From data of a batch to mixtures on the flat unconstrained space."""


class _Judged(NamedTuple):
    """Truths and draws of some simulations, with their log densities."""

    truth: Float[np.ndarray, "s d"]
    draws: Float[np.ndarray, "s l d"]
    log_q: Float[np.ndarray, " s"]
    log_prior: Float[np.ndarray, " s"]
    likelihood: Float[np.ndarray, " s"]
    likelihood_of_draws: Float[np.ndarray, "s l"]


def validate(simulator: Simulator, mixtures: Mixtures, key: Array) -> GlobalChecks:
    """Judge a surrogate by a thousand simulations, with 200 draws for each.

    Parameters
    ----------
    simulator : Simulator
        Draws of the program's parameters and data.
    mixtures : callable
        The surrogate: from data of a batch to mixtures on the flat unconstrained space.
    key : key
        Random key.

    Returns
    -------
    GlobalChecks

    Raises
    ------
    NoDrawsError
        Where hardly any simulation is finite.
    """
    sizes = [rows for rows, _ in row_sizes(simulator)]
    parts = []
    for number, rows in enumerate(sizes):
        most = int(_NUMBERS / (_DRAWS * max(rows, 1)))
        count = int(np.clip(_SIMULATIONS // len(sizes), _FEWEST, max(most, _FEWEST)))
        parts.append(_judged(simulator, mixtures, jax.random.fold_in(key, number), rows, count))
    joined = _Judged(*(np.concatenate(values) for values in zip(*parts, strict=True)))
    # Simulations may overflow; draws that do are for the judge to refuse.
    drawn = (joined.truth, joined.log_prior, joined.likelihood)
    fine = np.all([np.isfinite(v).reshape(len(v), -1).all(axis=1) for v in drawn], axis=0)
    if fine.sum() < _FEWEST:
        raise NoDrawsError(f"only {fine.sum()} of {len(fine)} simulations are finite")
    kept = _Judged(*(v[fine] for v in joined))
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return judge_simulations(
        simulator.reference.program.coordinates,
        kept.truth,
        kept.draws,
        kept.log_q,
        kept.log_prior,
        kept.likelihood,
        np.nan_to_num(kept.likelihood_of_draws, nan=-np.inf, posinf=np.inf, neginf=-np.inf),
        generator,
    )


def _judged(simulator: Simulator, mixtures: Mixtures, key: Array, rows: int, count: int) -> _Judged:
    first, second = jax.random.split(key)
    with simulating():
        draw = jax.jit(jax.vmap(lambda k: simulator.draw_whole(k, rows)))
        drawn = draw(jax.random.split(first, count))
        found = mixtures(Inputs(*jax.tree.map(np.asarray, tuple(drawn.inputs))))
        mixture = Mixture(*map(jnp.asarray, found))
        draws = jnp.swapaxes(jax.jit(sample, static_argnums=2)(mixture, second, _DRAWS), 0, 1)
        log_q = log_prob(mixture, drawn.position)
        # The truth is the first of the positions at which the likelihood is computed.
        positions = jnp.concatenate([drawn.position[:, None], draws], axis=1)
        run = jax.jit(lambda x, a: jax.lax.map(lambda given: _parts(simulator, *given), (x, a)))
        likelihood, prior = run(positions, drawn.arrays)
    each = (drawn.position, draws, log_q, prior[:, 0], likelihood[:, 0], likelihood[:, 1:])
    return _Judged(*(np.asarray(value, float) for value in each))


def _parts(simulator: Simulator, positions: Array, arrays: Any) -> tuple[Array, Array]:
    """Log likelihood and log prior at positions, on the flat unconstrained space."""
    program = simulator.reference.program

    def one(position: Array) -> tuple[Array, Array]:
        values = program.constrain(position, arrays)
        parts = program.site_log_probs({s.name: values[s.name] for s in program.latents}, arrays)
        likelihood = jnp.asarray(sum(jnp.sum(parts[site]) for site in simulator.observed))
        return likelihood, program.log_density(position, arrays) - likelihood

    return jax.vmap(one)(positions)
