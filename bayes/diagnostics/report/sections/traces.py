"""The objective of an approximation on its way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bayes.diagnostics.report.contents import Figure
from bayes.diagnostics.report.figures import COLOURS, drawing, picture
from bayes.diagnostics.report.sections.wording import said

__all__ = ["traces"]


def traces(info: Mapping[str, Any]) -> list[Figure]:
    """The objective on its way, where it is there; those of several paths are no such thing."""
    if info.get("objective") == info.get("elbo_by_path"):
        info = {k: v for k, v in info.items() if k != "objective"}
    for label in ("elbo", "objective"):
        if _is_trace(info.get(label)):
            return [_trace(np.asarray(info[label], float), label)]
    return []


def _is_trace(values: Any) -> bool:
    return (
        isinstance(values, (list, tuple))
        and len(values) > 1
        and all(isinstance(v, (int, float)) for v in values)
    )


def _trace(values: np.ndarray, label: str) -> Figure:
    finite = values[np.isfinite(values)]
    steps = np.arange(len(values))
    stride = 1 + len(values) // 1500
    with drawing() as plt:
        figure, axes = plt.subplots(figsize=(6.4, 2.5))
        axes.plot(steps[::stride], values[::stride], color=COLOURS[0], linewidth=0.9)
        if len(finite):
            late = finite[len(finite) // 10 :]
            low, high = np.percentile(late, (0.5, 99.5))
            room = 0.1 * (high - low) or 1.0
            axes.set_ylim(low - room, high + room)
        axes.set_xlabel("step")
        axes.set_ylabel("ELBO" if label == "elbo" else label)
        caption = (
            f"The {'ELBO' if label == 'elbo' else 'objective'} on the way; the first tenth may lie "
            f"outside. It should be level at the end. {_still_moving(finite)}"
        )
        return picture(figure, caption, f"The {label} by step.")


def _still_moving(values: np.ndarray) -> str:
    """Whether the last quarter still moves: its halves' difference beside their errors."""
    last = values[-(len(values) // 4) :]
    half = len(last) // 2
    if half < 5:
        return f"Here it ends at {said(float(values[-1]), 5)}." if len(values) else ""
    first, second = last[:half], last[-half:]
    change = float(second.mean() - first.mean())
    error = float(np.sqrt((first.var() + second.var()) / half))
    scale = float(np.ptp(values))
    if abs(change) > 4 * error and abs(change) > 1e-3 * scale:
        return f"Here it still moves by {said(change, 2)} within the last quarter: more steps."
    return f"Here it is, at {said(float(last.mean()), 5)}."
