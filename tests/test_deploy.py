"""What deploys the server: no engine runs here, so the files are linted and read."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"


def test_the_dockerfile_has_nothing_to_lint():
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    found = subprocess.run([hadolint, "--no-color", DEPLOY / "Dockerfile"], capture_output=True, text=True)
    assert found.stdout + found.stderr == ""
    assert found.returncode == 0


def test_the_container_is_not_root_and_answers_a_health_check():
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    last = max(k for k, line in enumerate(lines) if line.startswith("FROM"))
    users = [line.split()[1] for line in lines[last:] if line.startswith("USER")]
    assert users == ["10001"]
    assert any("/health" in line for line in lines[last:])


def test_the_composition_exposes_the_loopback_only_and_takes_secrets_from_the_environment():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert set(services) == {"database", "server", "server-setup"}
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            if "PASSWORD" in name or "TOKEN" in name:
                assert value.startswith("${")
                assert ":?" in value
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert all(f"ARG {name}=" in dockerfile for name in services["server"]["build"]["args"])


def test_the_commands_of_the_files_are_commands_of_textsiam():
    from typer.main import get_command

    from textsiam.cli import app

    known = {option for parameter in get_command(app).commands["serve"].params for option in parameter.opts}
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    text = (DEPLOY / "Dockerfile").read_text() + (DEPLOY / "textsiam.service").read_text()
    used = {word.partition("=")[0] for word in services["server"]["command"] if word.startswith("--")}
    for line in text.splitlines():
        if line.startswith(("CMD [", "ExecStart=")):
            used |= {word for word in line.replace('"', " ").replace(",", " ").split() if word.startswith("--")}
    assert used >= {"--host", "--port", "--index", "--reviews"}
    assert used <= known


def test_the_files_say_how_a_server_behind_a_proxy_is_called():
    assert all("TEXTSIAM_HOST_NAMES" in path.read_text() for path in DEPLOY.iterdir() if path.is_file())


def test_a_server_behind_a_proxy_answers_by_its_names_alone(tower, textsiam, monkeypatch, tmp_path):
    pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
    from starlette.testclient import TestClient

    from textsiam.models.twin import Twin

    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["server"]
    names = service["environment"]["TEXTSIAM_HOST_NAMES"].replace("${TEXTSIAM_HOST_NAMES:-}", "Forum.example")
    token, apps = "a-token-of-some-length", []
    monkeypatch.setenv("TEXTSIAM_HOST_NAMES", names)
    monkeypatch.setenv("TEXTSIAM_TOKEN", token)
    monkeypatch.setattr("textsiam.serving.runner.run_server", lambda app, **_: apps.append(app))
    model = Twin(tower).save_pretrained(tmp_path / "twin")
    said = textsiam("serve", model, "--host", "0.0.0.0", "--reviews", tmp_path / "reviews.sqlite")
    assert said.status == 0, said.err
    head = {"authorization": f"Bearer {token}"}
    undo = "/ui/api/undo"
    with TestClient(apps[0], headers=head) as client:

        def status(host, **more):
            return client.post(undo, headers={"host": host, **more}).status_code

        # containers and health checks; proxies that pass the host on, as Caddy and nginx with $host, and that do not
        assert [status(host) for host in ("server:8080", "localhost:8080", "127.0.0.1:8080")] == [200] * 3
        page = {"origin": "https://forum.example", "sec-fetch-site": "same-origin"}
        assert [status(host, **page) for host in ("forum.example", "forum.example:443", "127.0.0.1:8080")] == [200] * 3
        assert [status(host) for host in ("evil.example", "database", "forum.example.evil.example")] == [421] * 3
        assert status("forum.example", origin="https://evil.example") == 403
    monkeypatch.setenv("TEXTSIAM_HOST_NAMES", "https://forum.example")
    said = textsiam("serve", model)
    assert (said.status, said.err.count("\n")) == (1, 1)
    assert "the host name is 'https://forum.example', expected one such as 'forum.example', without a port" in said.err


def test_the_unit_can_be_verified(tmp_path):
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not installed")
    unit = (DEPLOY / "textsiam.service").read_text().replace("/opt/textsiam/bin/textsiam", "/bin/true")
    (tmp_path / "textsiam.service").write_text(unit)
    found = subprocess.run([verify, "verify", tmp_path / "textsiam.service"], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
