"use strict";
// The page of `mlcrf review`. Text from outside reaches the document as text only (textContent);
// every act has a name of its own, so that sending it again after a lost reply changes nothing.

const labels = JSON.parse(document.body.dataset.labels);
const $ = (id) => document.getElementById(id);
const PAGE = 60; // tiles that are fetched at once
const WORDS = { 1: "yes", 0: "no", "-1": "can’t tell" };
const SIGNS = { 1: "✓", "-1": "?", 0: "✕" };
const STATES = { new: "New", begun: "Begun", done: "Done", conflict: "Conflict" };

let photo = null; // the photo shown, as sent by the server
let current = null; // the label that keys answer
let visited = new Set(); // photos seen since the filter was changed
let trail = []; // the way here, for going back
let tilesShown = 0;
let waiting = 0; // acts that are not on the disk yet
let queue = Promise.resolve(); // acts, one after the other
let lastProgress = null; // as last received
let searching = false; // the search takes the focus once the grid is there
let listing = 0; // the newest list asked for: an older reply is dropped

// --- talking to the server ---------------------------------------------------------------

class Refused extends Error {}

async function ask(path, options) {
  const reply = await fetch(path, { credentials: "same-origin", ...options });
  const record = await reply.json().catch(() => ({}));
  if (reply.ok) return record;
  const message = record.error || `the server said ${reply.status}`;
  throw reply.status < 500 ? new Refused(message) : new Error(message);
}

const newName = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");

function act(path, content) {
  const body = JSON.stringify({ person: $("person").value.trim(), request: newName(), ...content });
  waiting += 1;
  const sent = queue.then(() => send(path, body)).finally(() => { waiting -= 1; });
  queue = sent.catch(() => {});
  return sent;
}

async function send(path, body) {
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body };
  for (let pause = 500; ; pause = Math.min(2 * pause, 8000)) {
    try {
      const record = await ask(path, options);
      notice("");
      return record;
    } catch (error) {
      if (error instanceof Refused) throw error;
      notice(`Not saved yet, trying again. ${error.message}`);
      await new Promise((done) => setTimeout(done, pause));
    }
  }
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

const failed = (error) => notice(error.message);

// --- small things -------------------------------------------------------------------------

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function percent(p) {
  const shown = Math.round(100 * p);
  return shown === 0 && p > 0 ? "<1 %" : shown === 100 && p < 1 ? ">99 %" : `${shown} %`;
}

function badge(node, state) {
  node.dataset.state = state;
  node.textContent = STATES[state];
}

function showProgress(progress) {
  lastProgress = progress;
  const share = progress.photos ? (100 * progress.done) / progress.photos : 0;
  $("done-bar").style.setProperty("--share", `${share}%`);
  const parts = [`${progress.done} of ${progress.photos} done`];
  if (progress.conflict) parts.push(`${progress.conflict} in conflict`);
  parts.push(progress.answers === 1 ? "1 answer" : `${progress.answers} answers`);
  $("progress-text").textContent = parts.join(" · ");
}

function filterQuery() {
  const query = new URLSearchParams({ order: $("order").value });
  for (const name of ["label", "state", "name"]) if ($(name).value) query.set(name, $(name).value);
  return query;
}

const copyOf = (one, size) => `/photos/${one.number}/${size}.jpg?v=${one.version}`;

// --- all photos ---------------------------------------------------------------------------

async function showGrid() {
  photo = null;
  $("photo-view").hidden = true;
  $("grid-view").hidden = false;
  document.title = "mlcrf review";
  if (searching) $("name").focus();
  searching = false;
  await fillGrid(false);
}

