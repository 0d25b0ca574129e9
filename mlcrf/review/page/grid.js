// The photos: a list of those that match the filter, or the parts of one tag's photos.

import { badge, copyOf, counted, make, makeButton, percent, WORDS } from "./drawing.js";
import { showProgress, showsLessons } from "./progress.js";
import { coversSure, isLeftOut, promisedWords } from "./promise.js";
import { choose, clearSelection, extendTo, isSelecting, selected, selectedTiles, showSelection } from "./select.js";
import { act, ask, failed, notice } from "./server.js";
import { areTagsOld, keyOf, numberOf, present, recount, shown, tagNamed, tagOf } from "./tags.js";

const $ = (id) => document.getElementById(id);
const PAGE = 60; // tiles of a list that are fetched at once
const PART = 18; // tiles of a part that are fetched at once
const ALL = 1e9; // as many as there are
const PARTS = [
  { part: "sure", order: "likely", title: "Sure", what: coversSure() ? `yes, or promised: ${promisedWords()}` : "yes, or at least 90 %" },
  { part: "likely", order: "likely", title: "Likely", what: coversSure() ? "at least 70 %" : "70 to 90 %" },
  { part: "uncertain", order: "uncertain", title: "Uncertain", what: "30 to 70 %" },
  { part: "unlikely", order: "likely", title: "Unlikely", what: "below 30 %, or not known yet" },
  { part: "answered", order: "likely", title: "No", what: "or can’t tell" },
];

let numbersShown = {}; // tiles by part, once more than at first
let filling = 0; // the newest filling: older replies are dropped
let model = null; // the photo that others are compared with

// The tag whose photos are shown; null for a list of all photos.
export const viewedTag = () => ($("label").value ? numberOf($("label").value) : null);
export const home = () => ($("label").value ? `#/tag/${encodeURIComponent($("label").value)}` : "#/");

function query(part) {
  const found = new URLSearchParams();
  for (const name of ["folder", "label", "state", "name"]) if ($(name).value) found.set(name, $(name).value);
  found.set("order", part?.order ?? $("order").value);
  if (part) found.set("part", part.part);
  if (found.get("order") === "like" && model) found.set("like", model.id);
  return found;
}

// The parts of a tag's photos, in which each stands once; while others are compared with a photo, all that are open.
function partsOf(label) {
  if (label === null) return [null];
  if (model) return [{ part: "open", order: "like", title: `Most like ${model.name}`, what: "without an answer" }];
  if (!tagOf(label).answers.yes) return PARTS;
  return PARTS.map((one) => (one.part === "unlikely" ? { ...one, order: "like", title: "Most like those with a yes" } : one));
}

// Whether likely label errors are asked about.
export const asksAboutSuspects = () => viewedTag() === null && $("order").value === "suspects";

// What is asked about next: of a tag's photos the least certain one that nobody has answered.
export const nextQuery = () => query(viewedTag() === null ? null : { part: "open", order: "uncertain" });

export function forgetNumbers() {
  numbersShown = {};
}

// Fill the grid anew, unless it is not wanted any more. The focus stays on its photo, or, if that has left its part,
// at its place there.
export async function fillGrid(last, isWanted = () => true) {
  const turn = (filling += 1);
  const label = viewedTag();
  if (label !== null) await recount();
  const parts = partsOf(label);
  const records = await Promise.all(parts.map((part) => list(part, 0, Math.max(atOnce(part), numbersShown[nameOf(part)] ?? 0))));
  if (turn !== filling || !isWanted() || areTagsOld(records[0].progress)) return;
  const place = placeOfFocus(last);
  $("parts").replaceChildren(...records.flatMap((record, at) => (record.total || model ? [partOf(parts[at], record)] : [])));
  if (label !== null && records.filter((one) => one.total).length === 1) nameTheOnlyPart();
  showHead(label, records);
  $("news").hidden = true;
  showsLessons(records[0].progress);
  showSelection();
  showProgress(records[0].progress);
  putFocus(place);
}

const nameOf = (part) => part?.part ?? "";
const atOnce = (part) => (part ? PART : PAGE);

function list(part, offset, limit) {
  const found = query(part);
  found.set("offset", offset);
  found.set("limit", limit);
  return ask(`/api/photos?${found}`);
}

