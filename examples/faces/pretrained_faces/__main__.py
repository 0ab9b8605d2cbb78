"""The commands of textsiam, which know the CNN: `python -m pretrained_faces gallery enroll MODEL GALLERY PEOPLE`."""

import pretrained_faces  # noqa: F401 - registers the CNN
from textsiam.cli import main

main()
