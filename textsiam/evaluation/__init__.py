"""Measures with intervals, and slices that show where a twin fails."""
