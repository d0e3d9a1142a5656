"""States on disk, without a trainer: whole and proven, or not there."""

import errno
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from rm_workflow.errors import UserError
from rm_workflow.training import training_state
from rm_workflow.training.tensor_files import pack, unpack, write_safetensors


def write(states, step):
    def fill(folder):
        (folder / "a.json").write_text(f'{{"step": {step}}}', "utf-8")
        (folder / "b.bin").write_bytes(bytes(range(64)) + bytes([step]))

    return training_state.write_state(states, training_state.state_name(step), fill)


def newest(states):
    said = []
    found = training_state.newest_whole(states, said.append)
    return (found and found.step), said


def test_tensors_of_every_kind_are_read_back_by_the_safetensors_library(tmp_path):
    tensors = {
        "scalar": torch.tensor(3.0),
        "bf16": torch.randn(3, 5).bfloat16(),
        "turned": torch.randn(4, 6).T,
        "empty": torch.empty(0, 2),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "flags": torch.tensor([True, False]),
        "whole": torch.tensor([-(2**60)]),
    }
    write_safetensors(tmp_path / "t.safetensors", tensors)
    found = load_file(tmp_path / "t.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Adagrad", "RMSprop", "Adafactor"])
def test_the_state_of_an_optimizer_survives_without_pickle(name, tmp_path):
    parameter = torch.nn.Parameter(torch.randn(3, 4))
    optimizer = getattr(torch.optim, name)([{"params": [parameter], "weight_decay": 0.1}], lr=0.01)
    parameter.sum().backward()
    optimizer.step()
    tensors = {}
    packed = pack(optimizer.state_dict(), tensors, "optimizer")
    write_safetensors(tmp_path / "t.safetensors", tensors)
    found = unpack(packed, load_file(tmp_path / "t.safetensors"))
    assert found["param_groups"] == optimizer.state_dict()["param_groups"]
    assert found["state"].keys() == optimizer.state_dict()["state"].keys()
    for key, value in optimizer.state_dict()["state"].get(0, {}).items():
        assert torch.equal(torch.as_tensor(found["state"][0][key]), torch.as_tensor(value)), key


def test_a_tensor_that_several_parameters_share_is_written_once():
    shared, tensors = torch.ones(2), {}
    packed = pack({0: shared, 1: shared}, tensors, "optimizer")
    assert len(tensors) == 1
    found = unpack(packed, tensors)
    assert found[0] is found[1] is shared


def test_what_only_pickle_could_keep_is_refused():
    with pytest.raises(UserError, match=r"holds a object, which cannot be kept without pickle"):
        pack({"a": object()}, {}, "optimizer")


def test_the_newest_whole_state_is_taken(tmp_path):
    assert newest(tmp_path / "none") == (None, [])
    for step in (2, 10, 9):
        write(tmp_path, step)
    assert newest(tmp_path) == (10, [])


def flip(folder):
    data = bytearray((folder / "b.bin").read_bytes())
    data[40] ^= 1
    (folder / "b.bin").write_bytes(data)


def cut(folder):
    os.truncate(folder / "b.bin", 10)


def lose(folder):
    (folder / "a.json").unlink()


def lose_marker(folder):
    (folder / "COMPLETE.json").unlink()


def break_marker(folder):
    (folder / "COMPLETE.json").write_text('{"files": {', "utf-8")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip, "the sha256 of b.bin is not what was written"),
        (cut, "b.bin has 10 bytes instead of 65"),
        (lose, "a.json is missing"),
        (lose_marker, "it has no COMPLETE.json"),
        (break_marker, "its COMPLETE.json is damaged"),
    ],
)
def test_a_damaged_newest_state_is_told_and_the_one_before_is_used(damage, reason, tmp_path):
    write(tmp_path, 1)
    damage(write(tmp_path, 2))
    step, said = newest(tmp_path)
    assert step == 1
    assert said == [f"the training state step_00000002 is not used, because {reason}; trying the one before"]
    assert newest(tmp_path) == (1, [])


def test_every_single_byte_of_a_state_is_covered(tmp_path):
    folder = write(tmp_path, 1)
    for name in ("a.json", "b.bin"):
        whole = (folder / name).read_bytes()
        for position in range(len(whole)):
            (folder / name).write_bytes(whole[:position] + bytes([whole[position] ^ 128]) + whole[position + 1 :])
            assert training_state.fault(folder), (name, position)
        (folder / name).write_bytes(whole)
    assert training_state.fault(folder) is None


def test_every_single_bit_of_the_marker_is_covered(tmp_path):
    def fill(folder):
        # Names that one bit tells apart: the marker would speak of the second one twice.
        for number in (0, 1):
            (folder / f"rng_{number}.json").write_text(f"[{number}]", "utf-8")

    marker = training_state.write_state(tmp_path, "step_00000002", fill) / "COMPLETE.json"
    whole = marker.read_bytes()
    for position in range(len(whole)):
        for bit in range(8):
            flipped = bytes([whole[position] ^ 1 << bit])
            marker.write_bytes(whole[:position] + flipped + whole[position + 1 :])
            assert training_state.fault(marker.parent), (position, bit)
    marker.write_bytes(whole)
    assert training_state.fault(marker.parent) is None


@pytest.mark.parametrize("old", ["format", "files", "bytes", "sha256"])
def test_a_marker_with_a_flipped_name_falls_back_to_the_state_before(old, tmp_path):
    write(tmp_path, 1)
    marker = write(tmp_path, 2) / "COMPLETE.json"
    marker.write_text(marker.read_text("utf-8").replace(old, "x" + old[1:]), "utf-8")
    step, said = newest(tmp_path)
    assert step == 1
    assert "because its COMPLETE.json is damaged" in said[0]


def test_a_file_that_the_disk_does_not_give_back_is_a_fault(tmp_path, monkeypatch):
    def refuse(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    folder = write(tmp_path, 1)
    monkeypatch.setattr(training_state, "file_sha256", refuse)
    assert training_state.fault(folder) == "it cannot be read: Input/output error"


def test_a_full_disk_is_told_and_damages_nothing(tmp_path):
    write(tmp_path, 1)

    def fill(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"cannot write the training state .*step_00000002: No space left on device"):
        training_state.write_state(tmp_path, "step_00000002", fill)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert newest(tmp_path) == (1, [])


def test_as_many_states_stay_as_asked_for_and_the_best_weights_that_are_spoken_of(tmp_path):
    for step in (1, 2, 3, 4):
        write(tmp_path, step)
        training_state.write_state(tmp_path, training_state.best_name(step), lambda folder: None)
    training_state.prune(tmp_path, 2, {1, 4})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best_00000001",
        "best_00000004",
        "step_00000003",
        "step_00000004",
    ]


def test_a_removal_that_is_cut_short_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    folder = write(tmp_path, 1)
    monkeypatch.setattr(shutil, "rmtree", lambda *arguments, **named: None)
    training_state._remove(folder)
    assert training_state.fault(folder) == "it has no COMPLETE.json"
