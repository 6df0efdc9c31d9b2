"""The sections of a report, each a function from a case to a section or None."""

from __future__ import annotations

from collections.abc import Callable

from bayes.diagnostics.report.contents import Case, Section
from bayes.diagnostics.report.sections.approximation import approximation
from bayes.diagnostics.report.sections.chains import chains
from bayes.diagnostics.report.sections.divergences import divergences
from bayes.diagnostics.report.sections.energy import energy, tree_depth
from bayes.diagnostics.report.sections.loo import leave_one_out
from bayes.diagnostics.report.sections.model_graph import model
from bayes.diagnostics.report.sections.overview import checks, data, method
from bayes.diagnostics.report.sections.parameters import parameters
from bayes.diagnostics.report.sections.predictive import posterior_predictive, prior_predictive
from bayes.diagnostics.report.sections.priors import prior_posterior
from bayes.diagnostics.report.sections.sensitivity import sensitivity
from bayes.diagnostics.report.sections.surrogate import surrogate
from bayes.diagnostics.report.sections.type_ii import type_ii

__all__ = ["SECTIONS"]

SECTIONS: tuple[Callable[[Case], Section | None], ...] = (
    checks,
    model,
    data,
    method,
    parameters,
    chains,
    divergences,
    energy,
    tree_depth,
    prior_posterior,
    prior_predictive,
    posterior_predictive,
    leave_one_out,
    sensitivity,
    approximation,
    surrogate,
    type_ii,
)
"""All sections in the order of the report; None of one means that it does not apply."""
