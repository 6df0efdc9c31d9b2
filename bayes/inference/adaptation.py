"""A mixture of normals that is fitted to the posterior by scores and importance weights."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

import numpy as np
from jaxtyping import Array, Float

from bayes.diagnostics.approximations import KHAT, RESAMPLED_ESS
from bayes.diagnostics.importance import Ratios, importance_ratios, nearly_equal
from bayes.inference.adaptive_importance import adapted, heavy_tailed
from bayes.inference.approximation import Approximation, State
from bayes.inference.densities import densities_at, gradients_at
from bayes.inference.mixtures import Mixture, component, draw, log_prob, mixture_of
from bayes.inference.randomness import Purpose, generator_of
from bayes.inference.resampling import resample
from bayes.inference.score_matching import match
from bayes.method import Chunk, Draws
from bayes.normals import Normal, push, whiten
from bayes.problem import Problem

__all__ = [
    "ADAPT",
    "LARGEST_FULL",
    "MATCH",
    "SETTLED",
    "AdaptedMixture",
    "entries_of",
    "mixture_in",
]

MATCH, ADAPT, SETTLED = 1, 2, 3
"""Stages: a normal is fitted to scores, the mixture to weights; draws. 0 is a subclass's own."""
LARGEST_FULL = 600
"""Unknowns up to which a full-rank normal is fitted by its scores."""
_LARGEST_ADAPTED = 60
"""Unknowns up to which weighted draws can tell a covariance."""
_FEWEST_MATCHES, _MOST_MATCHES, _STILL = 4, 60, 0.05
_DRAWS_A_ROUND = 1000
_GOOD_KHAT, _GOOD_SHARE, _USABLE_SHARE = 0.5, 0.25, 0.1
"""Ratios with which a mixture is good: where it can be adapted, more is asked of it."""
_EFFECTIVE, _MOST_CANDIDATES = 0.75, 4.0
"""Share of the draws that are to be effective, and candidates for each of them at most."""
_FEWEST_RATIOS = 100


