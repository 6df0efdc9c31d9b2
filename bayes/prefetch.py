"""Modules that a fit needs at its end, imported while XLA compiles for its beginning.

XLA compiles without Python's lock, so that on a second core these imports take no time of the
user's. Where they have not come to an end when they are needed, the import there waits for them;
where one fails, the import there fails and says why. What only a summary needs is not among them:
it takes longer to import than a small model takes to fit, and would hold up the fit.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import threading

__all__ = ["prefetch"]

_MODULES = ("pandas", "xarray")

_lock = threading.Lock()
_started: list[threading.Thread] = []


def prefetch() -> None:
    """Import in the background what is not there yet; at once back, and at most once a process."""
    with _lock:
        if _started or all(name in sys.modules for name in _MODULES):
            return
        # A daemon, so that a program that ends earlier does not wait for it.
        thread = threading.Thread(target=_import_all, name="bayes-prefetch", daemon=True)
        _started.append(thread)
        thread.start()


def _import_all() -> None:
    for name in _MODULES:
        # What is wrong with a module is said where it is used.
        with contextlib.suppress(BaseException):
            importlib.import_module(name)
