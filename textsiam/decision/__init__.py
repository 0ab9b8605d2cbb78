"""From a score to a verdict: calibration, thresholds, decisions. Knows scores and labels, no model."""
