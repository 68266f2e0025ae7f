"""The style and script: what people who see or move differently rely on is there."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

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


PROBE = """<script>
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
    facts = Facts("Net", ("", "n"), (("x", "1"),), (), modules, (), (), (), (), {}, "", {})
    page = tmp_path / "r.html"
    page.write_text(document(facts).replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--window-size={width},800", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, check=True)
    (found,) = re.findall(r'data-found="([^"]*)"', done.stdout)
    shown = json.loads(html.unescape(found))
    assert shown == ["a,b,c", "a,c,b", "b,c,a", "descending", "none", "focused", "true"]
