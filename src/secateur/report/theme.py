"""How a report looks and what it does when touched: inline, so that the file needs no other."""

STYLE = """
:root { color-scheme: light dark; --ink: #1f2933; --soft: #52606d; --page: #fff; --card: #f5f7fa;
  --line: #cbd2d9; --kept: #00798c; --gone: #e8b4ba; --good: #0b6e4f; --warn: #9c4221; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #9aa5b1; --page: #14181d;
  --card: #1f262e; --line: #3e4c59; --kept: #2ab7ca; --gone: #6b3b42; --good: #5fd0a5;
  --warn: #f0a26b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 1rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
p { margin: .3rem 0; } .good { color: var(--good); } .warn { color: var(--warn); }
.quiet, caption { color: var(--soft); }
.wide { overflow-x: auto; } table { border-collapse: collapse; min-width: 24rem; }
caption { text-align: left; padding: .3rem 0; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  overflow-wrap: normal; font-variant-numeric: tabular-nums; }
th[scope=row], th:first-child { text-align: left; }
td.text { text-align: left; }
th button { all: unset; cursor: pointer; font-weight: bold; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
:focus-visible, th button:focus-visible { outline: 3px solid var(--kept); outline-offset: 2px; }
.net { display: flex; flex-wrap: wrap; gap: 4px; list-style: none; margin: 0; padding: 0; }
.net li { height: 2.6rem; min-width: .7rem; background: var(--gone);
  border: 1px solid var(--line); border-radius: 3px; }
.net i { display: block; height: 100%; background: var(--kept); border-radius: 2px; }
.net span { display: none; position: fixed; z-index: 1; bottom: 1rem; left: 50%;
  transform: translateX(-50%); width: max-content; max-width: 90vw; padding: .3rem .6rem;
  background: var(--card); color: var(--ink); border: 1px solid var(--line); border-radius: 4px;
  font-size: .85rem; }
.net li:hover span, .net li:focus span { display: block; }
.pictures { display: flex; flex-wrap: wrap; gap: .6rem; list-style: none; padding: 0; }
.pictures li { width: 7rem; font-size: .75rem; }
.pictures img { width: 6rem; height: 6rem; object-fit: contain; image-rendering: pixelated;
  display: block; background: var(--card); border: 1px solid var(--line); }
figure { margin: 0; } figure svg { max-width: 100%; height: auto; border-radius: 4px; }
figure.wide svg { min-width: 34rem; }
pre { background: var(--card); padding: .7rem; overflow-x: auto; border-radius: 4px; }
@media (max-width: 40rem) { table { min-width: 0; }
  th, td { padding: .2rem .35rem; font-size: .85rem; } }
@media print { .net span { display: none !important; } }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable"))
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = row => {
        const cell = row.cells[column];
        if ("value" in cell.dataset) return Number(cell.dataset.value);
        const text = cell.textContent.trim(), plain = text.replace(/,/g, "").replace(/%$/, "");
        return plain === "" || isNaN(plain) ? text : Number(plain);
      };
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((a, b) => {
        const x = value(a), y = value(b);
        const numbers = typeof x === "number" && typeof y === "number";
        return (numbers ? x - y : String(x).localeCompare(String(y))) * (down ? -1 : 1);
      });
      body.append(...rows);
    });
  });
"""
