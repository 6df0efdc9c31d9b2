"""Log evidence by the importance ratios of draws whose log density is known."""

from __future__ import annotations

import numpy as np

from bayes.diagnostics.approximations import KHAT, ratios_of
from bayes.diagnostics.importance import nearly_equal
from bayes.method import Draws

__all__ = ["log_evidence"]


def log_evidence(draws: Draws) -> dict[str, float]:
    """Log evidence by the mean of the importance ratios, where their tail allows it.

    Parameters
    ----------
    draws : Draws
        Of an approximation, raw or resampled; the ratios are those of what they were chosen from.

    Returns
    -------
    dict
        ``log_evidence`` in nats, of the model's normalised density, and ``log_evidence_error``, its
        Monte Carlo standard error by the delta method; empty where k-hat is 0.7 or more.
    """
    source = draws.candidates
    if source is None:
        assert draws.log_q is not None
        source = {"lp": draws.stats["lp"], "log_q": draws.log_q}
    lp, log_q = np.ravel(source["lp"]), np.ravel(source["log_q"])
    known = draws.info.get("importance")
    if known is not None:
        usable = known["khat"] < KHAT or known["nearly_equal"]
    else:
        found = ratios_of(lp, log_q)
        usable = found is not None and (found.khat < KHAT or nearly_equal(found))
    if not usable:
        return {}
    log_ratios = lp - log_q
    largest = float(log_ratios.max())
    ratios = np.exp(log_ratios - largest)
    mean = float(ratios.mean())
    error = float(ratios.std(ddof=1)) / (mean * np.sqrt(len(ratios)))
    return {"log_evidence": largest + float(np.log(mean)), "log_evidence_error": float(error)}
