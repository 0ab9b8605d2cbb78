"""Sounds: reading, augmenting, and making ready for a tower."""
