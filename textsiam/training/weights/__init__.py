"""Which weights are trained, averaged and served."""
