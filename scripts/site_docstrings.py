"""What the reference reads of docstrings: an "Example:" as one, which its parser knows as "Examples:" alone."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the sections before they are read: any other is shown as a remark, and its code as a quote."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename that of an object."""
        if not obj.is_alias and obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
