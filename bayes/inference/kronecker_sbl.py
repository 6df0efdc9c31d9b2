"""Kronecker sparse Bayesian learning: variances by maximum evidence, coefficients exactly.

Given the variances the posterior of the coefficients is normal and known. The variances are those
of greatest evidence, or with their priors of greatest marginal posterior density (type-II maximum
likelihood, MAP), found by monotone updates; or they are sampled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array

from bayes.errors import SettingsError
from bayes.inference.kronecker.climb import Climb
from bayes.inference.kronecker.collapsed import require_collapsible
from bayes.inference.kronecker.hyper import HyperSampling
from bayes.inference.kronecker.masked_climb import MaskedClimb
from bayes.inference.kronecker.outcome import known_posterior
from bayes.inference.kronecker.posterior import KroneckerPosterior
from bayes.inference.kronecker.recognition import recognise
from bayes.inference.kronecker.updates import UPDATES
from bayes.inference.nuts import NUTS
from bayes.inference.settings import require_positive, require_whole
from bayes.method import Chunk, Draws, Method, Progress
from bayes.problem import Problem

__all__ = ["KroneckerSBL"]

State = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class KroneckerSBL(Method):
    """Sparse Bayesian learning with Kronecker-structured dictionary and prior variances.

    The program has coefficients ``x ~ KroneckerNormal(variances)`` and observations
    ``y ~ KroneckerLinear(factors, x, noise)``, or their complex versions, one or several snapshots
    of them in plates; the variances along each axis and the noise are sites with priors, or given.
    Priors may be improper and flat on positive numbers, Gamma, InverseGamma, Exponential,
    HalfCauchy or HalfNormal; a Gamma with a concentration below one makes variances go to zero.

    Observations may be missing (``mask=`` of the distribution): they are filled in by conjugate
    gradients between updates.

    Coefficients of slices that are pruned are exactly zero. Intervals take the variances as known:
    the diagnostics call the posterior type II. ``hyper="nuts"`` samples the variances instead.

    Parameters
    ----------
    update : {"mm", "am", "svd", "ksbl"}
        ``"mm"`` majorises and minimises, one axis at a time: monotone, and the fastest to the same
        evidence. ``"am"`` is the alternating minimisation of He and Joseph, ``"ksbl"`` one sweep of
        it an iteration; both are monotone. ``"svd"`` fits a product to second moments by least
        squares: not monotone, and for flat priors only.
    sweeps : int
        Updates of all axes at most.
    tolerance : float
        The climb ends once a sweep gains less of log density than this for each number observed.
    prune : float
        Variances below this part of the largest one along their axis are taken for zero.
    starts : int
        Climbs that are tried for 30 sweeps, of which the one of greatest evidence goes on: from
        equal variances, from a rank-one fit, and then from random ones. With missing observations
        there is one.
    draws : int
        Draws of the coefficients; fewer where they would take more than 1 GiB.
    hyper : "map", "nuts" or NUTS
        ``"nuts"``, or a configured NUTS, draws variances and noise from their marginal posterior,
        with the coefficients integrated out, and coefficients given them.

    References
    ----------
    He and Joseph (2024), Bayesian algorithms for Kronecker-structured sparse vector recovery with
    application to IRS-MIMO channel estimation, IEEE Transactions on Signal Processing.
    """

    name: ClassVar[str] = "kronecker_sbl"
    exact: ClassVar[bool] = False
    structured: ClassVar[bool] = True
    refinable: ClassVar[bool] = False

    update: str = "mm"
    sweeps: int = 1000
    tolerance: float = 1e-6
    prune: float = 1e-8
    starts: int = 2
    draws: int = 1000
    hyper: str | NUTS = "map"

    def __post_init__(self) -> None:
        if self.update not in UPDATES:
            raise SettingsError(f"update must be one of {', '.join(UPDATES)}, got {self.update!r}")
        for name in ("sweeps", "starts", "draws"):
            require_whole(name, getattr(self, name))
        require_positive("tolerance", self.tolerance)
        if not 0 <= self.prune < 1:
            raise SettingsError(f"prune is a share between 0 and 1, got {self.prune!r}")
        if not isinstance(self.hyper, NUTS) and self.hyper not in ("map", "nuts"):
            raise SettingsError(f"hyper is 'map', 'nuts' or a NUTS, got {self.hyper!r}")

    # ------------------------------------------------------------------ contract

    def check(self, problem: Problem) -> None:
        """Refuse programs of anything but the Kronecker distributions."""
        found = recognise(problem)
        if self.hyper != "map":
            require_collapsible(problem, found.coefficients, found.observed)
        elif self.update == "svd":
            for site, axis in zip(found.scales, found.model.axes, strict=True):
                if axis.prior is None or not axis.prior.is_flat or axis.operator is not None:
                    raise SettingsError(
                        "update='svd' fits second moments and knows no priors, given variances or "
                        f"operators (variances{f' {site}' if site else ''}); update='mm'"
                    )

    def init(self, problem: Problem, key: Array) -> State:
        """The starts."""
        return self._run(problem).init(problem, key)

    def step(self, problem: Problem, state: State) -> tuple[State, Chunk | None]:
        """Some sweeps of the variances, or some draws."""
        return self._run(problem).step(problem, state)

    def done(self, problem: Problem, state: State) -> bool:
        """Whether the variances are found and all draws are taken."""
        return self._run(problem).done(problem, state)

    def finish(self, problem: Problem, state: State, chunks: list[Chunk], key: Array) -> Draws:
        """Draws of the coefficients with the variances that they are given."""
        return self._run(problem).finish(problem, state, chunks, key)

    def progress(self, problem: Problem, state: State) -> Progress | None:
        """How many draws are taken, once there are any."""
        return self._run(problem).progress(problem, state)

    def settings(self) -> dict[str, Any]:
        """The settings, with those of the sampler of variances."""
        found = super().settings()
        if isinstance(self.hyper, NUTS):
            found["hyper"] = {"nuts": self.hyper.settings()}
        return found

    @classmethod
    def structure(
        cls, problem: Problem, sites: Mapping[str, np.ndarray], info: Mapping[str, Any]
    ) -> KroneckerPosterior | None:
        """The posterior given the variances, in closed form; None where these were sampled."""
        return known_posterior(problem, sites, info)

    def _run(self, problem: Problem) -> Climb | MaskedClimb | HyperSampling:
        if self.hyper != "map":
            return HyperSampling(self.hyper if isinstance(self.hyper, NUTS) else NUTS())
        common = (self.update, self.sweeps, self.tolerance, self.prune, self.draws)
        if recognise(problem).mask is not None:
            return MaskedClimb(*common)
        return Climb(*common, self.starts)
