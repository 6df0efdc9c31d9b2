"""Surrogate: a learned mixture as a method, checked by the exact density and corrected by it."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np
from jaxtyping import Array, Float

from bayes.diagnostics.approximations import RESAMPLED_ESS
from bayes.errors import SettingsError
from bayes.inference.adaptation import (
    ADAPT,
    LARGEST_FULL,
    MATCH,
    SETTLED,
    AdaptedMixture,
    entries_of,
    mixture_in,
)
from bayes.inference.approximation import State
from bayes.inference.mixtures import component
from bayes.inference.settings import require_whole
from bayes.method import Chunk, Draws, describe
from bayes.model import Model
from bayes.normals import Normal, covariance, normal_of_covariance
from bayes.problem import Problem
from bayes.surrogates.evidence import log_evidence
from bayes.surrogates.global_results import GlobalChecks
from bayes.surrogates.layout import Inputs
from bayes.surrogates.mixtures import Mixture
from bayes.surrogates.priors import RuntimePrior, as_runtime_prior
from bayes.surrogates.proposal import Proposal, components_of, is_far, notes_of

__all__ = ["Proposal", "Surrogate"]

ROUTES = ("ladder", "raw")
_FIRST_STREAM, _SECOND_STREAM = 2, 3
_HOPELESS = 10.0
"""Effective draws, besides the number of unknowns, below which weights tell no covariance."""
_DRAWS_A_COMPONENT, _FEWEST_A_ROUND, _MOST_A_ROUND = 250, 1000, 5000
_SPARE = 1.5
"""Effective draws to aim at, as a multiple of the fewest that are resampled."""
_ADVICE = "the network extrapolates; route='ladder' corrects it, or method='nuts'"


@dataclasses.dataclass(frozen=True)
class Surrogate(AdaptedMixture):
    """A posterior that a network proposes and the model's own density corrects.

    The network's mixture is the first rung. Draws of it, with heavier tails, are weighted by the
    exact joint density: where the weights are good, draws are resampled by them. Else the mixture
    is fitted to the posterior by its weights, or, where these are hopeless, by scores; and where
    that does not help either, ``fit`` starts NUTS from it.

    Parameters
    ----------
    draws : int
        Draws that are handed out, of more candidates where some count for little.
    route : {"ladder", "raw"}
        ``"raw"``: draws of the network's own mixture, judged but not corrected.
    prior : RuntimePrior, optional
        A prior in place of the program's own; see :meth:`with_prior`.
    checks : dict, optional
        Global checks of the training, as JSON values; see :attr:`global_checks`.

    References
    ----------
    Whittle, Ziomek, Rawling and Osborne (2025), Distribution Transformers. Dax et al. (2023),
    Neural importance sampling for rapid and reliable gravitational-wave inference. Vehtari et al.
    (2024), Pareto smoothed importance sampling.
    """

    learned: ClassVar[bool] = True
    rounds: ClassVar[int] = 16

    route: str = "ladder"
    prior: RuntimePrior | None = None
    checks: Mapping[str, Any] | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.route not in ROUTES:
            raise SettingsError(f"route must be one of {', '.join(ROUTES)}, got {self.route!r}")
        if self.prior is not None and not hasattr(self.prior, "rewritten"):
            raise SettingsError(
                "prior is what with_prior() makes of a prior; use surrogate.with_prior("
                f"prior), got {type(self.prior).__name__}"
            )

    # ------------------------------------------------------ what a surrogate adds

    @abc.abstractmethod
    def propose(self, problem: Problem, words: np.ndarray) -> Proposal:
        """The network's mixture for a problem; ``words`` are the data of the run's key."""

    @abc.abstractmethod
    def mixtures(self, inputs: Inputs) -> Mixture:
        """The network's mixtures for a batch of data under the program's own prior.

        They are on the flat unconstrained space, with a leading dimension of data sets.
        """

    @abc.abstractmethod
    def verify(self, problem: Problem) -> None:
        """Raise UnsupportedModelError where the problem is not what it was trained for."""

    @property
    @abc.abstractmethod
    def reference(self) -> Problem:
        """The program that it was trained for, bound to data drawn from it."""

    @property
    @abc.abstractmethod
    def components(self) -> int:
        """Components of the mixtures that stand for a prior."""

    @property
    def reparam(self) -> Any:
        """The reparametrisation of training: what ``fit`` takes where it is not told."""
        return self.reference.model.reparam

    @property
    def global_checks(self) -> GlobalChecks | None:
        """How it fared on a thousand simulations after its training; None where it was not held."""
        return None if self.checks is None else GlobalChecks.from_dict(self.checks)

    def replace[S: Surrogate](self: S, **settings: Any) -> S:
        """The same surrogate with other settings.

        Raises
        ------
        SettingsError
            Where it has no such setting, or not of that value.
        """
        known = [f.name for f in dataclasses.fields(self)]
        unknown = [name for name in settings if name not in known]
        if unknown:
            raise SettingsError(
                f"{type(self).__name__} has no setting {', '.join(unknown)}; there are "
                f"{', '.join(known)}"
            )
        return dataclasses.replace(self, **settings)

    def with_prior[S: Surrogate](
        self: S, prior: Any, *, components: int | None = None, seed: int = 0
    ) -> S:
        """The same surrogate under another prior; nothing is trained.

        Parameters
        ----------
        prior : mapping, Mixture, callable, Posterior or None
            Distributions by site; a mixture on the flat unconstrained space; a function from a key
            to values of all latent sites; a posterior of the same model; None for the program's
            own prior.
        components : int, optional
            Components of the mixture that stands for it; by default as many as the network has.
        seed : int
            Of the draws that such a mixture is fitted to.

        Raises
        ------
        SettingsError, ModelError
            What is wrong with the prior, by site.

        Examples
        --------
        >>> bayes.fit(model, data, method=trained.with_prior({"mu": dist.Normal(3, 1)}))
        """
        if prior is None:
            return self.replace(prior=None)
        count = self.components if components is None else components
        require_whole("components", count)
        return self.replace(prior=as_runtime_prior(prior, self.reference, count, seed))

    def save(self, path: str | os.PathLike) -> None:
        """Save it as one safetensors file, under its program's own prior; see :func:`bayes.load`.

        Parameters
        ----------
        path : path
            By custom ``*.safetensors``. An earlier surrogate there is replaced.
        """
        from bayes.surrogates.files import save_surrogate

        save_surrogate(self, path)

    # ------------------------------------------------------------------ contract

    def check(self, problem: Problem) -> None:
        """Refuse a problem that it was not trained for."""
        super().check(problem)
        self.verify(problem)

    def rewritten(self, model: Model, data: Any) -> tuple[Model, Any]:
        """The model with the surrogate's prior, where it has one of its own."""
        return (model, data) if self.prior is None else self.prior.rewritten(model, data)

    def begin(self, problem: Problem, words: np.ndarray) -> State:
        """Ask the network."""
        problem.compile_prepare()
        proposal = self.propose(problem, words)
        found = entries_of(components_of(proposal.mixture, self.name))
        said = proposal.info if self.checks is None else {**proposal.info, "checks": self.checks}
        return {
            **self.blank(problem, words),
            **found,
            "matched": found,
            "own": found,
            "stage": np.asarray(ADAPT if self.route == "ladder" else SETTLED),
            "proposal": np.frombuffer(json.dumps(said).encode(), np.uint8),
        }

    def improve(self, problem: Problem, state: State) -> tuple[State, Float[np.ndarray, " n"]]:
        """Go on with the present rung."""
        if int(state["stage"]) == ADAPT:
            new, heights = self.adapt(problem, state)
            if self.settled(problem, new) and not bool(new["trusted"]):
                new |= state["own"]  # chains are to start wherever the network saw mass
            return new, heights
        # From the network's own largest component; rounds and their random numbers begin anew.
        new, heights = self.match(problem, {**state, **state["matched"]}, far=True)
        anew = {"iteration": np.asarray(0), "stream": np.asarray(_SECOND_STREAM)}
        return {**new, **anew}, heights

    def rescue(
        self, problem: Problem, state: State, ess: float, *, usable: bool, last: bool
    ) -> int:
        """A normal fitted to scores, once, where weights are hopeless or have not helped."""
        if int(state["stream"]) != _FIRST_STREAM or problem.size > LARGEST_FULL or usable:
            return ADAPT
        hopeless = int(state["iteration"]) == 1 and ess < _HOPELESS + problem.size
        return MATCH if hopeless or last else ADAPT

    def draws_a_round(self, problem: Problem, components: int) -> int:
        """As many as tell the weights and covariances of a network's many components."""
        most = max(_FEWEST_A_ROUND, self._block(problem))
        return int(
            np.clip(_DRAWS_A_COMPONENT * components, _FEWEST_A_ROUND, min(most, _MOST_A_ROUND))
        )

    def candidates_for(self, count: int, ess: float) -> int:
        """Enough of them to be resampled, however few draws are handed out."""
        enough = int(np.ceil(_SPARE * RESAMPLED_ESS * count / ess))
        return max(super().candidates_for(count, ess), enough)

    def corrected(self, draws: Draws, state: State) -> Draws:
        """Draws resampled where their ratios allow it; raw ones as they are."""
        return draws if self.route == "raw" else super().corrected(draws, state)

    def finish(self, problem: Problem, state: State, chunks: list[Chunk], key: Array) -> Draws:
        """Join the draws, correct them, and estimate the evidence."""
        draws = super().finish(problem, state, chunks, key)
        info = {**draws.info, **log_evidence(draws), "surrogate": self._record(draws, state)}
        proposal = _stored(state)
        if "distance_limit" in proposal:
            info["out_of_distribution"] = is_far(proposal)
        return dataclasses.replace(draws, info=info)

    def escalation(self, draws: Draws) -> str | None:
        """NUTS, where draws of the ladder could not be resampled."""
        corrected = self.route == "raw" or draws.info.get("route") == "psis"
        return None if corrected else "nuts"

    def converged(self, problem: Problem, state: State) -> str:
        """Whether the ladder was gone to its end; of raw draws whether the network knows such data.

        On the ladder the ratios tell whether it is right where it extrapolates.
        """
        if not self.settled(problem, state):
            return "it was stopped before it had settled; give it more time"
        notes = notes_of(_stored(state)) if self.route == "raw" else []
        return f"{'; '.join(notes)}: {_ADVICE}" if notes else ""

    def normal(self, problem: Problem, state: State) -> Normal | None:
        """The normal with mean and covariance of the whole mixture."""
        mixture = mixture_in(state)
        weights = np.exp(mixture.log_weights)
        normals = [component(mixture, i) for i in range(len(weights))]
        mean = weights @ mixture.normals.mean
        sigma = sum(
            w * (covariance(n) + np.outer(n.mean - mean, n.mean - mean))
            for w, n in zip(weights, normals, strict=True)
        )
        try:
            return normal_of_covariance(mean, np.asarray(sigma))
        except np.linalg.LinAlgError:
            return normals[int(np.argmax(weights))]

    def about(self, problem: Problem, state: State) -> dict[str, Any]:
        """How the rungs went."""
        return {
            "components": len(state["log_weights"]),
            "rounds": max(0, int(state["iteration"]) - 1),
            "scores_matched": int(state["stream"]) == _SECOND_STREAM,
        }

    def settings(self) -> dict[str, Any]:
        """The settings as JSON values; digests stand for what was learned."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        found = {k: _setting(v) for k, v in given.items() if v is not None and k != "prior"}
        return found if self.prior is None else {**found, "prior": self.prior.describe()}

    # ------------------------------------------------------------------- records

    def _record(self, draws: Draws, state: State) -> dict[str, Any]:
        """What the network said, which rung gave the draws, and why that one."""
        proposal, known = _stored(state), draws.info.get("importance")
        own = int(state["stream"]) == _FIRST_STREAM and int(state["iteration"]) <= 1
        if self.route == "raw":
            route, reason = "raw", "asked for: draws of the network's mixture as they are"
        elif known is not None and own:
            route, reason = "psis", "importance weights of the network's own draws are good"
        elif known is not None:
            how = "scores and weights" if draws.info["scores_matched"] else "weights"
            route = "adapted"
            reason = f"the network's mixture was fitted to the posterior by {how} of its draws"
        else:
            route, reason = "raw", "importance weights could not correct the network's draws"
        notes = notes_of(proposal)
        return {**proposal, "route": route, "reason": reason, "notes": notes}


def _stored(state: State) -> dict[str, Any]:
    return json.loads(bytes(np.asarray(state["proposal"], np.uint8)))


def _setting(value: Any) -> Any:
    """A JSON value for a setting; of arrays, and of trees of them, a digest."""
    leaves = [leaf for leaf in jax.tree.leaves(value) if hasattr(leaf, "shape")]
    if not leaves or isinstance(value, np.generic):
        return describe(value)
    digest = hashlib.sha256()
    for leaf in map(np.asarray, leaves):
        digest.update(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes())
    return f"sha256:{digest.hexdigest()}"
