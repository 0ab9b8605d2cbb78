"""What a browser shows of inputs that are not read: the pictures of a pair, side by side.

Only files that the index, or what the operator named, holds are opened; what clients have sent holds its own bytes.
"""

from __future__ import annotations

from collections.abc import Container
from threading import Lock

from fastapi.responses import Response

from textsiam.data.tables.columns import Modality
from textsiam.data.tables.errors import DataError
from textsiam.inference.encoders import inputs_of
from textsiam.media.medium import Medium
from textsiam.media.names import is_address, is_data
from textsiam.models.scorer import Scorer
from textsiam.search.index.base import QuestionIndex
from textsiam.serving.problem_details import Refused

_CARD, _WHOLE = 720, 4096  # pixels of the longer side, at most
_HEADERS = {"content-security-policy": "default-src 'none'; sandbox", "cache-control": "private, no-store"}


def shown_medium(twin: Scorer) -> Medium | None:
    """Return what the inputs of a twin are shown or played as; None where they are read."""
    inputs = inputs_of(twin.tower())
    return inputs if isinstance(inputs, Medium) else None


class Exhibits:
    """Opens what is shown of the inputs of pairs, one after the other.

    Args:
        medium: What the inputs are; None where they are read.
        index: Whose files may be shown.
        names: Further names that may be shown: those of the operator's own suspects, or of a collection.
    """

    def __init__(self, medium: Medium | None, index: QuestionIndex | None, names: Container[str] = frozenset()) -> None:
        self.medium = medium
        self._index, self._names = index, names
        self._turn = Lock()  # a large picture takes some 200 MB while it is decoded

    @property
    def modality(self) -> Modality | None:
        """What inputs are shown as; None where they are read."""
        return self.medium and self.medium.modality

    def open(self, value: str, key: str | None, *, whole: bool) -> Response:
        """Return what is shown of an input, with its id where it has one: as it is, or so that it fits beside another.

        Raises:
            Refused: It may not be shown, or cannot be.
        """
        if self.medium is None:
            raise Refused(404, "the inputs of this model are read, and not shown", "NotFound")
        try:
            name = value if self._may_open(value, key) else self.medium.received(value, decode=False)
            with self._turn:
                data, kind = self.medium.exhibit(name, side=_WHOLE if whole else _CARD)
        except DataError:
            why = f"this {self.medium.noun} cannot be opened, or is neither in the index nor in the file of suspects"
            raise Refused(404, why, "NotFound") from None
        return Response(data, media_type=kind, headers=_HEADERS)

    def _may_open(self, value: str, key: str | None) -> bool:
        """Say whether a value names a file that may be opened."""
        if is_data(value) or is_address(value):
            return False
        if value in self._names:
            return True
        found = self._index.get([key])[0] if self._index is not None and key is not None else None
        return found is not None and found.text == value