async function fillGrid(more) {
  const asked = (listing += 1);
  const query = filterQuery();
  query.set("offset", more ? tilesShown : 0);
  query.set("limit", more ? PAGE : Math.max(PAGE, tilesShown));
  const record = await ask(`/api/photos?${query}`);
  if (asked !== listing) return;
  const isFree = document.activeElement === document.body;
  const focused = isFree ? trail.at(-1) : document.activeElement?.dataset.number;
  const tiles = record.photos.map(tile);
  if (more) $("tiles").append(...tiles); else $("tiles").replaceChildren(...tiles);
  tilesShown = $("tiles").children.length;
  $("more").hidden = tilesShown >= record.total;
  $("count").textContent = record.total === 1 ? "1 photo" : record.total ? `${record.total} photos` : "No photo matches. Change the filter.";
  $("start").disabled = !record.total;
  showProgress(record.progress);
  if (!more && focused !== undefined) $("tiles").querySelector(`[data-number="${focused}"]`)?.focus();
}

function tile(one) {
  const item = make("li");
  const button = make("button", "tile");
  button.type = "button";
  button.dataset.number = one.number;
  const frame = make("span", "frame");
  const image = make("img");
  image.loading = "lazy";
  image.alt = "";
  image.src = copyOf(one, "small");
  const state = make("span", "badge");
  badge(state, one.state);
  frame.append(image, state);
  const words = make("span", "words");
  words.append(make("span", "", one.tags.map((tag) => labels[tag]).join(", ") || "no tags"), make("span", "quiet", one.name));
  button.append(frame, words);
  button.title = one.name;
  button.addEventListener("click", () => { location.hash = `#/photo/${one.number}`; });
  item.append(button);
  return item;
}

function moveAmongTiles(step, rows) {
  const tiles = [...document.querySelectorAll(".tile")];
  if (!tiles.length) return;
  const at = tiles.indexOf(document.activeElement);
  const perRow = tiles.filter((one) => one.offsetTop === tiles[0].offsetTop).length;
  const to = at < 0 ? 0 : Math.min(Math.max(at + (rows ? step * perRow : step), 0), tiles.length - 1);
  tiles[to].focus();
}

// --- one photo ----------------------------------------------------------------------------

async function showPhoto(number) {
  const record = await ask(`/api/photos/${number}`);
  if (location.hash !== `#/photo/${number}`) return;
  $("grid-view").hidden = true;
  $("photo-view").hidden = false;
  photo = null;
  visited.add(number);
  if (trail.at(-1) !== number) trail.push(number);
  $("photo").src = copyOf(record.photo, "large");
  $("photo").alt = `Photo ${record.photo.name}`;
  $("photo-name").textContent = record.photo.name;
  $("photo-name").title = record.photo.name;
  $("back").disabled = trail.length < 2;
  document.title = `${record.photo.name} · mlcrf review`;
  const rows = record.photo.labels.map((one, label) => [label, one.p]);
  rows.sort((a, b) => b[1] - a[1]); // in this order as long as the photo is shown
  $("chips").replaceChildren(...rows.map(([label]) => chip(label)));
  take(record);
  window.scrollTo(0, 0);
  prefetch().catch(() => {});
}

function chip(label) {
  const item = make("li", "chip");
  item.dataset.label = label;
  const name = make("span", "chip-name", labels[label]);
  name.title = labels[label];
  name.addEventListener("click", () => choose(label));
  const buttons = make("span", "chip-buttons");
  for (const value of [1, -1, 0]) {
    const button = make("button", "", SIGNS[value]);
    button.type = "button";
    button.dataset.value = value;
    button.title = WORDS[value];
    button.setAttribute("aria-label", `${labels[label]}: ${WORDS[value]}`);
    button.addEventListener("click", () => answer(label, value));
    buttons.append(button);
  }
  item.append(name, make("span", "chip-p"), buttons);
  return item;
}

const chipOf = (label) => $("chips").querySelector(`[data-label="${label}"]`);

