"""Numbers and lists as the sections say them, and what a section says of a group that is absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bayes.diagnostics.report.contents import Case, Section

__all__ = ["json_number", "json_numbers", "lacking", "listed", "missing_section", "said"]


def said(value: float, digits: int = 3) -> str:
    """A number to so many significant digits; large ones in full."""
    if np.isfinite(value) and 1e3 <= abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:.{digits}g}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names in a row, the first few where there are many."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return ", ".join(names)


def json_number(value: Any, digits: int = 6) -> float | None:
    """A JSON number of so many significant digits; None where it is not finite."""
    return float(f"{float(value):.{digits}g}") if np.isfinite(value) else None


def json_numbers(values: Mapping[str, Any]) -> dict[str, float | None]:
    """JSON numbers of a mapping of numbers."""
    return {name: json_number(value) for name, value in values.items()}


def lacking(case: Case, *groups: str) -> tuple[str, ...]:
    """Groups that the case has not."""
    return tuple(group for group in groups if group not in case.tree.children)


def missing_section(case: Case, groups: Sequence[str], name: str, title: str) -> Section | None:
    """A section that says why it could not be computed; None where nobody tried.

    Parameters
    ----------
    case : Case
        The case.
    groups : sequence of str
        Groups that it lacks.
    name, title : str
        The section's.
    """
    reasons = list(dict.fromkeys(case.absent[g] for g in groups if g in case.absent))
    return Section(name, title, missing="; ".join(reasons)) if reasons else None
