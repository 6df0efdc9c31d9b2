"""The verdict: checks of a posterior's draws, each with a threshold and what to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes.diagnostics.assessment import assess
from bayes.diagnostics.convergence import Convergence, separate_groups
from bayes.stored_draws import StoredDraws

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Check", "Diagnostics", "diagnose", "judge_draws"]

RHAT, ESS, BFMI, SPREAD_ERROR = 1.01, 400, 0.3, 0.06
DIVERGENT_SHARE, SATURATED_SHARE = 1e-4, 0.05


@dataclasses.dataclass(frozen=True)
class Check:
    """One check.

    Parameters
    ----------
    name : str
        What is checked.
    value : float
        What was found; NaN where it could not be assessed.
    threshold : float
        Where it would fail.
    passed : bool
        Whether it passed.
    advice : str
        What the finding means and what to do next; may be given for a pass, too.
    """

    name: str
    value: float
    threshold: float
    passed: bool
    advice: str = ""

    def __str__(self) -> str:
        mark = "pass" if self.passed else "FAIL"
        line = f"{mark}  {self.name:<12} {self.value:.4g} (threshold {self.threshold:g})"
        return f"{line}  {self.advice}" if self.advice else line


@dataclasses.dataclass(frozen=True)
class Diagnostics:
    """The verdict on a posterior.

    Parameters
    ----------
    checks : tuple of Check
        In order of weight.
    interrupted : str or None
        ``"keyboard"`` or ``"budget"`` where the run was stopped before it was done.
    notes : tuple of str
        What else is worth knowing.
    """

    checks: tuple[Check, ...]
    interrupted: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check '{name}'; there are {', '.join(c.name for c in self.checks)}")

    @property
    def verdict(self) -> str:
        """One paragraph in words."""
        cut = f" (stopped early: {self.interrupted})" if self.interrupted else ""
        if self.ok:
            return f"ok: all {len(self.checks)} checks passed{cut}"
        reasons = "; ".join(f"{c.name} {c.value:.4g}: {c.advice}" for c in self.failed)
        return f"not ok{cut}: {reasons}"

    def __str__(self) -> str:
        lines = [self.verdict, *(f"  {check}" for check in self.checks)]
        return "\n".join([*lines, *(f"  note  {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "checks": [dataclasses.asdict(c) for c in self.checks],
            "interrupted": self.interrupted,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Diagnostics:
        """Back from JSON values."""
        checks = tuple(Check(**c) for c in values["checks"])
        return cls(checks, values["interrupted"], tuple(values["notes"]))


def diagnose(tree: xr.DataTree, info: Mapping[str, Any], **options: Any) -> Diagnostics:
    """Judge the draws of a tree.

    Parameters
    ----------
    tree : xarray.DataTree
        Groups posterior and sample_stats.
    info : mapping
        See :func:`judge_draws`.
    **options
        Go to :func:`judge_draws`.

    Returns
    -------
    Diagnostics
    """
    return judge_draws(_arrays(tree, "posterior"), _arrays(tree, "sample_stats"), info, **options)


def _arrays(tree: xr.DataTree, group: str) -> dict[str, np.ndarray]:
    return {
        str(name): variable.transpose("chain", "draw", ...).values
        for name, variable in tree[group].data_vars.items()
    }


def judge_draws(
    sites: Mapping[str, np.ndarray | StoredDraws],
    stats: Mapping[str, np.ndarray],
    info: Mapping[str, Any],
    *,
    interrupted: str | None = None,
    centred: tuple[str, ...] = (),
    found: Convergence | None = None,
) -> Diagnostics:
    """Judge the draws of a Markov chain method.

    Parameters
    ----------
    sites : mapping of array
        Draws by site, of shape (chain, draw, ...).
    stats : mapping of array
        Sampler statistics, of shape (chain, draw).
    info : mapping
        What the method found out: copies, starts, non_finite, frozen; ``sampled``, names of the
        sampled sites.
    interrupted : str, optional
        Why the run was stopped early.
    centred : tuple of str
        Centred sites that ``reparam="auto"`` would non-centre.
    found : Convergence, optional
        Convergence of the draws, where it is known already.

    Returns
    -------
    Diagnostics
    """
    chains = next(iter(sites.values())).shape[0]
    lp = stats.get("lp")
    found = assess(sites, lp, info.get("sampled")) if found is None else found
    checks = [_chains(chains), _finite(info), *_convergence_checks(found, chains, centred)]
    if lp is not None and chains > 1:
        checks.append(_agreement(lp, found, info))
    if np.any(found.spread > -np.inf):
        checks.append(_spread_error(found))
    checks += _dynamics(stats, info, centred)
    if info.get("frozen"):
        names = ", ".join(info["frozen"])
        checks.append(
            Check("data", 0.0, 0.0, False, f"observed {names} has no variance: its scale goes to 0")
        )
    notes = list(info.get("notes", ()))
    if found.constant:
        notes.append(f"{found.constant} elements are constant by construction and are not assessed")
    return Diagnostics(tuple(checks), interrupted, tuple(notes))


def _chains(chains: int) -> Check:
    advice = "" if chains > 1 else "convergence is not assessable from one chain: run 4"
    return Check("chains", float(chains), 2.0, chains > 1, advice)


def _finite(info: Mapping[str, Any]) -> Check:
    bad = int(info.get("non_finite", 0))
    advice = (
        "" if not bad else "draws overflow: the posterior may be improper; give it proper priors"
    )
    return Check("finite", float(bad), 0.0, bad == 0, advice)


def _convergence_checks(found: Convergence, chains: int, centred: tuple[str, ...]) -> list[Check]:
    few = f"{found.draws} draws a chain are too few: take more"
    sites = f"; or reparam='auto' ({', '.join(centred)})" if centred else ""
    checks = []
    if chains > 1:
        value, worst = found.worst_rhat
        passed = bool(np.isfinite(value) and value < RHAT)
        advice = ""
        if not passed:
            reason = few if not np.isfinite(value) else "chains have not mixed"
            advice = f"{reason} (worst: {worst}); run longer{sites}"
        checks.append(Check("rhat", value, RHAT, passed, advice))
    for name, (value, worst) in (("ess_bulk", found.worst_bulk), ("ess_tail", found.worst_tail)):
        passed = bool(np.isfinite(value) and value >= ESS)
        advice = ""
        if not passed and np.isfinite(value) and value > 0:
            factor = int(np.ceil(1.2 * ESS / value))
            advice = f"too few effective draws (worst: {worst}); about {factor} x as many{sites}"
        elif not passed:
            advice = few
        checks.append(Check(name, value, float(ESS), passed, advice))
    return checks


def _agreement(lp: np.ndarray, found: Convergence, info: Mapping[str, Any]) -> Check:
    """Whether chains sit apart from each other, named where they do."""
    copies = [chain for chain, times in enumerate(info.get("copies") or []) if times]
    groups, where = separate_groups(found)
    if not groups and len(copies) < 2:
        return Check("stuck_chains", 0.0, 0.0, True)
    if not groups:
        names = ", ".join(map(str, copies))
        return Check(
            "stuck_chains",
            float(len(copies)),
            1.0,
            False,
            f"chains {names} never left where there is no mass and were put where others were: too "
            "few found their own way; give better starts (init_strategy=) or a longer warmup",
        )
    smallest = min(groups, key=len)
    names = ", ".join(map(str, smallest))
    rest = np.delete(lp, smallest, axis=0)
    shift = float(lp[smallest].mean() - rest.mean())
    who = f"chain {names} sits" if len(smallest) == 1 else f"chains {names} sit"
    return Check(
        "stuck_chains",
        float(len(smallest)),
        0.0,
        False,
        f"{who} apart from the others at {where} (mean log density {shift:+.1f}): several modes, "
        "or stuck; running longer will not help: reparametrise, order or constrain what may be "
        "exchanged, or give better starts (init_strategy=)",
    )


def _spread_error(found: Convergence) -> Check:
    """Whether standard deviations are settled: with heavy tails they are not, whatever R-hat says.

    Only sampled sites are judged: a derived quantity, such as a ratio, may have no variance at all.
    """
    value, worst = found.worst_spread
    passed = bool(np.isfinite(value) and value <= SPREAD_ERROR)
    advice = (
        ""
        if passed
        else f"the standard deviation of {worst} is not settled: heavy tails or too few draws; "
        "report medians and intervals, take more draws, or give it a lighter-tailed prior"
    )
    return Check("sd_error", value, SPREAD_ERROR, passed, advice)


def _dynamics(
    stats: Mapping[str, np.ndarray], info: Mapping[str, Any], centred: tuple[str, ...]
) -> list[Check]:
    checks = []
    funnel = (
        f"non-centre {', '.join(centred)} with reparam='auto'"
        if centred
        else "raise target_accept (0.99), or reparametrise"
    )
    if "diverging" in stats:
        diverging = stats["diverging"]
        count = int(diverging.sum())
        advice = ""
        if count:
            advice = f"{count} divergent transitions: draws may miss a region; {funnel}"
            advice += _nan_hint(info)
        allowed = int(DIVERGENT_SHARE * diverging.size)
        passed = count <= allowed
        checks.append(Check("divergences", float(count), float(allowed), passed, advice))
    if "energy" in stats and stats["energy"].shape[1] > 3:
        energy = stats["energy"]
        with np.errstate(all="ignore"):
            bfmi = np.square(np.diff(energy, axis=1)).mean(axis=1) / energy.var(axis=1)
        value = float(np.min(bfmi))
        passed = bool(value >= BFMI)
        advice = (
            "" if passed else f"energy mixes slowly (E-BFMI): heavy tails or a funnel; {funnel}"
        )
        checks.append(Check("ebfmi", value, BFMI, passed, advice))
    deepest = info.get("max_tree_depth", 0)
    if deepest and "tree_depth" in stats:
        share = float((stats["tree_depth"] >= deepest).mean())
        passed = share <= SATURATED_SHARE
        advice = (
            ""
            if passed
            else "trajectories are cut short: scales or correlations the metric has not learned; "
            "longer warmup, metric='dense', or rescale the parameters"
        )
        checks.append(Check("tree_depth", share, SATURATED_SHARE, passed, advice))
    return checks


def _nan_hint(info: Mapping[str, Any]) -> str:
    starts = info.get("starts", {})
    if starts.get("nan_gradient"):
        return (
            f"; the gradient is not finite at {starts['nan_gradient']} of {starts['candidates']} "
            "starts where the log density is: a jnp.where with an invalid branch does this, or a "
            "solver that overflows"
        )
    if starts.get("nan"):
        return f"; the log density is NaN at {starts['nan']} of {starts['candidates']} starts"
    return ""
