"""What commands share at the terminal."""

import gc

import pytest

from textsiam.terminal import loading


def test_nothing_is_collected_while_libraries_load():
    assert gc.isenabled()
    try:
        with loading():
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 1000
        with pytest.raises(ValueError, match="no model"), loading():
            raise ValueError("no model")
        assert gc.isenabled()
    finally:
        gc.unfreeze()
