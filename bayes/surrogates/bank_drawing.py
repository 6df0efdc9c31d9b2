"""Drawing a bank of simulations in compiled blocks, and the units its summaries are compared in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bayes.driver import Stop
from bayes.errors import NoDrawsError
from bayes.precision import simulating, single_precision
from bayes.surrogates.bank_network import SummaryNetwork
from bayes.surrogates.bank_summaries import Summaries, given_summaries, learned_summaries
from bayes.surrogates.ground import Ground
from bayes.surrogates.layout import Inputs
from bayes.surrogates.regression import nearest
from bayes.surrogates.row_sizes import row_sizes, shortened
from bayes.surrogates.simulator import Simulator

__all__ = ["Bank", "Source", "distance_limit", "draw_bank", "summary_scales"]

_NUMBERS, _MOST_A_BLOCK, _LEAST_A_BLOCK = 2**22, 4096, 16
"""Numbers that are simulated at once, and simulations at most and at least."""
_ATTEMPTS = 4
"""Simulations that are drawn for each that is wanted, at most: some may not be finite."""
_FAMILIAR, _FAMILIAR_SHARE = 1000, 0.99
_FARTHEST = 10.0


class Bank(NamedTuple):
    """Simulations.

    Parameters
    ----------
    positions : array of shape (n, d)
        Parameters, in the coordinates of the ground.
    summaries : array of shape (n, s)
        Summaries of the data.
    log_prior : array of shape (n,)
        Log density of the program's own prior on the flat unconstrained space.
    """

    positions: Float[np.ndarray, "n d"]
    summaries: Float[np.ndarray, "n s"]
    log_prior: Float[np.ndarray, " n"]


class Source(NamedTuple):
    """What simulations are drawn and summarised by.

    Parameters
    ----------
    simulator : Simulator
        Draws of parameters and data.
    ground : Ground
        Coordinates.
    network : SummaryNetwork or None
        What computes learned summaries.
    given : callable or None
        The user's own summaries.
    """

    simulator: Simulator
    ground: Ground
    network: SummaryNetwork | None
    given: Summaries | None

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Most and fewest rows of data sets that are drawn together."""
        return row_sizes(self.simulator) if self.given is None else [(self.simulator.rows, 1)]


def draw_bank(
    source: Source, count: int, key: Array, *, least: int, until: float | None = None
) -> tuple[Bank, str | None]:
    """Draw simulations whose numbers are finite.

    Parameters
    ----------
    source : Source
        What they are drawn by.
    count : int
        How many.
    key : key
        Random key.
    least : int
        How many are drawn whatever the time.
    until : float, optional
        Time of ``time.perf_counter`` after which no more are.

    Returns
    -------
    bank : Bank
    interrupted : str or None
        ``"keyboard"`` or ``"budget"`` where there are fewer than asked for.

    Raises
    ------
    NoDrawsError
        Where hardly any is finite.
    """
    parts: list[Bank] = []
    found, drawn, interrupted, stop = 0, 0, None, Stop()
    least = min(least, count)
    with stop.listening():
        for block in _blocks(source, count, key):
            each = [np.isfinite(v).reshape(len(v), -1).all(axis=1) for v in block]
            fine = np.all(each, axis=0)
            parts.append(Bank(*(v[fine] for v in block)))
            found, drawn = found + int(fine.sum()), drawn + len(fine)
            if found >= count or drawn >= _ATTEMPTS * count:
                break
            late = until is not None and time.perf_counter() >= until
            if found >= least and (stop.asked or late):
                interrupted = "keyboard" if stop.asked else "budget"
                break
    if found < least:
        raise NoDrawsError(
            f"only {found} of {drawn} simulations have finite parameters, summaries and prior "
            f"density in single precision; {least} are needed: narrower priors would help"
        )
    return Bank(*(np.concatenate(v)[:count] for v in zip(*parts, strict=True))), interrupted


