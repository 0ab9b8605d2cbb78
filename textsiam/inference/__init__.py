"""Encoders, and what turns inputs into vectors: tokens, batches, caches."""
