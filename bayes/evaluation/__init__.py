"""Traced programs evaluated with NumPy: numbers at once, where XLA would compile for them."""
