"""A model card: what a report says, as the README of a repository on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence

from secateur.report.facts import Facts

_SPECIAL = "\\`*_{}[]<>#|&~$"


def card(facts: Facts, repository: str = "", *, auto: str = "") -> str:
    """The card in Markdown, with the metadata that the Hub reads.

    repository: for the lines that load the model; a folder if it is not known. auto: the class of
    the transformers library that loads it as it is.
    """
    rows = [facts.columns, ("---",) * len(facts.columns), *facts.verdict]
    cells = [[cell if n == 1 else text(cell) for cell in row] for n, row in enumerate(rows)]
    name = repository or "folder"
    lines = [
        "---", "library_name: secateur", "tags: [pruned, pytorch]", "---", "",
        f"# {text(facts.title)}, pruned", "",
        *(f"| {' | '.join(row)} |" for row in cells), "",
        *_list([line.text for line in facts.lines]),
        "## Use it", "",
        "```python", "import secateur as sc", "",
        f"model = sc.from_pretrained({name!r}, into=build_model)  # your constructor, unpruned",
        "```", "",
        *_with_transformers(auto, name),
        *_section("Repairs", facts.repairs), *_section("Notes", facts.notes),
        *_section("Command", [facts.command] if facts.command else []),
        "Made with " + text(", ".join(f"{key} {value}" for key, value in facts.versions.items())),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _with_transformers(auto: str, name: str) -> list[str]:
    if not auto:
        return []
    lines = ["```python", f"from transformers import {auto}", ""]
    lines += [f"model = {auto}.from_pretrained({name!r})", "```", ""]
    return ["Or without Secateur:", "", *lines]


def text(value: str) -> str:
    r"""Words in which nothing is markup, on one line.

    Example:
        >>> print(text("a|b <i>\n_c_"))
        a\|b \<i\> \_c\_
    """
    plain = " ".join(value.split())
    return "".join(f"\\{char}" if char in _SPECIAL else char for char in plain)


def _list(items: Sequence[str]) -> list[str]:
    return [*(f"- {text(item)}" for item in items), ""] if items else []


def _section(title: str, items: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *_list(items)] if items else []
