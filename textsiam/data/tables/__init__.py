"""Reading and writing rows: formats, columns, lines, and errors that name file, line and value."""


def __getattr__(name: str) -> object:
    from textsiam.legacy.names import old_name  # this was a module in 0.1

    return old_name(__name__, name)
