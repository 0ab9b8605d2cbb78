"""Whom a request is sent to and by which page: other names, and pages of other sites, are refused."""

from __future__ import annotations

import pytest

from textsiam.serving.limits import ServerSettings
from textsiam.serving.page.reviews import Suspect

WRITES = [
    ("POST", "/ui/api/undo", None),
    ("POST", "/ui/api/decisions", {"number": 1, "duplicate": True}),
    ("POST", "/feedback", {"question1": "a", "question2": "b", "duplicate": True}),
    ("PUT", "/questions/1", {"text": "a"}),
    ("DELETE", "/questions/0", None),
    ("POST", "/questions:batch", {"upsert": [{"id": "1", "text": "a"}]}),
    ("POST", "/embed", {"inputs": "a"}),
]
FOREIGN = [
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://testserver:8081"},
    {"origin": "http://testserver.evil.example"},
    {"origin": "http://testserver@evil.example"},
    {"origin": ""},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"origin": "http://evil.example", "sec-fetch-site": "same-origin"},
]
OWN = [
    {},
    {"origin": "http://testserver"},
    {"origin": "https://testserver"},  # behind a proxy that speaks TLS
    {"origin": "http://testserver", "sec-fetch-site": "same-origin"},
    {"sec-fetch-site": "none"},
]


@pytest.fixture
def decided_pair(client, index, reviews):
    """A client of a server with a question and a decision."""
    client.put("/questions/0", json={"text": "why?"})
    reviews.add([Suspect(text1="a?", text2="b?", probability=0.9)])
    client.post("/ui/api/decisions", json={"number": 1, "duplicate": True})
    return client


@pytest.mark.parametrize("headers", FOREIGN)
def test_a_page_of_another_site_writes_nothing(decided_pair, index, reviews, headers):
    for method, path, body in WRITES:
        answer = decided_pair.request(method, path, json=body, headers=headers)
        assert answer.status_code == 403, (method, path)
        assert "--origin" in answer.json()["error"]
        assert "access-control-allow-origin" not in answer.headers
    assert [question.text for question in index.get(["0"])] == ["why?"]
    assert reviews.count() == {"waiting": 0, "accepted": 1, "rejected": 0}


@pytest.mark.parametrize("headers", OWN)
def test_the_own_page_and_programs_write(decided_pair, headers):
    assert [
        decided_pair.request(method, path, json=body, headers=headers).status_code for method, path, body in WRITES
    ] == [200, 200, 200, 201, 200, 200, 200]


@pytest.mark.parametrize("path", ["/", "/health", "/info", "/ui", "/ui/api/export", "/questions/0"])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.nip.io",
                                  "0", "", "[::2]", "[", "10.0.0.1", "localhost:x"])  # fmt: skip
def test_a_name_that_was_bound_to_the_address_reads_nothing(client, path, host):
    answer = client.get(path, headers={"host": host}, follow_redirects=False)
    assert answer.status_code == 421
    assert "--host-name" in answer.json()["error"]


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8080", "localhost.", "127.0.0.1:1", "[::1]:8080", "127.9.9.9", "testserver"]
)
def test_names_of_the_loopback_and_the_address_are_known(client, host):
    assert client.get("/info", headers={"host": host}).status_code == 200


def test_a_server_may_have_more_names(serve):
    client = serve(host_names=("Forum.Example", "10.0.0.1"))
    for host in ("forum.example", "forum.example:443", "10.0.0.1:8080"):
        assert client.get("/info", headers={"host": host}).status_code == 200
    proxied = {"host": "localhost:8080", "origin": "https://forum.example"}
    assert client.put("/questions/1", json={"text": "a"}, headers=proxied).status_code == 201
    other = {"host": "localhost:8080", "origin": "https://forum.example:444"}
    assert client.put("/questions/1", json={"text": "a"}, headers=other).status_code == 403


def test_pages_of_an_allowed_site_may_call_and_embed(serve):
    client = serve(origins=("https://forum.example",), token="a-secret-of-the-tests")
    page = {"origin": "https://forum.example", "sec-fetch-site": "cross-site"}
    asked = page | {"access-control-request-method": "PUT"}
    may = client.options("/questions/1", headers=asked)
    assert may.status_code == 204
    assert may.headers["access-control-allow-origin"] == "https://forum.example"
    assert "PUT" in may.headers["access-control-allow-methods"]
    assert "authorization" in may.headers["access-control-allow-headers"]
    refused = client.put("/questions/1", json={"text": "a"}, headers=page)
    assert refused.status_code == 401  # the page sees why
    assert refused.headers["access-control-allow-origin"] == "https://forum.example"
    bearer = page | {"authorization": "Bearer a-secret-of-the-tests"}
    assert client.put("/questions/1", json={"text": "a"}, headers=bearer).status_code == 201
    assert "frame-ancestors https://forum.example;" in client.get("/ui").headers["content-security-policy"]
    other = asked | {"origin": "https://other.example"}
    assert client.options("/questions/1", headers=other).status_code == 401
    assert "access-control-allow-origin" not in client.get("/ui", headers={"origin": "https://other.example"}).headers


def test_without_allowed_sites_nothing_is_shared(client):
    asked = {"origin": "https://forum.example", "access-control-request-method": "PUT"}
    assert client.options("/questions/1", headers=asked).status_code == 405
    assert "frame-ancestors 'none'" in client.get("/ui").headers["content-security-policy"]


@pytest.mark.parametrize("origin", ["*", "forum.example", "https://*.example", "https://a.example/", "ftp://a.example",
                                    "null", "https://a@b.example", "https://a.example/x"])  # fmt: skip
def test_an_origin_that_is_none_is_refused(origin):
    with pytest.raises(ValueError, match=r"expected one such as 'https://forum.example'"):
        ServerSettings(origins=(origin,))


@pytest.mark.parametrize("name", ["*", "a.example:80", "https://a.example", "a.example/x", ""])
def test_a_host_name_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match=r"expected one such as 'forum.example'"):
        ServerSettings(host_names=(name,))
