"""What docs/extending.md shows runs as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from textsiam.commands.making import run_training
from textsiam.config.run import ConfigError, read_config

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
SECTION = PAGE.read_text(encoding="utf-8").split("## Add your own loss")[1].split("\n## ")[0]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", SECTION, re.S)
FILES = {m[1]: text for _, text in BLOCKS if (m := re.match(r"# (\w+\.\w+)\n", text))}
# A twin that trains in seconds.
SMALL = ["--model.scratch.hidden", "16", "--model.scratch.vocabulary", "300", "--model.scratch.layers", "1",
         "--model.max_tokens", "16", "--training.max_steps", "4", "--training.checkpoint_every", "2",
         "--training.batch_size", "16", "--training.precision", "fp32", "--training.tracker", "none"]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the files of the page, from which its modules are imported."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name.partition(".")[0], None)


def python(*arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def refused(*arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_config(arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_page_has_a_loss_and_its_test():
    assert {"logistic.py", "test_logistic.py", "run.yaml", "bilinear.py", "in_batch.py"} <= FILES.keys()


def test_its_tests_pass(here):
    python("-m", "pytest", "-q", "-p", "no:cacheprovider", "test_logistic.py")


def test_its_python_runs(here, monkeypatch):
    monkeypatch.syspath_prepend(here)
    names: dict[str, object] = {}
    for language, text in BLOCKS:
        if language == "python" and not text.startswith("# "):
            exec(compile(text, str(PAGE), "exec"), names)
    assert "logistic" in names["objective"].terms


def test_its_command_reads(here):
    (command,) = [text.split()[2:] for language, text in BLOCKS if language == "bash" and "train" in text]
    found = read_config(command).loss
    assert [*found] == ["logistic.LogisticLoss", "info_nce"]
    assert found["logistic.LogisticLoss"].temperature == 0.3
    assert read_config(["run.yaml", "--loss.logistic.LogisticLoss", "null"]).loss.keys() == {"info_nce"}
    alone = read_config(["--loss.logistic.LogisticLoss.threshold", "0.4"]).loss
    assert [*alone] == ["logistic.LogisticLoss"]
    again = read_config(["--loss.logistic.LogisticLoss", "{threshold: 0.4}"]).loss
    assert again == alone


def test_mistakes_in_a_loss_of_ones_own_are_those_of_ours(here):
    def yaml(text: str) -> str:
        Path("wrong.yaml").write_text(f"output: x\nloss:\n  {text}\n")
        return refused("wrong.yaml")

    own = "loss.logistic.LogisticLoss"
    assert yaml("logistic.LogisticLoss: {temprature: 1}") == (
        f"wrong.yaml:3: unknown key '{own}.temprature': did you mean 'temperature'?"
    )
    assert yaml("logistic.LogisticLoss:\n    weight: 1\n    temperature: hot") == (
        f"wrong.yaml:5: '{own}.temperature' is 'hot', expected float"
    )
    assert yaml("logistic.LogisticLoss: {temperature: 0}") == f"wrong.yaml:3: {own}.temperature must be > 0, got 0.0"
    assert yaml("logistic.LogisticLoss: 3") == f"wrong.yaml:3: '{own}' is a section, got the value 3"
    assert yaml("logistc.LogisticLoss: {}").startswith(
        "wrong.yaml:3: loss: 'logistc.LogisticLoss': no module 'logistc'"
    )
    assert yaml("logistic.Logistic: {}") == (
        "wrong.yaml:3: loss: 'logistic.Logistic': module 'logistic' has no 'Logistic'"
    )
    for other in ("logistic.logistic", "math.pi"):
        assert yaml(f"{other}: {{}}") == (
            f"wrong.yaml:3: loss: '{other}' is no frozen dataclass derived from textsiam.training.losses.terms.Term"
        )
    option = "--loss.logistic.LogisticLoss.temprature"
    assert refused("run.yaml", option, "1").startswith(f"{option}: unknown key '{own}.temprature'")


@pytest.mark.slow
def test_it_trains_resumes_and_is_saved(here, monkeypatch):
    """One run is interrupted and goes on; another margin is refused; what it saved imports nothing of the user's."""
    from textsiam.training.run import Run

    arguments = ["run.yaml", *SMALL, "--output", "run", "--loss.bilinear.BilinearLoss.weight", "0.1"]

    def interrupted(self: Run, *batch: object) -> None:
        if self.state.step == 3:
            raise RuntimeError("interrupted")
        count(self, *batch)

    count = Run.count
    with monkeypatch.context() as patch:
        patch.setattr(Run, "count", interrupted)
        with pytest.raises(RuntimeError, match="interrupted"):
            run_training(arguments)
    from textsiam.training.checkpoints import ResumeError

    with pytest.raises(ResumeError, match=r"loss\.logistic\.LogisticLoss.*temperature.*0\.2.*0\.3"):
        run_training([*arguments, "--resume", "--loss.logistic.LogisticLoss.temperature", "0.3"])
    run_training([*arguments, "--resume"])
    assert "logistic.LogisticLoss" in (here / "run" / "config.yaml").read_text()
    (here / "logistic.py").unlink()
    (here / "bilinear.py").unlink()
    python("-c", "from textsiam import Twin; assert Twin.from_pretrained('run/model').similarity(['a'], ['a']).size")
