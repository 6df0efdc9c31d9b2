"""What an engine of the benchmark of approximations is, and the methods of bayes as such.

As in ``engines.py``: an engine is made once in a process, ``prepare`` comes before the clock
starts, ``fit(seed)`` is timed and ends with the draws in memory, ``outcome()`` is what the last fit
left. ``weigh(seed)`` is timed as well: importance weights for the draws of the last fit, where an
engine does that in a step of its own.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any, ClassVar

import numpy as np

DRAWS = 4000


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a fit left.

    Parameters
    ----------
    draws : dict of arrays of shape (chain, draw, ...)
    khat : float, optional
        Pareto k-hat of the importance ratios, where it was computed.
    ok : bool, optional
        The engine's own verdict, where it has one.
    failed : tuple of str
        What its verdict objects to.
    about : dict
        What else it tells, as JSON values.
    """

    draws: dict[str, np.ndarray]
    khat: float | None = None
    ok: bool | None = None
    failed: tuple[str, ...] = ()
    about: dict[str, Any] = dataclasses.field(default_factory=dict)


class Engine:
    """What the runner needs to know of an engine."""

    weighs: ClassVar[bool] = False
    """Whether ``weigh`` is there."""
    refusals: tuple[type[Exception], ...] = ()
    """What a fit raises where the engine does not do that target."""

    @staticmethod
    def environment(cache: pathlib.Path) -> dict[str, str]:
        """Variables of the process; ``cache`` is a folder of its own."""
        raise NotImplementedError


class Bayes(Engine):
    """``bayes.fit`` with a method and nothing else.

    Parameters
    ----------
    method : str
        Its name.
    refine : str, optional
    **options
        Settings of the method that are not its defaults.
    """

    @staticmethod
    def environment(cache: pathlib.Path) -> dict[str, str]:
        """A cache folder of its own, and nothing else."""
        return {"BAYES_CACHE": str(cache)}

    def __init__(self, method: str, refine: str | None = None, **options: Any) -> None:
        import bayes
        from bayes.errors import SettingsError, UnsupportedModelError
        from bayes.method import methods

        self._fit, self._methods = bayes.fit, methods
        self.refusals = (SettingsError, UnsupportedModelError)
        self._method, self._refine, self._options = method, refine, options

    def prepare(self, target: Any) -> None:
        """Remember program and data, and make the method.

        Raises
        ------
        LookupError
            Where this version has no such method, or not these settings.
        """
        self._target = target
        known = self._methods()
        if self._method not in known:
            raise LookupError(f"no method '{self._method}' in this version")
        try:
            self._made = known[self._method](**self._options)
        except (TypeError, *self.refusals) as error:
            raise LookupError(f"{self._method}: {error}") from error

    def fit(self, seed: int) -> None:
        """Fit."""
        t = self._target
        self._post = self._fit(t.program, t.data, self._made, seed=seed, refine=self._refine)

    def outcome(self) -> Outcome:
        """Draws and the verdict."""
        tree, verdict = self._post.data, self._post.diagnostics
        khat = [check.value for check in verdict.checks if check.name == "khat"]
        info = self._post.method.info
        return Outcome(
            {str(k): v.values for k, v in tree["posterior"].data_vars.items()},
            float(khat[0]) if khat else None,
            bool(verdict.ok),
            tuple(check.name for check in verdict.failed),
            {k: v for k, v in info.items() if isinstance(v, (str, bool, int, float))},
        )
