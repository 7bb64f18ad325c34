// The page: its state, and what happens when something changes.

// `known` has the newest entries of a history of `length`; `added` is what was added on this page.
const state = { user: null, known: [], length: 0, knownGroups: {}, added: [], groups: {} };
let model = null;
let shown = SHOWN; // items of the history
let reading = new AbortController(); // of what the service knows of the user
const problems = new Map();

const levers = new Levers(() => update(false));
const withLevers = new List(byId("with"), add);
const without = new List(byId("without"), add);
// What each list was asked for, except for levers: lists of different users are not compared.
const askedFor = { with: null, without: null };

const asking = new Latest((...answer) => arrived("with", ...answer), (error) => refused("with", error));
const askingWithout = new Latest((...answer) => arrived("without", ...answer), (error) => refused("without", error));

const NO_HEAD = "no_head"; // the code of the error if all heads are muted

const k = () => Number(byId("k").value);

// The lists

/** The request without levers. */
function plainBody() {
  const items = state.added.map((item) => item.item_id);
  const body = state.user === null ? { history: items } : { user: state.user, session: items };
  if (Object.keys(state.groups).length) body.groups = { ...state.groups };
  return { ...body, k: k(), explain: true };
}

/** Asks for the list with levers again; and for the one without, if anything but levers changed. */
function update(isOther) {
  const plain = plainBody();
  const key = JSON.stringify(plain);
  const body = levers.active ? { ...plain, levers: levers.body() } : plain;
  writeAddress(state, levers, k());
  showRequest(body);

  if (isOther) {
    for (const list of [withLevers, without]) list.section.classList.add("stale");
    askingWithout.ask(plain, key, true);
  }
  if (levers.active) {
    asking.ask(body, key, isOther);
    return;
  }
  // Without levers, both lists are the same.
  asking.stop();
  if (!isOther && askedFor.without === key) copyWithout();
}

function arrived(which, answer, key, took) {
  const list = which === "with" ? withLevers : without;
  askedFor[which] = key;
  list.show(answer);
  list.answer = answer;
  list.section.classList.remove("stale");
  solve(which);
  showLatency(took, answer.timing_ms?.computed);
  showName(answer.model);
  if (which === "without" && !levers.active) copyWithout();
  else compare();
}

function copyWithout() {
  askedFor.with = askedFor.without;
  withLevers.show(without.answer);
  withLevers.section.classList.remove("stale");
  solve("with");
  compare();
}

/** Leaves the last list in its place, dimmed, and compares it with nothing: it is not what was asked for. */
function refused(which, error) {
  const list = which === "with" ? withLevers : without;
  const isMuted = which === "with" && error.code === NO_HEAD;
  list.section.classList.toggle("stale", !isMuted);
  if (isMuted) {
    list.empty("All heads are muted: unmute one.");
    solve(which);
  } else fail(which, error);
  if (error.retryAfter) return;
  askedFor[which] = null;
  compare();
}

function compare() {
  const same = askedFor.with !== null && askedFor.with === askedFor.without;
  const counts = withLevers.mark(same ? without.items : null, true);
  const { out } = without.mark(same ? withLevers.items : null, false);
  const parts = Object.entries({ ...counts, out }).filter(([, count]) => count);
  const words = parts.map(([name, count]) => `${count} ${name}`).join(", ") || "nothing moved";
  byId("moves").textContent = !levers.active ? "no lever is set" : same ? words : "";
}

function showLatency(took, computed) {
  const digits = (milliseconds) => fixed(milliseconds, milliseconds < 10 ? 1 : 0);
  byId("latency").replaceChildren(make("b", {}, `${digits(took)} ms`),
    computed === undefined ? "" : make("span", { class: "model" }, ` model ${digits(computed)} ms`));
}

function showRequest(body) {
  byId("body").textContent = JSON.stringify(body, null, 1);
}

function curl() {
  const quoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
  const token = sessionStorage.getItem(TOKEN) ? ` -H "Authorization: Bearer $TOKEN"` : "";
  const body = JSON.stringify(JSON.parse(byId("body").textContent));
  return `curl -s${token} -H 'Content-Type: application/json' ${location.origin}/v1/recommend -d ${quoted(body)}`;
}

// The user

function add(item) {
  state.added.push({ item_id: item.item_id, title: item.title });
  showUser();
  update(true);
}

function remove(place) {
  state.added.splice(place, 1);
  showUser();
  update(true);
  (byId("history").querySelector("button") ?? byId("item-search")).focus();
}

function setGroup(prior, group) {
  if (group) state.groups[prior] = group;
  else delete state.groups[prior];
  update(true);
}

function showUser() {
  showHistory(state, shown, remove);
  showGroups((model?.priors ?? []).filter((prior) => prior.of_users), state, setGroup);
}

