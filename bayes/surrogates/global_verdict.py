"""What decides whether a learned posterior is right on average: sizes of errors, not p values.

Every threshold is a tolerance and, on top of it, the Monte Carlo error that is exceeded with a
small probability, which all checks, quantities and tests of one kind share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from bayes.diagnostics.verdict import Check

__all__ = ["coverage_check", "rank_check", "recovery_check", "tarp_check"]

COVERAGE, SHIFT, SPREAD, DISTANCE, TARP = 0.03, 0.1, math.log(1.1), 0.04, 0.03
"""What is tolerated: of the coverage of 90 % intervals; of the mean of ranks' normal scores, in
posterior standard deviations; of the log of their standard deviation; of the distribution function
of ranks, which a shift by a tenth moves by .04; and of the expected coverage of TARP."""
GAIN_ERRORS = 3.0
"""Standard errors by which the gain has to be above zero to be there."""


def rank_check(
    quantities: Sequence[str],
    elements: int,
    found: Mapping[str, np.ndarray],
    n: int,
    share: float,
) -> Check:
    """Whether ranks are as good as uniform, by the worst of three departures of any quantity.

    The first quantities are elements; the log likelihood may follow.
    """
    from scipy.special import kolmogi
    from scipy.stats import norm

    each = share / (3 * len(quantities))
    score = float(norm.isf(each / 2))
    allowed = {
        "shift": SHIFT + score / np.sqrt(n),
        "spread": SPREAD + score / np.sqrt(2 * n),
        "distance": DISTANCE + float(kolmogi(each)) / np.sqrt(n),
    }
    ratios = np.stack([np.abs(found[k]) / allowed[k] for k in allowed])
    value = float(ratios.max())
    if value <= 1:
        return Check("sbc", value, 1.0, True)
    of_elements = ratios[:, :elements]
    if of_elements.max() <= 1:
        better = "better" if found["shift"][-1] > 0 else "worse"
        advice = (
            f"true values fit their data {better} than draws do, more than any single element "
            "shows: dependence or width is wrong; take more components, or correct every fit by "
            "weights"
        )
        return Check("sbc", value, 1.0, False, advice)
    kind, place = divmod(int(of_elements.argmax()), elements)
    name = quantities[place]
    shift, spread = float(found["shift"][place]), float(found["spread"][place])
    words = {
        "shift": f"too {'low' if shift > 0 else 'high'}, by {abs(shift):.2g} standard deviations",
        "spread": f"too {'narrow' if spread > 0 else 'wide'}, about {math.exp(-spread):.2g} times "
        "as wide as they should be",
        "distance": f"of another shape: ranks are off by {found['distance'][place]:.2g}",
    }[list(allowed)[kind]]
    advice = f"posteriors of {name} are {words}; train for longer, or correct every fit by weights"
    return Check("sbc", value, 1.0, False, advice)


def coverage_check(
    names: Sequence[str], covered: Float[np.ndarray, " d"], n: int, share: float
) -> Check:
    """Whether 90 % intervals of every element hold the truth nearly that often.

    This is calibration for practice: an interval that holds in 87 to 93 % is as good as any.
    """
    from scipy.stats import norm

    edge = 0.9 - COVERAGE
    error = float(norm.isf(share / (2 * len(names)))) * math.sqrt(edge * (1 - edge) / n)
    away = np.abs(covered - 0.9)
    worst = int(away.argmax())
    value, threshold = float(away[worst]), COVERAGE + error
    if value <= threshold:
        return Check("coverage", value, threshold, True)
    advice = (
        f"90 % intervals of {names[worst]} hold the truth in {covered[worst]:.1%} of the "
        "simulations; train for longer, or correct every fit by weights"
    )
    return Check("coverage", value, threshold, False, advice)


def tarp_check(distance: float, n: int, share: float) -> Check:
    """Whether regions of all elements together hold the truth as often as they say."""
    from scipy.stats import kstwo

    threshold = TARP + float(kstwo.isf(share, n))
    if distance <= threshold:
        return Check("tarp", distance, threshold, True)
    advice = (
        f"joint regions hold the truth up to {distance:.0%} more or less often than they say; "
        "where single elements are right their dependence is not: take more components"
    )
    return Check("tarp", distance, threshold, False, advice)


def recovery_check(gain: float, error: float, p_likelihood: float | None, share: float) -> Check:
    """Whether the posteriors tell more than the prior, where the data teach anything.

    Posteriors that are the prior pass every test of ranks of the elements. Where data teach
    something, though, the truth fits its data better than draws of the prior do, so that ranks of
    the log likelihood are not uniform; where they teach nothing, the ranks are.
    """
    # Without any spread a gain is certain; that of the prior itself is zero.
    certain = math.copysign(math.inf, gain) if gain else 0.0
    value = gain / error if error > 0 else certain
    if value > GAIN_ERRORS:
        return Check("recovery", value, GAIN_ERRORS, True)
    if p_likelihood is None:
        advice = (
            "posteriors tell no more than the prior: nothing was learned, or the data teach "
            "nothing, which only log likelihoods would show"
        )
        return Check("recovery", value, GAIN_ERRORS, False, advice)
    if p_likelihood >= share:
        advice = "the data teach next to nothing, and the posteriors rightly stay at the prior"
        return Check("recovery", value, GAIN_ERRORS, True, advice)
    advice = (
        "posteriors tell no more than the prior, though the data do: the true values fit their "
        "data better than draws do; train for longer"
    )
    return Check("recovery", value, GAIN_ERRORS, False, advice)
