"""The engines by name: where each is defined, so that none is imported before it is timed."""

from __future__ import annotations

import importlib
from typing import Any

_CLASSES = {
    "bayes": ("engines", "Bayes"),
    "numpyro": ("engines", "NumPyro"),
    "numpyro-cache": ("engines", "NumPyroCache"),
    "blackjax": ("blackjax_engine", "BlackJax"),
    "nutpie": ("nutpie_engine", "Nutpie"),
}

NAMES = tuple(_CLASSES)


def engine_class(name: str) -> Any:
    """The class of an engine; its libraries are imported when it is made."""
    module, attribute = _CLASSES[name]
    return getattr(importlib.import_module(module), attribute)
