"""How good the twin is: metrics with intervals, slices, and the report."""
