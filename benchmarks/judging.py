"""When a fit is right: its figures, computed for every engine in the same way."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from collections.abc import Mapping
from types import ModuleType

import numpy as np

MAX_Z, MAX_SD, MAX_RHAT, MIN_ESS = 4.0, 0.10, 1.01, 400


def load_harness(folder: pathlib.Path) -> ModuleType:
    """Import the checker of a folder of reference posteriors."""
    spec = importlib.util.spec_from_file_location("harness", folder / "harness.py")
    if spec is None or spec.loader is None or not (folder / "harness.py").exists():
        sys.exit(f"{folder} has no harness.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def convergence(draws: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Worst R-hat, bulk and tail effective sample size over all elements.

    Elements that are constant by construction have none of these and do not count.

    Parameters
    ----------
    draws : mapping of arrays of shape (chain, draw, ...)
    """
    from arviz_stats.base import array_stats

    values = _elements(draws)
    values = values[..., np.ptp(values, axis=(0, 1)) != 0]
    if not np.isfinite(values).all() or np.any(np.ptp(values, axis=1) == 0):
        return {"rhat": float("inf"), "bulk": 0.0, "tail": 0.0}
    axes = {"chain_axis": 0, "draw_axis": 1}
    return {
        "rhat": float(np.max(array_stats.rhat(values, **axes))),
        "bulk": float(np.min(array_stats.ess(values, method="bulk", **axes))),
        "tail": float(np.min(array_stats.ess(values, method="tail", prob=(0.05, 0.95), **axes))),
    }


def against_exact(
    draws: Mapping[str, np.ndarray], exact: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> dict[str, float]:
    """Largest error of a mean in standard errors, largest error of a standard deviation.

    The latter relative to it, and in its own Monte Carlo errors.

    Parameters
    ----------
    draws : mapping of arrays of shape (chain, draw, ...)
    exact : mapping of pairs of arrays
        Mean and standard deviation.
    """
    from arviz_stats.base import array_stats

    values = _elements({name: draws[name] for name in exact})
    mean = np.concatenate([np.ravel(pair[0]) for pair in exact.values()])
    sd = np.concatenate([np.ravel(pair[1]) for pair in exact.values()])
    ess = array_stats.ess(values, method="mean", chain_axis=0, draw_axis=1)
    spread = values.std(axis=(0, 1), ddof=1)
    z = (values.mean(axis=(0, 1)) - mean) / (spread / np.sqrt(ess))
    squares = (values - values.mean(axis=(0, 1))) ** 2
    size = array_stats.ess(squares, method="mean", chain_axis=0, draw_axis=1)
    error = squares.std(axis=(0, 1)) / (2 * squares.mean(axis=(0, 1)) * np.sqrt(size))
    off = np.abs(spread / sd - 1)
    return {
        "z": float(np.max(np.abs(z))),
        "sd": float(np.max(off)),
        "z_sd": float(np.max(off / error)),
    }


def against_references(
    harness: ModuleType, name: str, draws: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """The same errors, by the checker of a folder of reference posteriors."""
    report = harness.check(name, draws)
    return {
        "p": report["n_params"],
        "z": float(report["max_abs_z"]),
        "sd": float(report["max_rel_sd_err"]),
        "z_sd": float(report["max_abs_z_sd"]),
    }


def is_right(figures: Mapping[str, float]) -> bool | None:
    """Whether a fit is right; None where nothing is known to compare it with.

    Means lie within 4 standard errors; standard deviations within 10 %, or within 4 of their own
    Monte Carlo errors: at the effective sample size asked for these are 3.5 %, so that among
    hundreds of parameters some right ones are off by more than 10 %.
    """
    if figures.get("z") is None:
        return None
    return bool(
        figures["z"] <= MAX_Z
        and (figures["sd"] <= MAX_SD or figures["z_sd"] <= MAX_Z)
        and figures["rhat"] < MAX_RHAT
        and min(figures["bulk"], figures["tail"]) >= MIN_ESS
    )


def _elements(draws: Mapping[str, np.ndarray]) -> np.ndarray:
    blocks = [np.asarray(v, float).reshape(*np.shape(v)[:2], -1) for v in draws.values()]
    return np.concatenate(blocks, axis=2)
