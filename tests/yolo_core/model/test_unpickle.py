"""The reader of foreign pickles: what it reads, and what it must refuse without running any of it."""

from __future__ import annotations

import contextlib
import os
import pickle
import pickletools
import sys
import time
import tracemalloc
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


# The global that each names -> its program. Those of `RUN` make the file %s pickle reads them.
RUN = {
    "os.system": b"cos\nsystem\n(Vtouch %s\ntR.",
    "posix.system": b"(cposix\nsystem\nVtouch %s\no.",  # OBJ
    "posix.system.__call__": b"\x80\x04\x8c\x05posix\x8c\x0fsystem.__call__\x93(Vtouch %s\ntR.",  # dotted
    "os.popen": b"(Vtouch %s\nios\npopen\n.",  # INST
    "builtins.eval": b"cbuiltins\neval\n(V__import__('os').system('touch %s')\ntR.",
    "__builtin__.exec": b"c__builtin__\nexec\n(V__import__('os').system('touch %s')\ntR.",
    "subprocess.Popen": b"((lVtouch\naV%s\naisubprocess\nPopen\n.",
    "subprocess.check_call": b"\x80\x04\x8c\nsubprocess\x94\x8c\ncheck_call\x94\x93((lVtouch\naV%s\natR.",
    "builtins.open": b"cbuiltins\nopen\n(V%s\nVw\ntR.",
    "pathlib.Path.touch": (b"\x80\x04\x8c\x07pathlib\x8c\nPath.touch\x93(cpathlib\nPosixPath\n(V%s\ntRtR."),
    "torch.serialization.os.system": (  # os by way of an allowed package
        b"\x80\x04\x8c\x05torch\x8c\x17serialization.os.system\x93(Vtouch %s\ntR."
    ),
    "builtins.map": (  # NEWOBJ_EX makes the map, building a set runs it
        b"\x80\x04cbuiltins\nset\n(cbuiltins\nmap\n(cos\nsystem\n(lVtouch %s\nat}\x92tR."
    ),
}
ATTACKS = {
    **RUN,
    "builtins.getattr": b"cbuiltins\ngetattr\n(Vx%s\nVupper\ntR.",
    "operator.attrgetter": b"coperator\nattrgetter\n(V__class__.__base__\ntR(Vx\ntR.",
    "importlib.import_module": b"cimportlib\nimport_module\n(V%s\ntR.",
    "torch.load": b"ctorch\nload\n(V%s\ntR.",
    "torch.hub.load": b"ctorch.hub\nload\n(V%s\ntR.",
    "numpy.load": b"cnumpy\nload\n(V%s\ntR.",
    "functools.partial": b"cfunctools\npartial\n(V%s\ntR.",
    "types.CodeType": b"ctypes\nCodeType\n(V%s\nt\x81.",  # NEWOBJ
    "models.yolo.__dict__": b"cmodels.yolo\n__dict__\n(V%s\ntR.",
    "models.common.Conv.__init__": b"\x80\x04\x8c\rmodels.common\x8c\rConv.__init__\x93(V%s\ntR.",
    "torch._utils._rebuild_tensor": b"ctorch._utils\n_rebuild_tensor\n(V%s\ntR.",
    "collections.OrderedDict.fromkeys": (
        b"\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93(V%s\ntR."
    ),
}


def aimed(program: bytes, victim: Path) -> bytes:
    return program.replace(b"%s", str(victim).encode())


