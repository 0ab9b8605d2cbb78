"""Limits that make no sense are refused, and so is a server that anybody may reach."""

from __future__ import annotations

import pytest

from textsiam.serving.limits import ServerSettings, token_for


@pytest.mark.parametrize("name", ["max_body", "max_batch", "max_characters", "max_tokens", "max_queue"])
def test_a_limit_below_one_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
        ServerSettings(**{name: 0})


def test_a_short_token_is_refused_and_no_token_is_ever_shown():
    with pytest.raises(ValueError, match="at least 16 characters, it has 5") as refused:
        ServerSettings(token="s3cr3")
    assert "s3cr3" not in str(refused.value)
    assert "long-enough-secret" not in repr(ServerSettings(token="long-enough-secret"))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_token(host, monkeypatch):
    monkeypatch.delenv("TEXTSIAM_TOKEN", raising=False)
    assert token_for(host) is None
    monkeypatch.setenv("TEXTSIAM_TOKEN", "long-enough-secret")
    assert token_for(host) == "long-enough-secret"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "forum.example"])
def test_any_other_address_needs_a_token(host, monkeypatch):
    monkeypatch.setenv("TEXTSIAM_TOKEN", "")
    with pytest.raises(ValueError, match=f"{host} can be reached from other machines: set TEXTSIAM_TOKEN"):
        token_for(host)
    monkeypatch.setenv("TEXTSIAM_TOKEN", "long-enough-secret")
    assert token_for(host) == "long-enough-secret"
