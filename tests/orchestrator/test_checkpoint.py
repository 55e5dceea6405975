"""Checkpoints: complete or absent, and every kind of damage is named."""

import json
import os
import threading

import pytest
import torch
from torch import nn

from orchestrator import checkpoint
from orchestrator.checkpoint import CheckpointError, Contents, Writer, folder_of

FILES = ("manifest.json", "optimizer.safetensors", "progress.json", "weights.cnn.safetensors")


def contents(step=1):
    weights = {"conv.weight": torch.full((2, 3), float(step)), "conv.count": torch.tensor(step)}
    optimizer = {"cnn.conv.weight/exp_avg": torch.zeros(2, 3)}
    return Contents(
        tensors={"weights.cnn": weights, "optimizer": optimizer},
        progress={"step": step, "best": {"a/ned": {"value": 0.5}}},
        fits={"alphabet": "a" * 64, "blank": 0},
    )


def written(checkpoints, *steps):
    """Checkpoints of ``steps``; the folder of the last one."""
    for step in steps:
        checkpoint.write(folder_of(checkpoints, step), contents(step))
    return folder_of(checkpoints, steps[-1])


def newest(checkpoints):
    """The step of the newest sound checkpoint, and what was said of those passed over."""
    said = []
    found = checkpoint.newest_sound(checkpoints, passed_over=said.append)
    return (found[1].progress["step"] if found else None), said


def test_a_checkpoint_reads_back_as_written(tmp_path):
    found = checkpoint.read(written(tmp_path, 7))
    assert found.progress == contents(7).progress and found.fits == contents(7).fits
    assert found.tensors.keys() == {"weights.cnn", "optimizer"}
    for name, tensor in contents(7).tensors["weights.cnn"].items():
        assert torch.equal(found.tensors["weights.cnn"][name], tensor)


def test_a_checkpoint_is_made_of_the_files_it_says(tmp_path):
    folder = written(tmp_path, 1)
    assert folder.name == "step-00000001"
    assert tuple(sorted(path.name for path in folder.iterdir())) == FILES
    assert tuple(checkpoint.verify(folder)["files"]) == FILES[1:]
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]  # no draft is left


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def shortened(path):
    os.truncate(path, path.stat().st_size - 2)


DAMAGES = [(damage, name) for damage in (flipped, shortened, os.unlink) for name in FILES]


@pytest.mark.parametrize(("damage", "name"), DAMAGES, ids=[f"{damage.__name__} {name}" for damage, name in DAMAGES])
def test_a_damaged_checkpoint_is_named_and_passed_over_for_the_newest_sound_one(tmp_path, damage, name):
    folder = written(tmp_path, 1, 2)
    damage(folder / name)
    step, said = newest(tmp_path)
    assert step == 1
    assert len(said) == 1 and str(folder) in said[0]
    assert name == "manifest.json" or name in said[0]


def edited(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: edited(folder, schema=2), "written in checkpoint schema 2; this version reads 1"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), r"no readable manifest.json \(TypeError"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), r"no readable manifest.json \(KeyError"),
        (lambda folder: shortened(folder / "progress.json"), r"progress.json: \d+ bytes, expected \d+; .* damaged"),
        (lambda folder: flipped(folder / "progress.json"), "progress.json: its SHA-256 is not the manifest's"),
        (lambda folder: (folder / "progress.json").unlink(), r"progress.json: None bytes, expected \d+"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "no readable manifest.json"),
    ],
)
def test_damage_is_told_with_file_found_and_expected(tmp_path, damage, message):
    folder = written(tmp_path, 1)
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.read(folder)


def test_any_byte_of_the_manifest_may_be_damaged(tmp_path):
    folder = written(tmp_path, 1)
    path = folder / "manifest.json"
    sound = path.read_bytes()
    for place in range(len(sound)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        try:
            found = checkpoint.read(folder)
        except CheckpointError:
            continue
        # What the weights fit is compared with the run's own before they are used; all else is proven by hash.
        assert found.fits != contents().fits or json.loads(path.read_text()) == json.loads(sound)


def test_where_no_checkpoint_is_sound_there_is_none_and_all_are_named(tmp_path):
    assert newest(tmp_path / "nowhere") == (None, [])
    for step in (1, 2):
        flipped(written(tmp_path, step) / "weights.cnn.safetensors")
    step, said = newest(tmp_path)
    assert step is None and len(said) == 2


def test_a_draft_is_not_a_checkpoint(tmp_path):
    folder = written(tmp_path, 1)
    folder.rename(tmp_path / f".{folder_of(tmp_path, 9).name}.4711.draft")
    assert newest(tmp_path) == (None, [])


def test_a_damaged_checkpoint_is_replaced_by_a_sound_one_of_the_same_step(tmp_path):
    flipped(written(tmp_path, 4) / "progress.json")
    written(tmp_path, 4)
    assert newest(tmp_path) == (4, [])


def test_staged_contents_do_not_follow_further_training():
    live = contents()
    staged = checkpoint.Staging().copy(live)
    live.tensors["weights.cnn"]["conv.weight"].zero_()
    live.progress["best"]["a/ned"]["value"] = 0.0
    assert staged.tensors["weights.cnn"]["conv.weight"].eq(1).all()
    assert staged.progress["best"]["a/ned"]["value"] == 0.5


def test_rotation_keeps_the_newest_and_never_removes_a_best_one(tmp_path):
    written(tmp_path, 1, 2, 3, 4, 5)
    checkpoint.rotate(tmp_path, keep=["step-00000002"], newest=2)
    assert sorted(path.name[-1] for path in tmp_path.iterdir()) == ["2", "4", "5"]
    written(tmp_path, 6)
    checkpoint.rotate(tmp_path, keep=["step-00000002", "step-00000005"], newest=1)
    assert sorted(path.name[-1] for path in tmp_path.iterdir()) == ["2", "5", "6"]


def test_the_writer_works_one_task_after_the_other_and_waits_for_the_last():
    writer, done, first_may_end = Writer(), [], threading.Event()

    def first():
        first_may_end.wait(5)
        done.append("first")

    writer.submit(first)
    assert done == []  # training goes on meanwhile
    first_may_end.set()
    writer.submit(lambda: done.append("second"))
    writer.wait()
    assert done == ["first", "second"]
    writer.wait()


@pytest.mark.parametrize("then", ["submit", "wait"])
def test_what_went_wrong_while_writing_is_raised_by_the_next_call_once(then):
    def fails():
        raise OSError("no space left on device")

    writer, done = Writer(), []
    writer.submit(fails)
    with pytest.raises(CheckpointError, match="could not be written: no space left on device"):
        writer.submit(lambda: done.append(1)) if then == "submit" else writer.wait()
    assert done == []  # nothing more is written over a failure that nobody has seen
    writer.submit(lambda: done.append(2))
    writer.wait()
    assert done == [2]


def a_net():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).to(memory_format=torch.channels_last)
    return net, torch.optim.AdamW(net.parameters(), lr=0.1, fused=True)


