"""What a browser shows of inputs that are not read: the pictures of a pair, side by side.

Only files that the index or the operator's own suspects name are opened; what clients have sent holds its own bytes.
"""

from __future__ import annotations

import io
from collections.abc import Container
from threading import Lock
from typing import Literal, NamedTuple

from textsiam.data.tables.errors import DataError
from textsiam.images.names import is_picture_name, open_picture, received_picture
from textsiam.inference.encoders import inputs_of
from textsiam.inference.inputs import IMAGES
from textsiam.models.scorer import Scorer
from textsiam.search.index.base import QuestionIndex
from textsiam.serving.page.pairs import Suspect
from textsiam.serving.problem_details import Refused

Kind = Literal["image", "audio"]

_CARD, _WHOLE = 720, 4096  # pixels of the longer side, at most
_LOSSLESS = 1 << 20  # pixels up to which a picture is a PNG, as exact as what was encoded


class Media(NamedTuple):
    """Bytes for a browser, and their media type."""

    data: bytes
    type: str


def media_kind(twin: Scorer) -> Kind | None:
    """Return what the inputs of a twin are shown as; None where they are read."""
    return "image" if inputs_of(twin.tower()) is IMAGES else None


def media_of(kind: Kind, name: str, *, whole: bool) -> Media:
    """Return what is shown of an input: the one place that knows how to show a kind.

    An image is decoded and written anew, so that nothing but its pixels leaves the server.

    Args:
        kind: What the input is.
        name: Its name.
        whole: As it is, up to 4,096 pixels a side, and not as it fits beside another.

    Raises:
        DataError: It cannot be opened.
    """
    if kind != "image":
        raise DataError(f"{name}: {kind} cannot be shown")
    picture, file = open_picture(name), io.BytesIO()
    side = _WHOLE if whole else _CARD
    picture.thumbnail((side, side))
    lossless = picture.width * picture.height <= _LOSSLESS
    picture.save(file, **({"format": "PNG", "compress_level": 1} if lossless else {"format": "JPEG", "quality": 92}))
    return Media(file.getvalue(), "image/png" if lossless else "image/jpeg")


class Exhibits:
    """Opens what is shown of suspects, one after the other.

    Args:
        kind: What the inputs are; None where they are read.
        index: Whose files may be shown.
        names: Further names that may be shown: those of the operator's own suspects.
    """

    def __init__(self, kind: Kind | None, index: QuestionIndex | None, names: Container[str] = frozenset()) -> None:
        self.kind: Kind | None = kind
        self._index, self._names = index, names
        self._turn = Lock()  # a large picture takes some 200 MB while it is decoded

    def open(self, suspect: Suspect, side: int, *, whole: bool) -> Media:
        """Return what is shown of one side of a suspect.

        Raises:
            Refused: It may not be shown, or cannot be.
        """
        if self.kind is None:
            raise Refused(404, "the inputs of this model are read, and not shown", "NotFound")
        value, key = (suspect.text1, suspect.id1) if side == 1 else (suspect.text2, suspect.id2)
        try:
            name = value if self._may_open(value, key) else received_picture(value, decode=False)
            with self._turn:
                return media_of(self.kind, name, whole=whole)
        except DataError:
            why = "this image cannot be opened, or is neither in the index nor in the file of suspects"
            raise Refused(404, why, "NotFound") from None

    def _may_open(self, value: str, key: str | None) -> bool:
        """Say whether a value names a file that may be opened."""
        if value.startswith("data:") or not is_picture_name(value):
            return False
        if value in self._names:
            return True
        found = self._index.get([key])[0] if self._index is not None and key is not None else None
        return found is not None and found.text == value
