"""Read the tensors of a ``torch.save`` file without running anything that the file says.

A pickle is a program: it names functions ("globals") and calls them. Here every global must be on
the list below, and each stands for something inert: a tensor's data, a container, or an `Inert` object
that only keeps the state it is given. Anything else is refused with its name. The upstream package is not
needed, as its classes are never imported.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from yolo_core.errors import CheckpointError

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

# Classes whose instances occur in detection checkpoints; only their state is kept.
_INERT_GLOBALS = frozenset(
    [("models.yolo", name) for name in ("Model", "DetectionModel", "BaseModel", "Detect")]
    + [("models.common", name) for name in ("Conv", "Bottleneck", "C3", "SPP", "SPPF", "Focus", "Concat")]
    + [
        ("torch.nn.modules.container", "Sequential"),
        ("torch.nn.modules.container", "ModuleList"),
        ("torch.nn.modules.conv", "Conv2d"),
        ("torch.nn.modules.batchnorm", "BatchNorm2d"),
        ("torch.nn.modules.activation", "SiLU"),
        ("torch.nn.modules.activation", "LeakyReLU"),
        ("torch.nn.modules.activation", "Hardswish"),
        ("torch.nn.modules.pooling", "MaxPool2d"),
        ("torch.nn.modules.upsampling", "Upsample"),
        ("torch.nn.modules.linear", "Identity"),
        # The best fitness is a NumPy scalar in an array; it is not needed, so NumPy stays out.
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("_codecs", "encode"),
        # Later releases keep their options and a date beside the model.
        ("pathlib", "PosixPath"),
        ("pathlib", "WindowsPath"),
        ("datetime", "datetime"),
    ]
)

# Tensors of a file may share storages, and each becomes a copy of its own; all copies together may be at most
# so many times the file's size. Real checkpoints stay under 2.
_MAX_COPIES = 8
_MAX_CALL_ITEMS = 1000
_UNUSED_OPCODES = frozenset(
    (
        pickle.BYTEARRAY8,
        pickle.NEXT_BUFFER,
        pickle.READONLY_BUFFER,
        pickle.EXT1,
        pickle.EXT2,
        pickle.EXT4,
    )
)

# What a broken or hostile file makes the pickle machine, the zip reader or PyTorch raise.
_READ_ERRORS = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Inert:
    """Stands for an object of a class that is not imported.

    ``kind`` is the class's name with its module; ``state`` is what the object's ``__dict__`` would be.
    """

    kind: ClassVar[str]
    state: dict[str, Any]

    def __new__(cls, *_args: object, **_kwargs: object) -> Inert:
        """Accept and drop any constructor arguments: nothing is called with them."""
        self = super().__new__(cls)
        self.state = {}
        return self

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        """See `__new__`."""

    def __setstate__(self, state: object) -> None:
        """Keep the state when it is attributes by name, as that of modules is."""
        if isinstance(state, dict):
            self.state = state


def read_pickle(path: Path) -> Any:
    """Return the object tree of a ``torch.save`` file, with tensors on the CPU and `Inert` objects.

    Raises:
        CheckpointError: no such file, not a zip file of torch, damaged, or a global that is not allowed.
    """
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}; check the path")
    try:
        with zipfile.ZipFile(path) as archive:
            return _RestrictedUnpickler(archive, path).load()
    except CheckpointError:
        raise
    except zipfile.BadZipFile as error:
        raise CheckpointError(
            f"{path} is not a readable torch checkpoint ({error}); "
            "it may be cut short, or be older than torch 1.6"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except _READ_ERRORS as error:
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint ({type(error).__name__}: {error}); fetch it again"
        ) from error


class _RestrictedUnpickler(pickle._Unpickler):
    """Unpickles ``data.pkl`` of an archive; every global it may name is in `find_class`.

    Built on the pickle machine in Python, not on the one in C: that one reserves memory for whatever memo
    index a file names, gigabytes for a single flipped byte.
    """

    stack: list[Any]  # of the base class, which the type stubs do not show

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive = archive
        self._path = path
        self._storages: dict[str, Tensor] = {}
        self._inert: dict[tuple[str, str], type[Inert]] = {}
        # Entries may overlap in a hostile zip, and tensors share a storage: both unfold to far more bytes.
        self._unread = path.stat().st_size
        self._uncopied = self._unread * _MAX_COPIES
        names = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(names) != 1:
            raise CheckpointError(f"{path} is a zip file but not a torch checkpoint: no data.pkl in it")
        self._folder = names[0].removesuffix("data.pkl")
        super().__init__(io.BytesIO(self._read("data.pkl")))

    def find_class(self, module: str, name: str) -> Any:
        """Return what a global stands for; raise `CheckpointError` naming one that is not allowed."""
        if (module, name) in _INERT_GLOBALS:
            # A class per global and file: a hostile state could change it, and must not reach the next file.
            made = type("Inert", (Inert,), {"kind": f"{module}.{name}"})
            return self._inert.setdefault((module, name), made)
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): partial(_make_small, OrderedDict),
            ("__builtin__", "set"): partial(_make_small, set),
            ("builtins", "set"): partial(_make_small, set),
            ("torch", "Size"): partial(_make_small, tuple),
            ("torch._utils", "_rebuild_tensor_v2"): self._rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): self._rebuild_parameter,
        }
        if (module, name) in allowed:
            return allowed[module, name]
        raise CheckpointError(
            f"refused to read {self._path}: it names {module}.{name}, "
            "which is not on the list of safe globals"
        )

    def persistent_load(self, pid: Any) -> Tensor:
        """Return the flat tensor of a storage: ``pid`` is ("storage", dtype, key, location, elements)."""
        kind, dtype, key, _location, elements = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"unknown persistent object {kind!r}")
        if key not in self._storages:
            data = self._read(f"data/{key}")
            if len(data) != elements * dtype.itemsize:
                raise pickle.UnpicklingError(f"storage {key} has {len(data)} bytes for {elements} elements")
            flat = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
            self._storages[key] = flat
        return self._storages[key]

    def _read(self, name: str) -> bytes:
        info = self._archive.getinfo(self._folder + name)
        # torch stores without compression; a compressed entry may be a bomb.
        if info.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"refused to read {self._path}: entry {info.filename} is compressed")
        self._unread -= info.file_size
        if self._unread < 0:
            raise CheckpointError(f"refused to read {self._path}: its entries are larger than the file")
        return self._archive.read(info)

    def _build(self) -> None:
        """Give the object on top of the stack its state; only `Inert` ones have any."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Inert):
            target.__setstate__(state)
        elif not isinstance(target, OrderedDict):  # a state dict carries version numbers: dropped
            raise pickle.UnpicklingError(f"state for a {type(target).__name__}")

    # Tensors, classes and functions would take state, too: tensors a shape beyond their storage. Left out are
    # instructions that torch never writes: of protocol 5, where eight bytes can ask for any number of
    # gigabytes, and those that look globals up by number.
    dispatch: ClassVar[dict[int, Any]] = {
        code: action
        for code, action in {**pickle._Unpickler.dispatch, pickle.BUILD[0]: _build}.items()
        if bytes([code]) not in _UNUSED_OPCODES
    }

    @staticmethod
    def _rebuild_parameter(data: Tensor, *_rest: object) -> Tensor:
        return data

    def _rebuild_tensor(self, flat: Tensor, offset: int, size: Any, stride: Any, *_rest: object) -> Tensor:
        """Return a tensor's own copy; a shape with more elements than the storage is refused."""
        if math.prod(size) > flat.numel():
            raise pickle.UnpicklingError(
                f"shape {tuple(size)} exceeds its storage of {flat.numel()} elements"
            )
        self._uncopied -= math.prod(size) * flat.element_size()
        if self._uncopied < 0:
            raise CheckpointError(
                f"refused to read {self._path}: its tensors are more than {_MAX_COPIES} times the file's size"
            )
        return flat.as_strided(tuple(size), tuple(stride), offset).clone()


def _make_small(kind: Callable[..., Any], *values: Any) -> Any:
    """Call a container of that kind as a pickle asks; long arguments are a way to fill the memory.

    Long containers are not made by calls: their items follow, one instruction each.
    """
    if any(len(value) > _MAX_CALL_ITEMS for value in values):
        raise pickle.UnpicklingError(f"a call with more than {_MAX_CALL_ITEMS} items")
    return kind(*values)
