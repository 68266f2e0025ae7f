"""The style and script: what people who see or move differently rely on is there."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from secateur.core.drawing import Drawing, Edge, Node
from secateur.core.page import Table
from secateur.core.panel import Panel, Picture
from secateur.report.facts import Facts, Part
from secateur.report.html import document
from secateur.report.theme import SCRIPT, STYLE


def test_light_dark_focus_and_narrow_screens_are_styled() -> None:
    for rule in ("prefers-color-scheme: dark", ":focus-visible", "max-width: 40rem", "li:focus"):
        assert rule in STYLE
    assert STYLE.count("{") == STYLE.count("}")
    assert "<" not in STYLE


def test_the_script_is_valid(tmp_path: Path) -> None:
    assert "</" not in SCRIPT
    assert "aria-sort" in SCRIPT
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    (tmp_path / "s.js").write_text(SCRIPT)
    subprocess.run([node, "--check", tmp_path / "s.js"], check=True)


PROBE = """<script type="module">
document.querySelector("details").open = true;
const table = document.querySelector("table.sortable");
const names = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent).join();
const head = table.querySelectorAll("th button")[2];
const found = [names()];
head.click(); found.push(names());
head.click(); found.push(names(), table.querySelectorAll("th")[2].getAttribute("aria-sort"));
const block = document.querySelectorAll(".net li")[1], tip = block.querySelector("span");
found.push(getComputedStyle(tip).display);
block.focus(); // whether :focus then matches depends on the window, which headless ones may lack
found.push(document.activeElement === block ? "focused" : "not");
found.push(String(document.documentElement.scrollWidth <= innerWidth));
const other = document.querySelectorAll("table.sortable")[1];
other.querySelectorAll("th button")[1].click();
found.push([...other.tBodies[0].rows].map(row => row.cells[1].textContent).join());
const image = document.querySelector(".pictures img");
await image.decode();
found.push(`${image.naturalWidth}x${image.naturalHeight}`);
found.push(String(document.querySelectorAll(".wide svg circle").length));
const start = performance.now();
for (const button of table.querySelectorAll("th button")) button.click();
document.body.getBoundingClientRect();
found.push(performance.now() - start < 2000 ? "quick" : "slow");
document.body.dataset.found = JSON.stringify(found);
</script>"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_sorts_focuses_and_fits(tmp_path: Path, width: int) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no browser")
    modules = tuple(
        Part(name, "Linear", n, n // 2) for name, n in (("a", 9), ("b", 200), ("c", 30))
    )
    nodes = tuple(tuple(Node(str(k)) for k in range(n)) for n in (30, 20))
    edges = tuple(Edge((0, k), (1, k % 20), k - 15.0) for k in range(30))
    rows = (("u", "1,000", "b"), ("v", "20", "c"), ("w", "3%", "a"))
    panel = Panel(
        "Units", (Table(("", "n", "word"), rows, frozenset({0, 2})),), None,
        Drawing("Net", ("in", "out"), nodes, edges),
        (Picture.of("dots", np.eye(8, 6, dtype=np.uint8) * 255),),
    )  # fmt: skip
    empty: dict[str, str] = {}
    facts = Facts(
        "Net", ("", "n"), (("x", "1"),), (), modules, (), (), (), (), {}, "", empty, (panel,)
    )
    page = tmp_path / "r.html"
    page.write_text(document(facts).replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--window-size={width},800", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, check=True)
    (found,) = re.findall(r'data-found="([^"]*)"', done.stdout)
    shown = json.loads(html.unescape(found))
    assert shown == ["a,b,c", "a,c,b", "b,c,a", "descending", "none", "focused", "true",
                     "3%,20,1,000", "6x8", "50", "quick"]  # fmt: skip


@pytest.mark.slow
def test_five_hundred_layers_are_no_burden(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no browser")
    modules = tuple(Part(f"layer{k}", "Conv2d", 9 * k, 5 * k) for k in range(500))
    facts = Facts("Net", ("", "n"), (("x", "1"),), (), modules, (), (), (), (), {}, "", {})
    script = (
        PROBE[: PROBE.index("const head")]
        + """
    const times = [];
    for (const button of table.querySelectorAll("th button")) {
      const start = performance.now();
      button.click();
      document.body.getBoundingClientRect();
      times.push(performance.now() - start);
    }
    document.body.dataset.found = JSON.stringify([names().length, Math.max(...times)]);
    </script>"""
    )
    page = tmp_path / "r.html"
    page.write_text(document(facts).replace("</body>", script + "</body>"), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (found,) = re.findall(r'data-found="([^"]*)"', done.stdout)
    length, slowest = json.loads(html.unescape(found))
    assert length > 500
    assert slowest < 5_000  # milliseconds, on a machine that may be busy
