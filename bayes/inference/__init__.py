"""One file a backend; every method here is found by itself."""
