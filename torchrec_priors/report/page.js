// Sorts tables by their columns, writes them as CSV, and copies commands. Without JavaScript, the page has the same
// tables without these buttons.
"use strict";

const MINUS = /\u2212/g; // the page writes a real minus sign
const NOTHING = "\u2013"; // stands in a cell without a value
const INTERVAL = /^(\S+) \[(\S+), (\S+)\]$/;
const DEVIATION = /^(\S+) \u00b1 (\S+)$/;
const RANGE = /^(\S+) to (\S+)$/;
// A number, perhaps with a unit. Times are compared in seconds.
const NUMBER = /^[+-]?(\d[\d,]*\.?\d*|\.\d+)(e[+-]?\d+)?(?=$|[ %])/;
const UNITS = { "ms": 1e-3, "kB": 1e3, "MB": 1e6, "GB": 1e9 };

const textOf = (cell) => cell.textContent.trim();
const plain = (text) => text.replace(MINUS, "-");

/** The number at the beginning of a text; NaN if there is none. */
function numberOf(text) {
  const found = NUMBER.exec(plain(text));
  if (!found) return NaN;
  const unit = /([a-zA-Z]+)$/.exec(text);
  return Number(found[0].replaceAll(",", "")) * (unit && UNITS[unit[1]] || 1);
}

function button(words, label, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = words;
  if (label) made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

// Sorting

function sortable(table) {
  const heads = Array.from(table.querySelectorAll("thead th"));
  const body = table.tBodies[0];
  if (!heads.length || body.rows.length < 2) return;
  for (const [column, head] of heads.entries()) {
    const name = textOf(head);
    if (!name) continue;
    const sort = button("", "", () => sortBy(table, heads, column));
    sort.className = "sort";
    sort.append(...head.childNodes);
    head.append(sort);
  }
}

function sortBy(table, heads, column) {
  const rows = Array.from(table.tBodies[0].rows);
  const texts = new Map(rows.map((row) => [row, textOf(row.cells[column])]));
  const given = rows.filter((row) => texts.get(row) && texts.get(row) !== NOTHING);
  const numbers = given.every((row) => !Number.isNaN(numberOf(texts.get(row))));
  // The largest number comes first, and the first name; a second click turns this around.
  const before = heads[column].getAttribute("aria-sort");
  const usual = numbers ? "descending" : "ascending";
  const other = numbers ? "ascending" : "descending";
  const order = before === usual ? other : usual;
  const sign = order === "ascending" ? 1 : -1;
  const compare = (a, b) => numbers ? numberOf(a) - numberOf(b) : plain(a).localeCompare(plain(b), "en", { numeric: true });
  given.sort((a, b) => sign * compare(texts.get(a), texts.get(b)));
  table.tBodies[0].append(...given, ...rows.filter((row) => !given.includes(row)));
  for (const head of heads) head.removeAttribute("aria-sort");
  heads[column].setAttribute("aria-sort", order);
}

// CSV

/** The columns of a table: names and texts. A mean with an interval becomes three columns. */
function columnsOf(table) {
  const rows = Array.from(table.tBodies[0].rows, (row) => Array.from(row.cells, (cell) => plain(textOf(cell))));
  const names = Array.from(table.querySelectorAll("thead th"), textOf);
  const columns = [];
  for (let at = 0; at < Math.max(names.length, ...rows.map((row) => row.length)); at += 1) {
    const name = names[at] || `column ${at + 1}`;
    const texts = rows.map((row) => row[at] ?? "");
    const forms = [[INTERVAL, ["", " low", " high"]], [DEVIATION, ["", " deviation"]], [RANGE, [" low", " high"]]];
    const [form, parts] = forms.find(([form]) => texts.some((text) => form.test(text))) ?? [null, [""]];
    for (const [part, suffix] of parts.entries()) {
      columns.push([name + suffix, ...texts.map((text) => form && form.test(text) ? form.exec(text)[part + 1] : part ? "" : text)]);
    }
  }
  return columns;
}

function field(text) {
  const value = text === NOTHING ? "" : text.trim();
  // Programs that show tables would compute a text that begins like a formula.
  const number = /^[+-]?[\d,]*\.?\d+(e[+-]?\d+)?$/.test(value);
  const safe = number ? value.replaceAll(",", "").replace(/^\+/, "") : value.replace(/^(?=[=+\-@\t])/, "'");
  return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function csvOf(table) {
  const columns = columnsOf(table);
  const lines = columns[0].map((_, row) => columns.map((column) => field(column[row])).join(","));
  return `\ufeff${lines.join("\r\n")}\r\n`;
}

function download(table, title) {
  const link = document.createElement("a");
  const address = URL.createObjectURL(new Blob([csvOf(table)], { type: "text/csv;charset=utf-8" }));
  link.href = address;
  link.download = `${title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "") || "table"}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

// Commands

async function copy(block, told) {
  try {
    await navigator.clipboard.writeText(block.textContent);
    told.textContent = "copied";
  } catch {
    getSelection().selectAllChildren(block);
    told.textContent = "selected: copy it with the keyboard";
  }
}

for (const region of document.querySelectorAll(".scroll")) {
  const table = region.querySelector("table");
  const title = region.getAttribute("aria-label");
  sortable(table);
  const save = button("CSV", `Download “${title}” as CSV`, () => download(table, title));
  save.className = "csv";
  region.after(save);

  // The hint is only for tables that are wider than the page.
  const hint = region.previousElementSibling;
  if (!hint?.classList.contains("swipe")) continue;
  new ResizeObserver(() => {
    const isWide = region.scrollWidth > region.clientWidth;
    hint.classList.toggle("wide", isWide);
    hint.classList.toggle("idle", !isWide);
  }).observe(region);
}

for (const block of document.querySelectorAll("pre.command")) {
  const told = document.createElement("span");
  told.setAttribute("role", "status");
  const copying = button("Copy", "", () => copy(block, told));
  block.after(copying, " ", told);
}
