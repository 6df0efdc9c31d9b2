"""How far a chain of fits, each the prior of the next, has drifted from the fit of all data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from bayes.diagnostics.approximations import KHAT, MEAN_SHIFT, RAW_ESS, SD_SHIFT
from bayes.diagnostics.importance import importance_ratios, nearly_equal
from bayes.errors import SettingsError
from bayes.inference.densities import densities_at
from bayes.precision import double_precision
from bayes.problem import Problem

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Drift", "chain_drift"]

_FEWEST_DRAWS, _BLOCK = 100, 512


@dataclasses.dataclass(frozen=True)
class Drift:
    """The last posterior of a chain beside the exact posterior of all of its data.

    Parameters
    ----------
    batches : int
        Batches of data.
    draws : int
        Draws of the last posterior.
    khat : float
        Shape of the tail of the ratios of the exact density to that of the chain.
    share : float
        Effective share of the draws under these ratios as weights, in (0, 1].
    usable : bool
        Whether the weights can tell moments of the exact posterior.
    elements : tuple of str
        Elements of the latent sites.
    mean, sd : array of shape (elements,)
        Means and standard deviations of the last posterior's draws.
    exact_mean, exact_sd : array of shape (elements,)
        Those of the exact posterior, by the weighted draws.
    """

    batches: int
    draws: int
    khat: float
    share: float
    usable: bool
    elements: tuple[str, ...]
    mean: Float[np.ndarray, " n"]
    sd: Float[np.ndarray, " n"]
    exact_mean: Float[np.ndarray, " n"]
    exact_sd: Float[np.ndarray, " n"]

    @property
    def shift(self) -> Float[np.ndarray, " n"]:
        """Mean of the chain less the exact one, in exact standard deviations."""
        return np.where(self._moves, (self.mean - self.exact_mean) / self._units, 0.0)

    @property
    def ratio(self) -> Float[np.ndarray, " n"]:
        """Standard deviation of the chain over the exact one."""
        return np.where(self._moves, self.sd / self._units, 1.0)

    @property
    def ok(self) -> bool:
        """Whether it has drifted little: 0.2 standard deviations, and 20 % of them, at most."""
        return self.usable and not self._drifted.any()

    @property
    def verdict(self) -> str:
        """What was found, in a sentence."""
        many = f"the posterior of {self.batches} batches"
        if not self.usable:
            return (
                f"The chain is too far from {many} for its draws to tell how far (k-hat "
                f"{self.khat:.2f}, {self.share * self.draws:.0f} effective draws of {self.draws}): "
                "fit all data at once."
            )
        worst = int(np.argmax(np.maximum(np.abs(self.shift), np.abs(self.ratio - 1.0))))
        found = (
            f"{self.elements[worst]} is off by {self.shift[worst]:+.2f} sd in its mean, and its "
            f"sd is {self.ratio[worst]:.2f} times the exact one"
        )
        if self.ok:
            return f"The chain is near {many}: at most, {found} (k-hat {self.khat:.2f})."
        return (
            f"The chain has drifted from {many}: {found} (k-hat {self.khat:.2f}). Fit all data at "
            "once, or give the priors more components."
        )

    def table(self) -> pd.DataFrame:
        """One row an element: both means and standard deviations, and how they differ."""
        import pandas as pd

        columns = {
            "mean": self.mean,
            "exact_mean": self.exact_mean,
            "shift_sd": self.shift,
            "sd": self.sd,
            "exact_sd": self.exact_sd,
            "sd_ratio": self.ratio,
        }
        return pd.DataFrame(columns, index=pd.Index(self.elements, name="element"))

    def __repr__(self) -> str:
        return f"Drift: {self.verdict}"

    @property
    def _moves(self) -> np.ndarray:
        """Elements that are not the same in every draw, as the first of a Cholesky factor is."""
        return self.sd > 1e-12 * np.maximum(np.abs(self.mean), 1e-300)

    @property
    def _units(self) -> np.ndarray:
        least = np.finfo(float).tiny
        return np.maximum(self.exact_sd, least)

    @property
    def _drifted(self) -> np.ndarray:
        return (np.abs(self.shift) > MEAN_SHIFT) | (np.abs(self.ratio - 1.0) > SD_SHIFT)


def chain_drift(posteriors: Sequence[Any]) -> Drift:
    """Weight the last posterior of a chain to the exact posterior of all data.

    Each fit's prior is a mixture that stands for the posterior before it, and what it leaves out
    adds up. Draws of the last posterior are weighted by the ratio of the exact joint density of
    all batches, under the prior of the first fit, to the density that the last fit aimed at.

    Parameters
    ----------
    posteriors : sequence of Posterior
        Posteriors of one program, two or more of them in the order of the batches, each fitted
        under a prior made of the one before.

    Returns
    -------
    Drift

    Raises
    ------
    SettingsError
        Fewer than two posteriors, posteriors of other sites, too few draws, or densities that are
        not finite.
    UnsupportedModelError
        Where discrete latent sites are summed out: the likelihood is then no sum over sites.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling.

    Examples
    --------
    >>> first = bayes.fit(model, batches[0], method=trained)
    >>> second = bayes.fit(model, batches[1], method=trained.with_prior(first))
    >>> chain_drift([first, second]).verdict
    """
    problems = [posterior.problem for posterior in posteriors]
    _require_chain(problems)
    first, last = problems[0], problems[-1]
    latents = last.program.latents
    values = {s.name: np.asarray(posteriors[-1].draws(s.name), np.float64) for s in latents}
    flat = {n: v.reshape(-1, *v.shape[2:]) for n, v in values.items()}
    count = len(next(iter(flat.values())))
    if count < _FEWEST_DRAWS:
        raise SettingsError(f"{count} draws tell no drift; at least {_FEWEST_DRAWS} are needed")
    with double_precision():
        positions = last.unconstrain(flat, lead=1)
        target = densities_at(last, positions)
        exact = densities_at(first, positions) + sum(_likelihood(p, flat) for p in problems[1:])
    bad = ~np.isfinite(target) | np.isnan(exact) | (exact == np.inf)
    if bad.any() or not np.isfinite(exact).any():
        raise SettingsError(
            f"the log density is not finite at {max(bad.sum(), 1)} of {count} draws of the last "
            "posterior, which is then no posterior of these data"
        )
    ratios = importance_ratios(exact, target)
    weights = np.exp(ratios.log_weights)
    weights = weights / weights.sum()
    drawn = np.concatenate([flat[s.name].reshape(count, -1) for s in latents], axis=1)
    # Away from the draws' own mean, so that squares keep their digits.
    mean = drawn.mean(0)
    away = drawn - mean
    exact_away = weights @ away
    enough = nearly_equal(ratios) or ratios.khat < KHAT
    return Drift(
        batches=len(problems),
        draws=count,
        khat=float(ratios.khat),
        share=float(ratios.ess / count),
        usable=bool(enough and ratios.ess >= RAW_ESS),
        elements=_elements(last),
        mean=mean,
        sd=np.sqrt(np.square(away).mean(0)),
        exact_mean=mean + exact_away,
        exact_sd=np.sqrt(weights @ np.square(away - exact_away)),
    )


def _require_chain(problems: Sequence[Problem]) -> None:
    if len(problems) < 2:
        raise SettingsError(f"a chain is of two posteriors or more, got {len(problems)}")
    first = problems[0].program.latents
    for place, problem in enumerate(problems[1:], 2):
        if problem.program.latents != first:
            names = [", ".join(s.name for s in p) for p in (first, problem.program.latents)]
            raise SettingsError(
                f"posterior {place} is of other unknowns than the first: {names[1]} where the "
                f"first has {names[0]}, of the same shapes; a chain is of one program"
            )


def _likelihood(problem: Problem, values: dict[str, np.ndarray]) -> np.ndarray:
    """Log likelihood of a batch, its factors included, at every draw."""
    latent = {s.name for s in problem.program.latents}
    count = len(next(iter(values.values())))
    total = np.zeros(count)
    # Elementwise, for every row of the data: only so many draws at once.
    for begin in range(0, count, _BLOCK):
        block = slice(begin, min(begin + _BLOCK, count))
        parts = problem.site_log_probs({n: v[block] for n, v in values.items()}, lead=1)
        for name, part in parts.items():
            if name not in latent:
                total[block] += part.reshape(len(part), -1).sum(1)
    return total


def _elements(problem: Problem) -> tuple[str, ...]:
    """Names of the elements of latent sites, such as ``theta[3]``."""
    return tuple(
        f"{s.name}[{','.join(map(str, i))}]" if s.shape else s.name
        for s in problem.program.latents
        for i in np.ndindex(s.shape)
    )
