"""The moderator's page: its routes, the decisions that it stores, the pairs that it shows."""


def __getattr__(name: str) -> object:
    from textsiam.legacy.names import old_name  # this was a module in 0.1

    return old_name(__name__, name)