@pytest.mark.parametrize("name", list(ATTACKS))
def test_hostile_global_is_refused_by_name_and_not_run(name: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    path = write_archive(tmp_path / "evil.pt", aimed(ATTACKS[name], victim))
    with pytest.raises(CheckpointError, match="refused") as caught:
        read_pickle(path)
    assert f"it names {name}, which" in str(caught.value)
    assert str(path) in str(caught.value)
    assert not victim.exists()


@pytest.mark.parametrize("name", list(RUN))
def test_the_attacks_are_real(name: str, tmp_path: Path) -> None:
    # Guards the test above against a typo that would make an attack harmless by itself.
    victim = tmp_path / "victim"
    pickle.loads(aimed(RUN[name], victim))
    deadline = time.monotonic() + 30  # some start a process and do not wait for it
    while not victim.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert victim.exists()


def test_python_itself_sees_nothing_but_the_files_being_opened(tmp_path: Path) -> None:
    """Python reports each import, compilation, process and global of a pickle to audit hooks (PEP 578)."""
    paths = [
        write_archive(tmp_path / f"{number}.pt", aimed(program, tmp_path / "victim"))
        for number, program in enumerate(ATTACKS.values())
    ]
    watching, events = False, []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching:  # a hook cannot be taken away again
            events.append((event, arguments[0]))

    "".encode("raw_unicode_escape").decode("cp437")  # modules of Python's own that reading may import
    sys.addaudithook(watch)
    for path in paths:
        watching = True
        with contextlib.suppress(CheckpointError):
            read_pickle(path)
        watching = False
    assert events == [("open", str(path)) for path in paths]


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


def test_overlapping_entries_are_refused(tmp_path: Path) -> None:
    """Each entry of this zip reaches from its header to the end of the last: 1 MB on disk, 50 MB inside."""
    path, count = tmp_path / "bomb.pt", 50
    names = [f"archive/data/{number:02}" for number in range(count)]
    with zipfile.ZipFile(path, "w") as archive:
        for name in names[:-1]:
            archive.writestr(name, b"")
        archive.writestr(names[-1], bytes(2**20))
    whole = path.read_bytes()
    with zipfile.ZipFile(path, "a") as archive:
        infos = [archive.getinfo(name) for name in names]
        starts = [info.header_offset + 30 + len(info.filename) for info in infos]
        for info, start in zip(infos, starts, strict=True):
            content = whole[start : starts[-1] + 2**20]
            info.file_size = info.compress_size = len(content)
            info.CRC = zipfile.crc32(content)
        storage = "(Vstorage\nctorch\nByteStorage\nV%02d\nVcpu\nI%d\ntQ0"
        program = "".join(storage % (number, info.file_size) for number, info in enumerate(infos))
        archive.writestr("archive/data.pkl", program + "N.")
    assert path.stat().st_size < 1.1 * 2**20
    with pytest.raises(CheckpointError, match=r"bomb\.pt: its entries are larger than the file"):
        read_pickle(path)


def test_one_storage_under_many_tensors_is_refused(tmp_path: Path) -> None:
    data = bytes(2**20)
    storage = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI%d\ntQp1\n0" % (len(data) // 4)
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(g1\nI0\n(I%d\nt(I1\ntI00\nNtR0" % (len(data) // 4)
    read_pickle(write_storage(tmp_path / "x.pt", storage + 4 * tensor + b"N.", data))
    path = write_storage(tmp_path / "bomb.pt", storage + 10_000 * tensor + b"N.", data)
    with pytest.raises(CheckpointError, match="tensors are more than 8 times the file's size"):
        read_pickle(path)


@pytest.mark.parametrize(
    "program",
    [
        pickle.PROTO + b"\x05" + pickle.BYTEARRAY8 + (2**32).to_bytes(8, "little") + b".",
        pickle.BINBYTES8 + (2**32).to_bytes(8, "little") + b".",
        pickle.BINUNICODE8 + (2**32).to_bytes(8, "little") + b".",
        pickle.LONG4 + (2**31 - 1).to_bytes(4, "little") + b".",
        b"I" + b"9" * 10**6 + b"\n.",
        b"(" + b"N" * 10**5 + b"lp1\n0" + b"ctorch\nSize\n(g1\ntR" * 1000 + b".",
        b"(" + b"N" * 10**5 + b"lp1\n0" + b"ccollections\nOrderedDict\n(g1\ntR" * 1000 + b".",
    ],
    ids=["bytearray8", "bytes8", "unicode8", "long4", "digits", "long size", "long dictionary"],
)
def test_program_that_reserves_memory_is_refused_cheaply(program: bytes, tmp_path: Path) -> None:
    path = write_archive(tmp_path / "bomb.pt", program)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match="damaged"):
            read_pickle(path)
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()


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