function showHead(label, records) {
  const total = records.reduce((sum, record) => sum + record.total, 0);
  const count = label === null ? counted(total, "photo") : shown(label);
  $("count").textContent = total ? count : asksAboutSuspects() ? "No likely label error is left here. Change the order to see all photos." : "No photo matches. Change the filter.";
  $("count").classList.toggle("tag-title", label !== null && total > 0);
  $("start").disabled = $("all").disabled = !total;
  $("all").hidden = $("order").hidden = label !== null;
  const hint = present().length ? "" : "There is no tag yet. Add the first one: Tags… (e).";
  $("tag-said").textContent = hint;
  $("tag-said").hidden = label === null && !hint;
  if (label === null) return;
  const { answers, quality } = tagOf(label);
  const promised = isLeftOut(label) ? `${promisedWords()} cannot be promised of this tag` : "";
  $("tag-said").textContent = [`${answers.yes} yes, ${answers.no} no`, promised, quality].filter(Boolean).join(" · ");
}

function partOf(part, record) {
  const section = make("section", "part");
  section.dataset.part = nameOf(part);
  const place = make("ul", "tiles");
  place.append(...record.photos.map(tile));
  if (part) section.append(headOf(part, record, place));
  section.append(place);
  if (record.photos.length < record.total) {
    const add = (asking) => asking.then((more) => showMore(section, place, more)).catch(failed);
    const more = make("div", "more");
    more.append(
      makeButton("", "Show more", () => add(list(part, place.children.length, atOnce(part)))),
      makeButton("", `Show all ${record.total}`, () => add(list(part, 0, ALL))), // from the first, since their order may have changed
    );
    section.append(more);
  }
  return section;
}

function headOf(part, record, place) {
  const head = make("div", "part-head");
  const title = make("h2", "", part.title);
  place.setAttribute("aria-label", title.textContent);
  const what = make("span", "quiet", `${record.total} · ${part.what}`);
  const button = makeButton("", "Select all", () => chooseOpen(place));
  button.disabled = !openTiles(place).length;
  button.title = "Select those without an answer that are shown (Ctrl+a)";
  head.append(title, what, button);
  if (model) head.append(makeButton("", "Back to all parts", leaveComparison));
  return head;
}

// Where nothing is known of a tag, nothing is unlikely either.
function nameTheOnlyPart() {
  const title = document.querySelector(".part[data-part=unlikely] h2");
  if (title) title.textContent = "All photos";
}

function showMore(section, place, record) {
  if (areTagsOld(record.progress)) return;
  const here = new Set([...place.querySelectorAll(".tile")].map((one) => Number(one.dataset.photo)));
  place.append(...record.photos.filter(({ id }) => !here.has(id)).map(tile));
  const button = section.querySelector(".part-head button");
  if (button) button.disabled = !openTiles(place).length;
  numbersShown[section.dataset.part] = place.children.length;
  showSelection();
  section.querySelector(".more").hidden = place.children.length >= record.total;
}

function tile(one) {
  const item = make("li");
  const button = makeButton("tile", undefined, (event) => { if (!isSelecting(event, button)) location.hash = `#/photo/${one.id}`; });
  button.dataset.photo = one.id;
  const frame = make("span", "frame");
  const image = make("img");
  image.loading = "lazy";
  image.alt = "";
  image.draggable = false;
  image.src = copyOf(one, "small");
  const mark = make("span", "badge");
  if (one.answer === undefined) badge(mark, one.state);
  else showBelief(mark, one);
  const tick = make("span", "tick", "✓");
  tick.setAttribute("aria-hidden", "true");
  frame.append(image, mark, tick);
  const words = make("span", "words");
  words.append(make("span", "", one.tags.map(shown).join(", ") || "no tags"), make("span", "quiet", one.name));
  button.append(frame, words);
  button.title = one.name;
  item.append(button);
  return item;
}

// The answer about the viewed tag, or its probability.
function showBelief(mark, one) {
  if (one.answer !== null) mark.dataset.answer = one.answer;
  mark.textContent = one.answer !== null ? WORDS[one.answer] : one.p === null ? "" : percent(one.p);
  mark.hidden = !mark.textContent;
}

// --- focus and keys -----------------------------------------------------------------------

const tiles = () => [...document.querySelectorAll(".tile")];
const focusedTile = () => document.activeElement?.closest(".tile");
const openTiles = (place) => [...place.querySelectorAll(".tile")].filter((one) => !one.querySelector("[data-answer]"));

function placeOfFocus(last) {
  const tile = focusedTile();
  if (!tile) return document.activeElement === document.body && last !== undefined ? { photo: String(last) } : null;
  const { part } = tile.closest(".part").dataset;
  return { photo: tile.dataset.photo, part, at: [...tile.closest("ul").querySelectorAll(".tile")].indexOf(tile) };
}

let lastFocused = null; // the photo whose tile had the focus last
$("parts").addEventListener("focusin", () => { lastFocused = focusedTile()?.dataset.photo ?? lastFocused; });

