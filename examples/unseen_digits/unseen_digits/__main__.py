"""The commands of textsiam, which know the CNN of drawings: `python -m unseen_digits evaluate MODEL PAIRS`."""

import unseen_digits  # noqa: F401 - registers the CNN
from textsiam.cli import main

main()
