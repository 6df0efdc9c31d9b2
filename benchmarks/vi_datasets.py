"""Made-up data of the larger targets for approximations, from NumPy alone, with fixed seeds."""

from __future__ import annotations

from typing import Any

import numpy as np


def grouped_answers(rows: int = 100_000, groups: int = 200, columns: int = 8) -> dict[str, Any]:
    """Yes or no in groups of very unequal sizes, some of them of a few rows."""
    rng = np.random.default_rng(200)
    group = rng.choice(groups, size=rows, p=rng.dirichlet(np.full(groups, 0.5)))
    design = rng.normal(size=(rows, columns))
    slopes = rng.normal(0.0, 0.5, size=columns)
    effect = rng.normal(-0.5, 0.8, size=groups)
    chance = 1.0 / (1.0 + np.exp(-(effect[group] + design @ slopes)))
    return {
        "group": group.astype(np.int32),
        "design": design,
        "n_group": groups,
        "y": (rng.uniform(size=rows) < chance).astype(np.int32),
    }


def sparse_regression(rows: int = 400, columns: int = 2000, signals: int = 10) -> dict[str, Any]:
    """Independent predictors of which ten matter; noise of standard deviation one."""
    rng = np.random.default_rng(2000)
    design = rng.normal(size=(rows, columns))
    size = rng.uniform(0.5, 1.5, size=signals) * rng.choice([-1.0, 1.0], size=signals)
    mean = 1.0 + design[:, :signals] @ size
    return {"design": design, "y": mean + rng.normal(size=rows)}


def curved_surface(rows: int = 500, columns: int = 5, tests: int = 50) -> dict[str, Any]:
    """A smooth function of five inputs with noise, and inputs to predict it at."""
    rng = np.random.default_rng(500)
    inputs = rng.normal(size=(rows, columns))
    mean = np.sin(2.0 * inputs[:, 0]) + 0.5 * inputs[:, 1] * inputs[:, 2] - 0.5 * inputs[:, 3]
    y = mean + 0.3 * rng.normal(size=rows)
    return {"inputs": inputs, "test_inputs": rng.normal(size=(tests, columns)), "y": y}
