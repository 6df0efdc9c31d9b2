"""The layout of a program's data: what is a row of what, and how its columns are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from bayes.errors import UnsupportedModelError
from bayes.surrogates.features import Columns, measure_columns
from bayes.surrogates.layout import Inputs, Layout, Source, leaves_of, table_of
from bayes.surrogates.probing import Probed, first_plate

__all__ = ["laid_out", "measured"]

_MOST_EXTRA = 256


def laid_out(probed: Probed, varying: tuple[str, ...], rows: int) -> Layout:
    """The layout of a program's data, with columns that are not known yet.

    Parameters
    ----------
    probed : Probed
        The program.
    varying : tuple of str
        Leaves of its arguments that differ between data sets.
    rows : int
        Largest number of rows.

    Raises
    ------
    UnsupportedModelError
        Where too many numbers belong to no row.
    """
    own = leaves_of(probed.arrays)
    latents = probed.reference.program.latents
    placed_plates = {p for s in latents for p in probed.plates_of(s.name)}
    sources, used = [], set()
    for site in probed.observed:
        found = probed.reference.sites[site]
        here = found.shape[0] if found.shape else 1
        plate = first_plate(found)
        resizable = probed.resizable and here == probed.rows and plate is not None
        covariates = tuple(
            n for n in varying if np.ndim(own[n]) and len(own[n]) == here and found.shape
        )
        used |= set(covariates)
        placed = here > 1 and (plate is None or plate in placed_plates)
        size = rows if resizable else here
        sources.append(Source(site, covariates, size, resizable, placed, _unknown()))
    extra = tuple(n for n in varying if n not in used)
    numbers = sum(int(np.size(own[n])) for n in extra)
    if numbers > _MOST_EXTRA:
        raise UnsupportedModelError(
            f"{', '.join(extra)} differ between data sets and have {numbers} numbers that "
            f"belong to no row; at most {_MOST_EXTRA} can be read"
        )
    return Layout(tuple(sources), extra, _unknown())


def measured(
    layout: Layout, probed: Probed, kinds: Mapping[str, np.dtype], inputs: Inputs
) -> Layout:
    """The layout with columns as the first simulations have them.

    Parameters
    ----------
    layout : Layout
        Of :func:`laid_out`.
    probed : Probed
        The program.
    kinds : mapping of dtype
        Types of what is drawn, by observed site.
    inputs : Inputs
        Many data sets.
    """
    own = leaves_of(probed.arrays)
    sources = []
    for source, table in zip(layout.sources, inputs.tables, strict=True):
        site, shape = source.site, probed.reference.sites[source.site].shape
        alone = dataclasses.replace(source, covariates=())
        blank = table_of(alone, {site: np.zeros((1, *shape[1:]))}, {}, np)
        widths = [blank.shape[1], *(int(np.prod(np.shape(own[n])[1:])) for n in source.covariates)]
        types = [kinds[site], *(np.asarray(own[n]).dtype for n in source.covariates)]
        whole = [np.dtype(t).kind in "iub" for t in types]
        flags = tuple(w for w, n in zip(whole, widths, strict=True) for _ in range(n))
        columns = measure_columns(np.asarray(table).reshape(-1, table.shape[-1]), flags)
        sources.append(dataclasses.replace(source, columns=columns))
    flags = tuple(
        np.asarray(own[n]).dtype.kind in "iub"
        for n in layout.extra
        for _ in range(int(np.size(own[n])))
    )
    return Layout(tuple(sources), layout.extra, measure_columns(np.asarray(inputs.extra), flags))


def _unknown() -> Columns:
    return Columns((), (), (), ())
