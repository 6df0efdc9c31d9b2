"""The verdict on type-II estimates: variances taken as known at their most probable values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bayes.diagnostics.approximations import converged_check, data_checks, finite_check
from bayes.diagnostics.verdict import Check, Diagnostics

__all__ = ["judge_type_ii"]

LEAST_NOISE = 1e-6
"""Share of the observations' power below which noise that is learned has gone to zero."""
LEAST_KEPT = 0.5
"""Share of the evidence gained over no coefficients at all that priors may not give away."""
WIDEST = 1.2
"""By how much intervals may be too narrow as the variances are taken for known."""
FEWEST = 20.0
"""Observations a variance. With normal coefficients on the support of a product, 5 to 25 dB, 90 %
intervals of the coefficients there cover .69 to .89 at 8 observations a variance, .83 to .92 at 15,
and .90 to .92 at 31 (180 fits each); in 3 of 90 fits at 5 dB and 15 a variance most are missed."""
_NOTHING = 3.0
_FAR = 5.0
"""Standard errors of a kurtosis of independent normal numbers."""
_GAIN = 10.0
"""Log evidence below which there is nothing much to give away."""


def judge_type_ii(info: Mapping[str, Any], *, interrupted: str | None = None) -> Diagnostics:
    """Judge a posterior given variances of greatest evidence, or most probable ones.

    Draws given the variances are exact. What can be wrong is the variances: not those of a maximum,
    at the edge where noise or coefficients vanish, or known too badly to be taken for known.

    Parameters
    ----------
    info : mapping
        ``not_converged``; ``log_evidence`` in the end, ``peak_evidence`` on the way and
        ``null_evidence`` without coefficients; ``noise_share``, of the observations' power, where
        it is learned; ``widening``, by how much intervals would be wider with the uncertainty of
        the variances; ``observations_per_variance``; ``kurtosis`` of
        coefficients that are well known, and their number; ``non_finite``, ``frozen`` and
        ``notes`` as for Markov chains.
    interrupted : str, optional
        Why the run was stopped early.

    Returns
    -------
    Diagnostics
    """
    checks = [finite_check(info), converged_check(info)]
    checks += _evidence(info) + _noise(info)
    checks += [_widening(info), *_enough(info)]
    checks += data_checks(info)
    notes = [*info.get("notes", ()), *_misfit(info)]
    return Diagnostics(tuple(checks), interrupted, tuple(notes))


def _misfit(info: Mapping[str, Any]) -> list[str]:
    """What the observations say against the model itself, which no inference mends."""
    notes = []
    if info.get("log_evidence") is not None:
        gain = float(info["log_evidence"]) - float(info["null_evidence"])
        if gain < _NOTHING:
            notes.append(
                f"the observations show no coefficients: the log evidence is {gain:.1f} above that "
                "of noise alone"
            )
    kurtosis, count = info.get("kurtosis") or (0.0, 1.0)
    if kurtosis > 3.0 + _FAR * np.sqrt(24.0 / count):
        notes.append(
            f"coefficients have heavier tails than their normal prior (kurtosis {kurtosis:.1f}, "
            "not 3): intervals of what the observations do not determine may be far too narrow; "
            "hold some observations out"
        )
    return notes


def _evidence(info: Mapping[str, Any]) -> list[Check]:
    if info.get("log_evidence") is None:
        return []
    peak = float(info["peak_evidence"]) - float(info["null_evidence"])
    found = float(info["log_evidence"]) - float(info["null_evidence"])
    if peak < _GAIN:
        return []
    share = found / peak
    passed = bool(share >= LEAST_KEPT)
    advice = (
        ""
        if passed
        else f"the priors of the variances took back {1 - share:.0%} of the evidence that was "
        "found on the way: coefficients that the observations show are gone; take priors with less "
        f"mass at zero (a larger concentration), or {_sampled(info)}"
    )
    return [Check("evidence_kept", share, LEAST_KEPT, passed, advice)]


def _noise(info: Mapping[str, Any]) -> list[Check]:
    share = info.get("noise_share")
    if share is None:
        return []
    passed = bool(share > LEAST_NOISE)
    advice = (
        ""
        if passed
        else "the noise has gone to zero: the coefficients interpolate the observations; give the "
        "noise, or a prior that keeps it from zero"
    )
    return [Check("noise_share", float(share), LEAST_NOISE, passed, advice)]


def _widening(info: Mapping[str, Any]) -> Check:
    """The label: what it means, and how much it matters here."""
    value = info.get("widening")
    label = "type II: intervals take variances and noise for known at their most probable values"
    if value is None:
        return Check(
            "type_ii",
            float("nan"),
            WIDEST,
            True,
            f"{label}; what that leaves out was not assessed; {_sampled(info)} counts it",
        )
    passed = bool(value <= WIDEST)
    amount = (
        f"those of relevant coefficients would be {value:.2f} times as wide with the "
        "uncertainty of the variances"
    )
    sampled = _sampled(info)
    more = f"; {sampled} counts it" if passed else f", too much to leave out: {sampled}"
    return Check("type_ii", float(value), WIDEST, passed, f"{label}; {amount}{more}")


def _enough(info: Mapping[str, Any]) -> list[Check]:
    value = info.get("observations_per_variance")
    if value is None:
        return []
    passed = bool(value >= FEWEST)
    advice = (
        ""
        if passed
        else "so few observations may show the wrong slices, and then intervals that take the "
        f"variances for known are far too narrow; {_sampled(info)}"
    )
    return [Check("observations_per_variance", float(value), FEWEST, passed, advice)]


def _sampled(info: Mapping[str, Any]) -> str:
    """What does not take the variances for known."""
    return "method='nuts'" if info.get("masked") else "hyper='nuts'"
