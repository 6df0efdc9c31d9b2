"""What a verdict is: checks with thresholds, findings and advice."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

__all__ = ["Check", "Diagnostics"]


@dataclasses.dataclass(frozen=True)
class Check:
    """One check.

    Parameters
    ----------
    name : str
        What is checked.
    value : float
        What was found; NaN where it could not be assessed.
    threshold : float
        Where it would fail.
    passed : bool
        Whether it passed.
    advice : str
        What the finding means and what to do next; may be given for a pass, too.
    """

    name: str
    value: float
    threshold: float
    passed: bool
    advice: str = ""

    def __str__(self) -> str:
        mark = "pass" if self.passed else "FAIL"
        line = f"{mark}  {self.name:<12} {self.value:.4g} (threshold {self.threshold:g})"
        return f"{line}  {self.advice}" if self.advice else line


@dataclasses.dataclass(frozen=True)
class Diagnostics:
    """The verdict on a posterior.

    Parameters
    ----------
    checks : tuple of Check
        In order of weight.
    interrupted : str or None
        ``"keyboard"`` or ``"budget"`` where the run was stopped before it was done.
    notes : tuple of str
        What else is worth knowing.
    """

    checks: tuple[Check, ...]
    interrupted: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that did not pass."""
        return tuple(check for check in self.checks if not check.passed)

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check '{name}'; there are {', '.join(c.name for c in self.checks)}")

    @property
    def verdict(self) -> str:
        """One paragraph in words."""
        cut = f" (stopped early: {self.interrupted})" if self.interrupted else ""
        if self.ok:
            return f"ok: all {len(self.checks)} checks passed{cut}"
        reasons = "; ".join(f"{c.name} {c.value:.4g}: {c.advice}" for c in self.failed)
        return f"not ok{cut}: {reasons}"

    def __str__(self) -> str:
        lines = [self.verdict, *(f"  {check}" for check in self.checks)]
        return "\n".join([*lines, *(f"  note  {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "checks": [dataclasses.asdict(c) for c in self.checks],
            "interrupted": self.interrupted,
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Diagnostics:
        """Back from JSON values."""
        checks = tuple(Check(**c) for c in values["checks"])
        return cls(checks, values["interrupted"], tuple(values["notes"]))
