"""All pairs above a threshold: exact, approximate, and in partitions on many machines."""


def __getattr__(name: str) -> object:
    from textsiam.legacy.names import old_name  # this was a module in 0.1

    return old_name(__name__, name)
