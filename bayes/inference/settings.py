"""Settings that NUTS and HMC share."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bayes.errors import SettingsError
from bayes.inference.metric import KINDS
from bayes.method import Method

__all__ = ["HamiltonianSettings", "require_positive", "require_strategy", "require_whole"]


@dataclasses.dataclass(frozen=True)
class HamiltonianSettings(Method):
    """Settings of the Hamiltonian samplers.

    Parameters
    ----------
    chains : int
        Independent chains.
    warmup : int, optional
        Iterations that adapt step size and metric, and are thrown away. By default as many as it
        takes for the metric to settle and the chains to agree, between about 160 and 1000.
    draws : int, optional
        Draws a chain. By default as many as ``target_ess`` takes.
    target_ess : float
        Where ``draws`` is not given: bulk and tail effective sample size that every parameter is
        to have, with R-hat below 1.01. It is doubled each time the acceptance has to be raised:
        where transitions diverge, few draws may all miss the region that is hard to enter.
    max_draws : int
        Where ``draws`` is not given: draws a chain after which sampling ends anyway.
    target_accept : float, optional
        Mean acceptance that the step size aims at. By default 0.85; when a transition diverges
        after the warm-up, the draws are thrown away and sampling begins anew with 0.95, and then
        with 0.99.
    metric : {"auto", "diagonal", "low_rank", "dense"}
        Shape of the metric; ``"auto"`` takes one with correlations, dense up to 256 dimensions and
        low-rank above, where held-out draws say that it pays.
    step_size : float
        Where the search for a step size begins.
    init_strategy : callable, optional
        One of ``numpyro.infer.initialization``, for instance ``init_to_value(values=...)``.
    candidates : int
        Candidate starts a chain; the one with the highest log density is taken.
    thin : int
        Every how many-th draw is kept; ``draws`` counts those that are.
    keep : sequence of str, optional
        Sites whose draws are kept; all by default. The others take no memory, and predictions that
        need them are not possible.
    store : path, optional
        A folder, by custom ``*.zarr``, to which the draws of the sites go block by block; memory
        holds a block, and the posterior reads from there, so that it needs the folder as long as
        it is used. A folder with anything but draws of the same run is refused.
    """

    chains: int = 4
    warmup: int | None = None
    draws: int | None = None
    target_ess: float | int = 400
    max_draws: int = 4000
    target_accept: float | None = None
    metric: str = "auto"
    step_size: float = 1.0
    init_strategy: Callable | None = None
    candidates: int = 20
    thin: int = 1
    keep: Sequence[str] | None = None
    store: str | os.PathLike | None = None

    def __post_init__(self) -> None:
        for name in ("chains", "warmup", "draws", "max_draws", "candidates", "thin"):
            if getattr(self, name) is not None or name not in ("warmup", "draws"):
                require_whole(name, getattr(self, name))
        for name in ("step_size", "target_ess"):
            require_positive(name, getattr(self, name))
        if self.target_accept is not None:
            require_positive("target_accept", self.target_accept)
            if self.target_accept >= 1:
                raise SettingsError(f"target_accept must lie in (0, 1), got {self.target_accept}")
        if self.metric not in KINDS:
            raise SettingsError(f"metric must be one of {', '.join(KINDS)}, got {self.metric!r}")
        require_strategy(self.init_strategy)
        if self.keep is not None:
            sites = () if isinstance(self.keep, str) else tuple(self.keep)
            if not sites or not all(isinstance(name, str) for name in sites):
                raise SettingsError(f"keep must name sites, got {self.keep!r}")
            object.__setattr__(self, "keep", sites)
        if self.store is not None and (
            not isinstance(self.store, (str, os.PathLike)) or not os.fspath(self.store)
        ):
            raise SettingsError(f"store must be the path of a folder, got {self.store!r}")


def require_whole(name: str, value: Any, least: int = 1) -> None:
    """Refuse a setting that is not a whole number, or too small."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise SettingsError(f"{name} must be a whole number, got {value!r}")
    if value < least:
        raise SettingsError(f"{name} must be at least {least}, got {value}")


def require_positive(name: str, value: Any) -> None:
    """Refuse a setting that is not a positive number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise SettingsError(f"{name} must be a number, got {value!r}")
    if not (np.isfinite(value) and value > 0):
        raise SettingsError(f"{name} must be positive, got {value}")


def require_strategy(value: Any) -> None:
    """Refuse what is no init strategy."""
    if value is not None and not callable(value):
        raise SettingsError(
            "init_strategy must be one of numpyro.infer.initialization, such as "
            f"init_to_median(), got {value!r}"
        )
