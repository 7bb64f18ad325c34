// The user: the history, what was added to it, and the groups.

const SHOWN = 50; // items of a history, and as many more at a time

/** Shows a history, newest first: what was added on this page, then what the service knows. */
function showHistory(state, shown, remove) {
  const added = state.added.map((item, place) => entry(item, "added here", () => remove(place)));
  const known = state.known.slice(-shown).map((item) => entry(item, about(item), null));
  byId("history").replaceChildren(...added.reverse(), ...known.reverse());
  const total = state.added.length + state.length;
  byId("history-count").textContent = total ? many(total, "item") : "";
  byId("history-empty").hidden = total > 0;
  byId("history-empty").textContent = state.user === null
    ? "Empty: the lists show what is popular. Choose a user, or add items."
    : "Nothing is known of this user: the lists show what is popular. Add items.";
  byId("history-more").hidden = shown >= state.known.length;
  byId("history-title").textContent = state.user === null ? "History" : `History of ${state.user}`;
  byId("clear").hidden = state.user === null && !total;
}

function entry(item, words, remove) {
  const row = make("li", { class: remove ? "added" : "" },
    make("span", { class: "title" }, titleOf(item)), make("span", { class: "about" }, words));
  if (remove) {
    const button = make("button", { class: "icon", "aria-label": `Remove ${titleOf(item)}` }, "×");
    button.addEventListener("click", remove);
    row.append(button);
  }
  return row;
}

/** What is known of an interaction, such as "4 stars, 1997-09-22". */
function about(item) {
  const parts = [item.event, item.time == null ? null : day(item.time)].filter(Boolean);
  return parts.join(", ") || `id ${item.item_id}`;
}

/** Shows a choice for each prior of users; what is chosen replaces the groups of the user. */
function showGroups(priors, state, changed) {
  const fields = priors.map((prior) => {
    const known = state.knownGroups[prior.name] ?? [];
    const usual = known.length ? `as known: ${known.join(", ")}` : "not given";
    const select = make("select", { id: `group-${prior.name}` }, new Option(usual, ""),
      ...prior.groups.map((name) => new Option(name, name)));
    select.value = state.groups[prior.name] ?? "";
    select.addEventListener("change", () => changed(prior.name, select.value));
    return make("label", {}, `User's ${prior.name}`, select);
  });
  byId("groups").replaceChildren(...fields);
}
