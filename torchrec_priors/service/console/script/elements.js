// Elements of the page. Everything from data becomes a text node or a property, never HTML.

const byId = (id) => document.getElementById(id);

/** Makes an element. Properties are set as such; names with a dash are attributes. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else if (name === "class") element.className = value;
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const number = (value) => value.toLocaleString("en");
const fixed = (value, digits = 3) => value.toFixed(digits);
const many = (count, one, several = `${one}s`) => `${number(count)} ${count === 1 ? one : several}`;
const titleOf = (item) => item.title || `Item ${item.item_id}`;

/** A date from milliseconds since 1970, in UTC like the data. */
const day = (milliseconds) => new Date(milliseconds).toISOString().slice(0, 10);
