"""What a twin learns from: pairs, texts, clusters and splits. Knows nothing of models."""
