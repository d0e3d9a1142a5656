import json
from pathlib import Path

from transformers import AutoConfig

from rm_workflow.models.saved_config import carry_older_keys
from rm_workflow_tests.models.tiny import tiny_config


def saved(folder: Path, **rope: object) -> dict:
    config = tiny_config("llama")
    config.rope_parameters = rope
    config.save_pretrained(str(folder))
    carry_older_keys(folder)
    return json.loads((folder / "config.json").read_text())


def test_rope_theta_stands_where_older_versions_look(tmp_path: Path) -> None:
    config = saved(tmp_path, rope_theta=100_000.0, rope_type="default")
    assert config["rope_theta"] == 100_000.0
    assert config["rope_scaling"] is None
    assert AutoConfig.from_pretrained(str(tmp_path)).rope_parameters["rope_theta"] == 100_000.0


def test_rope_scaling_is_carried_and_still_read_by_this_version(tmp_path: Path) -> None:
    config = saved(tmp_path, rope_theta=5e5, rope_type="linear", factor=4.0)
    assert config["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    again = AutoConfig.from_pretrained(str(tmp_path)).rope_parameters
    assert again == {"rope_theta": 5e5, "rope_type": "linear", "factor": 4.0}


def test_only_the_generic_tokenizer_class_is_renamed(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer_config.json"
    for written, expected in [("TokenizersBackend", "PreTrainedTokenizerFast"), ("GemmaTokenizer", "GemmaTokenizer")]:
        path.write_text(json.dumps({"tokenizer_class": written}))
        carry_older_keys(tmp_path)
        assert json.loads(path.read_text())["tokenizer_class"] == expected
