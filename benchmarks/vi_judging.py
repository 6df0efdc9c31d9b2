"""How far an approximation is from the truth: means in standard deviations, relative spreads."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

WRONG_MEAN, WRONG_SD = 0.3, 0.3
"""A mean or a standard deviation that is off by more is wrong."""
CLOSE_MEAN, CLOSE_SD = 0.1, 0.1
"""All within these: as good as a long run."""

_KNOWN_SD = 0.05
"""A reference's standard deviation is compared with where its own relative error is below this."""

_FOLDER = pathlib.Path(__file__).with_name("references")


def reference_path(name: str) -> pathlib.Path:
    """Where the reference of one of the own targets is kept."""
    return _FOLDER / f"{name}.json"


def load_reference(name: str) -> dict[str, Any] | None:
    """The reference of one of the own targets; None where none has been made."""
    path = reference_path(name)
    return json.loads(path.read_text()) if path.exists() else None


def against_reference(
    reference: Mapping[str, Any], draws: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Errors of draws, by the moments of a long run.

    Parameters
    ----------
    reference : mapping
        ``sites``: by name ``mean``, ``sd``, ``mcse_mean`` and ``mcse_sd``, flat.
    draws : mapping of arrays of shape (chain, draw, ...)
    """
    labels, bias, off = [], [], []
    for name, known in reference["sites"].items():
        x = np.asarray(draws[name], float)
        shape = x.shape[2:]
        x = x.reshape(x.shape[0] * x.shape[1], -1)
        mean, sd, error = (np.asarray(known[k]) for k in ("mean", "sd", "mcse_sd"))
        with np.errstate(all="ignore"):
            bias.append(np.abs(x.mean(axis=0) - mean) / sd)
            change = np.abs(x.std(axis=0, ddof=1) / sd - 1.0)
        off.append(np.where(error <= _KNOWN_SD * sd, np.nan_to_num(change, nan=np.inf), 0.0))
        labels += [name + (str(list(i)) if i else "") for i in np.ndindex(*shape)]
    biases = np.nan_to_num(np.concatenate(bias), nan=np.inf)
    changes = np.concatenate(off)
    return {
        "p": len(labels),
        "bias": float(biases.max()),
        "sd": float(changes.max()),
        "rms_bias": float(np.sqrt(np.mean(biases**2))),
        "worst": labels[int(np.argmax(biases))],
        "worst_sd": labels[int(np.argmax(changes))],
    }


def against_folder(
    harness: ModuleType, name: str, draws: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """The same errors, by the checker of a folder of reference posteriors."""
    report = harness.check(name, draws, independent=True)
    per = report["per"]
    return {
        "p": report["n_params"],
        "bias": float(report["max_bias"]),
        "sd": float(report["max_rel_sd_err"]),
        "rms_bias": float(np.sqrt(report["bias2_avg"])),
        "worst": max(per, key=lambda k: np.nan_to_num(abs(per[k]["bias"]), nan=np.inf)),
        "worst_sd": report["worst_sd"],
    }


def is_wrong(figures: Mapping[str, Any]) -> bool | None:
    """Whether a mean or a spread is clearly off; None where no reference is known."""
    if figures.get("bias") is None:
        return None
    return not (figures["bias"] <= WRONG_MEAN and figures["sd"] <= WRONG_SD)


def is_close(figures: Mapping[str, Any]) -> bool | None:
    """Whether all means and spreads are near the reference's; None where none is known."""
    if figures.get("bias") is None:
        return None
    return bool(figures["bias"] <= CLOSE_MEAN and figures["sd"] <= CLOSE_SD)
