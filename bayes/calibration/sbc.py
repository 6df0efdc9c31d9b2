"""sbc(): simulation-based calibration of a program and a method."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed
from typing import Any

from bayes.calibration.records import Records
from bayes.calibration.result import FEWEST, Calibration
from bayes.calibration.simulation import Bench, Record, Task, run_task
from bayes.choosing import as_method, bound_for
from bayes.compilation import computing
from bayes.design import warnings_of_data_ignored
from bayes.errors import NoDrawsError, SettingsError
from bayes.fit import run_identity
from bayes.inference.nuts import NUTS
from bayes.method import Method
from bayes.model import as_model
from bayes.seeds import require_seed

__all__ = ["sbc"]

_JOBS = 64
"""So many jobs for an executor at most: each binds the programs anew."""


def sbc(
    model: Any,
    data: Any,
    method: str | Method = "nuts",
    simulations: int = 200,
    *,
    seed: int = 0,
    simulate_with: Any = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Any] | None = None,
    reparam: Any = None,
    statistics: Mapping[str, Callable] | None = None,
    folder: str | os.PathLike | None = None,
    executor: Executor | None = None,
    progress: bool | None = None,
) -> Calibration:
    """Simulation-based calibration: whether posteriors hold the truth as often as they say.

    Each simulation draws parameters and data from the program itself, fits the program to the data
    and ranks the true values among nearly independent draws of the posterior. If the log density
    is that of the program and the method is right, the ranks are uniform. Ranked are all elements
    of all sampled sites, the log likelihood of the data, which finds what the parameters alone
    miss, and statistics of the user's.

    Parameters
    ----------
    model : callable or Model
        A NumPyro program.
    data : dict, pandas.DataFrame, xarray.Dataset or polars.DataFrame
        Covariates and sizes. Observed arguments may be left out where each has the name of the
        site that observes it; otherwise only their shapes matter. A program that does not run
        without them has its observed sites drawn given what they are otherwise used for.
    method : str or Method
        How it is fitted.
    simulations : int
        How many, 20 at least.
    seed : int
        All randomness comes from it: a simulation follows from the seed and its number.
    simulate_with : callable or Model, optional
        Another program to draw parameters and data with.
    dims, coords, reparam : optional
        See :func:`bayes.fit`.
    statistics : mapping, optional
        More to rank, by name: functions of a dict with one draw of every sampled site and the data
        drawn, by site, that give a number or an array of fixed shape.
    folder : path, optional
        Where every finished simulation is kept; the same call runs only what is missing, also with
        more simulations.
    executor : concurrent.futures.Executor, optional
        Where the fits run, several at a time: processes, a cluster. By default they run here, one
        after the other, each with all cores. Processes need a program, data, method and statistics
        that can be pickled: defined in a module, and started with "spawn".
    progress : bool, optional
        Whether to show a progress line; by default where stderr is a terminal.

    Returns
    -------
    Calibration
        Ranks, tests, coverage and verdict. Ctrl-C ends the run after the fit under way with what
        is done, if that is 20 simulations or more.

    Raises
    ------
    UnsupportedModelError
        Where a prior is improper, or there is no observed site to draw data from.
    SettingsError
        An option that makes no sense.
    NoDrawsError
        Fewer than 20 simulations gave ranks.
    FileError
        The folder is damaged or of another run.

    References
    ----------
    Talts, Betancourt, Simpson, Vehtari and Gelman (2018), Validating Bayesian inference algorithms
    with simulation-based calibration. Modrák et al. (2023), Simulation-based calibration checking
    for Bayesian computation: the choice of test quantities shapes sensitivity.

    Examples
    --------
    >>> result = bayes.sbc(schools, {"sigma": sigma}, method="nuts", seed=0)
    >>> result.ok
    >>> result.plot()
    """
    require_seed(seed)
    if isinstance(simulations, bool) or not isinstance(simulations, int) or simulations < FEWEST:
        raise SettingsError(
            f"simulations must be a whole number, {FEWEST} at least; got {simulations!r}"
        )
    chosen = as_method(method) or NUTS()
    if getattr(chosen, "store", None) is not None or getattr(chosen, "keep", None) is not None:
        raise SettingsError("calibration ranks all sites in memory: leave store and keep out")
    bound = bound_for(chosen, model, dims, coords, reparam)
    simulator = None if simulate_with is None else as_model(simulate_with)
    task = Task(bound, data, chosen, int(seed), simulator, dict(statistics or {}))
    begin = time.perf_counter()
    with computing():
        bench = Bench(task)
        _require_names(bench)
        records: dict[int, Record] = {}
        kept = None
        if folder is not None:
            kept = Records(folder, _identity(bench))
            records = {n: r for n, r in kept.load().items() if n < simulations}
        missing = [n for n in range(simulations) if n not in records]
        interrupted = None
        line = _progress_line(progress, len(records), simulations)
        try:
            with (
                warnings_of_data_ignored(),
                contextlib.closing(_run(task, bench, missing, executor)) as results,
            ):
                for record in results:
                    if kept is not None:
                        kept.save(record)
                    records[record.number] = record
                    line.update()
        except KeyboardInterrupt:
            interrupted = "keyboard"
        finally:
            line.close()
    done = [records[n] for n in sorted(records)]
    _require_enough(done, interrupted, kept)
    return Calibration(
        model=bound.name,
        method=chosen.name,
        exact=chosen.exact,
        seed=int(seed),
        simulations=simulations,
        quantities=bench.quantities,
        coords=bench.coords,
        records=tuple(done),
        interrupted=interrupted,
        seconds=time.perf_counter() - begin,
    )


def _run(
    task: Task, bench: Bench, numbers: list[int], executor: Executor | None
) -> Generator[Record]:
    """Records as they are finished."""
    if not numbers:
        return
    jobs: list[Future] = []
    with contextlib.ExitStack() as stack:
        if executor is None:
            # A thread of their own: Ctrl-C reaches this one, whatever a fit is at.
            own = stack.enter_context(ThreadPoolExecutor(1, "bayes-sbc"))
            submit, size, more = own.submit, 1, (bench,)
        else:
            submit, size, more = executor.submit, math.ceil(len(numbers) / _JOBS), ()
        stack.callback(lambda: [job.cancel() for job in jobs])
        try:
            for i in range(0, len(numbers), size):
                jobs.append(submit(run_task, task, numbers[i : i + size], *more))
            for job in as_completed(jobs):
                yield from job.result()
        except (pickle.PicklingError, AttributeError) as error:
            if executor is None:
                raise
            raise SettingsError(
                "the executor cannot pickle what it is to run: define the program, statistics and "
                f"a method of your own in a module ({error})"
            ) from error


def _identity(bench: Bench) -> dict[str, Any]:
    """What a folder of simulations must agree with; the first data drawn tell what drew them."""
    task = bench.task
    ranked = [[q.name, list(q.shape)] for q in bench.quantities]
    return {**run_identity(bench.problem, task.method, task.seed), "quantities": ranked}


def _require_names(bench: Bench) -> None:
    names = [q.name for q in bench.quantities]
    twice = [n for n in bench.task.statistics if names.count(n) > 1]
    if twice:
        raise SettingsError(f"statistic '{twice[0]}' has the name of something that is ranked")


def _require_enough(records: list[Record], interrupted: str | None, kept: Records | None) -> None:
    ranked = [r for r in records if r.values]
    if len(ranked) >= FEWEST:
        return
    if interrupted is not None:
        hint = "" if kept is None else f"; call sbc again with folder='{kept.folder}' to go on"
        raise NoDrawsError(
            f"calibration was stopped ({interrupted}) after {len(records)} simulations, "
            f"{FEWEST} at least are needed{hint}"
        )
    failed = next(r for r in records if not r.values)
    raise NoDrawsError(
        f"{len(records) - len(ranked)} of {len(records)} fits raised; simulation {failed.number}: "
        f"{failed.failure}"
    )


def _progress_line(wanted: bool | None, done: int, total: int) -> Any:
    from tqdm import tqdm

    shown = sys.stderr.isatty() if wanted is None else wanted
    options = {"unit": "fit", "file": sys.stderr, "dynamic_ncols": True, "disable": not shown}
    return tqdm(desc="sbc", initial=done, total=total, **options)