function chooseUser(user) {
  Object.assign(state, { user, known: [], length: 0, knownGroups: {}, added: [], groups: {} });
  shown = SHOWN;
  showUser();
  update(true);
  readUser();
}

/** Reads what the service knows of the user. The lists do not wait for it. */
async function readUser() {
  reading.abort();
  reading = new AbortController();
  const { signal } = reading;
  solve("user");
  if (state.user === null) return;
  try {
    const found = await call(`/v1/users/${encodeURIComponent(state.user)}?limit=1000`, { signal });
    state.known = found.history;
    state.length = found.interactions + found.events;
    state.knownGroups = found.groups;
    showUser();
  } catch (error) {
    // Of a new user nothing is known yet, which is no problem.
    if (error.name !== "AbortError" && error.status !== 404) fail("user", error);
  }
}

// Problems

function fail(which, error) {
  let words = error.message;
  if (error.retryAfter) words += ` Trying again in ${many(error.retryAfter, "second")}.`;
  if (error.status === 401) {
    words = sessionStorage.getItem(TOKEN) ? "The token is wrong: give the token of the service." : "This service needs a token.";
    byId("token-box").open = true;
    byId("token").focus();
  }
  problems.set(which, words);
  showProblems();
}

function solve(which) {
  if (problems.delete(which)) showProblems();
}

function showProblems() {
  const words = [...new Set(problems.values())].join(" ");
  // It is read aloud when it changes, so it is left alone if it does not.
  if (byId("problem").textContent !== words) byId("problem").textContent = words;
  byId("problem").hidden = !words;
}

// The model

function showName(name) {
  // Another version may have other heads.
  if (model && name.version !== model.model.version) readModel();
}

async function readModel() {
  try {
    model = await call("/v1/model");
    solve("model");
  } catch (error) {
    fail("model", error);
    if (!model) byId("model").textContent = error.status === 401 ? "No description without a token" : "No description yet";
    if (error.retryAfter) setTimeout(readModel, error.retryAfter * 1000);
    return false;
  }
  const facts = [
    `${model.model.name} ${model.model.version}`, model.data_set, many(model.items, "item"), many(model.users, "user"),
    many(model.heads.length, "head"),
  ];
  byId("model").textContent = facts.join(" · ");
  levers.show(model);
  showUser();
  return true;
}

/** Finds the titles of items that the address names. */
async function titled(ids) {
  return Promise.all(ids.map(async (id) => {
    try {
      const { items } = await call(`/v1/items?limit=1&q=${encodeURIComponent(id)}`);
      const item = items.find((found) => String(found.item_id) === id);
      return item ?? { item_id: id, title: "" };
    } catch { return { item_id: id, title: "" }; }
  }));
}

async function start() {
  const wanted = readAddress();
  levers.values = wanted.levers;
  if ([...byId("k").options].some(({ value }) => value === wanted.k)) byId("k").value = wanted.k;
  Object.assign(state, { user: wanted.user, groups: wanted.groups, added: await titled(wanted.items) });
  await readModel();
  showUser();
  update(true);
  readUser();
}

search(byId("user-search"), {
  suggest: async (text, signal) => {
    const { users } = await call(`/v1/users?limit=20&q=${encodeURIComponent(text)}`, { signal });
    return users.map((user) => ({ label: user, value: user }));
  },
  take: chooseUser,
  none: "No user's id begins like this",
});
search(byId("item-search"), {
  suggest: async (text, signal) => {
    const { items } = await call(`/v1/items?limit=20&q=${encodeURIComponent(text)}`, { signal });
    return items.map((item) => ({ label: titleOf(item), id: String(item.item_id), value: item }));
  },
  take: add,
  none: "No title or id matches",
});

byId("clear").addEventListener("click", () => { chooseUser(null); byId("user-search").focus(); });
byId("history-more").addEventListener("click", () => { shown += SHOWN; showUser(); });
byId("k").addEventListener("change", () => update(true));
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, byId("token").value.trim());
  byId("token").value = "";
  byId("token-box").open = false;
  problems.clear();
  showProblems();
  start();
});
byId("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(curl());
  byId("copy").textContent = "Copied";
  setTimeout(() => { byId("copy").textContent = "Copy as curl"; }, 1500);
});
byId("copy").hidden = !navigator.clipboard; // only pages of this machine and of HTTPS may copy
byId("which").addEventListener("click", (event) => {
  const chosen = event.target.closest("button");
  if (!chosen) return;
  byId("lists").dataset.list = chosen.dataset.list;
  for (const button of byId("which").children) button.setAttribute("aria-pressed", String(button === chosen));
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && byId("token-box").open) {
    byId("token-box").open = false;
    byId("token-box").querySelector("summary").focus();
  }
  if (event.key === "/" && !event.target.closest("input, select")) {
    event.preventDefault();
    byId("item-search").focus();
  }
});

start();
