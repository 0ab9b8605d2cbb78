"""Which negatives are worth learning from: in a batch, and over the whole corpus."""

from textsiam.legacy.names import old_names

__getattr__ = old_names(__name__)  # this was a module in 0.1
