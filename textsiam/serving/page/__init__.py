"""The moderator's page: its routes, the decisions that it stores, the pairs that it shows."""

from textsiam.legacy.names import old_names

__getattr__ = old_names(__name__)  # this was a module in 0.1