// Show a photo as the server now sees it; the chips stay where they are.
function take(record, moved = true) {
  const before = photo;
  photo = record.photo;
  showProgress(record.progress);
  badge($("photo-state"), photo.state);
  photo.labels.forEach((one, label) => {
    const node = chipOf(label);
    const shown = one.known >= 0 ? one.known : one.p;
    node.style.setProperty("--p", `${100 * shown}%`);
    node.classList.toggle("present", shown > 0.5);
    node.classList.toggle("absent", shown <= 0.5);
    node.classList.toggle("conflict", one.conflict);
    const mine = one.votes.find((vote) => vote.person === $("person").value.trim());
    const held = mine ? mine.value : null;
    node.querySelectorAll("button").forEach((button) => button.setAttribute("aria-pressed", String(Number(button.dataset.value) === held)));
    showShare(node, one, before ? before.labels[label] : null);
    showVotes(node, one);
  });
  if (moved || photo.labels[current]?.votes.length) choose(photo.question, false);
  $("accept").disabled = photo.labels.every((one) => one.votes.length);
}

function showShare(node, one, before) {
  const place = node.querySelector(".chip-p");
  const change = before && one.known < 0 && before.known < 0 ? Math.round(100 * (one.p - before.p)) : 0;
  place.replaceChildren();
  if (Math.abs(change) >= 2) place.append(make("span", `delta ${change > 0 ? "up" : "down"}`, `${change > 0 ? "+" : "−"}${Math.abs(change)}`));
  place.append(percent(one.p));
}

function showVotes(node, one) {
  node.querySelector(".votes")?.remove();
  const others = one.votes.some((vote) => vote.person !== $("person").value.trim());
  if (!others && !one.conflict) return;
  const said = one.votes.map((vote) => `${vote.person}: ${WORDS[vote.value]}`).join(" · ");
  const words = make("span", "votes", one.conflict && one.votes.length < 2 ? `${said} · contradicts another tag` : said);
  words.title = one.votes.map((vote) => `${vote.person}: ${WORDS[vote.value]}, ${new Date(vote.at).toLocaleString()}`).join("\n");
  node.append(words);
}

function choose(label, scroll = true) {
  if (current !== null) chipOf(current)?.classList.remove("current");
  current = label;
  const text = $("ask-text");
  document.querySelectorAll(".ask-buttons button").forEach((button) => { button.disabled = label === null; });
  if (label === null) {
    text.replaceChildren("Every tag is settled.");
    return;
  }
  text.replaceChildren("Does ", make("strong", "", labels[label]), " fit?");
  chipOf(label).classList.add("current");
  if (scroll) chipOf(label).scrollIntoView({ block: "nearest" });
}

function step(by) {
  const order = [...$("chips").children].map((node) => Number(node.dataset.label));
  const at = order.indexOf(current);
  choose(order[Math.min(Math.max(at < 0 ? 0 : at + by, 0), order.length - 1)]);
}

function answer(label, value) {
  if (photo === null || label === null) return;
  const number = photo.number;
  chipOf(label).querySelectorAll("button").forEach((button) => button.setAttribute("aria-pressed", String(Number(button.dataset.value) === value)));
  act(`/api/photos/${number}/answer`, { label, value }).then((record) => {
    if (photo?.number === number) take(record);
    const asked = current === null ? "every tag is settled" : `next: ${labels[current]}`;
    $("spoken").textContent = `${labels[label]}: ${WORDS[value]}; ${asked}`;
  }, refused);
}

function accept() {
  if (photo === null || $("accept").disabled) return;
  const number = photo.number;
  act(`/api/photos/${number}/accept`, {}).then((record) => { if (photo?.number === number) take(record); }, refused);
}

function undo() {
  act("/api/undo", {}).then((record) => {
    if (record.photo === null) return void notice("You have nothing to undo.");
    if (photo?.number === record.photo.number) take(record);
    else location.hash = `#/photo/${record.photo.number}`;
    $("spoken").textContent = "undone";
  }, refused);
}

function refused(error) {
  failed(error);
  if (photo) ask(`/api/photos/${photo.number}`).then((record) => { if (photo?.number === record.photo.number) take(record, false); }, failed);
}

// The first photo of the list that was not seen yet; of one more than were seen, one is left.
async function findNext() {
  const query = filterQuery();
  query.set("limit", Math.min(visited.size + 1, 2000));
  const record = await ask(`/api/photos?${query}`);
  return record.photos.find((one) => !visited.has(one.number)) ?? null;
}