def train(net, optimizer, steps):
    for step in range(steps):
        image = torch.rand(2, 1, 5, 5, generator=torch.Generator().manual_seed(step))
        net(image).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_an_optimizer_goes_on_bit_for_bit_after_a_round_trip(tmp_path):
    net, optimizer = a_net()
    train(net, optimizer, 3)
    names = {parameter: name for name, parameter in net.named_parameters()}
    held = {"weights": net.state_dict(), "optimizer": checkpoint.optimizer_tensors(optimizer, names)}
    checkpoint.write(tmp_path / "step-1", Contents(tensors=held, progress={}, fits={}))
    train(net, optimizer, 2)

    other, fresh = a_net()
    found = checkpoint.read(tmp_path / "step-1")
    other.load_state_dict(found.tensors["weights"])
    own = {parameter: name for name, parameter in other.named_parameters()}
    checkpoint.load_optimizer(fresh, found.tensors["optimizer"], own, updates=3)
    assert fresh.param_groups[0]["lr"] == 0.1  # a function of the step, not of the checkpoint
    train(other, fresh, 2)
    for name, value in net.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


def test_moments_of_what_does_not_learn_here_are_refused():
    net, optimizer = a_net()
    names = {net[0].weight: "0.weight"}
    with pytest.raises(CheckpointError, match=r"holds '9\.weight', which does not learn in this stage"):
        checkpoint.load_optimizer(optimizer, {"9.weight/step": torch.tensor(1.0)}, names, updates=1)


def test_a_checkpoint_without_moments_is_refused_by_the_name_of_what_it_lacks():
    net, optimizer = a_net()
    names = {parameter: name for name, parameter in net.named_parameters()}
    checkpoint.load_optimizer(optimizer, checkpoint.optimizer_tensors(optimizer, names), names, updates=0)
    train(net, optimizer, 1)
    held = checkpoint.optimizer_tensors(optimizer, names)
    stripped = {key: value for key, value in held.items() if key != "0.bias/exp_avg_sq"}
    for kept, lacks in (({}, "exp_avg, exp_avg_sq, step of '0.weight'"), (stripped, "exp_avg_sq of '0.bias'")):
        with pytest.raises(CheckpointError, match=f"lacks {lacks}, though 7 updates were made"):
            checkpoint.load_optimizer(a_net()[1], kept, names, updates=7)


def test_a_parameter_that_never_had_a_gradient_is_saved_and_goes_on_without_moments():
    net, optimizer = a_net()
    names = {parameter: name for name, parameter in net.named_parameters()}
    net[0].bias.requires_grad_(False)
    train(net, optimizer, 1)
    held = checkpoint.optimizer_tensors(optimizer, names)
    assert held["0.bias/step"] == 0 and "0.bias/exp_avg" not in held
    checkpoint.load_optimizer(optimizer, held, names, updates=1)
    assert net[0].bias not in optimizer.state and optimizer.state[net[0].weight]["step"] == 1


def test_weights_of_another_alphabet_or_image_are_refused_with_both_sides(tmp_path):
    fits = {"alphabet": "a" * 64, "blank": 0}
    checkpoint.refuse_unfit(fits, fits, tmp_path)
    checkpoint.refuse_unfit(fits | {"more": 1}, fits, tmp_path)
    with pytest.raises(
        CheckpointError, match=rf"{tmp_path}: its alphabet is a+\.\.\., this run's is b+\.\.\.\. .*remap"
    ):
        checkpoint.refuse_unfit(fits, fits | {"alphabet": "b" * 64}, tmp_path)
    with pytest.raises(CheckpointError, match=r"its ImageSpec is None, this run's is c\. .*train the stage anew"):
        checkpoint.refuse_unfit(fits, {"ImageSpec": "c"}, tmp_path)
