"""PyMC models sampled by nutpie, in an environment of their own: no JAX here.

The compiled model is kept for the second fit of a process, as nutpie's users do.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from engines import CHAINS, DRAWS, WARMUP, Engine, Outcome


class Nutpie(Engine):
    """nutpie with its Numba backend."""

    name = "nutpie"

    @staticmethod
    def environment(cache: pathlib.Path) -> dict[str, str]:
        """One BLAS thread, and a folder of PyTensor's own for what it compiles."""
        flags = f"base_compiledir={cache}"
        return {"OPENBLAS_NUM_THREADS": "1", "PYTENSOR_FLAGS": flags}

    def __init__(self) -> None:
        import nutpie
        import pymc

        self._nutpie, self._pymc = nutpie, pymc
        self._compiled: Any = None

    def prepare(self, target: Any) -> None:
        """Find the model."""
        if target.name not in MODELS:
            raise LookupError(f"no PyMC model of {target.name}")
        self._target = target

    def fit(self, seed: int) -> None:
        """Compile at the first time, and sample."""
        if self._compiled is None:
            with self._pymc.Model() as model:
                MODELS[self._target.name](self._pymc, self._target.data)
            self._compiled = self._nutpie.compile_pymc_model(model)
        self._trace = self._nutpie.sample(
            self._compiled,
            draws=DRAWS,
            tune=WARMUP,
            chains=CHAINS,
            seed=seed,
            progress_bar=False,
        )

    def show(self) -> None:
        """Print ArviZ's summary."""
        import arviz

        print(arviz.summary(self._trace))

    def outcome(self) -> Outcome:
        """Draws and statistics."""
        trace = self._trace
        draws = {str(k): np.asarray(v.values) for k, v in trace["posterior"].data_vars.items()}
        steps = trace["sample_stats"]["n_steps"].values
        warmup = trace["warmup_sample_stats"]["n_steps"].values
        diverging = int(trace["sample_stats"]["diverging"].values.sum())
        return Outcome(draws, diverging, float(steps.mean()), int(steps.sum() + warmup.sum()))


def _schools(pm: Any, data: dict[str, Any]) -> None:
    mu = pm.Normal("mu", 0.0, 5.0)
    tau = pm.HalfCauchy("tau", 5.0)
    raw = pm.Normal("raw", 0.0, 1.0, shape=len(data["y"]))
    theta = pm.Deterministic("theta", mu + tau * raw)
    pm.Normal("y", theta, data["sigma"], observed=data["y"])


def _radon(pm: Any, data: dict[str, Any]) -> None:
    mean = pm.Normal("mean", 0.0, 1.0)
    spread = pm.HalfNormal("spread", 1.0)
    weight = pm.Normal("weight", 0.0, 1.0, shape=3)
    noise = pm.HalfNormal("noise", 1.0)
    raw = pm.Normal("raw", 0.0, 1.0, shape=data["n_county"])
    effect = pm.Deterministic("effect", mean + spread * raw)
    expected = effect[data["county"]] + data["design"] @ weight
    pm.Normal("y", expected, noise, observed=data["y"])


def _logistic(pm: Any, data: dict[str, Any]) -> None:
    intercept = pm.Normal("intercept", 0.0, 1.0)
    slope = pm.Normal("slope", 0.0, 1.0, shape=data["design"].shape[1])
    pm.Bernoulli("y", logit_p=intercept + data["design"] @ slope, observed=data["y"])


def _gaussian(pm: Any, data: dict[str, Any]) -> None:
    x = pm.Flat("x", shape=len(data["y"]))
    pm.MvNormal("y", mu=x, chol=data["factor"], observed=data["y"])


MODELS: dict[str, Callable[[Any, dict[str, Any]], None]] = {
    "schools": _schools,
    "radon": _radon,
    "logistic": _logistic,
    "gaussian": _gaussian,
}
