"""A program at new data: what is read, checked and matched to the fit before it runs forward."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from numpyro import handlers
from numpyro.infer.initialization import init_to_sample

from bayes.building import computation_digest, shared_program
from bayes.data import Data
from bayes.dims import site_coords, site_dims
from bayes.errors import DataError, ModelError, ShapeError
from bayes.parameters import check_parameters
from bayes.problem import Problem
from bayes.program import Program, Unobserve
from bayes.reading import Reading, read_program
from bayes.reparam import apply_reparam, centred_sites
from bayes.structure import read_sites, trace_program
from bayes.supports import base_distribution

__all__ = ["Prediction", "prediction_at"]

_KEY = np.zeros(2, np.uint32)
"""Data of the key that a program is tried with."""


def prediction_at(fitted: Problem, new_data: Any, new_groups: str) -> Prediction:
    """Bind a fitted program to new data.

    Parameters
    ----------
    fitted : Problem
        The problem that was fitted.
    new_data : dict, pandas.DataFrame, xarray.Dataset or polars.DataFrame
        Covariates; static arguments, and what was observed, may be left out.
    new_groups : {"refuse", "sample"}
        What to do with levels that the fit has not seen.

    Raises
    ------
    DataError, ShapeError, ModelError
        What is wrong with the data, by column and row.
    """
    data = _read(fitted, new_data, new_groups)
    absent = [n for n in fitted.observed_arguments if data.arguments.get(n) is None]
    try:
        return Prediction(fitted, data)
    except (ModelError, DataError):
        if not absent:
            raise
        # A program may compute with its observed argument, its length say.
        held = {n: fitted.data.arguments[n] for n in absent}
        columns = {
            n: dataclasses.replace(fitted.data.columns[n], labels=None)
            for n in absent
            if n in fitted.data.columns
        }
        both = Data({**data.arguments, **held}, {**data.columns, **columns}, data.coords)
        try:
            return Prediction(fitted, both)
        except (ModelError, DataError):
            pass
        raise


def _read(fitted: Problem, new_data: Any, new_groups: str) -> Data:
    """New data by the fit's schema."""
    signature, known = fitted.model.signature, fitted.data
    optional = {*known.statics, *fitted.observed_arguments}
    relaxed = dataclasses.replace(
        signature,
        required=tuple(n for n in signature.required if n not in optional),
        optional=tuple(n for n in signature.names if n in optional or n in signature.optional),
    )
    given: set[str] = set()
    if isinstance(new_data, Mapping):
        given = set(new_data)
        new_data = {n: _as_labels(v) if n in known.levels else v for n, v in new_data.items()}
    data = Data.read(new_data, relaxed, levels=known.levels, new_groups=new_groups)
    for name in _own_arguments(fitted.model.fn):
        if name in known.columns:
            data.arguments[name] = known.arguments[name]
            data.columns[name] = known.columns[name]
    for name in known.columns:
        left_out = name not in data.arguments and name not in given
        if left_out and name not in fitted.observed_arguments:
            raise DataError(
                f"the fit had '{name}', the new data have not; give it"
                + (", or None" if name in signature.optional else "")
            )
    for name, value in known.arrays.items():
        _check_rank(name, value, data.arguments.get(name))
    statics = {n: v for n, v in known.statics.items() if n not in given}
    nothing = {n: None for n in signature.required if n in optional}
    return dataclasses.replace(data, arguments={**nothing, **statics, **data.arguments})


def _own_arguments(fn: Any) -> tuple[str, ...]:
    """Arguments that a wrapper of the program adds, and data need not bring: another prior's."""
    while fn is not None:
        if hasattr(fn, "own_arguments"):
            return fn.own_arguments
        fn = getattr(fn, "fn", None)
    return ()


def _as_labels(value: Any) -> Any:
    """A plain list of a category's labels as a column, so that it is matched to the levels."""
    import pandas as pd

    if isinstance(value, (list, np.ndarray)) and np.ndim(value) == 1:
        return pd.Series(np.asarray(value))
    return value


def _check_rank(name: str, old: Any, new: Any) -> None:
    if new is None:
        return
    before, after = ([np.ndim(v) for v in jax.tree.leaves(t)] for t in (old, new))
    if before != after:
        shapes = " and ".join(
            str([np.shape(v) for v in jax.tree.leaves(t)] if len(before) > 1 else np.shape(t))
            for t in (old, new)
        )
        raise ShapeError(
            f"'{name}' had another number of dimensions in the fit: shapes {shapes} now"
        )


