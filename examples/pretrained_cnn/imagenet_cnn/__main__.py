"""The commands of textsiam, which know the CNN: `python -m imagenet_cnn gallery enroll MODEL GALLERY PEOPLE`."""

import imagenet_cnn  # noqa: F401 - registers the CNN
from textsiam.cli import main

main()
