"""Look and behaviour of the report page: one style sheet and one script, both inside the page."""

STYLE = """
:root { --ink: #1f2933; --muted: #616e7c; --line: #e4e7eb; --shade: #f5f7fa; --accent: #1d5fa8; }
* { box-sizing: border-box; }
html { scroll-padding-top: 12px; }
body { margin: 0 auto; max-width: 1240px; padding: 28px 24px 64px; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 6px; }
h2 { font-size: 19px; margin: 40px 0 10px; padding-top: 14px; border-top: 1px solid var(--line); }
h3 { font-size: 15px; margin: 18px 0 6px; }
p { margin: 6px 0; max-width: 900px; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
nav { margin: 12px 0 0; display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 14px; }
.muted, figcaption, .notes { color: var(--muted); }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 4px; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
.wide > table { width: 100%; }
th, td { padding: 5px 9px; text-align: left; white-space: nowrap; border-bottom: 1px solid var(--line); }
tr:last-child > td { border-bottom: 0; }
thead th { background: var(--shade); font-weight: 600; vertical-align: bottom; }
th.num, td.num { text-align: right; }
th button { all: unset; cursor: pointer; font: inherit; }
th button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
th[aria-sort="ascending"] button::after { content: " \\2191"; }
th[aria-sort="descending"] button::after { content: " \\2193"; }
tbody tr:hover { background: var(--shade); }
td.best { font-weight: 700; }
td.absent { color: var(--muted); }
td .mark { display: inline-block; width: 0.9em; text-align: left; padding-left: 0.25em; }
tr.control td { color: var(--muted); }
.notes { font-size: 13px; margin: 8px 0; padding-left: 18px; }
figure { margin: 14px 0 26px; }
figure img { width: min(100%, 920px); height: auto; display: block; }
figcaption { font-size: 13px; max-width: 900px; margin-top: 4px; }
figure table { margin-top: 10px; }
.strips { display: grid; grid-template-columns: max-content 1fr; gap: 6px 14px; align-items: center; font-size: 13px; }
.strips img { display: block; max-width: 100%; height: auto; image-rendering: pixelated; }
.sheet { display: block; max-width: 100%; height: auto; margin: 4px 0 12px; image-rendering: pixelated; }
details { border: 1px solid var(--line); border-radius: 4px; margin: 6px 0; }
details > :not(summary) { margin-left: 14px; margin-right: 14px; }
summary { cursor: pointer; padding: 6px 12px; }
summary:hover { background: var(--shade); }
summary .value { float: right; color: var(--muted); font-variant-numeric: tabular-nums; }
.columns { display: flex; flex-wrap: wrap; gap: 0 36px; align-items: flex-start; }
.columns > div { min-width: 0; flex: 0 1 auto; max-width: 640px; }
.facts td { white-space: normal; vertical-align: top; padding: 2px 9px 2px 0; border: 0; overflow-wrap: anywhere; }
.facts td:first-child { color: var(--muted); white-space: nowrap; }
pre { font: 12.5px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; background: var(--shade); padding: 12px;
  border-radius: 4px; overflow-x: auto; }
ul.plain { padding-left: 18px; margin: 6px 0; }
@media print { body { max-width: none; } .wide { overflow: visible; } }
"""

SCRIPT = """
for (const table of document.querySelectorAll('table.sortable')) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector('button')?.addEventListener('click', () => {
    const rises = head.getAttribute('aria-sort') !== 'ascending';
    heads.forEach(other => other.removeAttribute('aria-sort'));
    head.setAttribute('aria-sort', rises ? 'ascending' : 'descending');
    const key = row => row.cells[column].dataset.v ?? row.cells[column].textContent;
    const rows = [...body.rows].map((row, place) => ({ row, place, key: key(row) }));
    const order = (a, b) => {
      if (a.key === '' || b.key === '') return (a.key === '') - (b.key === '') || a.place - b.place;
      const x = Number(a.key), y = Number(b.key);
      const sign = Number.isNaN(x) || Number.isNaN(y) ? a.key.localeCompare(b.key) : x - y;
      return (rises ? sign : -sign) || a.place - b.place;
    };
    rows.sort(order).forEach(entry => body.append(entry.row));
  }));
}
const opened = () => {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.tagName === 'DETAILS') { target.open = true; target.scrollIntoView(); }
};
addEventListener('hashchange', opened);
opened();
"""
