"""Questions that grow and are searched: in a folder, in PostgreSQL, in memory."""

from textsiam.legacy.names import old_names

__getattr__ = old_names(__name__)  # this was a module in 0.1
