"""What may be a seed."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayes.errors import SettingsError

__all__ = ["require_seed"]


def require_seed(seed: Any) -> None:
    """Refuse what is not a seed."""
    whole = isinstance(seed, (int, np.integer)) and not isinstance(seed, bool)
    if not whole or not 0 <= seed < 2**63:
        raise SettingsError(
            f"seed must be a whole number, and the seed must lie in 0..2^63-1; got {seed!r}"
        )