def _blocks(source: Source, count: int, key: Array) -> Iterator[Bank]:
    """Blocks of simulations without end, the numbers of rows in turn."""
    runs = [_compiled(source, rows, below) for rows, below in source.sizes]
    numbers = max(_numbers(source, rows) for rows, _ in source.sizes)
    size = int(np.clip(_NUMBERS // numbers, _LEAST_A_BLOCK, _MOST_A_BLOCK))
    # So that each number of rows has its share of a small bank.
    size = min(size, -(-count // len(runs)))
    number = 0
    while True:
        block = Bank(*runs[number % len(runs)](jax.random.fold_in(key, number), size))
        yield block
        number += 1


def _numbers(source: Source, rows: int) -> int:
    """Numbers of one simulation, with what the network makes of its rows."""
    draw, layout = source.simulator.draw_whole, source.ground.layout
    with simulating():
        found = jax.eval_shape(lambda k: draw(k, rows), jax.random.key(0))
    total = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(found))
    wide = 0
    if source.network is not None:
        width = source.network.asked.shape[-1]
        wide = sum(table.size + 4 * width for table in layout.sources)
    return max(1, total + rows * wide)


def _compiled(
    source: Source, rows: int, below: int
) -> Callable[[Array, int], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A block of simulations as compiled functions of a key and a number of them."""
    simulator, ground, network, given = source
    program = simulator.reference.program

    def log_prior(position: Array, arrays: Any) -> Array:
        values = program.constrain(position, arrays)
        parts = program.site_log_probs({s.name: values[s.name] for s in program.latents}, arrays)
        likelihood = sum(jnp.sum(parts[site]) for site in simulator.observed)
        return program.log_density(position, arrays) - likelihood

    def one(key: Array) -> tuple[Array, Array, Array, Inputs]:
        whole = simulator.draw_whole(key, rows)
        own = jnp.zeros(0) if given is None else given_summaries(given, ground, whole.inputs)
        prior = log_prior(whole.position, whole.arrays)
        return whole.position, own, prior, whole.inputs._replace(arrays=())

    def drawn(keys: Array) -> tuple[Array, Array, Array, Inputs]:
        positions, summaries, prior, inputs = jax.vmap(one)(keys)
        if network is not None and simulator.resizable:
            inputs = shortened(inputs, ground.layout, jax.random.fold_in(keys[0], 1), rows, below)
        return (positions - ground.location) / ground.scale, summaries, prior, inputs

    draw = jax.jit(drawn)
    summarise = eqx.filter_jit(lambda own, inputs: learned_summaries(own, ground.layout, inputs))

    def block(key: Array, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with simulating():
            positions, summaries, prior, inputs = draw(jax.random.split(key, size))
        if network is not None:
            with single_precision():
                summaries = summarise(network, inputs)
        with np.errstate(over="ignore"):  # what overflows is left out
            found = [np.asarray(v).astype(np.float32) for v in (positions, summaries, prior)]
        return found[0], found[1], found[2]

    return block


def summary_scales(
    bank: Bank, *, learned: bool
) -> tuple[Float[np.ndarray, " s"], Float[np.ndarray, " s"]]:
    """Centre of the summaries, and the units in which they are compared.

    Learned ones are compared in units of the posterior's width, so that those of an unknown that
    the data do not tell count for nothing; others in units of their spread given the parameters.
    """
    s, x = np.asarray(bank.summaries, float), np.asarray(bank.positions, float)
    d, centre = x.shape[1], np.median(s, axis=0)
    x = np.clip(x, -_FARTHEST, _FARTHEST)
    if learned:
        width = np.sqrt(np.square(x - s[:, :d]).mean(axis=0))
        # Widths go with the root of the number of rows: a step of one in its log is about as far
        # as a step of one width.
        spread = np.concatenate([width, np.ones(s.shape[1] - d)])
    else:
        features = np.concatenate([np.ones((len(x), 1)), x, np.square(x)], axis=1)
        clipped = np.clip(s, *np.quantile(s, [0.001, 0.999], axis=0))
        slopes = np.linalg.lstsq(features, clipped, rcond=None)[0]
        spread = np.sqrt(np.square(clipped - features @ slopes).mean(axis=0))
    whole = 1.4826 * np.median(np.abs(s - centre), axis=0)
    floor = 1e-3 * np.where(whole > 0, whole, s.std(axis=0))
    spread = np.maximum(spread, floor)
    return centre, np.where(spread > 0, spread, 1.0)


def distance_limit(summaries: Float[np.ndarray, "n s"], neighbours: int) -> float:
    """Distance to the last neighbour that 99 of 100 data sets of the bank do not exceed."""
    picks = np.linspace(0, len(summaries) - 1, min(_FAMILIAR, len(summaries))).astype(int)
    # Each is its own first neighbour.
    found = [nearest(summaries, summaries[i], neighbours + 1).distance[-1] for i in picks]
    return float(np.quantile(found, _FAMILIAR_SHARE))
