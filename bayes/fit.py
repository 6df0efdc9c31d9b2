"""fit(): check, drive a method, assemble a posterior."""

from __future__ import annotations

import dataclasses
import datetime
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bayes.checkpoint import Checkpoint
from bayes.choosing import as_method, bound_for, choose_for
from bayes.compilation import computing
from bayes.driver import Outcome, drive
from bayes.errors import ConvergenceWarning, SettingsError
from bayes.fingerprint import data_fingerprint, model_fingerprint, versions
from bayes.inference.invariance import examined
from bayes.method import Method
from bayes.posterior import MethodRecord, Posterior
from bayes.problem import Problem
from bayes.refinement import check_refinement, refine_outcome
from bayes.seeds import require_seed
from bayes.threefry import key_words

__all__ = ["fit"]


def fit(
    model: Any,
    data: Any,
    method: str | Method = "nuts",
    *,
    seed: int = 0,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Any] | None = None,
    reparam: Any = None,
    refine: str | None = None,
    budget: float | None = None,
    checkpoint: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> Posterior:
    """Fit a NumPyro program to data.

    Parameters
    ----------
    model : callable or Model
        A NumPyro program; its arguments are filled from the data by name.
    data : dict, pandas.DataFrame, xarray.Dataset or polars.DataFrame
        Arrays, columns, lists or pytrees of arrays, and Python ints, bools and strings, which stay
        static. Categorical columns become integer codes; an argument ``n_<column>`` that is not
        given is the number of its levels.
    method : str or Method
        A name for the method's defaults, a configured or trained method, or ``"auto"``: a method
        that solves the model's structure, NUTS, or where that would take longer than ``budget`` or
        ten minutes an approximation; the posterior's record says why.
    seed : int
        All randomness comes from it: same seed, machine and versions, same draws to the bit.
    dims, coords : mapping, optional
        Names of a site's dimensions that no plate names, and labels by dimension.
    reparam : None, "auto", mapping or callable, optional
        ``"auto"`` non-centres location-scale sites with latent parents; an empty mapping leaves
        the program as it is. By default what the model says, or else the method: ``"vi"`` takes
        ``"auto"``, the others leave it as it is.
    refine : {"psis", "nuts"}, optional
        What corrects the draws of an approximation: ``"psis"`` resamples them by their
        Pareto-smoothed importance weights, ``"nuts"`` starts chains from them with the
        approximation's covariance for a first metric. A learned surrogate takes ``"nuts"`` by
        itself where importance weights cannot correct its draws.
    budget : float, optional
        Seconds after which the run stops with what it has.
    checkpoint : path, optional
        A folder that is written after every block; the same call resumes from it.
    progress : bool, optional
        Whether to show a progress line; by default where stderr is a terminal.

    Returns
    -------
    Posterior
        Draws, statistics and verdict. Ctrl-C ends a run early with what is done.

    Raises
    ------
    DataError, ShapeError
        What is wrong with the data, by column and row.
    ModelError, InitError, UnsupportedModelError
        What is wrong with the program, by site.
    SettingsError
        An option that makes no sense.
    NoDrawsError
        The run was stopped before its first draw.

    Warns
    -----
    ConvergenceWarning
        Where a check of the posterior failed.

    Examples
    --------
    >>> post = bayes.fit(schools, {"sigma": sigma, "y": y}, seed=0)
    >>> post.summary()
    """
    _check_settings(seed, budget)
    chosen, reason = as_method(method), "asked for"
    bound = bound_for(chosen, model, dims, coords, reparam)
    with computing():
        if chosen is not None:
            bound, data = chosen.rewritten(bound, data)
        problem = bound.bind(data, marginal=chosen is None or chosen.marginal)
        if chosen is None:
            chosen, reason = choose_for(problem, budget)
            suited = bound_for(chosen, model, dims, coords, reparam)
            if suited.reparam != bound.reparam or not chosen.marginal:
                problem = suited.bind(data, marginal=chosen.marginal)
            if refine is not None and (chosen.exact or not chosen.refinable):
                refine, reason = None, f"{reason}; there is nothing to refine"
        check_refinement(refine, chosen)
        chosen.check(problem)
        identity = run_identity(problem, chosen, seed) if checkpoint is not None else {}
        kept = last = None
        if checkpoint is not None:
            first = "approximation" if refine == "nuts" else "."
            kept = Checkpoint(pathlib.Path(checkpoint) / first, identity)
            # Its folder is not made before there are chains, which a method may ask for itself.
            last = Checkpoint(pathlib.Path(checkpoint) / "nuts", identity)
        outcome = drive(problem, chosen, seed, budget=budget, checkpoint=kept, progress=progress)
        settings = chosen.settings()
        if refine is not None:
            settings["refine"] = refine
        refine = refine or chosen.escalation(outcome.draws)
        if refine is not None:
            outcome = refine_outcome(
                outcome, problem, refine, seed, budget=budget, checkpoint=last, progress=progress
            )
        outcome = _examined(problem, outcome, seed)
        record = MethodRecord(
            chosen.name,
            settings,
            reason,
            seed,
            outcome.seconds,
            outcome.draws.info,
            versions(),
            f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        )
        posterior = Posterior.assemble(
            problem, outcome.draws, record, outcome.interrupted, outcome.non_finite
        )
    if not posterior.diagnostics.ok:
        warnings.warn(posterior.diagnostics.verdict, ConvergenceWarning, stacklevel=2)
    return posterior


def _examined(problem: Problem, outcome: Outcome, seed: int) -> Outcome:
    """The outcome with draws of an approximation moved to see whether they stay as they are.

    Where Ctrl-C ends that, the draws are kept, and are not called ok.
    """
    try:
        draws = examined(problem, outcome.draws, key_words(seed))
        return dataclasses.replace(outcome, draws=draws)
    except KeyboardInterrupt:
        why = "it was stopped before its draws were moved to see whether they stay as they are"
        draws = dataclasses.replace(
            outcome.draws, info={**outcome.draws.info, "not_converged": why}
        )
        return dataclasses.replace(outcome, draws=draws, interrupted="keyboard")


def run_identity(problem: Problem, method: Method, seed: int) -> dict[str, Any]:
    """What a checkpoint must agree with to be resumed."""
    return {
        "model": model_fingerprint(problem),
        "data": data_fingerprint(problem.data.arguments),
        "method": method.name,
        "settings": method.settings(),
        "seed": int(seed),
        "versions": versions(),
    }


def _check_settings(seed: int, budget: float | None) -> None:
    require_seed(seed)
    number = isinstance(budget, (int, float, np.number)) and not isinstance(budget, bool)
    if budget is not None and not (number and np.isfinite(budget) and budget > 0):
        raise SettingsError(f"budget is a positive number of seconds, got {budget!r}")
