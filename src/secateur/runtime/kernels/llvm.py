"""LLVM's text to code that runs here, through llvmlite, kept on disk between processes.

Code is kept by the digest of everything that it follows from: the text, the processor and its
features, LLVM's version. A file whose checksum is wrong, or that others may write to, is not used.
LLVM maps code writable first and executable after, never both.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from secateur.core.cache import cache_folder
from secateur.core.errors import UnsupportedModel
from secateur.runtime.kernels.ir import declared
from secateur.runtime.machine.memory import Code as MachineCode
from secateur.runtime.machine.memory import machine

_VERSION = b"secateur code 1\n"
_LOCK = Lock()
_LOADED: dict[str, Code] = {}


@dataclass(frozen=True)
class Target:
    """A processor that code is made for: LLVM's triple, name and features.

    lanes: floats in a vector. registers: vectors that it has. fused: multiply and add in one.
    """

    triple: str
    cpu: str
    features: str
    lanes: int
    registers: int
    fused: bool = True

    @property
    def picks(self) -> bool:
        """Whether lanes can be looked up in registers (`Function.picked`)."""
        return self.triple.startswith(("x86", "i386", "i686")) and self.lanes in (8, 16)

    @property
    def window(self) -> int:
        """Numbers of one vector that can be looked up; 0 if they cannot."""
        return self.lanes if self.picks else 0


AVX2 = Target("x86_64-unknown-linux-gnu", "x86-64-v3", "", 8, 16)
AVX512 = Target("x86_64-unknown-linux-gnu", "x86-64-v4", "-prefer-256-bit", 16, 32)
NEON = Target("aarch64-unknown-linux-gnu", "generic", "+neon", 4, 32)


class Unavailable(UnsupportedModel):
    """No code can be made here: llvmlite is missing, or memory may not be made executable."""


@dataclass(frozen=True)
class Code:
    """Loaded code: `address` of a function by its name. It lives as long as the process."""

    engine: Any
    bytes: int

    def address(self, name: str) -> int:
        """Where a function is."""
        return self.engine.get_function_address(name)


def _llvmlite() -> Any:
    try:
        import llvmlite.binding as binding
    except ImportError as error:
        raise Unavailable(
            "kernels for this processor need llvmlite, which is not installed",
            hint="pip install 'secateur[fast]'",
        ) from error
    return binding


@cache
def available() -> bool:
    """Whether code can be made and run here.

    Example:
        >>> import importlib.util
        >>> available() <= (importlib.util.find_spec("llvmlite") is not None)
        True
    """
    try:
        load("define void @nothing() {\n  ret void\n}", host(), folder=None)
    except (Unavailable, OSError, RuntimeError):
        return False
    return True


@cache
def host() -> Target:
    """This machine."""
    binding = _llvmlite()
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    triple = binding.get_process_triple()
    found = binding.get_host_cpu_features()
    features = found.flatten()
    cpu = binding.get_host_cpu_name()
    if found.get("avx512f") and found.get("avx512vl") and found.get("avx512dq"):
        return Target(triple, cpu, features + ",-prefer-256-bit", 16, 32)
    if found.get("avx2") and found.get("fma"):
        return Target(triple, cpu, features, 8, 16)
    fused = not triple.startswith(("x86", "i386", "i686"))
    return Target(triple, cpu, features, 4, 32 if fused else 16, fused)


def load(text: str, target: Target | None = None, folder: Path | bool | None = True) -> Code:
    """The code of a module, made now or found on disk.

    folder: Where code is kept: True for the usual place, None for nowhere.
    """
    target = target or host()
    key = _key(text, target)
    with _LOCK:
        if key not in _LOADED:
            place = (cache_folder() if folder is True else folder) or None
            path = place / "code" / f"{key}.o" if isinstance(place, Path) else None
            found = _read(path)
            made = found or compile_object(text, target)
            if found is None:
                _write(path, made)
            _LOADED[key] = _link(made, target)
        return _LOADED[key]


def compile_object(text: str, target: Target) -> bytes:
    """A module as an object file for a processor, which may be another than this one."""
    machine, module = _machine(target), _parse(text)
    return machine.emit_object(module)


def assembly(text: str, target: Target) -> str:
    """A module as the assembler writes it for a processor."""
    return _machine(target).emit_assembly(_parse(text))


def _parse(text: str) -> Any:
    module = _llvmlite().parse_assembly(text)
    module.verify()
    return module


def _machine(target: Target) -> Any:
    binding = _llvmlite()
    if target.triple != binding.get_process_triple():
        binding.initialize_all_targets()
        binding.initialize_all_asmprinters()
    else:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
    kind = binding.Target.from_triple(target.triple)
    return kind.create_target_machine(
        cpu=target.cpu, features=target.features, opt=3, reloc="pic", codemodel="jitdefault"
    )


def _link(code: bytes, target: Target) -> Code:
    binding = _llvmlite()
    empty = binding.parse_assembly("")
    engine = binding.create_mcjit_compiler(empty, _machine(target))
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return Code(engine, len(code))


def _key(text: str, target: Target) -> str:
    version = ".".join(map(str, _llvmlite().llvm_version_info))
    facts = "\n".join([version, target.triple, target.cpu, target.features, text])
    return hashlib.sha256(facts.encode()).hexdigest()


def _read(path: Path | None) -> bytes | None:
    """Code from disk, if it is whole and nobody else can have written it."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
                return None
            content = file.read()
    except OSError:
        return None
    head, code = content[: len(_VERSION) + 32], content[len(_VERSION) + 32 :]
    whole = head == _VERSION + hashlib.sha256(code).digest()
    return code if whole and code else None


def _write(path: Path | None, code: bytes) -> None:
    """Code to disk, atomically; a disk that cannot be used is no error."""
    if path is None:
        return
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(_VERSION + hashlib.sha256(code).digest() + code)
        Path(temporary).replace(path)
    except OSError:
        if temporary is not None:
            with suppress(OSError):
                Path(temporary).unlink()


@dataclass(frozen=True)
class Bound:
    """A function with its context: `address` is good for as long as this object lives."""

    address: int
    held: Any = field(repr=False)


def bind(arguments: Sequence[str], address: int, context: int) -> Bound:
    """A function of `arguments` that calls the one at an address with a context as well.

    arguments: as LLVM writes them: `["ptr x", "i64 n"]`. The function takes the context as its
    first argument, declared `ptr nest`: in a register of its own, so that all others stay.
    """
    if machine() == "x86-64":  # mov r10, context; mov rax, address; jmp rax
        jump = b"\x49\xba%b\x48\xb8%b\xff\xe0"
        code = MachineCode(jump % (context.to_bytes(8, "little"), address.to_bytes(8, "little")))
        return Bound(code.address, code)
    named = ", ".join(declared(argument) for argument in arguments)
    given = f"ptr nest inttoptr (i64 {context} to ptr), {named}"
    text = (
        f"define void @bound({named}) {{\n"
        f"  tail call void inttoptr (i64 {address} to ptr)({given})\n"
        "  ret void\n}"
    )
    target = host()
    with _LOCK:
        loaded = _link(compile_object(text, target), target)
    return Bound(loaded.address("bound"), loaded)
