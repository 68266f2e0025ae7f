"""Code on disk is used as it is, or not at all; other machines' code can be made here."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest

from secateur.runtime.kernels import llvm

TEXT = "define i64 @answer() {\n  ret i64 %d\n}"


def answer(code: llvm.Code) -> int:
    return ctypes.CFUNCTYPE(ctypes.c_int64)(code.address("answer"))()


def fresh(text: str, folder: Path) -> int:
    """The answer, as a process that has compiled nothing yet would get it."""
    kept = dict(llvm._LOADED)  # others go on running what they loaded
    llvm._LOADED.clear()
    try:
        return answer(llvm.load(text, folder=folder))
    finally:
        llvm._LOADED.update(kept)


def only(folder: Path) -> Path:
    (path,) = (folder / "code").iterdir()
    return path


def test_code_is_kept_on_disk_and_run_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fresh(TEXT % 42, tmp_path) == 42
    kept = only(tmp_path).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(llvm, "compile_object", None)  # nothing is compiled any more
        assert fresh(TEXT % 42, tmp_path) == 42
    assert only(tmp_path).read_bytes() == kept


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: b"",
        lambda content: content[len(llvm._VERSION) :],
        lambda content: llvm._VERSION + bytes(32) + content[len(llvm._VERSION) + 32 :],
    ],
)
def test_damaged_code_is_made_anew(tmp_path: Path, damage) -> None:
    fresh(TEXT % 7, tmp_path)
    path = only(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert fresh(TEXT % 7, tmp_path) == 7
    assert path.read_bytes() == whole


@pytest.mark.skipif(sys.platform == "win32", reason="files have no owner's mode")
def test_code_that_others_may_have_written_is_not_run(tmp_path: Path) -> None:
    fresh(TEXT % 1, tmp_path)
    path = only(tmp_path)
    assert llvm._read(path) is not None
    path.chmod(0o666)
    assert llvm._read(path) is None


def test_another_processor_has_another_file(tmp_path: Path) -> None:
    names = {llvm._key(TEXT % 1, t) for t in (llvm.host(), llvm.AVX512, llvm.NEON)}
    names |= {llvm._key(TEXT % 2, llvm.host())}
    assert len(names) == 4


def test_a_folder_that_cannot_be_used_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert fresh(TEXT % 5, blocked) == 5


@pytest.mark.parametrize("instruction_set", ["this", "another"])
def test_a_function_is_bound_to_a_context(
    instruction_set: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if instruction_set == "another":  # then LLVM writes the jump
        monkeypatch.setattr(llvm, "machine", lambda: "another")
    text = (
        "define void @put(ptr nest %context, i64 %n) {\n  store i64 %n, ptr %context\n  ret void\n}"
    )
    places = [(ctypes.c_int64 * 1)() for _ in range(2)]
    address = llvm.load(text, folder=None).address("put")
    for i, place in enumerate(places):
        bound = llvm.bind(["i64 n"], address, ctypes.addressof(place))
        ctypes.CFUNCTYPE(None, ctypes.c_int64)(bound.address)(i + 5)
    assert [place[0] for place in places] == [5, 6]


def test_without_llvmlite_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("llvmlite", "llvmlite.binding"):
        monkeypatch.setitem(sys.modules, name, None)
    for cached in (llvm.host, llvm.available):
        cached.cache_clear()
    try:
        assert not llvm.available()
        with pytest.raises(llvm.Unavailable, match="llvmlite, which is not installed") as caught:
            llvm.host()
        assert caught.value.hint == "pip install 'secateur[fast]'"
    finally:
        for cached in (llvm.host, llvm.available):
            cached.cache_clear()