class Prediction(Problem):
    """A fitted program at new data, where its observed sites are free.

    Parameters
    ----------
    fitted : Problem
        The problem that was fitted; its kinds of sites hold here.
    data : Data
        New data.

    Attributes
    ----------
    joint : dict of int
        By site, trailing dimensions whose elements the prior does not draw independently.
    """

    def __init__(self, fitted: Problem, data: Data) -> None:
        self.fitted = fitted
        super().__init__(fitted.model, data, need_observed=False, marginal=fitted.marginal)

    def _read(self, fn: Callable, need_observed: bool) -> None:
        for name, column in self.data.columns.items():
            if len(column.missing) and name not in self.fitted.observed_arguments:
                raise DataError(self.data.missing_text(name))
        super()._read(Unobserve(fn), need_observed)

    def _judge(self, reading: Reading, need_observed: bool) -> None:
        first = reading.trace(0)
        observed = {n for n, s in self.fitted.sites.items() if s.kind == "observed"}
        self.sites = {
            n: dataclasses.replace(s, kind="observed") if n in observed else s
            for n, s in read_sites(first, enumerated=self.marginal).items()
        }
        self.observed_arguments = self.fitted.observed_arguments
        self.discrete = tuple(n for n, s in self.sites.items() if s.kind == "discrete")
        self.frozen = []
        self._label()
        reparam = self._reparam()
        data = self.data if reparam is None else reading.on_device
        fn, self.reparametrised = apply_reparam(self.model.fn, reparam, data, first, self.sites)
        note = reading.check_indices()
        if note is not None:
            self.notes.append(note)
        check_parameters(reading.traces, reading.trace)
        trace = read_program(Unobserve(fn), self.data).trace(0) if self.reparametrised else first
        self._build(fn, {n: s for n, s in trace.items() if n not in observed})

    def _label(self) -> None:
        self.dims = site_dims(self.sites, self.model.dims)
        sizes = {
            dim: size
            for name, dims in self.dims.items()
            for dim, size in zip(dims, self.sites[name].shape, strict=True)
        }
        # Labels given for the fit's sizes say nothing about dimensions that have grown.
        own = {d: c for d, c in self.model.coords.items() if len(c) == sizes.get(d, len(c))}
        self.coords = site_coords(self.sites, self.dims, self.data, own)

    def _reparam(self) -> Any:
        # The fit has chosen; new data must not choose otherwise.
        if self.model.reparam != "auto" or not self.fitted.reparametrised:
            return self.model.reparam if self.fitted.reparametrised else None
        trace = trace_program(self.fitted.model.fn, self.fitted.data, 0)
        return centred_sites(self.model.fn, self.fitted.data, trace, self.fitted.sites)

    def _forward(self, fn: Any) -> Callable:
        """The program's sampled values as a function of key and arrays, improper priors allowed."""

        def forward(key: Any, arrays: Any) -> list:
            seeded = handlers.seed(Unobserve(fn), jax.random.wrap_key_data(key))
            drawn = handlers.substitute(seeded, substitute_fn=init_to_sample())
            with jax.numpy_rank_promotion("allow"):
                trace = handlers.trace(drawn).get_trace(**{**self.data.arguments, **arrays})
            return [s["value"] for s in trace.values() if s["type"] == "sample"]

        return forward

    def _build(self, fn: Any, trace: Mapping[str, Any]) -> None:
        latents, self.joint = [], {}
        for name, site in trace.items():
            if site["type"] != "sample" or site["is_observed"]:
                continue
            self.joint[name] = _joint_ndim(base_distribution(site["fn"]))
            if not site["fn"].support.is_discrete:
                latents.append((name, tuple(np.shape(site["value"])), site["fn"].support))
        statics, arrays = self.data.statics, self.data.arrays
        try:
            computation = ("prediction", computation_digest(self._forward(fn), _KEY, arrays))
        except Exception:  # the program computes with its data in Python
            self.program = Program(fn, statics, latents, None, constants=arrays)
        else:
            program = Program(fn, statics, latents)
            self.program = shared_program(program, self.model.fn, computation)
        self.size = self.program.size


def _joint_ndim(fn: Any) -> int:
    """Trailing dimensions whose elements a distribution does not draw independently."""
    return getattr(fn, "joint_ndim", fn.event_dim)
