"""The verdict on independent draws of an approximation, raw or resampled by their weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import ndtri

from bayes.diagnostics.elements import element_labels, resting_elements
from bayes.diagnostics.importance import Ratios, importance_ratios, nearly_equal
from bayes.diagnostics.verdict import Check, Diagnostics
from bayes.stored_draws import StoredDraws

__all__ = [
    "converged_check",
    "data_checks",
    "finite_check",
    "judge_independent",
    "khat_check",
    "ratios_of",
]

KHAT, _FEWEST_RATIOS = 0.7, 100
"""Yao et al. (2018): below 0.7 the draws can be mended by weights, and means can be trusted."""
MEAN_SHIFT, SD_SHIFT = 0.2, 0.2
"""What weights may change of a mean, in standard deviations, and of a standard deviation."""
FALSE_ALARMS = 1e-3
"""How often at most draws of the posterior itself are said to drift under moves."""
RAW_ESS, RESAMPLED_ESS = 100, 400
"""Effective draws under the weights: to judge raw draws by, and to stand for the posterior."""
_MORE = "refine='psis' or refine='nuts' corrects it, or a richer approximation"


def judge_independent(
    sites: Mapping[str, np.ndarray | StoredDraws],
    stats: Mapping[str, np.ndarray],
    info: Mapping[str, Any],
    *,
    interrupted: str | None = None,
) -> Diagnostics:
    """Judge independent draws of an approximation.

    R-hat and effective sample sizes say nothing about them: they are of the approximation,
    whatever the posterior is. What says something are the ratios of the two densities.

    Parameters
    ----------
    sites : mapping of array
        Draws by site, of shape (chain, draw, ...).
    stats : mapping of array
        ``lp`` and ``log_q`` at the draws.
    info : mapping
        ``not_converged``, why the approximation is not the best of its family; ``importance``,
        k-hat and effective number of the ratios where the draws were resampled by them; ``moves``,
        how means and standard deviations drift under moves that leave the posterior as it is;
        ``sampled``, ``non_finite``, ``frozen`` and ``notes`` as for Markov chains.
    interrupted : str, optional
        Why the run was stopped early.

    Returns
    -------
    Diagnostics
    """
    checks = [finite_check(info), converged_check(info)]
    known = info.get("importance")
    if known is not None:
        checks.append(khat_check(float(known["khat"]), equal=bool(known.get("nearly_equal"))))
        checks.append(_enough(float(known["ess"]), RESAMPLED_ESS, known["candidates"]))
    else:
        ratios = ratios_of(stats.get("lp"), stats["log_q"])
        khat = khat_check(ratios)
        checks.append(khat)
        if ratios is not None and khat.passed:
            checks.append(_enough(ratios.ess, RAW_ESS, len(ratios.log_ratios)))
            checks += _moments(sites, info, ratios)
    checks += _moves(info) + _resting(sites, info) + data_checks(info)
    return Diagnostics(tuple(checks), interrupted, tuple(info.get("notes", ())))


def ratios_of(lp: np.ndarray | None, log_q: np.ndarray) -> Ratios | None:
    """Ratios of the draws; None where they cannot tell.

    A draw without posterior density has a ratio of zero. One whose density is NaN, or a log density
    of the approximation that is not finite, leaves nothing to be judged.
    """
    if lp is None or np.isnan(lp).any() or not np.isfinite(log_q).all():
        return None
    lp, log_q = np.ravel(lp), np.ravel(log_q)
    known = np.isfinite(lp)
    if known.sum() < _FEWEST_RATIOS or np.any(lp == np.inf):
        return None
    return importance_ratios(lp, log_q)


def khat_check(found: Ratios | float | None, *, equal: bool = False) -> Check:
    """Whether an approximation covers the posterior, by the tail of its importance ratios."""
    value = found.khat if isinstance(found, Ratios) else found
    value = float("nan") if value is None else float(value)
    passed = bool(value < KHAT)
    if not passed and (equal or (isinstance(found, Ratios) and nearly_equal(found))):
        return Check(
            "khat", value, KHAT, True, "the ratios' tail is heavy, but all are nearly equal"
        )
    advice = ""
    if np.isnan(value):
        advice = "the approximation cannot be judged without finite log densities; method='nuts'"
    elif not passed:
        advice = (
            "the approximation misses part of the posterior, and its intervals are not to be "
            "trusted; refine='nuts', method='nuts' or a richer approximation"
        )
    return Check("khat", value, KHAT, passed, advice)


def finite_check(info: Mapping[str, Any]) -> Check:
    """Whether all draws are finite."""
    bad = int(info.get("non_finite", 0))
    advice = (
        "" if not bad else "draws overflow: the posterior may be improper; give it proper priors"
    )
    return Check("finite", float(bad), 0.0, bad == 0, advice)


def data_checks(info: Mapping[str, Any]) -> list[Check]:
    """What the data alone say against a fit."""
    if not info.get("frozen"):
        return []
    names = ", ".join(info["frozen"])
    text = f"observed {names} has no variance: its scale goes to 0"
    return [Check("data", 0.0, 0.0, False, text)]


def converged_check(info: Mapping[str, Any]) -> Check:
    """Whether a method has nothing against its own result."""
    why = str(info.get("not_converged", ""))
    return Check("objective", float(bool(why)), 0.0, not why, why)


def _enough(ess: float, threshold: int, candidates: int) -> Check:
    passed = bool(ess >= threshold)
    advice = ""
    if not passed:
        advice = (
            f"{candidates} draws are worth no more than {ess:.0f} under their importance weights; "
            "take more (draws=), refine='nuts' or method='nuts'"
        )
    return Check("importance_ess", float(ess), float(threshold), passed, advice)


def _moments(
    sites: Mapping[str, np.ndarray | StoredDraws], info: Mapping[str, Any], ratios: Ratios
) -> list[Check]:
    """Whether means and standard deviations of raw draws are those under the weights.

    An approximation that is too wide everywhere has a good k-hat: its draws can be mended, but
    as they are they are wrong.
    """
    weights = np.exp(ratios.log_weights)
    judged = info.get("sampled")
    names, shifts, changes = [], [], []
    for name, draws in sites.items():
        if judged is not None and name not in judged:
            continue
        x = np.asarray(draws, float)
        shape = x.shape[2:]
        x = x.reshape(x.shape[0] * x.shape[1], -1)
        centre = x.mean(axis=0)
        x = x - centre
        mean = weights @ x
        with np.errstate(all="ignore"):
            sd = np.sqrt(np.maximum(weights @ np.square(x) - mean**2, 0.0))
            raw = x.std(axis=0)
            moves = raw > 1e-12 * (1.0 + np.abs(centre))
            shifts.append((mean / sd)[moves])
            changes.append((raw / sd - 1.0)[moves])
        names += element_labels(name, shape, moves)
    if not names:
        return []
    shift, change = np.concatenate(shifts), np.concatenate(changes)
    return [
        _moment_check("mean_shift", "mean", shift, MEAN_SHIFT, names),
        _moment_check("sd_shift", "standard deviation", change, SD_SHIFT, names),
    ]


def _moment_check(
    name: str, what: str, found: Float[np.ndarray, " element"], most: float, names: list[str]
) -> Check:
    sizes = np.nan_to_num(np.abs(found), nan=np.inf)
    worst = int(np.argmax(sizes))
    value = float(sizes[worst])
    passed = value <= most
    unit = "standard deviations" if what == "mean" else "of itself"
    advice = (
        ""
        if passed
        else f"the {what} of {names[worst]} is off by {value:.2g} {unit} by the importance "
        f"weights; {_MORE}"
    )
    return Check(name, value, most, passed, advice)


def _moves(info: Mapping[str, Any]) -> list[Check]:
    """Whether means and standard deviations stay under moves that leave the posterior as it is."""
    found = info.get("moves")
    if found is None:
        return []
    checks = []
    # Of the largest of so many nearly normal numbers, with the error that so many draws have.
    quantile = -float(ndtri(FALSE_ALARMS / (4.0 * found["unknowns"])))
    error = 1.0 / np.sqrt(found["particles"])
    for name, what, most, part in (
        ("mean_shift", "mean", MEAN_SHIFT, 1.0),
        ("sd_shift", "standard deviation", SD_SHIFT, 0.75),
    ):
        value = float(found[name])
        threshold = float(max(most, quantile * part * error))
        passed = bool(value <= threshold)
        advice = (
            ""
            if passed
            else f"the {what} of {found[f'{name}_of']} drifts when draws are moved by Hamiltonian "
            "dynamics: there is mass where the approximation has none; refine='nuts' or "
            "method='nuts'"
        )
        checks.append(Check(f"moved_{name}", value, threshold, passed, advice))
    return checks


def _resting(sites: Mapping[str, np.ndarray | StoredDraws], info: Mapping[str, Any]) -> list[Check]:
    """Whether every element of a sampled site takes more than one value."""
    still: list[str] = []
    for name in info.get("sampled") or ():
        if name not in sites:
            continue
        draws = np.asarray(sites[name])
        rows = draws.reshape(draws.shape[0] * draws.shape[1], -1)
        still += resting_elements(name, np.asarray(draws[0, 0]), (rows == rows[0]).all(axis=0))
    if not still:
        return []
    shown = ", ".join(still[:3]) + (f" and {len(still) - 3} more" if len(still) > 3 else "")
    advice = f"{shown} has the same value in all draws: the approximation has collapsed there"
    return [Check("stuck_sites", float(len(still)), 0.0, False, advice)]
