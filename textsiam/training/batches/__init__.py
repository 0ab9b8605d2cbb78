"""What each step is fed: sampling, collation into chunks, stored tokens, what a teacher says."""


def __getattr__(name: str) -> object:
    from textsiam.legacy.names import old_name  # this was a module in 0.1

    return old_name(__name__, name)
