"""A report: what the sections say of a posterior, and the files it is saved to."""

from __future__ import annotations

import dataclasses
import html
import json
import math
import os
import pathlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from bayes.diagnostics.checks import Diagnostics
from bayes.diagnostics.report.contents import Case, Section
from bayes.errors import SettingsError
from bayes.files import write_atomic

__all__ = ["Report", "require_writable", "write_report"]

_SCHEMA = 1
_SUFFIXES = (".html", ".md", ".json")

_SAID_ELSEWHERE = ("Estimated shape parameter of Pareto distribution",)
"""Beginnings of ArviZ's warnings about what a section shows anyway."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What the diagnostics of a posterior say, to be read or saved.

    Parameters
    ----------
    title : str
        Heading.
    diagnostics : Diagnostics
        The verdict with its checks.
    sections : tuple of Section
        In order.
    card : mapping
        Facts about model, data, method and versions, as JSON values; see :class:`Case`.
    """

    title: str
    diagnostics: Diagnostics
    sections: tuple[Section, ...]
    card: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return self.diagnostics.ok

    @property
    def verdict(self) -> str:
        """The verdict, one paragraph in words."""
        return self.diagnostics.verdict

    def html(self) -> str:
        """The report as one HTML page that needs no other file and no network."""
        from bayes.diagnostics.report.page import page

        return page(self)

    def markdown(self) -> str:
        """The report as Markdown; of figures it says what they show, of long tables some rows."""
        from bayes.diagnostics.report.markdown import markdown

        return markdown(self)

    def to_dict(self) -> dict[str, Any]:
        """The report's numbers as JSON values; what is not a finite number is None."""
        return _json_values(
            {
                "kind": "report",
                "schema": _SCHEMA,
                "title": self.title,
                "ok": self.ok,
                "verdict": self.verdict,
                **self.diagnostics.to_dict(),
                "card": self.card,
                "sections": {
                    s.name: {"title": s.title, "data": s.data, "missing": s.missing}
                    for s in self.sections
                },
            }
        )

    def save(self, path: str | os.PathLike) -> None:
        """Save the report, whole or not at all.

        Parameters
        ----------
        path : path
            A file whose suffix says what to write: ``.html``, ``.md`` or ``.json``.

        Raises
        ------
        SettingsError
            Where the suffix is another one.
        """
        target = require_writable(path)
        suffix = target.suffix.lower()
        if suffix == ".html":
            text = self.html()
        elif suffix == ".md":
            text = self.markdown()
        else:
            text = json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n"
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, text.encode())

    def _repr_html_(self) -> str:
        # In a frame of its own, so that its style does not become the notebook's.
        return (
            '<iframe style="width:100%;height:44rem;border:1px solid #8884" '
            f'sandbox="allow-scripts" srcdoc="{html.escape(self.html())}"></iframe>'
        )

    def __str__(self) -> str:
        return self.markdown()


def require_writable(path: str | os.PathLike) -> pathlib.Path:
    """Refuse a path that no report can be saved at; to be asked before the work for it is done.

    Raises
    ------
    SettingsError
        Says why, and what suffixes there are.
    """
    target = pathlib.Path(path)
    if target.suffix.lower() not in _SUFFIXES:
        raise SettingsError(f"{target}: a report is {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}")
    if target.is_dir():
        raise SettingsError(f"{target} is a folder; name a file for the report")
    folder = target.absolute().parent
    nearest = next(p for p in (folder, *folder.parents) if p.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise SettingsError(f"{target} cannot be written: {nearest} takes no new files")
    return target


def write_report(case: Case, title: str) -> Report:
    """Write every section that applies to a case.

    Parameters
    ----------
    case : Case
        Draws, verdict and facts.
    title : str
        Heading.

    Returns
    -------
    Report
        A section that fails says why in its place; the others are there.
    """
    from bayes.diagnostics.report.sections import SECTIONS

    found = [_written(section, case) for section in SECTIONS]
    sections = tuple(section for section in found if section is not None)
    return Report(title, case.diagnostics, sections, case.card)


def _written(section: Callable[[Case], Section | None], case: Case) -> Section | None:
    """A section, or why it could not be computed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            written = section(case)
        except Exception as error:  # a report of the rest is worth more than none
            name = getattr(section, "__name__", "section").strip("_").replace("_", "-")
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            title = name.replace("-", " ").capitalize()
            return Section(name, title, missing=f"could not be computed: {reason}")
    said = list(dict.fromkeys(filter(None, map(_worth_saying, caught))))
    if written is None or not said:
        return written
    return dataclasses.replace(written, missing="; ".join(filter(None, [written.missing, *said])))


def _worth_saying(warning: warnings.WarningMessage) -> str:
    """What ArviZ warns of its own results; other warnings are about code, not about a posterior."""
    by_arviz = any(part.startswith("arviz") for part in pathlib.Path(warning.filename).parts)
    text = " ".join(str(warning.message).split())
    if not by_arviz or warning.category is not UserWarning or text.startswith(_SAID_ELSEWHERE):
        return ""
    return f"ArviZ warns: {text.rstrip('.')}"


def _json_values(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _json_values(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_values(v) for v in value]
    if hasattr(value, "tolist"):  # NumPy's
        return _json_values(value.tolist())
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)
