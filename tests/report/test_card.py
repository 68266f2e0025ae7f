"""Cards: figures first, and no name is markup."""

from __future__ import annotations

import pytest

from secateur.core.page import Line
from secateur.report.card import card, text
from secateur.report.facts import Facts

FACTS = Facts(
    title="Net | <b>",
    columns=("", "before", "after", "change"),
    verdict=(("parameters", "100", "50", "-50.0%"), ("a|b", "1", "2", "")),
    lines=(Line("verified: same outputs", "good"),),
    parts=(),
    frozen=(),
    attempts=(),
    repairs=("least squares",),
    notes=(),
    seconds={},
    command="",
    versions={"secateur": "1"},
)


def test_a_card_has_what_the_hub_reads_and_what_people_ask() -> None:
    lines = card(FACTS, "me/net").splitlines()
    assert lines[:2] == ["---", "library_name: secateur"]
    assert lines[3] == "---"
    assert r"# Net \| \<b\>, pruned" in lines
    start = lines.index("|  | before | after | change |")
    assert lines[start + 1] == "| --- | --- | --- | --- |"
    assert lines[start + 2] == "| parameters | 100 | 50 | -50.0% |"
    assert lines[start + 3].startswith(r"| a\|b |")
    assert "model = sc.from_pretrained('me/net', into=build_model)" in card(FACTS, "me/net")
    assert "- least squares" in lines
    assert "## Notes" not in lines


@pytest.mark.parametrize("evil", ["<script>", "a\n# head", "](x)", "`code`", "| cell |"])
def test_words_stay_words(evil: str) -> None:
    found = text(evil)
    assert "\n" not in found
    for char in "<`[]|#":
        assert found.count(char) == found.count(f"\\{char}")
