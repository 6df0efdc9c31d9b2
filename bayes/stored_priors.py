"""Posteriors saved under a run-time prior: their program, from the plain one and the numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from bayes.data import Data
from bayes.errors import FileError
from bayes.model import Model
from bayes.prediction import _own_arguments

__all__ = ["under_stored_prior"]


def under_stored_prior(model: Model, data: Data, saved: Mapping[str, Any], where: str) -> Model:
    """The model under the prior that a posterior was saved with.

    A mixture over all sites is rebuilt from its numbers. Distributions by site are not: a file says
    their numbers, but code makes them, and a file brings none.

    Parameters
    ----------
    model : Model
        The program as written, or rewritten already, which is left as it is.
    data : Data
        The saved data, with the prior's numbers among them.
    saved : mapping
        What the file says of its model.
    where : str
        What to call the file.

    Returns
    -------
    Model

    Raises
    ------
    FileError
        Where the prior is of distributions by site: it must come with the model.
    """
    names = [n for n in saved.get("own_arguments", ()) if n in data.arguments]
    if not names or _own_arguments(model.fn):
        return model
    from bayes.surrogates.joint_priors import JointPrior
    from bayes.surrogates.mixtures import Mixture

    numbers = data.arguments[names[0]]
    if not all(isinstance(numbers.get(f), np.ndarray) for f in Mixture._fields):
        kinds = {s[0]: s[3] for s in saved["sites"]}
        given = ", ".join(f"'{n}': dist.{kinds.get(n, 'Normal')}(...)" for n in numbers)
        raise FileError(
            f"{where} was saved under a prior of its own for {', '.join(numbers)}, which is not "
            "read from a file: give the model with that prior, model=trained.with_prior({"
            f"{given}}}).rewritten(bayes.Model({model.name}), data)[0], where trained is the "
            "surrogate; or load without model="
        )
    plain = dataclasses.replace(
        data,
        arguments={n: v for n, v in data.arguments.items() if n not in names},
        columns={n: v for n, v in data.columns.items() if n not in names},
    )
    bound = model.replace(reparam={}).bind(plain, need_observed=False)
    return JointPrior(bound.program.latents, Mixture(**numbers)).rewritten(model, plain)[0]
