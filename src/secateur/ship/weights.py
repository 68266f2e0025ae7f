"""Tensors in files: safetensors with aliases, and users' checkpoints of any kind."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.core.errors import FileError, InputError
from secateur.ship import sparse

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PICKLED = frozenset({".pt", ".pth", ".bin", ".ckpt"})
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_DAMAGED = "the file was changed, or not written to its end; get it again"


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """The model's own tensors by the names of its state dict (not copies).

    Raises:
        InputError: The state dict holds something that is not the model's parameter or buffer.
    """
    owned = {id(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    state = dict(model.state_dict(keep_vars=True))
    for name, value in state.items():
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            raise InputError(
                f"{name} in the state dict is a {kind}, not a tensor",
                hint="only tensors can be saved; remove get_extra_state from that module",
            )
        if id(value) not in owned:
            raise InputError(
                f"{name} in the state dict is neither a parameter nor a buffer of the model",
                hint="a state-dict hook makes it; save without the hook",
            )
    return state


def write_tensors(state: Mapping[str, Tensor], path: Path, *, packed: bool = False) -> None:
    """Write tensors as safetensors; one that several names share is written once.

    As `safetensors.torch.save_model` does, the metadata says for every further name which one it
    stands for. packed: those that are mostly zeros may be stored as `ship/sparse.py` says.
    """
    stored: dict[tuple[object, ...], str] = {}
    aliases: dict[str, str] = {}
    kept: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in state.items():
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise InputError(f"{name} is not a plain dense tensor, so it cannot be saved")
        where = tensor.untyped_storage().data_ptr()
        key = (where, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in stored:
            aliases[name] = stored[key]
            continue
        stored[key] = name
        plain = tensor.detach().cpu().contiguous()
        if where in storages and plain.untyped_storage().data_ptr() == where:
            plain = plain.clone()
        storages.add(where)
        kept[name] = plain
    entry = None
    if packed:
        kept, entry = sparse.encode(kept)
    listed = {} if entry is None else {sparse.KEY: entry}
    save_file(kept, path, metadata={"format": "pt", **aliases, **listed})


def described(dtype: torch.dtype | str, shape: Sequence[int]) -> str:
    """A tensor's dtype (PyTorch's, or safetensors' name) and shape, for comparison and messages.

    Example:
        >>> described(torch.float32, (2, 3)), described("F32", [2, 3])
        ('float32(2, 3)', 'float32(2, 3)')
    """
    known = _DTYPES.get(dtype, dtype) if isinstance(dtype, str) else dtype
    return f"{str(known).removeprefix('torch.')}{tuple(shape)}"


@contextmanager
def open_tensors(path: Path) -> Iterator[tuple[sparse.SparseFile, dict[str, str]]]:
    """An open safetensors file, and for every name in it the name it is stored under.

    Raises:
        FileError: The file is missing, truncated, or not valid safetensors.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as opened:
            file = sparse.SparseFile(opened, path)
            stored = {name: name for name in file.names}
            for alias, target in file.metadata.items():
                if target in stored and alias not in stored:
                    stored[alias] = target
            yield file, stored
    except FileNotFoundError:
        raise FileError(f"there is no file {path}") from None
    except FileError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        raise FileError(f"{path} cannot be read: {error}", hint=_DAMAGED) from error


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """A state dict from `.safetensors`, `.pt`, `.pth`, `.bin` or `.ckpt`, on the CPU.

    A checkpoint such as `{"state_dict": {...}, "epoch": 3}` is unwrapped. Code in a file is never
    run: pickled files are read with `weights_only=True`.

    Raises:
        FileError: The file is missing, damaged, of another kind, or holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileError(f"there is no file {path}")
    if path.suffix == ".safetensors":
        with open_tensors(path) as (file, stored):
            return {name: file.get_tensor(target) for name, target in stored.items()}
    if path.suffix not in _PICKLED:
        allowed = ", ".join([".safetensors", *sorted(_PICKLED)])
        raise FileError(f"{path} is not a file of weights", hint=f"weights end in {allowed}")
    return _tensors_in(_unpickle(path), path)


def fit_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Load weights by name, all or none: nothing is touched unless names and shapes agree.

    Raises:
        FileError: The weights are those of another model.
    """
    state = {name: tuple(tensor.shape) for name, tensor in state_of(model).items()}
    check_names(state, {name: tuple(w.shape) for name, w in weights.items()}, source)
    model.load_state_dict(dict(weights), strict=True)


def check_names(
    wanted: Mapping[str, object], found: Mapping[str, object], source: str | Path
) -> None:
    """Compare names, and what is known of each tensor; a `FileError` lists the differences."""
    missing = [name for name in wanted if name not in found]
    extra = [name for name in found if name not in wanted]
    if missing or extra:
        lacks = [f"lacks {_few(missing)}"] if missing else []
        also = [f"has also {_few(extra)}"] if extra else []
        raise FileError(
            f"{source} holds the weights of another model: it {' and '.join(lacks + also)}",
            hint="build the same model that the weights were saved from",
        )
    for name, expected in wanted.items():
        if found[name] != expected:
            raise FileError(
                f"{source} holds the weights of another model: {name} is {found[name]} in the file "
                f"and {expected} in the model",
                hint="build the same model, in the same dtype, that the weights were saved from",
            )


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _unpickle(path: Path) -> object:
    """What a PyTorch file holds, by the restricted reader; archives must not expand."""
    entries: list[zipfile.ZipInfo] = []
    try:
        if zipfile.is_zipfile(path):  # which raises too
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise FileError(f"{path} cannot be read: {error}", hint=_DAMAGED) from error
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise FileError(f"{path} would expand when read", hint="save the weights uncompressed")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader raises whatever a damaged file makes it raise
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise FileError(
                f"{path} holds more than tensors, and reading it could run code",
                hint="save only the weights: torch.save(model.state_dict(), path)",
            ) from None
        detail = (str(error).splitlines() or [""])[0]
        raise FileError(
            f"{path} cannot be read: {type(error).__name__} {detail}", hint=_DAMAGED
        ) from None


def _tensors_in(value: object, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(value, Mapping) and isinstance(value.get(wrapper), Mapping):
            value = value[wrapper]
            break
    if not isinstance(value, Mapping) or not value:
        raise FileError(
            f"{path} holds no state dict", hint="save with torch.save(model.state_dict(), path)"
        )
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise FileError(
                f"{path} holds {name!r}, a {type(tensor).__name__}, among its tensors",
                hint="save with torch.save(model.state_dict(), path)",
            )
    return dict(value)
