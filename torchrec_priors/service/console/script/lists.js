// The two lists of recommendations, and how they differ.

const keyOf = (item) => JSON.stringify(item.item_id);
const calm = matchMedia("(prefers-reduced-motion: reduce)");

class List {
  /** @param add called with an item that is to be added to the history */
  constructor(section, add) {
    this.section = section;
    this.list = section.querySelector("ol");
    this.notes = section.querySelector(".notes");
    this.scoreName = section.querySelector(".score-name");
    this.add = add;
    this.rows = new Map();
    this.items = [];
    this.open = new Set();
    this.list.addEventListener("keydown", (event) => this.onKey(event));
  }

  /** Shows an answer. Rows of items that stay are kept, with the focus, and move to their places. */
  show(answer) {
    const before = new Map([...this.rows].map(([key, { element }]) => [key, element.offsetTop]));
    const focused = this.list.contains(document.activeElement) ? document.activeElement : null;
    const rows = new Map();
    this.items = answer.items;
    this.section.classList.toggle("empty", !answer.items.length);
    for (const [place, item] of answer.items.entries()) {
      const key = keyOf(item);
      const row = this.rows.get(key) ?? this.row(key);
      rows.set(key, row);
      this.fill(row, item, place);
      // An element that is moved loses the focus, so those that are in their places are left alone.
      if (this.list.children[place] !== row.element) this.list.insertBefore(row.element, this.list.children[place] ?? null);
    }
    while (this.list.children.length > rows.size) this.list.lastElementChild.remove();
    this.rows = rows;
    if (focused && focused !== document.activeElement && this.list.contains(focused)) focused.focus({ preventScroll: true });
    if (!calm.matches) this.slide(before);
    this.scoreName.textContent = answer.score_name ? `score: ${answer.score_name}` : "";
    this.note(answer);
  }

  /** Shows words in place of items. */
  empty(words) {
    this.show({ items: [] });
    this.notes.textContent = words;
  }

  slide(before) {
    const from = new Map([...this.rows].map(([key, { element }]) => [key, (before.get(key) ?? element.offsetTop) - element.offsetTop]));
    for (const [key, { element }] of this.rows) {
      const way = from.get(key);
      if (way) element.animate([{ transform: `translateY(${way}px)` }, { transform: "none" }], { duration: 140, easing: "ease-out" });
    }
  }

  row(key) {
    const parts = {
      rank: make("span", { class: "rank" }), move: make("span", { class: "move" }), title: make("span", { class: "title" }),
      score: make("span", { class: "score" }), reason: make("p", { class: "reason" }), add: make("button", { class: "icon add" }, "+"),
      why: make("button", { class: "why", "aria-expanded": "false" }), scores: make("div", { class: "scores", hidden: true }),
    };
    const row = { ...parts, element: make("li", { class: "rec" }, ...Object.values(parts)), item: null };
    parts.add.addEventListener("click", () => this.add(row.item));
    parts.why.addEventListener("click", () => {
      if (!this.open.delete(key)) this.open.add(key);
      this.unfold(row, key);
    });
    return row;
  }

  fill(row, item, place) {
    row.item = item;
    row.rank.textContent = number(place + 1);
    row.title.replaceChildren(titleOf(item), " ", make("span", { class: "id" }, String(item.item_id)));
    row.score.textContent = fixed(item.score);
    row.reason.textContent = item.reason ?? "";
    row.add.setAttribute("aria-label", `Add ${titleOf(item)} to the history`);
    const others = Object.entries(item.head_scores ?? {}).filter(([name]) => name !== item.head).sort(([, a], [, b]) => b - a);
    const own = (item.head_score ?? item.score) === item.score ? [] : [`alone ${fixed(item.head_score, 2)}`];
    const second = [...own, ...others.slice(0, 1).map(([name, score]) => `then ${name} ${fixed(score, 2)}`)];
    const rest = others.length > 1 ? [more(others.length - 1)] : [];
    row.why.replaceChildren(make("b", {}, item.head), ...second.map((words) => make("span", { class: "then" }, words)), ...rest);
    // Where the list is narrow, less than this is in sight.
    row.why.title = [item.head, ...second, ...rest.map((mark) => mark.getAttribute("aria-label"))].join(", ");
    this.unfold(row, keyOf(item));
  }

  /** Shows the scores of all heads of an item, if it is open. */
  unfold(row, key) {
    const isOpen = this.open.has(key);
    row.why.setAttribute("aria-expanded", String(isOpen));
    row.scores.hidden = !isOpen;
    if (!isOpen) return;
    const scores = Object.entries(row.item.head_scores ?? {}).sort(([, a], [, b]) => b - a);
    const values = scores.map(([, score]) => score);
    const low = Math.min(...values, 0), high = Math.max(...values, low + 1e-9);
    row.scores.replaceChildren(...scores.flatMap(([name, score]) => {
      const bar = make("i");
      bar.style.setProperty("--share", `${100 * (score - low) / (high - low)}%`);
      return [make("span", {}, name), make("span", { class: "bar", "aria-hidden": "true" }, bar), make("span", { class: "score" }, fixed(score))];
    }));
  }

  note(answer) {
    const notes = [];
    if (answer.source === "popularity") notes.push("Nothing is known about this user, so these are popular items.");
    if (answer.short?.length) notes.push(`Not enough items may be recommended for: ${answer.short.join(", ")}.`);
    const skipped = Object.entries(answer.skipped ?? {}).map(([what, count]) => many(count, what.replace(/s$/, ""), what));
    if (skipped.length) notes.push(`Unknown, and skipped: ${skipped.join(", ")}.`);
    if (answer.state === "unavailable") notes.push("The store of events is not available: the list uses the data set's history alone.");
    if (!answer.items.length) notes.push("No item may be recommended.");
    this.notes.textContent = notes.join(" ");
    this.notes.hidden = !notes.length;
  }

  /** Marks how items moved. `other` is the other list, or null if it is not of the same user. */
  mark(other, isWith) {
    const places = new Map((other ?? []).map((item, place) => [keyOf(item), place]));
    const counts = { in: 0, out: 0, up: 0, down: 0 };
    for (const [place, item] of this.items.entries()) {
      const row = this.rows.get(keyOf(item));
      const there = places.get(keyOf(item));
      const [kind, text, words] = other === null ? ["", "", ""] : moved(place, there, isWith);
      row.move.className = `move ${kind}`;
      row.move.textContent = text;
      if (words) row.move.setAttribute("aria-label", words);
      else row.move.removeAttribute("aria-label");
      row.move.setAttribute("role", words ? "img" : "none");
      if (kind in counts) counts[kind] += 1;
    }
    return counts;
  }

  onKey(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1 };
    const row = event.target.closest(".rec");
    if (!(event.key in steps) || !row) return;
    event.preventDefault();
    const rows = [...this.list.children];
    const next = rows[rows.indexOf(row) + steps[event.key]];
    const kind = event.target.classList.contains("add") ? ".add" : ".why";
    next?.querySelector(kind).focus();
  }
}

/** Says how many further heads may retrieve an item. */
function more(count) {
  return make("span", { class: "more", role: "img", "aria-label": `and ${many(count, "more head")}` }, `+${count}`);
}

/** How an item stands against the other list: a class, a mark, and words. */
function moved(place, there, isWith) {
  if (there === undefined) return isWith ? ["in", "in", "not in the list without levers"] : ["out", "out", "not in the list with levers"];
  if (!isWith || there === place) return ["", "", ""];
  const by = Math.abs(there - place);
  return there > place ? ["up", `▲ ${by}`, `up ${by}`] : ["down", `▼ ${by}`, `down ${by}`];
}
