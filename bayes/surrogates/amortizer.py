"""Amortizer: settings of a surrogate that is yet to be trained."""

from __future__ import annotations

import abc
import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Array

from bayes.checkpoint import Checkpoint
from bayes.method import describe
from bayes.surrogates.simulator import Simulator

if TYPE_CHECKING:
    from bayes.surrogates.surrogate import Surrogate

__all__ = ["Amortizer"]


@dataclasses.dataclass(frozen=True)
class Amortizer(abc.ABC):
    """Settings of a surrogate; :func:`bayes.amortize` trains it for a program."""

    name: ClassVar[str] = ""

    @abc.abstractmethod
    def train(
        self,
        simulator: Simulator,
        key: Array,
        *,
        budget: float | None = None,
        checkpoint: Checkpoint | None = None,
        progress: bool | None = None,
    ) -> Surrogate:
        """Train it on draws of a simulator.

        Parameters
        ----------
        simulator : Simulator
            Draws of the program's parameters and data.
        key : key
            Random key.
        budget : float, optional
            Seconds.
        checkpoint : Checkpoint, optional
            Where the training is kept.
        progress : bool, optional
            Whether to show a progress line.
        """

    def settings(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {
            f.name: describe(getattr(self, f.name))
            for f in dataclasses.fields(self)
            if getattr(self, f.name) is not None
        }
