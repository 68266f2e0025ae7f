"""Memory that holds machine code: written first, then made executable, never both at once."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import sys
import weakref

from secateur.core.errors import SecateurError

_HUGE = 2 << 20  # bytes of a huge page: one entry of the instruction TLB instead of 512
_MAP_JIT = 0x0800  # macOS: memory that becomes executable has to be asked for as such
_MACHINES = {"x86_64": "x86-64", "amd64": "x86-64", "arm64": "aarch64", "aarch64": "aarch64"}


class Forbidden(SecateurError):
    """This process may not have executable memory; kernels that need none are used instead."""


def machine() -> str:
    """The instruction set: "x86-64", "aarch64", or what the platform calls it."""
    name = platform.machine().lower()
    return _MACHINES.get(name, name)


class Code:
    """Machine code, with its constants, in memory of its own; freed with its last owner.

    address: of the first byte, aligned to a page. bytes: what was asked for, in whole pages.
    `Forbidden` where the system refuses executable memory (hardened kernels, some containers).

    Example:
        >>> import ctypes
        >>> from secateur.runtime.machine.memory import machine
        >>> codes = {"x86-64": "b82a000000c3", "aarch64": "40058052c0035fd6"}  # return 42
        >>> code = Code(bytes.fromhex(codes[machine()]))
        >>> ctypes.CFUNCTYPE(ctypes.c_int)(code.address)()
        42
    """

    def __init__(self, code: bytes) -> None:
        size = -(-max(1, len(code)) // mmap.PAGESIZE) * mmap.PAGESIZE
        place = _windows if sys.platform == "win32" else _posix
        self.address, release = place(code, size)
        self.bytes = size
        self._release = weakref.finalize(self, release)
        self._release.atexit = False  # type: ignore  # a thread may still be running it


def _posix(code: bytes, size: int):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_ssize_t]
    for name in ("mprotect", "madvise"):
        getattr(libc, name).argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

    flags, access = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE
    apple = sys.platform == "darwin" and machine() == "aarch64"
    if sys.platform == "darwin":
        flags |= _MAP_JIT
    if apple:
        access |= mmap.PROT_EXEC  # there each thread sees it as writable or as executable
    huge = size >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE")
    whole = size + (_HUGE if huge else 0)
    base = libc.mmap(None, whole, access, flags, -1, 0)
    if base in (None, ctypes.c_void_p(-1).value):
        raise _refused(ctypes.get_errno())
    start = -(-base // _HUGE) * _HUGE if huge else base
    if huge:
        libc.madvise(start, size, mmap.MADV_HUGEPAGE)
    if apple:
        libc.pthread_jit_write_protect_np(0)
    ctypes.memmove(start, code, len(code))
    if apple:
        libc.pthread_jit_write_protect_np(1)
    elif libc.mprotect(base, whole, mmap.PROT_READ | mmap.PROT_EXEC) != 0:
        error = ctypes.get_errno()
        libc.munmap(base, whole)
        raise _refused(error)
    if sys.platform == "darwin":
        libc.sys_icache_invalidate(ctypes.c_void_p(start), ctypes.c_size_t(len(code)))
    return start, _Release(libc.munmap, base, whole)


def _windows(code: bytes, size: int):
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore
    kernel.VirtualAlloc.restype = ctypes.c_void_p
    kernel.VirtualAlloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_uint32] * 2]
    kernel.VirtualProtect.argtypes = [
        *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32),
        ctypes.POINTER(ctypes.c_uint32),
    ]
    kernel.VirtualFree.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint32]
    kernel.FlushInstructionCache.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    start = kernel.VirtualAlloc(None, size, 0x3000, 0x04)  # reserve and commit; read and write
    if not start:
        raise _refused(ctypes.get_last_error())  # type: ignore
    ctypes.memmove(start, code, len(code))
    old = ctypes.c_uint32()
    if not kernel.VirtualProtect(start, size, 0x20, ctypes.byref(old)):  # execute and read
        error = ctypes.get_last_error()  # type: ignore
        kernel.VirtualFree(start, 0, 0x8000)
        raise _refused(error)
    kernel.FlushInstructionCache(kernel.GetCurrentProcess(), start, size)
    return start, _Release(kernel.VirtualFree, start, 0, 0x8000)


class _Release:
    """Gives a mapping back; refers to nothing else, so that it does not keep its owner alive."""

    def __init__(self, function, *arguments: int) -> None:
        self.function, self.arguments = function, arguments

    def __call__(self) -> None:
        self.function(*self.arguments)


def _refused(error: int) -> Forbidden:
    return Forbidden(
        f"the system refuses executable memory: {os.strerror(error)}",
        hint="networks run as before, with dense kernels",
    )
