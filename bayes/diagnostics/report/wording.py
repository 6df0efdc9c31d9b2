"""A verdict in the words of a report, whatever its format."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from bayes.diagnostics.checks import Check, Diagnostics
from bayes.diagnostics.elements import draws_in_words
from bayes.diagnostics.report.cells import number
from bayes.diagnostics.report.check_words import words_of

if TYPE_CHECKING:
    from bayes.diagnostics.report.report import Report

__all__ = ["CheckLine", "check_lines", "headline", "particulars"]


@dataclasses.dataclass(frozen=True)
class CheckLine:
    """A check in words.

    Parameters
    ----------
    label : str
        What is checked.
    value, threshold : str
        What was found, and where it would fail.
    passed : bool
        Whether it passed.
    advice : str
        What it means and what to do next.
    """

    label: str
    value: str
    threshold: str
    passed: bool
    advice: str


def check_lines(checks: tuple[Check, ...]) -> list[CheckLine]:
    """Checks in words."""
    return [
        CheckLine(
            words_of(check.name)[0],
            number(check.value),
            f"{check.threshold:g}",
            check.passed,
            check.advice,
        )
        for check in checks
    ]


def headline(diagnostics: Diagnostics) -> str:
    """The verdict as one short line."""
    count, failed = len(diagnostics.checks), len(diagnostics.failed)
    if diagnostics.ok:
        line = f"Ok: all {count} checks passed"
    else:
        line = f"Not ok: {failed} of {count} checks failed"
    cut = diagnostics.interrupted
    return f"{line}; the run was stopped early ({cut})" if cut else line


def particulars(report: Report) -> list[str]:
    """What was fitted, how, and when: a few words each."""
    card = report.card
    method, draws = card.get("method", {}), card.get("draws", {})
    parts = []
    name = card.get("model", {}).get("name")
    if name and name not in report.title:
        parts.append(f"model {name}")
    if draws:
        parts.append(draws_in_words(draws["chains"], draws["draws"]))
    if "name" in method:
        seconds = f" in {method['seconds']:.1f} s" if "seconds" in method else ""
        parts.append(f"{method['name']}{seconds}")
    if "seed" in method:
        parts.append(f"seed {method['seed']}")
    if "created" in card:
        parts.append(str(card["created"]))
    return parts
