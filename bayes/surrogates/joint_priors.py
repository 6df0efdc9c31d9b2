"""A mixture of normals in place of a program's prior, over all of its latent sites."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpyro.distributions as dist
from numpyro.primitives import Messenger

from bayes.data import Data
from bayes.errors import ModelError, SettingsError, ShapeError, UnsupportedModelError
from bayes.model import Model
from bayes.precision import double_precision
from bayes.problem import Problem
from bayes.program import Latent
from bayes.structure import site_kind, trace_program
from bayes.subsampling import Whole
from bayes.surrogates.fitting import resized
from bayes.surrogates.mixture_conditional import MixtureConditional, MixtureRun
from bayes.surrogates.mixtures import Mixture
from bayes.surrogates.runtime_prior import RuntimePrior, digest_of_numbers, is_free

__all__ = ["REPARAMETRISED", "JointPrior"]

REPARAMETRISED = (
    "{0} is reparametrised ({1}), and a prior of all sites is on the program's own: leave reparam "
    "out, or give distributions by site"
)


@dataclasses.dataclass(frozen=True)
class _JointForm:
    latents: tuple[Latent, ...]

    def handler(self, numbers: Mapping[str, Any]) -> _JointHandler:
        return _JointHandler(self.latents, Mixture(**numbers))


class _JointHandler(Messenger):
    """Gives latent sites, in program order, their conditionals in a mixture of all of them."""

    def __init__(self, latents: tuple[Latent, ...], mixture: Mixture) -> None:
        super().__init__()
        self._left = list(latents)
        self._names = frozenset(s.name for s in latents)
        self._run = MixtureRun(mixture)
        self._replaced: tuple[str, MixtureConditional] | None = None

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(s.name for s in self._left)

    def process_message(self, msg: Any) -> None:
        # What is observed in a fit is free where the program runs forward.
        if not is_free(msg) or msg["name"] not in self._names:
            return
        own, name = msg["fn"], msg["name"]
        if not self._left or self._left[0].name != name:
            raise ModelError(f"the program draws '{name}' in another place than in the prior")
        latent = self._left.pop(0)
        if tuple(own.shape()) != latent.shape:
            raise ShapeError(
                f"the prior has shape {latent.shape} for '{name}', the program "
                f"{tuple(own.shape())}: a prior of all sites is of these elements only; for data "
                "that need others give distributions by site"
            )
        if isinstance(own, dist.MaskedDistribution) or msg.get("scale") is not None:
            raise UnsupportedModelError(
                f"site '{name}' is masked or scaled, so that its prior is no density; no mixture "
                "can take its place"
            )
        msg["fn"] = MixtureConditional(
            self._run.mixture,
            tuple(self._run.flat),
            own.support,
            tuple(own.batch_shape),
            tuple(own.event_shape),
            latent.flat_shape,
            latent.start,
            latent.stop,
            self._run,
        )
        self._replaced = name, msg["fn"]

    def postprocess_message(self, msg: Any) -> None:
        # Handlers further out may make sites of their own, a log Jacobian say, in between.
        if self._replaced is not None and msg.get("name") == self._replaced[0]:
            self._run.record(self._replaced[1], msg["value"])
            self._replaced = None


@dataclasses.dataclass(frozen=True, eq=False)
class JointPrior(RuntimePrior):
    """A mixture of normals on the flat unconstrained space for the prior of all latent sites.

    Each site in turn has the conditional of its elements given those of the sites before it, so
    that the program's log density is that of the likelihood and the mixture, and its prior draws
    are the mixture's.

    Parameters
    ----------
    latents : tuple of Latent
        The program's latent sites and their places in the flat vector, without reparametrisation.
    mixture_of_all : Mixture
        One mixture of that many elements.

    Raises
    ------
    SettingsError
        A mixture that is not of these elements, or that is not finite.
    """

    latents: tuple[Latent, ...]
    mixture_of_all: Mixture

    def __post_init__(self) -> None:
        given = Mixture(*(np.asarray(v, np.float64) for v in self.mixture_of_all))
        d = self.latents[-1].stop if self.latents else 0
        k = given.log_weights.shape[-1] if given.log_weights.ndim else 0
        if [v.shape for v in given] != [(k,), (k, d), (k, d), (k, d, d)]:
            raise SettingsError(
                f"the prior has means of shape {given.means.shape}; expected (components, {d}): "
                f"{', '.join(s.name for s in self.latents)} have {d} unconstrained elements"
            )
        weights = given.log_weights
        finite = all(np.isfinite(v).all() for v in given[1:]) and not np.isnan(weights).any()
        total = np.logaddexp.reduce(weights)
        if not (finite and abs(total) < 1e-3):
            raise SettingsError(
                "the prior is no mixture: its numbers are not finite, or its weights do not sum "
                f"to one (they sum to {np.exp(total):.6g})"
            )
        object.__setattr__(self, "mixture_of_all", given._replace(log_weights=weights - total))

    def _parts(self) -> tuple[_JointForm, dict[str, Any]]:
        return _JointForm(self.latents), dict(self.mixture_of_all._asdict())

    def _check(self, model: Model, data: Data) -> None:
        if model.reparam is not None and model.reparam != "auto" and model.reparam != {}:
            raise UnsupportedModelError(REPARAMETRISED.format(model.name, "reparam="))
        with double_precision():
            trace = trace_program(Whole(model.fn), data, 0)
            sites = {n: s for n, s in trace.items() if s["type"] == "sample"}
            found = [n for n, s in sites.items() if site_kind(s) == "latent"]
        expected = [s.name for s in self.latents]
        if found != expected:
            raise ModelError(
                f"the prior is of other sites than {model.name}: it is of {', '.join(expected)}, "
                f"the program draws {', '.join(found)}"
            )

    def mixture(self, problem: Problem, components: int) -> Mixture:
        """The mixture itself, with its components split or fewer of them fitted to it.

        The program's own density is that of the whole mixture in any case.
        """
        if components not in self._resized:
            self._resized[components] = resized(self.mixture_of_all, components)
        return self._resized[components]

    @functools.cached_property
    def _resized(self) -> dict[int, Mixture]:
        return {}

    def describe(self) -> dict[str, Any]:
        """JSON values; see :class:`RuntimePrior`."""
        names = [s.name for s in self.latents]
        numbers = dict(self.mixture_of_all._asdict())
        count = self.mixture_of_all.components
        digest = digest_of_numbers(numbers, names)
        return {"kind": "joint", "sites": names, "components": count, "digest": digest}
