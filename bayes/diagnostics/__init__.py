"""Diagnostics: the verdict on a posterior."""
