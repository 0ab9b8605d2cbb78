"""Reading and writing rows: formats, columns, lines, and errors that name file, line and value."""

from textsiam.legacy.names import old_names

__getattr__ = old_names(__name__)  # this was a module in 0.1