@dataclasses.dataclass(frozen=True)
class AdaptedMixture(Approximation):
    """Importance draws of a mixture that is fitted by their weights until these are good.

    Draws of a heavy-tailed version of a mixture of normals are weighted by the exact density. Where
    the weights are good, draws are resampled by them; where they are not, and there are no more
    than 60 unknowns, the mixture moves to their weighted moments, up to ``rounds`` times. Where
    that does not help either, draws are those of the mixture before it was moved, and are not
    resampled.

    A subclass gives the first mixture. Its state has the entries of :meth:`blank`.

    Parameters
    ----------
    draws : int
        Draws that are handed out, of up to four times as many candidates.

    References
    ----------
    Cappé et al. (2008), Adaptive importance sampling in general mixture classes. Cai et al. (2024),
    Batch and match. Vehtari et al. (2024), Pareto smoothed importance sampling.
    """

    rounds: ClassVar[int] = 8
    """Rounds in which a mixture is fitted to the weights of its draws."""

    draws: int = 2000

    # ---------------------------------------------------------- what others may change

    @abc.abstractmethod
    def rescue(
        self, problem: Problem, state: State, ess: float, *, usable: bool, last: bool
    ) -> int:
        """The stage to go to where the weights of draws are not good; ``ADAPT`` to go on with them.

        Parameters
        ----------
        problem : Problem
            Model and data.
        state : dict
            The state, this round counted.
        ess : float
            Effective draws of the round; 0 where hardly any has posterior density.
        usable : bool
            Whether draws could be resampled by such weights.
        last : bool
            Whether there is no further round.
        """

    def candidates_for(self, count: int, ess: float) -> int:
        """Candidates to take of a mixture of which ``ess`` draws out of ``count`` are effective."""
        more = np.clip(_EFFECTIVE * count / ess, 1.0, _MOST_CANDIDATES)
        return int(np.ceil(self.draws * more))

    def corrected(self, draws: Draws, state: State) -> Draws:
        """Draws resampled where their ratios allow it."""
        assert draws.log_q is not None
        found = _ratios(draws.stats["lp"].ravel(), draws.log_q.ravel())
        if found is None or found.ess < RESAMPLED_ESS:
            return draws
        if not (found.khat < KHAT or nearly_equal(found)):
            return draws
        return resample(draws, state["words"], self.draws, ratios=found)

    # ------------------------------------------------------------------ contract

    def blank(self, problem: Problem, words: np.ndarray) -> State:
        """The entries of a state that this class works with, before there is a mixture."""
        d = problem.size
        nowhere = Normal(np.zeros((1, d)), np.ones((1, d)), np.zeros((1, d, 0)), np.zeros((1, 0)))
        return {
            "words": words,
            "iteration": np.asarray(0),
            "stream": np.asarray(2),
            "khat": np.asarray(np.nan),
            "trusted": np.asarray(False),
            "wanted": np.asarray(self.draws),
            "first": {"position": np.zeros((0, d)), "lp": np.zeros(0), "log_q": np.zeros(0)},
            "matched": {"log_weights": np.zeros(1), **nowhere._asdict()},
            "log_weights": np.zeros(1),
            **nowhere._asdict(),
        }

    def settled(self, problem: Problem, state: State) -> bool:
        """Whether the last rung is done."""
        return int(state["stage"]) == SETTLED

    def sample(
        self, problem: Problem, state: State, generator: np.random.Generator, count: int
    ) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
        """Draws of the heavy-tailed mixture, or of the mixture where its weights are no good."""
        mixture = mixture_in(state)
        mixture = heavy_tailed(mixture) if bool(state["trusted"]) else mixture
        x = draw(mixture, generator, count)
        return x, log_prob(mixture, x)

    def _draw(self, problem: Problem, state: State, before: int, count: int) -> Chunk:
        """Those that the mixture was judged by, where it was good at once; else fresh ones."""
        kept = state["first"]
        if before < len(kept["lp"]):
            return {name: values[before : before + count] for name, values in kept.items()}
        return super()._draw(problem, state, before, count)

    def wanted(self, state: State) -> int:
        """More than are handed out where some of them count for little."""
        return int(state["wanted"])

    def finish(self, problem: Problem, state: State, chunks: list[Chunk], key: Array) -> Draws:
        """Join the draws, and resample them where their ratios allow it."""
        return self.corrected(super().finish(problem, state, chunks, key), state)

    # --------------------------------------------------------------------- rungs

    def draws_a_round(self, problem: Problem, components: int) -> int:
        """Draws by whose weights a mixture of so many components is moved."""
        return _DRAWS_A_ROUND

    def match(
        self, problem: Problem, state: State, *, far: bool = False
    ) -> tuple[State, np.ndarray]:
        """Fit the first normal to its scores, and keep others that are elsewhere.

        Where it begins ``far`` from the posterior, the first batch counts alone: a normal that also
        stays near to where it was would take many to come there.
        """
        mixture, d = mixture_in(state), problem.size
        normal = component(mixture, 0)
        batch = 32 * max(1, -(-(d + 1) // 32))
        heights = []
        for t in range(_MOST_MATCHES):
            z = generator_of(state["words"], Purpose.NOISE, 1, t).standard_normal((batch, d))
            x = normal.mean + push(normal, z)
            values, gradients = gradients_at(problem, x)
            weight = np.inf if far and t == 0 else batch * d / (t + 1.0)
            new = match(normal, x, gradients, weight)
            moved = _distance(normal, new)
            normal = new
            heights.append(float(np.mean(values)) + normal.log_scale)
            if t + 1 >= _FEWEST_MATCHES and moved < _STILL:
                break
        others = [
            component(mixture, i)
            for i in range(1, len(mixture.log_weights))
            if _apart(normal, component(mixture, i).mean)
        ]
        weights = [1.0] + [0.2] * len(others)
        found = entries_of(mixture_of([normal, *others], np.asarray(weights)))
        new = {**state, **found, "matched": found, "stage": np.asarray(ADAPT)}
        return new, np.asarray(heights)

    def adapt(self, problem: Problem, state: State) -> tuple[State, np.ndarray]:
        """Take draws of the heavy-tailed mixture; fit it to them where it is not good enough."""
        mixture, rounds = mixture_in(state), int(state["iteration"])
        proposal = heavy_tailed(mixture)
        generator = generator_of(state["words"], Purpose.NOISE, int(state["stream"]), rounds)
        # Draws of the first round are the last ones, too, where they are good and cheap.
        block = self._block(problem)
        whole = rounds == 0 and block >= self.draws >= _DRAWS_A_ROUND
        count = self.draws if whole else self.draws_a_round(problem, len(mixture.log_weights))
        x = draw(proposal, generator, count)
        lp, log_q = densities_at(problem, x), log_prob(proposal, x)
        found = _ratios(lp, log_q)
        new = {**state, "iteration": np.asarray(rounds + 1)}
        if found is None:
            stage = self.rescue(problem, new, 0.0, usable=False, last=True)
            return {**new, "stage": np.asarray(SETTLED if stage == ADAPT else stage)}, np.zeros(0)
        new["khat"] = np.asarray(found.khat)
        small = problem.size <= _LARGEST_ADAPTED
        share = _GOOD_SHARE if small else _USABLE_SHARE
        good = found.khat < _GOOD_KHAT and found.ess > share * count
        if good and whole:
            new["first"] = {"position": x, "lp": lp, "log_q": log_q}
        last = rounds + 1 >= self.rounds or not small
        usable = bool(found.khat < KHAT and found.ess > _USABLE_SHARE * count)
        if not good:
            stage = self.rescue(problem, new, found.ess, usable=usable, last=last)
            if stage != ADAPT:
                return {**new, "stage": np.asarray(stage)}, np.zeros(0)
        if good or last:
            new |= {"trusted": np.asarray(usable), "stage": np.asarray(SETTLED)}
            if usable:
                new["wanted"] = np.asarray(self.candidates_for(count, found.ess))
            elif rounds > 0 and small:
                new |= state["matched"]  # what a few draws with all the weight made of it is worse
            return new, np.zeros(0)
        return {**new, **entries_of(adapted(mixture, x, found.log_weights))}, np.zeros(0)


def mixture_in(state: State) -> Mixture:
    """The mixture that a state holds."""
    normals = Normal(*(state[k] for k in Normal._fields))
    return Mixture(normals, state["log_weights"], np.full(len(state["log_weights"]), np.inf))


def entries_of(mixture: Mixture) -> dict[str, np.ndarray]:
    """A mixture of normals as entries of a state."""
    return {**mixture.normals._asdict(), "log_weights": mixture.log_weights}


def _ratios(lp: np.ndarray, log_q: np.ndarray) -> Ratios | None:
    """Ratios of draws; None where there are none to speak of."""
    lp = np.where(np.isnan(lp), -np.inf, lp)
    if np.isfinite(lp).sum() < _FEWEST_RATIOS or (lp == np.inf).any():
        return None
    return importance_ratios(lp, log_q)


def _distance(old: Normal, new: Normal) -> float:
    """How far one normal is from another, in standard deviations of the old one."""
    shift = whiten(old, new.mean[None])[0]
    change = new.log_scale - old.log_scale
    return float(np.sqrt(np.square(shift).mean() + np.square(change / len(shift))))


def _apart(normal: Normal, place: np.ndarray) -> bool:
    """Whether a place is where a normal has next to no mass."""
    d = len(place)
    square = float(np.square(whiten(normal, place[None])).sum())
    return bool(square > d + 6.0 * np.sqrt(2.0 * d) + 9.0)
