"""Processes that measure approximations, started and heard as in ``children.py``."""

from __future__ import annotations

import dataclasses

import children
from children import Record, Setup
from vi_roster import engine_class

PASS = "fits"


def measure(setup: Setup, record: Record, engine: str, target: str, seed: int) -> None:
    """Measure an engine on a target with one seed, unless that is done.

    Parameters
    ----------
    setup : Setup
    record : Record
    engine, target : str
    seed : int
    """
    setup = dataclasses.replace(setup, child="vi_child.py", engines=engine_class, only=PASS)
    children.measure(setup, record, engine, target, seed)
