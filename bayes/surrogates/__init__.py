"""Learned posteriors: trained once from a program's own simulations, then a method like others."""
