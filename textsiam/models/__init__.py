"""What the twin is: towers, distances, the fast path, and the decision that turns a score into a verdict."""
