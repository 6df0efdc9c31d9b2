"""The data of the benchmarks' own targets, from NumPy and pandas alone.

They live apart from the programs because a peer in an environment of its own has neither JAX nor
NumPyro. What is made up is made with a fixed seed; measured data are those of the gallery.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pandas as pd

_TABLES = pathlib.Path(__file__).resolve().parent.parent / "models" / "data"


def schools() -> dict[str, Any]:
    """Eight estimated effects with their standard errors."""
    table = pd.read_csv(_TABLES / "eight_schools.csv")
    return {"sigma": table["sigma"].to_numpy(float), "y": table["y"].to_numpy(float)}


def radon() -> dict[str, Any]:
    """Log radon of 919 houses in 85 counties, with three predictors."""
    table = pd.read_csv(_TABLES / "radon.csv", dtype={"county": "category"})
    design = table[["uranium", "floor", "floor_by_county"]].to_numpy(float)
    return {
        "county": table["county"].cat.codes.to_numpy(np.int32),
        "design": design,
        "n_county": len(table["county"].cat.categories),
        "y": table["log_radon"].to_numpy(float),
    }


def logistic(rows: int = 1000, columns: int = 20) -> dict[str, Any]:
    """Independent standard normal predictors, an intercept and slopes of half a unit."""
    rng = np.random.default_rng(20)
    design = rng.normal(size=(rows, columns))
    slopes = rng.normal(0.0, 0.5, size=columns)
    chance = 1.0 / (1.0 + np.exp(-(0.3 + design @ slopes)))
    return {"design": design, "y": (rng.uniform(size=rows) < chance).astype(np.int32)}


def item_response(persons: int = 100, items: int = 40) -> dict[str, Any]:
    """Every person answers every item; discriminations around one."""
    rng = np.random.default_rng(40)
    ability = rng.normal(size=persons)
    difficulty = rng.normal(0.3, 1.0, size=items)
    discrimination = np.exp(0.4 * rng.normal(size=items))
    logits = discrimination * (ability[:, None] - difficulty)
    answers = (rng.uniform(size=logits.shape) < 1.0 / (1.0 + np.exp(-logits))).astype(np.int32)
    return {"answers": answers}


def correlated_gaussian(size: int = 100, condition: float = 1e3) -> dict[str, Any]:
    """A mean, and the Cholesky factor of a dense covariance of that condition number."""
    rng = np.random.default_rng(100)
    vectors, _ = np.linalg.qr(rng.normal(size=(size, size)))
    values = np.geomspace(1.0, condition, size) / np.sqrt(condition)
    covariance = (vectors * values) @ vectors.T
    return {"factor": np.linalg.cholesky(covariance), "y": rng.normal(size=size)}


def diagonal_gaussian(size: int) -> dict[str, Any]:
    """Zero mean, and scales between a tenth and ten, uniform in their logarithm."""
    rng = np.random.default_rng(size)
    return {"scale": 10.0 ** rng.uniform(-1.0, 1.0, size=size), "y": np.zeros(size)}


def autoregression(size: int, phi: float = 0.9) -> dict[str, Any]:
    """Zeros: the innovations that are observed to be what they are."""
    return {"phi": np.asarray(phi), "start": np.zeros(1), "y": np.zeros(size - 1)}


def gp(rows: int = 100) -> dict[str, Any]:
    """A noisy sine over ten units of time."""
    rng = np.random.default_rng(7)
    time = np.sort(rng.uniform(0.0, 10.0, size=rows))
    return {"time": time, "y": np.sin(time) + 0.3 * rng.normal(size=rows)}
