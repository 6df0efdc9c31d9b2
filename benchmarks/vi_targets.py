"""Targets of approximations: the posteriors of a folder, and three larger ones of our own."""

from __future__ import annotations

import pathlib

import vi_datasets
from judging import load_harness
from targets import Target
from vi_judging import against_folder, against_reference, load_reference

# Program, data, and the judged sites. What is not judged is not identified (the network's weights)
# or a step on the way to what is.
_OWN = {
    "grouped-logistic": (
        "grouped_logistic",
        vi_datasets.grouped_answers,
        ("mean", "spread", "slope", "effect"),
    ),
    "horseshoe": (
        "horseshoe",
        vi_datasets.sparse_regression,
        ("intercept", "noise", "coefficient"),
    ),
    "network": ("network", vi_datasets.curved_surface, ("noise", "surface")),
}
OWN = tuple(_OWN)

_ELSEWHERE = "gym-"
"""Posteriors of a folder whose names begin so are not from posteriordb."""


def from_posteriordb(name: str) -> bool:
    """Whether a target is one of posteriordb's."""
    return name not in _OWN and not name.startswith(_ELSEWHERE)


def load_target(name: str, folder: pathlib.Path | None) -> Target:
    """Load a target by its name.

    Parameters
    ----------
    name : str
    folder : pathlib.Path, optional
        The folder of reference posteriors.

    Raises
    ------
    LookupError
        Where there is none of that name.
    """
    if name in _OWN:
        import vi_programs

        function, data, judged = _OWN[name]
        known = load_reference(name)
        errors = None if known is None else (lambda draws: against_reference(known, draws))
        return Target(name, getattr(vi_programs, function), data(), judged, errors)
    if folder is None:
        raise LookupError(f"no target '{name}'; reference posteriors need --data")
    harness = load_harness(folder)
    fn, data, judged = harness.load(name)
    return Target(name, fn, data, tuple(judged), lambda d: against_folder(harness, name, d))
