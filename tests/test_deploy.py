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


def test_the_unit_can_be_verified(tmp_path):
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd-analyze is not installed")
    unit = (DEPLOY / "textsiam.service").read_text().replace("/opt/textsiam/bin/textsiam", "/bin/true")
    (tmp_path / "textsiam.service").write_text(unit)
    found = subprocess.run([verify, "verify", tmp_path / "textsiam.service"], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
