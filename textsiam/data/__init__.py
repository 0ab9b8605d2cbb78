"""What the twin learns from: pairs, clusters, splits and the embedded sample forum."""
