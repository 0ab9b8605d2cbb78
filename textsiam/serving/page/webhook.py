"""Tells a forum what was accepted: signed requests out of a durable outbox, each sent until it was taken.

The outbox is written in the transaction of the decision, so that no accepted pair is forgotten; a request whose answer
was lost is sent again under the same key. Headers and signature are those of https://www.standardwebhooks.com.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

import sqlalchemy as sql

from textsiam.serving.admission.moderators import checked_token
from textsiam.serving.page.pairs import ReviewsError
from textsiam.serving.page.reviews import Reviews
from textsiam.serving.page.tables import OUTBOX

log = logging.getLogger("textsiam.serving")

SECRET_VARIABLE = "TEXTSIAM_WEBHOOK_SECRET"
_PATIENCE = 10.0  # seconds for an answer
_LEASE = 60.0  # seconds in which no other process sends what one has begun to send
_LONGEST_WAIT = 3600.0


def webhook_secret(url: str) -> str:
    """Return the secret of the environment that requests to a webhook are signed with.

    Raises:
        ValueError: The address is none that can be sent to, or there is no secret of at least 16 characters.
    """
    if not _can_be_sent_to(url):
        raise ValueError(f"the webhook is {url!r}, expected one such as 'https://forum.example/textsiam'")
    return checked_token(os.environ.get(SECRET_VARIABLE, ""), SECRET_VARIABLE)


def _can_be_sent_to(url: str) -> bool:
    try:
        parts = urlsplit(url)
        parts.netloc.encode("idna")
        if parts.port == 0:
            return False
    except ValueError:  # of the brackets, the port, or the labels of the host
        return False
    sent = f"{parts.path}?{parts.query}".isascii() and url.isprintable() and " " not in url
    return sent and parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc


def signed_headers(secret: str, key: str, body: bytes, now: float) -> dict[str, str]:
    """Return the headers of a request: its key, its time, and HMAC-SHA256 over `key.time.body` in base64.

    Args:
        secret: Its bytes are the key of the HMAC; of one that begins with `whsec_`, the bytes in base64 after that.
        key: The same each time that this is sent.
        body: What is sent.
        now: Seconds since 1970.
    """
    known = base64.b64decode(secret[6:]) if secret.startswith("whsec_") else secret.encode()
    moment = str(int(now))
    digest = hmac.new(known, f"{key}.{moment}.".encode() + body, hashlib.sha256).digest()
    return {
        "content-type": "application/json",
        "user-agent": "textsiam",
        "idempotency-key": key,
        "webhook-id": key,
        "webhook-timestamp": moment,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


class Webhook:
    """Sends what is in the outbox of a store, in a thread of its own, until it is closed.

    What concerns one pair is sent in order; what fails is tried again after 1, 2, 4, … seconds, at least once an hour.

    Args:
        reviews: The store, opened with `announce=True`.
        url: Where to.
        secret: What requests are signed with.
        pause: Seconds between two looks at the outbox.
    """

    def __init__(self, reviews: Reviews, url: str, secret: str, *, pause: float = 1.0) -> None:
        self._reviews, self._url, self._secret, self._pause = reviews, url, secret, pause
        self._opener = build_opener(_NoRedirect)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop after the request that is under way; what is left is sent when the store is served again."""
        self._closed.set()
        self._thread.join(_PATIENCE + 1)

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                if not self._send_next():
                    self._closed.wait(self._pause)
            except ReviewsError as error:
                log.error("outbox failed", exc_info=error)
                self._closed.wait(5.0)

    def _send_next(self) -> bool:
        """Send what is due; returns whether anything was."""
        entry = self._claim()
        if entry is None:
            return False
        body = entry.body.encode()
        try:
            request = Request(self._url, body, signed_headers(self._secret, entry.key, body, time.time()))
            with self._opener.open(request, timeout=_PATIENCE) as answer:
                why = None if 200 <= answer.status < 300 else f"status {answer.status}"
        except HTTPError as error:
            error.close()
            why = f"status {error.code}"
        except (OSError, ValueError, http.client.HTTPException) as error:
            why = str(error) or type(error).__name__
        wait = min(2.0**entry.tries, _LONGEST_WAIT)
        done: Mapping[str, float] = {"sent": time.time()} if why is None else {"due": time.time() + wait}
        with self._reviews.transaction(writes=True) as connection:
            put = OUTBOX.update().where(OUTBOX.c.number == entry.number)
            connection.execute(put.values(tries=entry.tries + 1, **done))
        facts = {"key": entry.key, "pair": entry.pair, "tries": entry.tries + 1}
        if why is None:
            log.info("webhook sent", extra={"facts": facts})
        else:
            log.warning("webhook failed", extra={"facts": {**facts, "why": why, "again_in": wait}})
        return True

    def _claim(self) -> sql.Row | None:
        """Return what is due and stands first for its pair, so that no other process takes it for a minute."""
        earlier = OUTBOX.alias()
        before = sql.exists().where(
            earlier.c.pair == OUTBOX.c.pair, earlier.c.number < OUTBOX.c.number, earlier.c.sent.is_(None)
        )
        now = time.time()
        due = sql.select(OUTBOX).where(OUTBOX.c.sent.is_(None), OUTBOX.c.due <= now, ~before)
        with self._reviews.transaction() as connection:
            if connection.execute(due.limit(1)).one_or_none() is None:  # most often: nobody has to wait for a lock
                return None
        with self._reviews.transaction(writes=True) as connection:
            entry = connection.execute(due.order_by(OUTBOX.c.due).limit(1).with_for_update()).one_or_none()
            if entry is not None:
                lease = OUTBOX.update().where(OUTBOX.c.number == entry.number).values(due=now + _LEASE)
                connection.execute(lease)
            return entry


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        """Follow no redirect: what is signed is for one address."""
