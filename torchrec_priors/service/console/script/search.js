// A field with suggestions (the combobox pattern of ARIA): arrow keys choose, Enter takes, Escape closes.

/**
 * @param input the text field
 * @param suggest (text, signal) => promise of [{label, id, value}]
 * @param take called with the value of the suggestion that was chosen
 * @param keeps whether the field keeps the focus and is emptied, to choose several
 */
function search(input, { suggest, take, none }) {
  const list = make("ul", { class: "options", id: `${input.id}-options`, role: "listbox", hidden: true, tabIndex: -1 });
  list.setAttribute("aria-label", input.labels[0].textContent);
  input.after(list);
  for (const [name, value] of Object.entries({
    role: "combobox", "aria-autocomplete": "list", "aria-expanded": "false", "aria-controls": list.id,
  })) input.setAttribute(name, value);

  let options = [];
  let chosen = -1;
  let controller = null;

  const close = () => {
    controller?.abort();
    list.hidden = true;
    options = [];
    choose(-1);
    input.setAttribute("aria-expanded", "false");
  };
  const choose = (place) => {
    chosen = place;
    options.forEach(({ element }, at) => element.setAttribute("aria-selected", String(at === place)));
    if (place < 0) { input.removeAttribute("aria-activedescendant"); return; }
    input.setAttribute("aria-activedescendant", options[place].element.id);
    options[place].element.scrollIntoView({ block: "nearest" });
  };
  const accept = (place) => {
    const { value } = options[place];
    input.value = "";
    close();
    take(value);
  };
  const show = (found, words) => {
    options = found.map((suggestion, at) => {
      const element = make("li", { role: "option", id: `${list.id}-${at}`, "aria-selected": "false" },
        make("span", {}, suggestion.label), suggestion.id === undefined ? null : make("span", { class: "id" }, suggestion.id));
      // The field keeps the focus, so its blur does not close the list before the click.
      element.addEventListener("pointerdown", (event) => event.preventDefault());
      element.addEventListener("click", () => accept(at));
      return { ...suggestion, element };
    });
    list.replaceChildren(...options.map(({ element }) => element));
    if (!options.length) list.append(make("li", { class: "none", role: "option", "aria-disabled": "true" }, words));
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    choose(options.length && input.value ? 0 : -1);
  };
  const look = async () => {
    controller?.abort();
    controller = new AbortController();
    const { signal } = controller;
    try {
      const found = await suggest(input.value.trim(), signal);
      if (!signal.aborted && document.activeElement === input) show(found, none);
    } catch (error) {
      if (error.name !== "AbortError" && !signal.aborted) show([], error.message);
    }
  };

  input.addEventListener("input", look);
  input.addEventListener("focus", look);
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    const steps = { ArrowDown: 1, ArrowUp: -1 };
    if (event.key in steps) {
      event.preventDefault();
      if (list.hidden) look();
      else if (options.length) choose((chosen + steps[event.key] + options.length) % options.length);
    } else if (event.key === "Enter" && chosen >= 0) {
      event.preventDefault();
      accept(chosen);
    } else if (event.key === "Escape" && !list.hidden) {
      event.stopPropagation();
      close();
    }
  });
  return { close, look };
}
