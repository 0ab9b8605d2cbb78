"""A second look at the pairs in doubt: cross-encoders and lexical features."""
