"""What each step is fed: sampling, collation into chunks, stored tokens, what a teacher says."""

from textsiam.legacy.names import old_names

__getattr__ = old_names(__name__)  # this was a module in 0.1
