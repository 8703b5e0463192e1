"""The reader of foreign pickles: what it reads, and what it must refuse without running any of it."""

from __future__ import annotations

import os
import pickle
import pickletools
import sys
import time
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from yolo_core.errors import CheckpointError
from yolo_core.model.unpickle import Inert, read_pickle


def write_archive(path: Path, program: bytes, **options: Any) -> Path:
    """A zip as torch.save makes it, around any pickle program."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3\n")
    return path


class Call:
    """Pickles into a call of a function, as an attacker's object does."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def test_plain_torch_file_is_read(tmp_path: Path) -> None:
    content = OrderedDict(
        a=torch.arange(6).view(2, 3),
        b=torch.randn(4).half(),
        c=torch.tensor(3.5, dtype=torch.float64),
        d=torch.randn(3, 4).t(),
        e=torch.empty(0, 2),
        f=torch.randn(5, dtype=torch.bfloat16),
    )
    torch.save(content, tmp_path / "x.pt")
    read = read_pickle(tmp_path / "x.pt")
    assert list(read) == list(content)
    for name, value in content.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name], value), name


def test_tensors_that_share_storage_become_independent(tmp_path: Path) -> None:
    base = torch.arange(10.0)
    torch.save({"a": base[2:5], "b": base[4:8]}, tmp_path / "x.pt")
    read = read_pickle(tmp_path / "x.pt")
    read["a"].zero_()
    assert read["b"].tolist() == [4, 5, 6, 7]


def test_modules_become_inert(tmp_path: Path) -> None:
    torch.save({"model": torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.SiLU())}, tmp_path / "x.pt")
    module = read_pickle(tmp_path / "x.pt")["model"]
    assert isinstance(module, Inert)
    assert isinstance(module.state["_modules"]["0"], Inert)
    assert module.state["_modules"]["0"].state["_parameters"]["weight"].shape == (1, 1, 1, 1)


def test_official_checkpoint_runs_nothing_foreign(assets: Path) -> None:
    before = set(sys.modules)
    content = read_pickle(assets / "weights" / "yolov5n.pt")
    assert isinstance(content["model"], Inert)
    assert not {name for name in set(sys.modules) - before if name.split(".")[0] == "models"}


ATTACKS = {
    "os.system": b"cos\nsystem\n(Vtouch %s\ntR.",
    "posix.system": b"cposix\nsystem\n(Vtouch %s\ntR.",
    "builtins.eval": b"cbuiltins\neval\n(V__import__('os').system('touch %s')\ntR.",
    "__builtin__.exec": b"c__builtin__\nexec\n(V__import__('os').system('touch %s')\ntR.",
    "builtins.getattr": b"cbuiltins\ngetattr\n(Vx%s\nVupper\ntR.",
    "subprocess.Popen": b"((lVtouch\naV%s\naisubprocess\nPopen\n.",
    "builtins.open": b"cbuiltins\nopen\n(V%s\nVw\ntR.",
    "importlib.import_module": b"cimportlib\nimport_module\n(V%s\ntR.",
    "torch.load": b"ctorch\nload\n(V%s\ntR.",
    "torch.hub.load": b"ctorch.hub\nload\n(V%s\ntR.",
    "numpy.load": b"cnumpy\nload\n(V%s\ntR.",
    "functools.partial": b"cfunctools\npartial\n(V%s\ntR.",
    "models.yolo.__dict__": b"cmodels.yolo\n__dict__\n(V%s\ntR.",
    "torch._utils._rebuild_tensor": b"ctorch._utils\n_rebuild_tensor\n(V%s\ntR.",
    "collections.OrderedDict.fromkeys": (
        b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93(V%s\ntR."
    ),
}


@pytest.mark.parametrize("name", list(ATTACKS))
def test_hostile_global_is_refused_by_name_and_not_run(name: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    program = ATTACKS[name].replace(b"%s", str(victim).encode())
    path = write_archive(tmp_path / "evil.pt", program)
    with pytest.raises(CheckpointError, match="refused") as caught:
        read_pickle(path)
    assert name in str(caught.value)
    assert str(path) in str(caught.value)
    assert not victim.exists()


def test_the_attacks_are_real(tmp_path: Path) -> None:
    # Guards the tests above against a typo that would make an attack harmless by itself.
    victim = tmp_path / "victim"
    pickle.loads(ATTACKS["os.system"].replace(b"%s", str(victim).encode()))
    assert victim.exists()


def test_attack_hidden_deep_in_a_model_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1))
    module[0].trap = Call(os.system, f"touch {victim}")
    torch.save({"model": module}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"posix\.system"):
        read_pickle(tmp_path / "evil.pt")
    assert not victim.exists()


def test_arguments_of_inert_classes_are_not_called(tmp_path: Path) -> None:
    # models.common.Conv("x") and _codecs.encode("x", "zlib") are named, but only stand for inert objects.
    path = write_archive(
        tmp_path / "x.pt", b"(cmodels.common\nConv\n(Vx\ntRc_codecs\nencode\n(Vx\nVzlib\ntRl."
    )
    assert all(isinstance(item, Inert) for item in read_pickle(path))


