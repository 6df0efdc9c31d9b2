"""The ladder of approximations: one after another, until the importance ratios say it will do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Float

from bayes.diagnostics.approximations import KHAT, RESAMPLED_ESS
from bayes.diagnostics.importance import Ratios, importance_ratios, nearly_equal
from bayes.inference.adaptive_importance import adapted, heavy_tailed
from bayes.inference.approximation import Approximation, State
from bayes.inference.climbing import climb, compile_climb
from bayes.inference.dadvi import DADVI, RESPONSE_STATE
from bayes.inference.densities import compile_gradients, densities_at, gradients_at
from bayes.inference.laplace import Laplace
from bayes.inference.mixtures import Mixture, component, draw, log_prob, mixture_of
from bayes.inference.quasi_newton import best_normal, distinct_ends
from bayes.inference.randomness import Purpose, generator_of
from bayes.inference.resampling import resample
from bayes.inference.score_matching import match
from bayes.inference.settings import require_strategy, require_whole
from bayes.inference.starts import find_starts
from bayes.method import Chunk, Draws
from bayes.normals import Normal, push, whiten
from bayes.problem import Problem

__all__ = ["VI"]

_CLIMB, _MATCH, _ADAPT, _SETTLED = range(4)
_LARGEST_FULL = 600
"""Unknowns up to which a full-rank normal is fitted by its scores."""
_SMALLEST_RESPONSE = 200
"""Unknowns above which a mean-field normal with linear response is another rung: below, it is
hardly ever better, and NUTS takes no longer."""
_LARGEST_ADAPTED = 60
"""Unknowns up to which weighted draws can tell a covariance."""
_POINTS, _ELBO_DRAWS = 8, 10
_FEWEST_MATCHES, _MOST_MATCHES, _STILL = 4, 60, 0.05
_ROUNDS, _DRAWS_A_ROUND = 8, 1000
_GOOD_KHAT, _GOOD_SHARE, _USABLE_SHARE = 0.5, 0.25, 0.1
"""Ratios with which a mixture is good: where it can be adapted, more is asked of it."""
_EFFECTIVE, _MOST_CANDIDATES = 0.75, 4.0
"""Share of the draws that are to be effective, and candidates for each of them at most."""
_RIVAL = 5.0
"""A path's normal whose bound is lower than the best by more than this has no mass to speak of."""


