"""What a report is made of: sections of text, facts, tables and figures, in no format yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bayes.diagnostics.checks import Diagnostics

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Block", "Case", "Facts", "Figure", "Section", "Table", "Text"]


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph.

    Parameters
    ----------
    text : str
        Plain text.
    """

    text: str


@dataclasses.dataclass(frozen=True)
class Facts:
    """A card of facts.

    Parameters
    ----------
    rows : tuple of (label, value)
        Plain text.
    """

    rows: tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Parameters
    ----------
    columns : tuple of str
        Headings.
    rows : tuple of tuple
        Strings, numbers (NaN where there is none) and None, a row a line.
    caption : str
        What it shows.
    searchable : bool
        Whether a reader may want to search, sort and page it.
    flagged : tuple of int
        Rows that a check objects to.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int | None, ...], ...]
    caption: str = ""
    searchable: bool = False
    flagged: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure.

    Parameters
    ----------
    svg : str
        The drawing, an ``<svg>`` element whose text and axes have the colour of the page's text.
    caption : str
        What it shows and how to read it.
    summary : str
        What it shows, for those who do not see it.
    """

    svg: str
    caption: str
    summary: str


Block = Text | Facts | Table | Figure


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of a report.

    Parameters
    ----------
    name : str
        Its anchor and key: lower case, words joined by hyphens.
    title : str
        Heading.
    blocks : tuple of Block
        What it says, in order.
    missing : str
        Why it, or a part of it, could not be computed; empty where all is there.
    data : mapping
        Its numbers as JSON values, for machines.
    """

    name: str
    title: str
    blocks: tuple[Block, ...] = ()
    missing: str = ""
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Case:
    """What a report is written from.

    Parameters
    ----------
    tree : xarray.DataTree
        Draws (group posterior), sample_stats, observed_data, and where they could be computed
        prior, prior_predictive, posterior_predictive, log_likelihood and log_prior.
    diagnostics : Diagnostics
        The verdict.
    card : mapping
        Facts as JSON values: ``model`` (name; ``sites``: a list of mappings with name, kind,
        shape, distribution, support, plates, parents), ``data`` (a list of mappings with name,
        shape, kind and range), ``method`` (name, settings, reason, seed, seconds, info),
        ``versions``, ``created``.
    absent : mapping
        Why a group could not be computed, by its name.
    """

    tree: xr.DataTree
    diagnostics: Diagnostics
    card: Mapping[str, Any]
    absent: Mapping[str, str] = dataclasses.field(default_factory=dict)
