"""The verdict: checks of a posterior's draws, each with a threshold and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bayes.diagnostics.approximations import (
    data_checks,
    finite_check,
    judge_independent,
    khat_check,
    ratios_of,
)
from bayes.diagnostics.assessment import assess
from bayes.diagnostics.convergence import APART, Convergence, telling_place
from bayes.diagnostics.elements import element_draws
from bayes.diagnostics.separation import check_agreement, find_separation
from bayes.diagnostics.tails import tail_index
from bayes.diagnostics.type_ii import judge_type_ii
from bayes.diagnostics.verdict import Check, Diagnostics
from bayes.stored_draws import StoredDraws

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Check", "Diagnostics", "diagnose", "judge_draws"]

RHAT, ESS, BFMI, SPREAD_ERROR = 1.01, 400, 0.3, 0.06
DIVERGENT_SHARE, SATURATED_SHARE = 1e-4, 0.05
NO_VARIANCE, NO_MEAN = 0.5, 0.7
"""Pareto k-hat of a tail from which on a standard deviation and a mean of draws tell nothing."""


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
    """Judge the draws of a method.

    Parameters
    ----------
    sites : mapping of array
        Draws by site, of shape (chain, draw, ...).
    stats : mapping of array
        Statistics of the draws, of shape (chain, draw): ``lp``; ``log_q``, the log density of an
        approximation on the same space; what the sampler says.
    info : mapping
        What the method found out: copies, starts, non_finite, frozen; ``sampled``, names of the
        sampled sites; ``independent``, whether the draws are those of an approximation;
        ``type_ii``, whether they are given variances that were estimated.
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
    if info.get("type_ii"):
        return judge_type_ii(info, interrupted=interrupted)
    if info.get("independent"):
        return judge_independent(sites, stats, info, interrupted=interrupted)
    chains = next(iter(sites.values())).shape[0]
    lp = stats.get("lp")
    found = assess(sites, lp, info.get("sampled")) if found is None else found
    separation = find_separation(found, sites)
    apart = separation.brief
    checks = [_chains(chains), finite_check(info)]
    checks += _convergence_checks(found, chains, centred, apart)
    if chains > 1:
        checks.append(check_agreement(lp, separation, info))
    if info.get("sampled") is not None:
        checks.append(_resting(found))
    if np.any(found.spread > -np.inf):
        checks.append(_spread_error(found, sites, apart=bool(apart)))
    checks += _dynamics(stats, info, centred)
    if "log_q" in stats:
        checks.append(khat_check(ratios_of(lp, stats["log_q"])))
    checks += data_checks(info)
    notes = list(info.get("notes", ()))
    still = found.constant - len(found.resting)
    if still:
        notes.append(f"{still} elements are constant by construction and are not assessed")
    return Diagnostics(tuple(checks), interrupted, tuple(notes))


def _chains(chains: int) -> Check:
    advice = "" if chains > 1 else "convergence is not assessable from one chain: run 4"
    return Check("chains", float(chains), 2.0, chains > 1, advice)


def _convergence_checks(
    found: Convergence, chains: int, centred: tuple[str, ...], apart: str
) -> list[Check]:
    resting = "a chain does not move, or is not finite"
    few = f"{found.draws} draws a chain are too few: take more"
    sites = f"; or reparam='auto' ({', '.join(centred)})" if centred else ""
    checks = []
    if chains > 1:
        value, worst = found.worst_rhat
        passed = bool(np.isfinite(value) and value < RHAT)
        advice = ""
        if not passed:
            reason = few if np.isnan(value) else "chains have not mixed"
            reason = resting if np.isinf(value) else reason
            place = found.names[telling_place(found.rhat, found.names)] if found.names else worst
            who = worst if place == worst else f"{worst}, {place}"
            advice = f"{reason} (worst: {who}); {apart or 'run longer' + sites}"
        checks.append(Check("rhat", value, RHAT, passed, advice))
    for name, (value, worst) in (("ess_bulk", found.worst_bulk), ("ess_tail", found.worst_tail)):
        passed = bool(np.isfinite(value) and value >= ESS)
        advice = ""
        if not passed and np.isfinite(value) and value > 0:
            factor = int(np.ceil(1.2 * ESS / value))
            more = "see rhat" if apart else f"about {factor} x as many{sites}"
            advice = f"too few effective draws (worst: {worst}); {more}"
        elif not passed:
            advice = few if np.isnan(value) else f"{resting} (worst: {worst})"
        checks.append(Check(name, value, float(ESS), passed, advice))
    return checks


def _resting(found: Convergence) -> Check:
    """Whether every element of a sampled site takes more than one value."""
    count = len(found.resting)
    shown = ", ".join(found.resting[:3]) + (f" and {count - 3} more" if count > 3 else "")
    advice = (
        f"{shown} has the same value in all draws of all chains: no move is accepted, or moves are "
        "lost to rounding; centre and rescale it (sample z, and compute the site as loc + scale "
        "* z), or give other starts (init_strategy=)"
    )
    return Check("stuck_sites", float(count), 0.0, not count, advice if count else "")


def _spread_error(
    found: Convergence, sites: Mapping[str, np.ndarray | StoredDraws], *, apart: bool
) -> Check:
    """Whether standard deviations are settled: with heavy tails they are not, whatever R-hat says.

    Only sampled sites are judged: a derived quantity, such as a ratio, may have no variance at all.
    """
    value, worst = found.worst_spread
    if np.isfinite(value) and value <= SPREAD_ERROR:
        return Check("sd_error", value, SPREAD_ERROR, True)
    unsettled = f"the standard deviation of {worst} is not settled"
    if apart and not found.rhat[found.names.index(worst)] <= APART:
        return Check("sd_error", value, SPREAD_ERROR, False, f"{unsettled}: see rhat")
    index = tail_index(element_draws(worst, sites))
    if index >= NO_MEAN:
        why = (
            f"its tails are so heavy (Pareto k-hat {index:.2f}) that its mean is not to be trusted "
            "either; report its median and intervals"
        )
    elif index >= NO_VARIANCE:
        why = (
            f"its tails are so heavy (Pareto k-hat {index:.2f}) that it may have no variance; "
            "report its median and intervals"
        )
    else:
        why = "heavy tails or too few draws; report medians and intervals, take more draws"
    advice = f"{unsettled}: {why}, or give it a lighter-tailed prior"
    return Check("sd_error", value, SPREAD_ERROR, False, advice)


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
