"""Calibration: whether posteriors hold the truth as often as they say."""
