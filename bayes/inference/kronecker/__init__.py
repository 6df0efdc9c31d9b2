"""Linear models whose dictionary and whose prior variances are Kronecker products."""