@pytest.mark.parametrize(
    "program",
    [
        # Give the stand-in class, a bound method and OrderedDict an attribute of the attacker's.
        b"cmodels.common\nConv\n(N(dVstate\nV1\nstb.",
        b"ctorch._utils\n_rebuild_tensor_v2\n(N(dV__code__\nV1\nstb.",
        b"ccollections\nOrderedDict\n(N(dVfromkeys\nV1\nstb.",
    ],
)
def test_state_cannot_alter_what_stands_for_a_global(program: bytes, tmp_path: Path) -> None:
    path = write_archive(tmp_path / "evil.pt", program)
    with pytest.raises(CheckpointError):
        read_pickle(path)
    torch.save({"a": torch.ones(2)}, tmp_path / "good.pt")
    assert read_pickle(tmp_path / "good.pt")["a"].tolist() == [1, 1]


def storage_program(size: bytes, stride: bytes, offset: bytes = b"I0\n") -> bytes:
    """A pickle of one tensor over storage 0 of four floats."""
    storage = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI4\ntQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + offset + size + stride + b"I00\nNtR."


def write_storage(path: Path, program: bytes, data: bytes = bytes(16)) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/data/0", data)
    return path


def test_hand_made_tensor_is_read(tmp_path: Path) -> None:
    path = write_storage(tmp_path / "x.pt", storage_program(b"(I2\nI2\nt", b"(I2\nI1\nt"))
    assert read_pickle(path).shape == (2, 2)


@pytest.mark.parametrize(
    "program",
    [
        storage_program(b"(I5\nt", b"(I1\nt"),  # more elements than the storage
        storage_program(b"(I1000000000000\nt", b"(I0\nt"),  # stride 0 would blow up to terabytes
        storage_program(b"(I2\nt", b"(I100\nt"),  # a step beyond the end
        storage_program(b"(I2\nt", b"(I1\nt", offset=b"I3\n"),
        storage_program(b"(I-2\nt", b"(I1\nt"),
        storage_program(b"Vtext\n", b"(I1\nt"),
        b"(Vmodule\nVx\ntQ.",  # a persistent object that is no storage
        b"VX\nQ.",
    ],
)
def test_tensor_outside_its_storage_is_refused(program: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="damaged"):
        read_pickle(write_storage(tmp_path / "evil.pt", program))


def test_tensor_takes_no_state(tmp_path: Path) -> None:
    # Tensor.__setstate__ would set any shape: here (10^12,) of stride 0 over the tensor itself.
    tensor = storage_program(b"(I4\nt", b"(I1\nt").removesuffix(b".")
    program = tensor + b"p1\n(g1\nI0\n(I1000000000000\nt(I0\nttb."
    with pytest.raises(CheckpointError, match="state for a Tensor"):
        read_pickle(write_storage(tmp_path / "evil.pt", program))


def test_huge_memo_index_costs_nothing(tmp_path: Path) -> None:
    start = time.process_time()
    program = b"N" + pickle.LONG_BINPUT + (2**32 - 1).to_bytes(4, "little") + b"."
    assert read_pickle(write_archive(tmp_path / "x.pt", program)) is None
    assert time.process_time() - start < 1


def test_storage_of_the_wrong_length_is_refused(tmp_path: Path) -> None:
    program = storage_program(b"(I2\nI2\nt", b"(I2\nI1\nt")
    with pytest.raises(CheckpointError, match="12 bytes for 4 elements"):
        read_pickle(write_storage(tmp_path / "x.pt", program, bytes(12)))


def test_compressed_entry_is_refused(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "bomb.pt", b"N." + bytes(10**6), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed"):
        read_pickle(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*nothing\.pt"):
        read_pickle(tmp_path / "nothing.pt")


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"PK\x03\x04 not really", pickle.dumps({"a": 1}), bytes(5000)]
)
def test_garbage_is_called_so(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pt is not a readable torch checkpoint"):
        read_pickle(path)


def test_zip_without_a_pickle_is_called_so(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=r"no data\.pkl"):
        read_pickle(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "program", [b"", b".", b"N", b"I1\n", b"(((", b"\x80\x63.", b"h\x05.", b"\xff\xff.", b"R."]
)
def test_damaged_pickle_is_called_so(program: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"x\.pt"):
        read_pickle(write_archive(tmp_path / "x.pt", program))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_official_checkpoint(share: float, assets: Path, tmp_path: Path) -> None:
    whole = (assets / "weights" / "yolov5n.pt").read_bytes()
    path = tmp_path / "cut.pt"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"cut\.pt"):
        read_pickle(path)


def test_flipped_byte_is_noticed(assets: Path, tmp_path: Path) -> None:
    whole = bytearray((assets / "weights" / "yolov5n.pt").read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    path = tmp_path / "flipped.pt"
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match=r"flipped\.pt"):
        read_pickle(path)


def test_random_damage_never_ends_in_another_error(tmp_path: Path) -> None:
    """Flip bytes of the pickle program itself (the zip's own checksum is made to fit)."""
    torch.save({"model": torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1))}, tmp_path / "good.pt")
    with zipfile.ZipFile(tmp_path / "good.pt") as archive:
        program = archive.read("good/data.pkl")
        files = {name: archive.read(name) for name in archive.namelist()}
    assert len(list(pickletools.genops(program))) > 50
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        place, value = (int(torch.randint(0, n, (), generator=generator)) for n in (len(program), 256))
        files["good/data.pkl"] = program[:place] + bytes([value]) + program[place + 1 :]
        with zipfile.ZipFile(tmp_path / "bad.pt", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        try:
            read_pickle(tmp_path / "bad.pt")
        except CheckpointError as error:
            assert "bad.pt" in str(error)
