// What the page promises of tags without an answer: their mark, and the tags for which it cannot be had.

import { make } from "./drawing.js";
import { keyOf, present, shown } from "./tags.js";

const $ = (id) => document.getElementById(id);
const promise = JSON.parse(document.body.dataset.promise); // null if there is none
const lacking = new Set(promise?.left_out);
const supported = new Set(promise?.labels.filter((name) => !lacking.has(name)));

export const coversSure = () => promise?.covers_sure ?? false;
export const promisedWords = () => promise.asked;

// The mark of a promised tag.
export function promisedMark() {
  const mark = make("span", "promised", promise.mark);
  mark.title = `${promise.asked}: ${promise.meaning}`;
  return mark;
}

// Whether the promise cannot be had for a tag, such as one of people's own.
export const isLeftOut = (label) => promise !== null && !supported.has(keyOf(label));

// Name the tags for which it cannot be had.
export function leftOut() {
  const names = present().filter(isLeftOut).map(shown);
  return names.length ? `Not to be had for ${names.length} of ${present().length} tags, written only where they are answered yes: ${names.join(", ")}.` : "";
}

export function showPromise() {
  if (promise === null) return;
  const all = present();
  const had = all.filter((label) => !isLeftOut(label));
  $("promise").querySelector("summary").textContent = `Promised: ${promise.asked} for ${had.length} of ${all.length} tags`;
  $("promise-said").textContent = `Of tags without an answer that are marked ${promise.mark}: ${promise.meaning}, ${promise.support}. ${had.length ? `It is had for ${had.map(shown).join(", ")}.` : ""}`;
  $("promise-left-out").textContent = leftOut();
}
