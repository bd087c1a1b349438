"""Hostile and damaged `.bin` files: nothing in them runs, and each is a one-line error."""

import collections
import io
import os
import pickle
import tarfile
import zipfile

import pytest
import torch

from common.errors import UserError
from gpt2_jittor.checkpoint.torch_archive import open_torch


class Runs:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def save(path, state, zipped=True):
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    return path


def rewritten(path, change):
    """Passes the pickle of a zip archive through `change`, keeping its other entries."""
    with zipfile.ZipFile(path) as archive:
        entries = [(info, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in entries:
            archive.writestr(info, change(content) if info.filename.endswith("data.pkl") else content)
    return path


def refusal(path):
    with pytest.raises(UserError) as error:
        open_torch(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


def rebuilt(offset, shape, strides, length=6):
    """A state dict's pickle that says of a six-float storage whatever the test wants."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", length) if value == "the storage" else None

    rebuild = Runs(
        torch._utils._rebuild_tensor_v2,
        "the storage",
        offset,
        shape,
        strides,
        False,
        collections.OrderedDict(),
    )
    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump({"a": rebuild})
    return stream.getvalue()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "posix.system"),
        (eval, "__builtin__.eval"),
        (getattr, "__builtin__.getattr"),
        (open, "io.open"),
    ],
)
def test_a_call_hidden_in_the_pickle_is_refused_by_name_and_not_run(tmp_path, zipped, function, name):
    witness = tmp_path / "ran"
    argument = f"touch {witness}" if function is os.system else f"__import__('pathlib').Path({str(witness)!r}).touch()"
    path = save(tmp_path / "a.bin", {"a": torch.ones(2), "b": Runs(function, argument)}, zipped)
    assert f"asks for {name}" in refusal(path)
    assert not witness.exists()


def test_a_plain_pickle_is_refused_by_name_and_not_run(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(pickle.dumps(Runs(os.system, f"touch {tmp_path / 'ran'}")))
    assert "asks for posix.system" in refusal(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("module", ["torch._utils._rebuild_tensor", "torch.load", "collections.Counter", "torch.Size"])
def test_only_exactly_the_names_of_a_state_dict_are_allowed(tmp_path, module):
    package, _, name = module.rpartition(".")
    path = rewritten(save(tmp_path / "a.bin", {}), lambda _: f"c{package}\n{name}\n.".encode())
    assert f"asks for {module}" in refusal(path)


def test_a_pickle_cannot_pass_off_another_object_as_a_storage(tmp_path):
    # an OrderedDict with a `dtype` of its own making, object, would have numpy read the bytes as pointers
    forged = collections.OrderedDict()
    forged.__dict__.update(dtype="O", key="0", length=3)
    call = Runs(torch._utils._rebuild_tensor_v2, forged, 0, (3,), (1,), False, collections.OrderedDict())
    path = save(tmp_path / "a.bin", {"a": torch.ones(6)})
    assert "without a storage" in refusal(rewritten(path, lambda _: pickle.dumps({"a": call}, protocol=2)))


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "length"),
    [
        (0, (7,), (1,), 6),  # more than there is
        (1, (6,), (1,), 6),  # shifted beyond the end
        (0, (2, 3), (4, 1), 6),  # strides reach beyond the end
        (-1, (2,), (1,), 6),
        (0, (-2,), (1,), 6),
        (5, (3,), (-1,), 6),
        (0, (2, 2), (1,), 6),
        (0, (1 << 40,), (0,), 6),  # one element, claimed to be a terabyte
        (0, (True,), (1,), 6),
        (0, (2.0,), (1,), 6),
        (0, (1,) * 40, (1,) * 40, 6),
        (0, (6,), (1,), 1 << 40),
        (0, (6,), (1,), -6),
        (1 << 80, (1,), (1,), 6),
    ],
)
def test_a_tensor_beyond_its_storage_is_refused(tmp_path, offset, shape, strides, length):
    path = save(tmp_path / "a.bin", {"a": torch.arange(6.0)})
    assert open_torch(rewritten(path, lambda _: rebuilt(0, (2, 3), (3, 1))))["a"].tolist() == [
        [0, 1, 2],
        [3, 4, 5],
    ]
    refusal(rewritten(path, lambda _: rebuilt(offset, shape, strides, length)))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path, zipped):
    whole = save(tmp_path / "whole.bin", {"a": torch.ones(30), "b": torch.ones(3)}, zipped).read_bytes()
    path = tmp_path / "cut.bin"
    for length in [*range(0, len(whole), 17), len(whole) - 1]:
        path.write_bytes(whole[:length])
        refusal(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_changed_bytes_are_refused_or_harmless(tmp_path, zipped):
    whole = save(tmp_path / "whole.bin", {"a": torch.ones(30), "b": torch.ones(3)}, zipped).read_bytes()
    generator = torch.Generator().manual_seed(1)
    path = tmp_path / "changed.bin"
    for _ in range(300):
        changed = bytearray(whole)
        for position in torch.randint(len(whole), (3,), generator=generator).tolist():
            changed[position] = int(torch.randint(256, (1,), generator=generator))
        path.write_bytes(changed)
        try:
            for view in open_torch(path).values():
                view.copy()
        except UserError:
            pass


@pytest.mark.parametrize("state", [[torch.ones(2)], torch.ones(2), {"epoch": 3}, {3: torch.ones(2)}, {"model": {}}])
def test_anything_but_tensors_by_name_is_refused(tmp_path, state):
    refusal(save(tmp_path / "a.bin", state))


TRAINED = {"a": torch.ones(2), "b": torch.zeros(1)}
MOMENTS = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99), "params": [0]}]}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"state_dict": TRAINED}, "tensors stand under its entry 'state_dict'"),
        ({"state_dict": collections.OrderedDict(TRAINED), "epoch": 3, "best": 0.5}, "under its entry 'state_dict'"),
        ({"epoch": 3, "model": TRAINED}, "tensors stand under its entry 'model'"),
        ({"model": TRAINED, "optimizer": MOMENTS}, "holds more than a model's tensors"),
        ({"optimizer": MOMENTS, "model": TRAINED}, "holds more than a model's tensors"),
        (TRAINED | {"epoch": 3}, "its entry 'epoch' is no tensor"),
        (TRAINED | {"names": ["a", "b"]}, "its entry 'names' is no tensor"),
    ],
    ids=lambda value: "" if isinstance(value, str) else ",".join(value),
)
def test_what_a_training_wrote_is_told_for_what_it_is(tmp_path, zipped, state, words):
    told = refusal(save(tmp_path / "a.bin", state, zipped))
    assert words in told and "torch.save(model.state_dict(), …)" in told and "get it again" not in told


def test_a_compressed_archive_is_refused(tmp_path):
    path = save(tmp_path / "a.bin", {"a": torch.ones(200)})
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    assert "compressed" in refusal(path)


def test_the_oldest_format_is_refused_in_words(tmp_path):
    path = tmp_path / "a.bin"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    assert "not a readable PyTorch file" in refusal(path)
