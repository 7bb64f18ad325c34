// The levers: for each group a factor, a share that the list must have of it, and a switch that mutes it.

const OCTAVES = 3; // a factor is between 1/8 and 8
const MANY_GROUPS = 16; // from which there is a field to find one

const REST = { boost: 0, share: 0, muted: false };
const isSet = (lever) => lever.boost !== 0 || lever.share > 0 || lever.muted;
const factor = (boost) => Math.round(2 ** boost * 1000) / 1000;
const factorText = (boost) => `×${factor(boost) >= 1 ? factor(boost).toFixed(1) : factor(boost).toFixed(2)}`;

class Levers {
  /** @param changed called after each change */
  constructor(changed) {
    this.changed = changed;
    this.values = new Map();
    this.rows = new Map();
    byId("reset").addEventListener("click", () => { this.clear(); byId("lists").focus(); });
    byId("lever-search").addEventListener("input", () => this.filter());
  }

  /** Shows the groups of a model. What is set for groups that it lacks is dropped. */
  show(model) {
    const named = model.priors.flatMap((prior) => prior.groups);
    const ambiguous = new Set(named.filter((name, at) => named.indexOf(name) !== at));
    const priors = [...model.priors];
    if (model.heads.includes("repeat")) priors.push({ name: "repeats", groups: ["repeat"], restricts_items: false });

    this.rows.clear();
    byId("priors").replaceChildren(...priors.map((prior) => {
      const captions = ["Boost", "", prior.restricts_items ? "At least" : "", "", ""];
      return make("div", { class: "prior", role: "group", "aria-label": prior.name },
        make("div", { class: "captions", "aria-hidden": "true" },
          make("h3", {}, prior.name), ...captions.map((text) => make("span", {}, text))),
        ...prior.groups.map((group) => {
          const name = ambiguous.has(group) ? `${prior.name}: ${group}` : group;
          const row = this.row(name, group, prior.restricts_items);
          this.rows.set(name, row);
          return row.element;
        }));
    }));
    if (!priors.length) byId("priors").append(make("p", { class: "notes" }, "This model has one head, so there is nothing to set."));
    byId("lever-filter").hidden = this.rows.size < MANY_GROUPS;
    for (const name of [...this.values.keys()]) if (!this.rows.has(name)) this.values.delete(name);
    for (const name of this.rows.keys()) this.draw(name);
    this.count();
    this.filter();
  }

  row(name, group, restricts) {
    const boost = make("input", {
      type: "range", min: -OCTAVES, max: OCTAVES, step: 0.1, class: "boost", title: "Delete or a double click sets it back",
      "aria-label": `Boost ${group}`,
    });
    const share = make("input", {
      type: "range", min: 0, max: 100, step: 10, class: "share", "aria-label": `At least this share of ${group}`,
    });
    const mute = make("button", { class: "mute", "aria-pressed": "false", "aria-label": `Mute ${group}` }, "Mute");
    const boostText = make("output", {});
    const shareText = make("output", {});
    const element = make("div", { class: "lever", role: "group", "aria-label": group },
      make("span", { class: "name" }, group), boost, boostText,
      ...(restricts ? [share, shareText] : [make("span"), make("span")]), mute);

    const set = (change) => this.set(name, change);
    boost.addEventListener("input", () => set({ boost: Number(boost.value) }));
    share.addEventListener("input", () => set({ share: Number(share.value) / 100 }));
    mute.addEventListener("click", () => set({ muted: !(this.values.get(name) ?? REST).muted }));
    for (const [slider, change] of [[boost, { boost: 0 }], [share, { share: 0 }]]) {
      slider.addEventListener("dblclick", () => set(change));
      slider.addEventListener("keydown", (event) => {
        if (event.key === "Delete" || event.key === "Backspace") { event.preventDefault(); set(change); }
      });
    }
    return { element, boost, share, mute, boostText, shareText };
  }

  set(name, change) {
    const lever = { ...(this.values.get(name) ?? REST), ...change };
    if (isSet(lever)) this.values.set(name, lever);
    else this.values.delete(name);
    this.draw(name);
    this.count();
    this.changed();
  }

  clear() {
    const names = [...this.values.keys()];
    this.values.clear();
    names.filter((name) => this.rows.has(name)).forEach((name) => this.draw(name));
    this.count();
    this.changed();
  }

  draw(name) {
    const lever = this.values.get(name) ?? REST;
    const row = this.rows.get(name);
    if (Number(row.boost.value) !== lever.boost) row.boost.value = lever.boost;
    row.boost.setAttribute("aria-valuetext", `times ${factor(lever.boost)}`);
    row.boostText.textContent = factorText(lever.boost);
    row.share.value = Math.round(lever.share * 100);
    row.share.setAttribute("aria-valuetext", `${Math.round(lever.share * 100)} percent`);
    row.shareText.textContent = `${Math.round(lever.share * 100)} %`;
    row.mute.setAttribute("aria-pressed", String(lever.muted));
    row.mute.textContent = lever.muted ? "Muted" : "Mute";
    row.element.classList.toggle("set", isSet(lever));
    row.element.classList.toggle("muted-group", lever.muted);
  }

  count() {
    const set = this.values.size;
    byId("levers-count").textContent = set ? `${number(set)} set` : "none set";
    byId("reset").hidden = !set;
  }

  filter() {
    const wanted = byId("lever-search").value.trim().toLowerCase();
    for (const [name, { element }] of this.rows) element.hidden = !name.toLowerCase().includes(wanted);
  }

  get active() { return this.values.size > 0; }

  /** The levers as the service reads them. */
  body() {
    const entries = [...this.values];
    return {
      boost: Object.fromEntries(entries.filter(([, { boost }]) => boost !== 0).map(([name, { boost }]) => [name, factor(boost)])),
      mute: entries.filter(([, { muted }]) => muted).map(([name]) => name),
      at_least: Object.fromEntries(entries.filter(([, { share }]) => share > 0).map(([name, { share }]) => [name, share])),
    };
  }
}
