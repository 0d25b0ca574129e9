// The tags: their names, and the window in which they are added, renamed, merged and retired.

import { act, ask, failed, notice } from "./server.js";

const $ = (id) => document.getElementById(id);

let tags = JSON.parse(document.body.dataset.tags); // by number; without a name if they are gone
let version = Number(document.body.dataset.version); // of the tags, as the server counts
let changed = () => {}; // what is told that the tags are others now

export const keyOf = (label) => tags[label].key;
export const numberOf = (key) => tags.findIndex((tag) => tag.key === key);
export const present = () => tags.flatMap((tag, label) => (tag.name === null ? [] : [label]));

export const shown = (label) => tags[label].title;

// The tag with a name as shown or as in the file, in any case; -1 if there is none.
export function labelNamed(text) {
  const wanted = text.trim().toLowerCase();
  const found = present().find((label) => [shown(label), tags[label].name].some((name) => name.toLowerCase() === wanted));
  return found ?? -1;
}

export function onTags(callback) {
  changed = callback;
}

export const tagOf = (label) => tags[label];

// Count the answers anew.
export async function recount() {
  const record = await ask("/api/tags");
  if (record.progress.tags === version) ({ tags } = record);
}

// Take the tags over if others have changed them; return whether they did.
export function areTagsOld(progress) {
  if (progress.tags === version) return false;
  ask("/api/tags").then(takeTags, failed);
  return true;
}

function takeTags(record) {
  ({ tags } = record);
  version = record.progress.tags;
  if ($("tags").open) showList();
  changed();
}

async function change(content) {
  try {
    takeTags(await act("/api/tag", content));
    notice("");
    return true;
  } catch (error) {
    failed(error);
    showList();
    return false;
  }
}

// The number of the tag with a name, which is added if there is none; -1 if that is refused.
export async function tagNamed(text) {
  if (labelNamed(text) < 0) await change({ name: text.trim() });
  return labelNamed(text);
}

// --- the window ---------------------------------------------------------------------------

export function openTags() {
  showList();
  $("tags").showModal();
  $("tag-new").focus();
  recount().then(showList, failed);
}

// Show the tags; the field that has the focus keeps it, and what is typed in it.
function showList() {
  const list = $("tag-list");
  const held = list.querySelector("li:focus-within");
  const at = [...(held?.children ?? [])].indexOf(document.activeElement);
  const items = present().map((label) => (held && held.dataset.tag === identityOf(label) ? held : itemOf(label)));
  const place = items.indexOf(held);
  if (place < 0) {
    list.replaceChildren(...items);
    items.find((item) => item.dataset.key === held?.dataset.key)?.children[at]?.focus();
    return;
  }
  for (const item of [...list.children]) if (item !== held) item.remove();
  held.before(...items.slice(0, place));
  held.after(...items.slice(place + 1));
}

const identityOf = (label) => JSON.stringify([tags[label].key, tags[label].name]);

function itemOf(label) {
  const item = document.createElement("li");
  const { key, name } = tags[label];
  item.dataset.key = key;
  item.dataset.tag = identityOf(label);
  item.append(nameField(key, name), photosButton(tags[label]), mergeField(key, name), retireButton(key, name));
  if (tags[label].quality) item.append(quality(tags[label]));
  return item;
}

function nameField(key, name) {
  const field = document.createElement("input");
  field.value = name;
  field.autocomplete = "off";
  field.setAttribute("aria-label", `Name of ${name}`);
  field.addEventListener("change", () => {
    if (field.value.trim() && field.value.trim() !== name) change({ key, name: field.value.trim() });
    else field.value = name;
  });
  return field;
}

function mergeField(key, name) {
  const field = document.createElement("input");
  field.placeholder = "Merge into…";
  field.autocomplete = "off";
  field.setAttribute("list", "bulk-labels");
  field.setAttribute("aria-label", `Merge ${name} into`);
  field.addEventListener("change", () => {
    const label = labelNamed(field.value);
    if (label >= 0) change({ key, into: keyOf(label) });
    else field.value = "";
  });
  return field;
}

function retireButton(key, name) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Retire";
  button.setAttribute("aria-label", `Retire ${name}`);
  button.addEventListener("click", () => change({ key }));
  return button;
}

function quality(tag) {
  const words = document.createElement("span");
  words.className = "tag-quality quiet";
  words.textContent = tag.quality;
  return words;
}

// The number of answers, which leads to the photos.
function photosButton({ key, name, answers }) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "tag-answers quiet";
  button.textContent = `${answers.yes} yes, ${answers.no} no`;
  button.title = "Show its photos";
  button.setAttribute("aria-label", `Photos of ${name}: ${button.textContent}`);
  button.addEventListener("click", () => {
    $("tags").close();
    location.hash = `#/tag/${encodeURIComponent(key)}`;
  });
  return button;
}

$("tag-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("tag-new").value.trim();
  if (text) change({ name: text }).then((isDone) => { if (isDone) $("tag-new").value = ""; });
});
$("tags-close").addEventListener("click", () => $("tags").close());
