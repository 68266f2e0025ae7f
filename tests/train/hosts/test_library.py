"""Optional libraries that are not there."""

from __future__ import annotations

import pytest

import secateur as sc
from secateur.train.hosts.library import library


def test_what_is_missing_is_named() -> None:
    assert library("math", "math").pi > 3
    with pytest.raises(sc.SecateurError, match="pip install no-such-library"):
        library("no_such_library", "no-such-library")
