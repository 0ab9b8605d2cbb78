"""The commands of textsiam, which know the network: `python -m words score MODEL left.wav right.wav`."""

import words  # noqa: F401 - registers the network
from textsiam.cli import main

main()
