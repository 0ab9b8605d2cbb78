"""Limits that make no sense are refused, and so is a server that anybody may reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from textsiam.images.names import MAX_PIXELS
from textsiam.serving import engine, runner
from textsiam.serving import limits as limits_module
from textsiam.serving.admission import connections
from textsiam.serving.admission.pictures import MAX_PIXELS as WAITING
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


def test_the_docs_tell_the_limits_as_they_are():
    text = " ".join((Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8").split())
    limits = ServerSettings()
    sizes = (
        f"({limits.max_body >> 20} MiB, {limits.max_batch:,} or `--max-batch`, {limits.max_characters:,} characters, "
    )
    for said in (
        f"{sizes}{MAX_PIXELS // 10**6} million pixels)",
        f"{limits.max_values:,} in all lists and objects",
        f"a step takes at most {limits.max_tokens:,} tokens",
        f"for {limits.grace:g} seconds at most",
        f"the body did not come within {limits.patience:g} seconds",
        f"at least {limits_module.SHORTEST_TOKEN} characters",
        f"at most {WAITING / 1e9} billion pixels wait",
        f"A step of at most {engine._SHARED} tokens takes one core",
        f"A head must come within {connections._HEAD_SECONDS:g} seconds and {connections._HEAD_BYTES >> 10} KiB",
        f"idle connections are kept for {runner._KEEP_ALIVE}",
    ):
        assert said in text, said
