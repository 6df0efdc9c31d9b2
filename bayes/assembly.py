"""From a method's draws to the groups and the verdict of a posterior."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes.diagnostics.assessment import assess
from bayes.diagnostics.checks import Diagnostics, judge_draws
from bayes.groups import constant_group, observed_group, site_dataset
from bayes.method import Draws
from bayes.problem import Problem
from bayes.reparam import centred_sites
from bayes.stored_draws import StoredDraws
from bayes.structure import trace_program

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["MethodRecord", "draws_tree", "judge"]


@dataclasses.dataclass(frozen=True)
class MethodRecord:
    """How a posterior was made.

    Parameters
    ----------
    name : str
        The method's name.
    settings : dict
        Its settings.
    reason : str
        Why this one.
    seed : int
        The run's seed.
    seconds : float
        Wall time of the fit.
    info : dict
        What the method found out on the way.
    versions : dict
        Versions of the packages that made it.
    finished : str
        When, in UTC; empty where it is not known.
    """

    name: str
    settings: dict[str, Any]
    reason: str
    seed: int
    seconds: float
    info: dict[str, Any]
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    finished: str = ""

    def __str__(self) -> str:
        settings = ", ".join(f"{k}={v}" for k, v in self.settings.items())
        return f"{self.name}({settings}): {self.reason}"


def draws_tree(problem: Problem, draws: Draws) -> xr.DataTree:
    """Draws, statistics and data as ArviZ groups; sites of a reparametrisation are auxiliary."""
    import xarray as xr

    own = _own(problem, draws)
    extra = {n: v for n, v in draws.values.items() if n not in own}
    groups = {
        "posterior": site_dataset(problem, own),
        "sample_stats": _stats(draws),
        "observed_data": observed_group(problem),
        "constant_data": constant_group(problem),
        "auxiliary": site_dataset(problem, extra) if extra else None,
        "approximation": _approximation(problem, draws),
        "importance": _importance(draws),
        "moments": _moments(problem, draws),
    }
    tree = xr.DataTree.from_dict({k: v for k, v in groups.items() if v is not None})
    if draws.info.get("independent") or draws.info.get("type_ii"):
        tree["posterior"].attrs["independent"] = True
    return tree


def judge(problem: Problem, draws: Draws, interrupted: str | None, non_finite: int) -> Diagnostics:
    """The verdict on draws; where it is bad, with the centred sites that might be why."""
    info = {
        **draws.info,
        "non_finite": non_finite,
        "frozen": problem.frozen,
        "sampled": list(problem.judged),
        "notes": problem.notes + _run_notes(draws.info, draws.length, interrupted),
    }
    sites, stats = _own(problem, draws), _flat_stats(draws)
    if draws.log_q is not None:
        stats["log_q"] = draws.log_q
    if info.get("independent") or info.get("type_ii"):
        return judge_draws(sites, stats, info, interrupted=interrupted)
    found = assess(sites, stats.get("lp"), info["sampled"])
    verdict = judge_draws(sites, stats, info, interrupted=interrupted, found=found)
    centred = () if verdict.ok or problem.reparametrised else _centred(problem)
    if not centred:
        return verdict
    return judge_draws(sites, stats, info, interrupted=interrupted, centred=centred, found=found)


def _own(problem: Problem, draws: Draws) -> dict[str, np.ndarray | StoredDraws]:
    """Draws of the program's sites as written, without those that a reparametrisation makes."""
    return {n: draws.values[n] for n in problem.parameters if n in draws.values}


def _flat_stats(draws: Draws) -> dict[str, np.ndarray]:
    return {k: v for k, v in draws.stats.items() if v.ndim == 2}


def _stats(draws: Draws) -> xr.Dataset:
    import xarray as xr

    coords = {
        "chain": np.arange(draws.chains),
        "draw": np.arange(next(iter(draws.values.values())).shape[1]),
    }
    stats = {k: (("chain", "draw"), v) for k, v in _flat_stats(draws).items()}
    if draws.log_q is not None:
        stats["log_q"] = (("chain", "draw"), draws.log_q)
    return xr.Dataset(stats, coords=coords)


def _approximation(problem: Problem, draws: Draws) -> xr.Dataset | None:
    """The approximation as a normal distribution on the unconstrained space."""
    import xarray as xr

    if draws.normal is None:
        return None
    mean, scale, vectors, values = draws.normal
    row = "unconstrained"
    variables = {
        "mean": (row, mean),
        "scale": (row, scale),
        "vectors": ((row, "direction"), vectors),
        "values": ("direction", values),
    }
    return xr.Dataset(variables, coords={row: problem.program.coordinates})


def _importance(draws: Draws) -> xr.Dataset | None:
    """Log densities at what the draws were resampled from."""
    import xarray as xr

    if draws.candidates is None:
        return None
    return xr.Dataset({k: ("candidate", v) for k, v in draws.candidates.items()})


def _moments(problem: Problem, draws: Draws) -> xr.Dataset | None:
    """Means and standard deviations that are known without the draws."""
    if draws.moments is None:
        return None
    values = {n: np.stack([m.mean, m.sd]) for n, m in draws.moments.items()}
    found = site_dataset(problem, values, lead=("moment",))
    found.attrs["exact"] = not draws.info.get("masked", False)
    return found.assign_coords(moment=["mean", "sd"])


def _run_notes(info: Mapping[str, Any], draws: int, interrupted: str | None) -> list[str]:
    """What became of chains that sat where there is no mass, and whether draws are lacking."""
    fates = {"restarts": "started afresh", "copies": "was put where another chain was"}
    notes = []
    for key, fate in fates.items():
        moved = [str(chain) for chain, times in enumerate(info.get(key) or []) if times]
        if moved:
            notes.append(
                f"chain {', '.join(moved)} sat where there is next to no posterior mass and {fate}"
            )
    wanted = int(info.get("wanted_draws", 0))
    if wanted > draws:
        if info.get("type_ii"):
            if interrupted:  # which says why
                return notes
            return [*notes, f"{draws} draws of {wanted} are kept, as more would take over 1 GiB"]
        notes.append(
            f"{draws} draws a chain are fewer than target_ess and R-hat ask for (at least "
            f"{wanted}): max_draws was reached"
        )
    return notes


def _centred(problem: Problem) -> tuple[str, ...]:
    """Sites that reparam="auto" would change."""
    try:
        trace = trace_program(problem.model.fn, problem.data, 0)
        return tuple(centred_sites(problem.model.fn, problem.data, trace, problem.sites))
    except Exception:  # advice only
        return ()