// Go back to the photos from a field.
export function focusLastTile() {
  if (lastFocused !== null) putFocus({ photo: lastFocused });
}

function putFocus(place) {
  if (!place) return;
  const { photo, part, at } = place;
  if (part === undefined) return void document.querySelector(`.tile[data-photo="${photo}"]`)?.focus();
  const there = [...document.querySelectorAll(`.part[data-part="${part}"] .tile`)];
  const same = there.find((one) => one.dataset.photo === photo);
  (same ?? there[Math.min(at, there.length - 1)] ?? tiles()[0])?.focus();
}

export function moveAmongTiles(step, rows) {
  const all = tiles();
  const at = all.indexOf(focusedTile());
  const target = at < 0 ? all[0] : rows ? nearestInRow(all, all[at], step) : all[Math.min(Math.max(at + step, 0), all.length - 1)];
  target?.focus();
}

// The tile below or above, which may be in another part.
function nearestInRow(all, tile, step) {
  const box = tile.getBoundingClientRect();
  const away = ({ top }) => step * (top - box.top);
  const beyond = all.map((one) => [one, one.getBoundingClientRect()]).filter(([, at]) => away(at) > 1);
  beyond.sort(([, a], [, b]) => away(a) - away(b) || Math.abs(a.left - box.left) - Math.abs(b.left - box.left));
  return beyond[0]?.[0] ?? tile;
}

export function extend(step, rows) {
  const before = focusedTile();
  moveAmongTiles(step, rows);
  extendTo(before);
}

export function goToPart(number) {
  const parts = [...document.querySelectorAll(".part")];
  parts[number - 1]?.querySelector(".tile")?.focus();
}

// Select what is shown; of a tag's photos those of the part with the focus that have no answer.
export function chooseAll() {
  const place = (focusedTile()?.closest(".part") ?? document.querySelector(".part"))?.querySelector(".tiles");
  if (viewedTag() === null) choose(tiles());
  else if (place) chooseOpen(place);
}

function chooseOpen(place) {
  choose(openTiles(place));
}

// --- acts ---------------------------------------------------------------------------------

// Answer about a tag for all selected photos, and no for others. In a list the tiles stay where they are.
export async function answerSelected(value, rest = []) {
  const photos = selected();
  if (!photos.length) return;
  if (!$("bulk-label").value.trim()) {
    notice("Name the tag first.");
    return void $("bulk-label").focus();
  }
  const label = await tagNamed($("bulk-label").value);
  if (label < 0) return;
  const ours = selectedTiles();
  for (const one of ours) one.classList.add("saving");
  clearSelection(); // others can be selected meanwhile
  act("/api/answer", { photos, label: keyOf(label), value, others: rest }).then((record) => {
    $("redo").hidden = true;
    showTiles(record);
    const beside = rest.length ? `; no for ${counted(record.photos.length - photos.length, "other")}` : "";
    $("spoken").textContent = `${counted(photos.length, "photo")}, ${shown(label)}: ${WORDS[value]}${beside}`;
  }, (error) => {
    for (const one of ours) one.classList.remove("saving");
    choose(ours);
    failed(error);
  });
}

// Show photos that have changed.
export function showTiles(record) {
  if (areTagsOld(record.progress)) return;
  if (viewedTag() !== null) return void fillGrid().catch(failed);
  const place = placeOfFocus();
  for (const one of record.photos) document.querySelector(`.tile[data-photo="${one.id}"]`)?.closest("li").replaceWith(tile(one));
  putFocus(place);
  showSelection();
  showProgress(record.progress);
}

// Compare with a photo, or with none.
export function setModel(photo) {
  model = photo;
  const option = $("order").querySelector("[value=like]");
  option.hidden = option.disabled = !photo;
  if (photo) option.textContent = `Most like ${photo.name}`;
  if (photo && viewedTag() === null) $("order").value = "like";
  if (!photo && $("order").value === "like") $("order").value = "teaches";
}

// Show the photos that are most like a photo.
export function showLike(photo) {
  setModel(photo);
  clearSelection();
  fillGrid().then(() => {
    const part = document.querySelector(".part[data-part=open]") ?? document.querySelector(".part");
    part?.scrollIntoView({ block: "start" });
    part?.querySelector(".tile")?.focus({ preventScroll: true });
  }).catch(failed);
}

// Show all photos again.
export function leaveComparison() {
  if (model) showLike(null);
}

// Show those that are most like the selected photo, or the one that has the focus.
export function showLikeThis() {
  const [id] = selected();
  const tile = id === undefined ? focusedTile() : document.querySelector(`.tile[data-photo="${id}"]`);
  if (tile) showLike({ id: Number(tile.dataset.photo), name: tile.title });
}
