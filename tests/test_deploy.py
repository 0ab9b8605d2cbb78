"""What deploys the server: no engine runs here, so the files are linted and read."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
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
    servers = [path for path in DEPLOY.iterdir() if path.is_file() and path.suffix != ".json"]
    assert all("TEXTSIAM_HOST_NAMES" in path.read_text() for path in servers)


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


def manifests():
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}


def test_the_manifests_are_of_this_server():
    from typer.main import get_command

    from textsiam.cli import app

    known = {option for parameter in get_command(app).commands["serve"].params for option in parameter.opts}
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    assert {word.partition("=")[0] for word in server["args"] if word.startswith("--")} <= known
    assert set(server["resources"]) == {"requests", "limits"}
    assert pod["securityContext"]["runAsUser"] == 10001
    assert server["securityContext"]["readOnlyRootFilesystem"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in server["volumeMounts"]} <= volumes
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(server)


def test_the_probes_are_answered(tower, textsiam, monkeypatch, tmp_path):
    pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
    from starlette.testclient import TestClient

    from textsiam.models.twin import Twin

    (server,) = manifests()["Deployment"]["spec"]["template"]["spec"]["containers"]
    apps = []
    names = {each["name"]: each.get("value") for each in server["env"]}["TEXTSIAM_HOST_NAMES"]
    monkeypatch.setenv("TEXTSIAM_HOST_NAMES", names)
    monkeypatch.setenv("TEXTSIAM_TOKEN", "a-token-of-some-length")
    monkeypatch.setattr("textsiam.serving.runner.run_server", lambda app, **_: apps.append(app))
    said = textsiam("serve", Twin(tower).save_pretrained(tmp_path / "twin"), "--host", "0.0.0.0")
    assert said.status == 0, said.err
    probes = [server[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    with TestClient(apps[0], base_url="http://10.1.2.3:8080") as client:  # by the pod's address
        assert [client.get(path).status_code for path in probes] == [200] * 3
        assert client.get("/info").status_code in (401, 421)


def test_the_dashboard_asks_for_metrics_that_are_there():
    pytest.importorskip("prometheus_client", reason="the extra 'serve' is not installed")
    from types import SimpleNamespace

    from prometheus_client import generate_latest

    from textsiam.serving.telemetry import Meters

    load = dict.fromkeys(("requests", "tokens", "fill", "tokens_per_second", "steps", "failures"), 0)
    meters = Meters(SimpleNamespace(load=SimpleNamespace(**load)))
    meters.requests.labels("/score", "POST", "200").inc()
    meters.seconds.labels("/score").observe(0.01)
    there = set(re.findall(r"^(textsiam_\w+)", generate_latest(meters.registry).decode(), re.M))
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += [each["query"] for each in dashboard["templating"]["list"]]
    named = {name for expression in asked for name in re.findall(r"textsiam_\w+", expression)}
    assert named <= there
    assert there - named <= {"textsiam_requests_created", "textsiam_request_seconds_created",
                             "textsiam_request_seconds_count", "textsiam_request_seconds_sum"}  # fmt: skip
    places = [tuple(panel["gridPos"].values()) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)


@pytest.mark.skipif(os.environ.get("TEXTSIAM_RELEASE") != "all", reason="minutes long: make test-release runs it")
def test_the_steps_of_the_dockerfile_end_in_a_server_that_is_healthy(tmp_path):
    """Without an engine: its COPY and RUN pip in a folder and a venv, its ENTRYPOINT and CMD, and its HEALTHCHECK."""
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    source, venv = tmp_path / "source", tmp_path / "venv"
    source.mkdir()
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run([sys.executable, "-m", "venv", venv], check=True, env=clean)
    clean["PATH"] = f"{venv / 'bin'}{os.pathsep}{clean['PATH']}"
    clean["PIP_CONSTRAINT"] = str(DEPLOY.parent / "constraints.txt")
    build = lines[: next(k for k, line in enumerate(lines) if line.startswith("FROM") and " AS " not in line)]
    for line in build:
        if line.startswith("COPY"):
            *names, target = line.split()[1:]
            for name in names:
                path = DEPLOY.parent / name
                if path.is_dir():
                    shutil.copytree(path, source / target)
                else:
                    shutil.copy(path, source / name)
        elif line.startswith("RUN pip"):
            subprocess.run(["bash", "-c", line.removeprefix("RUN ")], cwd=source, env=clean, check=True, timeout=1200)
    (entry,) = [json.loads(line.removeprefix("ENTRYPOINT ")) for line in lines if line.startswith("ENTRYPOINT")]
    (command,) = [json.loads(line.removeprefix("CMD ")) for line in lines if line.startswith("CMD")]
    (check,) = [json.loads(line.split("CMD ", 1)[1]) for line in lines if line.startswith("HEALTHCHECK")]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    changed = {"/model": "all-MiniLM-L6-v2", "0.0.0.0": "127.0.0.1", "8080": port}
    command = [changed.get(word, word).replace("/data/", f"{tmp_path}/") for word in command]
    check = [word.replace("8080", port) for word in check]
    with subprocess.Popen([*entry, *command], env=clean, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as server:
        try:
            deadline = time.monotonic() + 120
            while (done := subprocess.run(check, env=clean, capture_output=True)).returncode:
                assert server.poll() is None, server.stderr.read()
                assert time.monotonic() < deadline, done.stderr
                time.sleep(1)
        finally:
            server.terminate()
            assert server.wait(60) == 0