@dataclasses.dataclass(frozen=True)
class VI(Approximation):
    """A ladder: quasi-Newton paths, a full-rank normal, and importance draws from it.

    Several L-BFGS paths find where the mass is and a first normal. Up to 600 unknowns a full-rank
    normal is then fitted to the scores of its own draws (batch and match); beyond, that of the mode
    is taken (Laplace). With more than 200 unknowns a mean-field normal with a covariance by linear
    response (DADVI) follows where the ratios of that are poor. A mixture of t distributions about
    it is fitted further by importance weights where there are no more than 60 unknowns. Draws of
    that are judged by their importance ratios: where k-hat is below 0.7 they are resampled and
    stand for the posterior; else the draws of the normal are handed out with a verdict that says
    that they do not.

    Modes that no path finds are not in the approximation, and no ratio can tell: more ``paths``, or
    an ``init_strategy`` with starts further apart, find more of them.

    Location-scale sites with latent parents are non-centred, where ``fit(..., reparam=)`` does not
    say otherwise: normals cannot follow a funnel.

    Parameters
    ----------
    draws : int
        Draws that are handed out, of up to four times as many candidates.
    paths : int
        Paths, from starts of their own.
    candidates : int
        Candidate starts a path; the one with the highest log density is taken.
    init_strategy : callable, optional
        One of ``numpyro.infer.initialization``.

    References
    ----------
    Zhang, Carpenter, Gelman and Vehtari (2022), Pathfinder. Cai et al. (2024), Batch and match.
    Giordano, Ingram and Broderick (2024), Black box variational inference with a deterministic
    objective. Cappé et al. (2008), Adaptive importance sampling in general mixture classes.
    Yao et al. (2018), Yes, but did it work? Evaluating variational inference.

    Examples
    --------
    >>> post = bayes.fit(model, data, method="vi")
    >>> post = bayes.fit(model, data, method="vi", refine="nuts")
    """

    name: ClassVar[str] = "vi"
    reparam: ClassVar[str | None] = "auto"

    draws: int = 2000
    paths: int = 8
    candidates: int = 10
    init_strategy: Callable | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole("paths", self.paths)
        require_whole("candidates", self.candidates)
        require_strategy(self.init_strategy)

    # ------------------------------------------------------------------ contract

    def begin(self, problem: Problem, words: np.ndarray) -> State:
        """Find starts; meanwhile what will run is compiled."""
        d = problem.size
        nowhere = Normal(np.zeros((1, d)), np.ones((1, d)), np.zeros((1, d, 0)), np.zeros((1, 0)))
        state = {
            "words": words,
            "stage": np.asarray(_CLIMB),
            "iteration": np.asarray(0),
            "evaluations": np.asarray(0),
            "bounds": np.full(self.paths, -np.inf),
            "khat": np.asarray(np.nan),
            "trusted": np.asarray(False),
            "wanted": np.asarray(self.draws),
            "first": {"position": np.zeros((0, d)), "lp": np.zeros(0), "log_q": np.zeros(0)},
            "matched": {"log_weights": np.zeros(1), **nowhere._asdict()},
            "log_weights": np.zeros(1),
            "laplace": {},
            "response": {},
            **nowhere._asdict(),
        }
        if d > _SMALLEST_RESPONSE:
            state["response"] = dict.fromkeys(RESPONSE_STATE, np.zeros(0))
        if d > _LARGEST_FULL:
            return {**state, "laplace": self._laplace.begin(problem, words)}
        compile_climb(problem)
        compile_gradients(problem)
        problem.compile_prepare()
        starts = find_starts(problem, words, self.paths, self.candidates, self.init_strategy)
        return {
            **state,
            "x": starts.positions,
            "lp": starts.density,
            "gradient": starts.gradients,
        }

    def improve(self, problem: Problem, state: State) -> tuple[State, Float[np.ndarray, " n"]]:
        """Go on with the present rung."""
        large = problem.size > _LARGEST_FULL
        first = self._curve if large else self._begin_normal
        second = self._respond if large or int(state["iteration"]) else self._match
        return (first, second, self._adapt)[int(state["stage"])](problem, state)

    def settled(self, problem: Problem, state: State) -> bool:
        """Whether the last rung is done."""
        return int(state["stage"]) == _SETTLED

    def sample(
        self, problem: Problem, state: State, generator: np.random.Generator, count: int
    ) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
        """Draws of the mixture, or of the normal where the mixture is not to be trusted."""
        mixture = self._proposal(state)
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
        draws = super().finish(problem, state, chunks, key)
        assert draws.log_q is not None
        found = _ratios(draws.stats["lp"].ravel(), draws.log_q.ravel())
        if found is None or found.ess < RESAMPLED_ESS:
            return draws
        if not (found.khat < KHAT or nearly_equal(found)):
            return draws
        return resample(draws, state["words"], self.draws, ratios=found)

    def converged(self, problem: Problem, state: State) -> str:
        """What stands in the way of trusting the normal, besides its ratios."""
        if not self.settled(problem, state):
            return "it was stopped before it had settled; give it more time"
        if state["response"] and state["response"]["mean"].size:
            return self._response.converged(problem, state["response"])
        if problem.size > _LARGEST_FULL:
            return self._laplace.converged(problem, state["laplace"])
        if not np.isfinite(state["bounds"]).any():
            return (
                "no path has found a normal with a finite evidence lower bound: the log density "
                "rises without bound, or is not finite nearly everywhere; method='nuts'"
            )
        return ""

    def normal(self, problem: Problem, state: State) -> Normal | None:
        """The component with most of the mass."""
        if int(state["stage"]) == _CLIMB:
            return None
        mixture = _mixture(state)
        return component(mixture, int(np.argmax(mixture.log_weights)))

    def about(self, problem: Problem, state: State) -> dict[str, Any]:
        """How the rungs went."""
        bounds = state["bounds"]
        return {
            "elbo_by_place": [float(v) if np.isfinite(v) else None for v in bounds],
            "components": len(state["log_weights"]),
            "rung": "mixture" if bool(state["trusted"]) else "normal",
        }

    # --------------------------------------------------------------------- rungs

    @property
    def _laplace(self) -> Laplace:
        starts = {"candidates": self.candidates, "init_strategy": self.init_strategy}
        return Laplace(starts=self.paths, **starts)

    @property
    def _response(self) -> DADVI:
        starts = {"candidates": self.candidates, "init_strategy": self.init_strategy}
        return DADVI(starts=self.paths, **starts)

    def _begin_normal(self, problem: Problem, state: State) -> tuple[State, np.ndarray]:
        """Climb all paths, and find the best normal along each."""
        paths = climb(problem, state["x"], state["lp"], state["gradient"])
        evaluations = sum(path.evaluations for path in paths)
        generator = generator_of(state["words"], Purpose.NOISE, 0)
        z = generator.standard_normal((_ELBO_DRAWS, problem.size))
        paths = distinct_ends(paths)
        found = [best_normal(problem, path, z, _POINTS) for path in paths]
        bounds = np.asarray([bound for _, bound in found])
        new = {**state, "bounds": bounds, "evaluations": np.asarray(evaluations)}
        if not np.isfinite(bounds).any():
            place = Normal(*(part[0] for part in _mixture(state).normals))
            place = place._replace(mean=state["x"][int(np.argmax(state["lp"]))])
            return {**new, **_entries(mixture_of([place])), "stage": np.asarray(_SETTLED)}, bounds
        order = np.argsort(-bounds)
        kept = [found[i] for i in order if bounds[i] > bounds.max() - _RIVAL]
        weights = np.exp(np.asarray([bound for _, bound in kept]) - bounds.max())
        mixture = mixture_of([normal for normal, _ in kept], weights)
        return {**new, **_entries(mixture), "stage": np.asarray(_MATCH)}, bounds[order[:1]]

    def _match(self, problem: Problem, state: State) -> tuple[State, np.ndarray]:
        """Fit the best normal to its scores, and keep others that are elsewhere."""
        mixture, d = _mixture(state), problem.size
        normal = component(mixture, 0)
        batch = 32 * max(1, -(-(d + 1) // 32))
        heights = []
        for t in range(_MOST_MATCHES):
            z = generator_of(state["words"], Purpose.NOISE, 1, t).standard_normal((batch, d))
            x = normal.mean + push(normal, z)
            values, gradients = gradients_at(problem, x)
            new = match(normal, x, gradients, batch * d / (t + 1.0))
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
        found = _entries(mixture_of([normal, *others], np.asarray(weights)))
        new = {**state, **found, "matched": found, "stage": np.asarray(_ADAPT)}
        return new, np.asarray(heights)

    def _curve(self, problem: Problem, state: State) -> tuple[State, np.ndarray]:
        """Go on towards the mode, and take the normal there."""
        method = self._laplace
        inner, objective = method.improve(problem, state["laplace"])
        new = {**state, "laplace": inner}
        if method.settled(problem, inner):
            normal = method.normal(problem, inner)
            new |= {**_entries(mixture_of([normal])), "stage": np.asarray(_ADAPT)}
        return new, objective

    def _respond(self, problem: Problem, state: State) -> tuple[State, np.ndarray]:
        """Go on with the mean-field normal, and take its linear response when it has settled."""
        method, inner = self._response, state["response"]
        if not inner["mean"].size:
            return {**state, "response": method.begin(problem, state["words"])}, np.zeros(0)
        inner, objective = method.improve(problem, inner)
        new = {**state, "response": inner}
        if method.settled(problem, inner):
            normal = method.normal(problem, inner)
            new |= {**_entries(mixture_of([normal])), "stage": np.asarray(_ADAPT)}
        return new, objective

    def _adapt(self, problem: Problem, state: State) -> tuple[State, np.ndarray]:
        """Take draws of the heavy-tailed mixture; fit it to them where it is not good enough."""
        mixture, rounds = _mixture(state), int(state["iteration"])
        proposal = heavy_tailed(mixture)
        generator = generator_of(state["words"], Purpose.NOISE, 2, rounds)
        # Draws of the first round are the last ones, too, where they are good and cheap.
        block = self._block(problem)
        whole = rounds == 0 and block >= self.draws >= _DRAWS_A_ROUND
        count = self.draws if whole else _DRAWS_A_ROUND
        x = draw(proposal, generator, count)
        lp, log_q = densities_at(problem, x), log_prob(proposal, x)
        found = _ratios(lp, log_q)
        new = {**state, "iteration": np.asarray(rounds + 1)}
        if found is None:
            stage = _MATCH if problem.size > _SMALLEST_RESPONSE and rounds == 0 else _SETTLED
            return {**new, "stage": np.asarray(stage)}, np.zeros(0)
        new["khat"] = np.asarray(found.khat)
        share = _GOOD_SHARE if problem.size <= _LARGEST_ADAPTED else _USABLE_SHARE
        good = found.khat < _GOOD_KHAT and found.ess > share * count
        if good and whole:
            new["first"] = {"position": x, "lp": lp, "log_q": log_q}
        if not good and problem.size > _SMALLEST_RESPONSE and rounds == 0:
            return {**new, "stage": np.asarray(_MATCH)}, np.zeros(0)
        if good or rounds + 1 >= _ROUNDS or problem.size > _LARGEST_ADAPTED:
            usable = bool(found.khat < KHAT and found.ess > _USABLE_SHARE * count)
            new |= {"trusted": np.asarray(usable), "stage": np.asarray(_SETTLED)}
            if usable:
                more = np.clip(_EFFECTIVE * count / found.ess, 1.0, _MOST_CANDIDATES)
                new["wanted"] = np.asarray(int(np.ceil(self.draws * more)))
            if not usable and rounds > 0 and problem.size <= _LARGEST_ADAPTED:
                new |= state["matched"]  # what a few draws with all the weight made of it is worse
            return new, np.zeros(0)
        return {**new, **_entries(adapted(mixture, x, found.log_weights))}, np.zeros(0)

    def _proposal(self, state: State) -> Mixture:
        mixture = _mixture(state)
        return heavy_tailed(mixture) if bool(state["trusted"]) else mixture


def _ratios(lp: np.ndarray, log_q: np.ndarray) -> Ratios | None:
    """Ratios of draws; None where there are none to speak of."""
    lp = np.where(np.isnan(lp), -np.inf, lp)
    if np.isfinite(lp).sum() < 100 or (lp == np.inf).any():
        return None
    return importance_ratios(lp, log_q)


def _mixture(state: State) -> Mixture:
    normals = Normal(*(state[k] for k in Normal._fields))
    return Mixture(normals, state["log_weights"], np.full(len(state["log_weights"]), np.inf))


def _entries(mixture: Mixture) -> dict[str, np.ndarray]:
    return {**mixture.normals._asdict(), "log_weights": mixture.log_weights}


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
