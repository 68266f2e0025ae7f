"""The page: well formed, self-contained, and whatever a layer is called is text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from secateur.core.attempt import Attempt
from secateur.core.chart import Chart, Mark
from secateur.core.drawing import Drawing, Edge, Node
from secateur.core.measured import Frozen
from secateur.core.page import Line, Table
from secateur.core.panel import Panel, Picture
from secateur.report.facts import Facts, Part
from secateur.report.html import document

EVIL = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>"
VOID = {"meta", "rect", "circle", "img"}


class Reader(HTMLParser):
    """Checks that tags are closed in order, and keeps what is in the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def facts(word: str = "name", modules: int = 3) -> Facts:
    tried = [
        Attempt("Drop(points=1.0)", 0.5, 0.49, quality=0.91, accepted=True, why=word),
        Attempt("Drop(points=1.0)", 0.3, 0.29, quality=0.85, why=word),
        Attempt("Drop(points=1.0)", 0.1, None, why=word),
    ]
    return Facts(
        title=word,
        columns=("", "before", "after", word),
        verdict=(("parameters", "100", "50", word),),
        lines=(Line(word, "good"), Line("a warning", "warn")),
        parts=tuple(Part(f"{word}.{k}", word, 100 * k, 40 * k) for k in range(modules)),
        frozen=(Frozen(word, 3, (word, "net.py:3")),),
        attempts=tuple(tried),
        repairs=(word,),
        notes=(word,),
        seconds={word: 1.5},
        command=word,
        versions={word: word},
        panels=(panel(word),),
    )


def panel(word: str) -> Panel:
    nodes = ((Node(word, word), Node(word)), (Node(word),))
    return Panel(
        word,
        (Line(word, title=True), Table((word, word), ((word, word),), frozenset({0, 1}))),
        Chart(word, word, word, (Mark(1, 1, "dense", label=word), Mark(2, 2, "chosen"))),
        Drawing(word, (word, word), nodes, (Edge((0, 0), (1, 0), 1.0),)),
        (Picture.of(word, np.zeros((2, 2), dtype=np.uint8)),),
    )


def test_the_verdict_comes_first() -> None:
    page = Reader(document(facts()))
    heads = [text for text in page.text if text in ("Verdict", "Network", "Search", "Notes")]
    assert heads == ["Verdict", "Network", "Search", "Notes"]
    shown = "".join(page.text)
    for text in ("100", "50", "net.py:3", "a warning", "name 1.50 s", "chosen"):
        assert text in shown
    assert [tag for tag, _ in page.tags].count(
        "circle"
    ) == 2 + 2 + 3  # what could not be built is none


def test_whatever_a_layer_is_called_is_text() -> None:
    page = Reader(document(facts(EVIL)))
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 1
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert [image["alt"] for image in images] == [EVIL]
    assert all(not name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert sum(EVIL in text for text in page.text) >= 10
    labels = [attrs.get("aria-label") or "" for tag, attrs in page.tags if tag == "li"]
    assert labels[0].startswith(EVIL)


def test_nothing_is_fetched() -> None:
    text = document(facts())
    assert not re.findall(r"href=|url\(|@import", text)
    sources = re.findall(r'src="([^"]*)"', text)
    assert len(sources) == 1
    assert re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=]+", sources[0])
    assert set(re.findall(r"https?://[^\s\"<]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text


def test_it_can_be_read_without_eyes_or_a_mouse() -> None:
    page = Reader(document(facts()))
    tags = [tag for tag, _ in page.tags]
    assert tags.count("table") == tags.count("caption") == 5
    assert ("html", {"lang": "en"}) in page.tags
    heads = [attrs for tag, attrs in page.tags if tag == "th"]
    assert heads
    assert all(attrs.get("scope") in ("row", "col") for attrs in heads)
    blocks = [attrs for tag, attrs in page.tags if tag == "li" and "tabindex" in attrs]
    assert len(blocks) == 3
    assert all("parameters" in (attrs["aria-label"] or "") for attrs in blocks)
    assert {"header", "main", "section", "h1", "h2"} <= set(tags)


def test_blocks_are_as_wide_as_the_root_of_their_work() -> None:
    parts = (Part("a", "Conv2d", 10, 5, (400, 100)), Part("b", "Linear", 90, 90, (100, 100)))
    text = document(replace(facts(), parts=(*parts, Part("c", "BatchNorm2d", 8, 4))))
    widths = [
        float(w) - 0.7 for w in re.findall(r'<li tabindex="0" style="width:([\d.]+)rem', text)
    ]
    assert widths == pytest.approx([9.0, 4.5, 0.0], abs=0.01)
    assert re.findall(r'<i style="width:([\d.]+)%', text) == ["25.0", "100.0", "50.0"]
    assert "10 → 5 (50.0% removed) parameters, 400 → 100 (75.0% removed) MACs" in text
    assert "MACs left" in text
    assert "MACs" not in document(replace(facts(), parts=(Part("a", "x", 2, 1),)))


def test_empty_sections_are_left_out() -> None:
    empty = Facts("Net", ("",), (), (), (), (), (), (), (), {}, "", {})
    text = document(empty)
    Reader(text)
    assert "<h2>Network" not in text
    assert "<h2>Notes" not in text
    assert "sc.load replays it" in text


def test_five_hundred_modules_are_a_small_page() -> None:
    text = document(facts(modules=500))
    assert [tag for tag, _ in Reader(text).tags].count("li") == 503
    assert len(text) < 400_000
