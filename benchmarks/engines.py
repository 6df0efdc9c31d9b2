"""Engines behind one interface; what an engine imports, it imports when it is made.

An engine is made once in a process. ``prepare(target)`` comes before the clock starts and may not
compute; ``fit(seed)`` is timed and ends with the draws in memory; ``show()`` prints a summary;
``outcome()`` is what the last fit left.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any, ClassVar

import numpy as np

CHAINS, WARMUP, DRAWS = 4, 1000, 1000


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a fit left.

    Parameters
    ----------
    draws : dict of arrays of shape (chain, draw, ...)
    divergences : int
        Among the kept draws.
    leapfrogs : float
        Mean over the kept draws.
    total : int, optional
        Leapfrog steps of all chains, the warm-up included, where the engine tells.
    ok : bool, optional
        The engine's own verdict, where it has one.
    failed : list of str
        What its verdict objects to.
    """

    draws: dict[str, np.ndarray]
    divergences: int
    leapfrogs: float
    total: int | None = None
    ok: bool | None = None
    failed: tuple[str, ...] = ()


class Engine:
    """What the runner needs to know before it starts a process."""

    name: ClassVar[str]
    cached: ClassVar[bool] = True
    """Whether compiled functions outlive the process."""

    @staticmethod
    def environment(cache: pathlib.Path) -> dict[str, str]:
        """Variables of the process; ``cache`` is a folder of its own."""
        raise NotImplementedError


class Bayes(Engine):
    """``bayes.fit`` with untouched defaults."""

    name = "bayes"

    @staticmethod
    def environment(cache: pathlib.Path) -> dict[str, str]:
        """A cache folder of its own, and nothing else."""
        return {"BAYES_CACHE": str(cache)}

    def __init__(self) -> None:
        import bayes

        self._fit = bayes.fit

    def prepare(self, target: Any) -> None:
        """Remember program and data."""
        self._target = target

    def fit(self, seed: int) -> None:
        """Fit."""
        self._post = self._fit(self._target.program, self._target.data, seed=seed)

    def show(self) -> None:
        """Print the summary."""
        print(self._post.summary())

    def outcome(self) -> Outcome:
        """Draws, statistics and the verdict."""
        tree, verdict = self._post.data, self._post.diagnostics
        stats = tree["sample_stats"]
        total = self._post.method.info.get("leapfrogs")
        return Outcome(
            {str(k): v.values for k, v in tree["posterior"].data_vars.items()},
            int(stats["diverging"].values.sum()),
            float(stats["n_steps"].values.mean()),
            None if total is None else int(np.sum(total)),
            bool(verdict.ok),
            tuple(check.name for check in verdict.failed),
        )


class NumPyro(Engine):
    """NumPyro's NUTS as shipped, a chain a device, in double precision."""

    name = "numpyro"
    cached = False

    @staticmethod
    def environment(cache: pathlib.Path) -> dict[str, str]:
        """One BLAS thread: its best, since several wait for each other in small factorisations."""
        return {"OPENBLAS_NUM_THREADS": "1"}

    def __init__(self) -> None:
        import numpyro

        numpyro.set_host_device_count(CHAINS)
        numpyro.enable_x64()
        self._mcmc: Any = None

    def prepare(self, target: Any) -> None:
        """Remember program and data."""
        self._target = target

    def fit(self, seed: int) -> None:
        """Run; a second fit runs the same object, as a user would."""
        import jax
        from numpyro.infer import MCMC, NUTS

        if self._mcmc is None:
            self._mcmc = MCMC(
                NUTS(self._target.program),
                num_warmup=WARMUP,
                num_samples=DRAWS,
                num_chains=CHAINS,
                progress_bar=False,
            )
        fields = ("diverging", "num_steps")
        self._mcmc.run(jax.random.key(seed), **self._target.data, extra_fields=fields)
        samples = self._mcmc.get_samples(group_by_chain=True)
        self._draws = {k: np.asarray(v) for k, v in samples.items()}

    def show(self) -> None:
        """Print the summary."""
        self._mcmc.print_summary()

    def outcome(self) -> Outcome:
        """Draws and statistics; what the warm-up cost is not kept."""
        fields = {k: np.asarray(v) for k, v in self._mcmc.get_extra_fields().items()}
        leapfrogs = float(fields["num_steps"].mean())
        return Outcome(self._draws, int(fields["diverging"].sum()), leapfrogs)


class NumPyroCache(NumPyro):
    """The same with JAX's persistent compilation cache: a second run does not compile."""

    name = "numpyro-cache"
    cached = True

    @staticmethod
    def environment(cache: pathlib.Path) -> dict[str, str]:
        """JAX's own variables; everything is kept, however quickly it was compiled."""
        return {**NumPyro.environment(cache), **jax_cache(cache)}


def jax_cache(folder: pathlib.Path) -> dict[str, str]:
    """JAX's persistent compilation cache, without thresholds."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
