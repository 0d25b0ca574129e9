// Small pieces of the page. Text from outside reaches the document as text only (textContent).

const STATES = { new: "New", begun: "Begun", done: "Done", conflict: "Conflict" };
export const WORDS = { 1: "yes", 0: "no", "-1": "can’t tell", null: "no answer" };

export function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

export function makeButton(className, text, act) {
  const button = make("button", className, text);
  button.type = "button";
  button.addEventListener("click", act);
  return button;
}

export function percent(p) {
  const shown = Math.round(100 * p);
  return shown === 0 && p > 0 ? "<1 %" : shown === 100 && p < 1 ? ">99 %" : `${shown} %`;
}

export const counted = (count, one, many = `${one}s`) => (count === 1 ? `1 ${one}` : `${count} ${many}`);

export function badge(node, state) {
  node.dataset.state = state;
  node.textContent = STATES[state];
}

export const copyOf = (one, size) => `/photos/${one.id}/${size}.jpg?v=${one.version}`;