async function goNext() {
  await queue;
  const next = await findNext();
  if (next) location.hash = `#/photo/${next.number}`;
  else { notice("That was the last photo of this list."); location.hash = "#/"; }
}

async function prefetch() {
  const next = await findNext();
  if (next) new Image().src = copyOf(next, "large");
}

function goBack() {
  if (trail.length < 2) return;
  trail.pop();
  location.hash = `#/photo/${trail.at(-1)}`;
}

// --- where we are, keys, clicks -------------------------------------------------------------

function route() {
  const found = /^#\/photo\/(\d+)$/.exec(location.hash);
  (found ? showPhoto(Number(found[1])) : showGrid()).catch(failed);
}

const KEYS_OF_PHOTO = {
  y: () => answer(current, 1), n: () => answer(current, 0), u: () => answer(current, -1),
  a: accept, ArrowUp: () => step(-1), ArrowDown: () => step(1),
  ArrowRight: () => goNext().catch(failed), ArrowLeft: goBack, Enter: () => goNext().catch(failed),
  g: () => { location.hash = "#/"; }, Escape: () => { location.hash = "#/"; },
};
const KEYS_OF_GRID = {
  s: () => goNext().catch(failed),
  ArrowRight: () => moveAmongTiles(1, false), ArrowLeft: () => moveAmongTiles(-1, false),
  ArrowDown: () => moveAmongTiles(1, true), ArrowUp: () => moveAmongTiles(-1, true),
};
const KEYS = {
  "?": () => $("help").showModal(), z: undo,
  "/": () => {
    if (!$("grid-view").hidden) return $("name").focus();
    searching = true;
    location.hash = "#/";
  },
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, select, textarea");
  if (typing && event.key === "Escape") return void event.target.blur();
  const isUndo = (event.ctrlKey || event.metaKey) && event.key === "z";
  if ($("help").open || typing || event.altKey || ((event.ctrlKey || event.metaKey) && !isUndo)) return;
  // a button that has the focus is pressed by Enter, and is left alone
  if (event.key === "Enter" && event.target.closest("button, a")) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const what = { ...KEYS, ...(photo ? KEYS_OF_PHOTO : KEYS_OF_GRID) }[key];
  if (!what || (event.repeat && !key.startsWith("Arrow"))) return;
  event.preventDefault();
  what();
});

labels.forEach((name, label) => $("label").append(new Option(name, label)));
let typed = null;
for (const name of ["label", "state", "order", "name"]) {
  $(name).addEventListener("input", () => {
    visited = new Set();
    tilesShown = 0;
    clearTimeout(typed);
    typed = setTimeout(() => fillGrid(false).catch(failed), name === "name" ? 150 : 0);
  });
}
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("more").addEventListener("click", () => fillGrid(true).catch(failed));
$("start").addEventListener("click", () => goNext().catch(failed));
$("next").addEventListener("click", () => goNext().catch(failed));
$("back").addEventListener("click", goBack);
$("accept").addEventListener("click", accept);
$("undo").addEventListener("click", undo);
$("help-button").addEventListener("click", () => $("help").showModal());
document.querySelectorAll(".ask-buttons button").forEach((button) => button.addEventListener("click", () => answer(current, Number(button.dataset.value))));

$("person").value = localStorage.getItem("person") || document.body.dataset.person;
$("person").addEventListener("change", () => {
  if (!$("person").value.trim()) $("person").value = document.body.dataset.person;
  localStorage.setItem("person", $("person").value.trim());
  if (photo) take({ photo, progress: lastProgress }, false);
});

// what others answered in the meantime
setInterval(() => {
  if (document.hidden || waiting) return;
  if (!photo) return void ask("/api/progress").then(showProgress, () => {});
  ask(`/api/photos/${photo.number}`).then((record) => {
    const isNews = JSON.stringify(record.photo) !== JSON.stringify(photo);
    if (isNews && !waiting && photo?.number === record.photo.number) take(record, false);
  }, () => {});
}, 10000);
window.addEventListener("beforeunload", (event) => { if (waiting) event.preventDefault(); });
window.addEventListener("hashchange", route);
route();
