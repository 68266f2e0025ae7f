"""Code that tests compile is kept in a folder of theirs."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from secateur.runtime.kernels import llvm


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECATEUR_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine, as if it had vectors of four floats only, and no fused operations."""
    here = llvm.host()
    if not here.triple.startswith("x86_64"):
        pytest.skip("what every processor of this kind has is known for x86-64")
    least = llvm.Target(here.triple, "x86-64", "", 4, 16, fused=False)
    monkeypatch.setattr(llvm, "host", lambda: least)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Kernels need llvmlite."""
    if importlib.util.find_spec("llvmlite") is None:
        skip = pytest.mark.skip(reason="llvmlite is not installed")
        for item in items:
            if item.path.parent.name == "kernels" and "without_llvmlite" not in item.name:
                item.add_marker(skip)
