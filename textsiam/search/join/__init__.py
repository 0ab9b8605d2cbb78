"""All pairs above a threshold: exact, approximate, and in partitions on many machines."""

from textsiam.legacy.names import old_names

__getattr__ = old_names(__name__)  # this was a module in 0.1
