"""What each check of a verdict is called, and what it is about."""

from __future__ import annotations

__all__ = ["words_of"]

# Name in words, where it would pass, and what it is about.
_CHECKS = {
    "chains": (
        "Number of chains",
        "at least",
        "Whether chains agree shows only where there are several, from different starts.",
    ),
    "finite": (
        "Values that are not finite",
        "at most",
        "Draws that overflow hint at a posterior that is improper.",
    ),
    "rhat": (
        "Largest R-hat",
        "below",
        "Compares all chains with each one alone; 1 where they draw from the same distribution.",
    ),
    "ess_bulk": (
        "Smallest bulk ESS",
        "at least",
        "Independent draws that would give means and medians as precisely.",
    ),
    "ess_tail": (
        "Smallest tail ESS",
        "at least",
        "Independent draws that would give the ends of 90 % intervals as precisely.",
    ),
    "stuck_chains": (
        "Chains that sit apart",
        "at most",
        "Chains in different places have found several modes, or are stuck.",
    ),
    "stuck_sites": (
        "Values that never change",
        "at most",
        "A sampled site with the same value in all draws of all chains was not sampled.",
    ),
    "sd_error": (
        "Largest relative error of an sd",
        "at most",
        "Monte Carlo error of a standard deviation; large where tails are heavy.",
    ),
    "divergences": (
        "Divergent transitions",
        "at most",
        "Trajectories that numerical error threw off, where the posterior curves strongly.",
    ),
    "ebfmi": (
        "Smallest E-BFMI",
        "at least",
        "How well momentum draws reach all energies; low where tails are heavy or in a funnel.",
    ),
    "tree_depth": (
        "Share at the greatest tree depth",
        "at most",
        "Trajectories that were cut before they turned back make the sampler slow.",
    ),
    "data": ("Observed sites that vary", "", "Without variance in the data a scale goes to 0."),
    "khat": (
        "Pareto k-hat",
        "below",
        "Whether the approximation covers the posterior, by its importance ratios.",
    ),
    "objective": (
        "Objections of the method itself",
        "at most",
        "Whether the method has found the best approximation of its family.",
    ),
    "evidence_kept": (
        "Share of the evidence that priors left",
        "at least",
        "Priors that draw variances to zero may switch off what the observations show.",
    ),
    "noise_share": (
        "Noise as a share of the observations' power",
        "above",
        "Noise that goes to zero lets the coefficients interpolate the observations.",
    ),
    "type_ii": (
        "Widening left out by type II",
        "at most",
        "By how much intervals would be wider if variances were not taken for known.",
    ),
    "observations_per_variance": (
        "Observations for each variance",
        "at least",
        "With few, the wrong coefficients may be taken for zero.",
    ),
    "importance_ess": (
        "Effective draws under importance weights",
        "at least",
        "Draws of the posterior that would give means as precisely.",
    ),
    "mean_shift": (
        "Largest shift of a mean under the weights",
        "at most",
        "By how many standard deviations importance weights would change a mean.",
    ),
    "sd_shift": (
        "Largest change of an sd under the weights",
        "at most",
        "By what share importance weights would change a standard deviation.",
    ),
    "moved_mean_shift": (
        "Largest drift of a mean under moves",
        "at most",
        "By how many standard deviations a mean drifts when draws are moved by Hamiltonian "
        "dynamics; those of the posterior stay what they are.",
    ),
    "moved_sd_shift": (
        "Largest drift of an sd under moves",
        "at most",
        "By what share a standard deviation drifts when draws are moved likewise.",
    ),
}


def words_of(check: str) -> tuple[str, str, str]:
    """A check's name in words, the relation to its threshold where it passes, and its meaning.

    Parameters
    ----------
    check : str
        The check's name.
    """
    return _CHECKS.get(check, (check.replace("_", " ").capitalize(), "threshold", ""))
