// The page of `mlcrf review`: one photo and its tags; where we are, keys and clicks.

import { badge, copyOf, make, percent, WORDS } from "./drawing.js";
import { answerSelected, asksAboutSuspects, chooseAll, extend, fillGrid, focusLastTile, forgetNumbers, goToPart, home, leaveComparison, moveAmongTiles, nextQuery, setModel, showLikeThis, showTiles, viewedTag } from "./grid.js";
import { lastProgress, lessonsShown, shownAt, showProgress, showsLessons } from "./progress.js";
import { promisedMark, showPromise } from "./promise.js";
import { openSaving } from "./save.js";
import { clearSelection, others, selected, toggleFocused } from "./select.js";
import { act, ask, failed, isSaving, notice, saved, sinceAct } from "./server.js";
import { areTagsOld, keyOf, onTags, openTags, present, shown, tagNamed } from "./tags.js";
import { clearWhy, followWhy, toggleWhy } from "./why.js";
import { openWriting } from "./write.js";
import { enlarge } from "./zoom.js";

const $ = (id) => document.getElementById(id);
const LEARNING_MS = 20000; // after an act news are asked for every second
const SIGNS = { 1: "✓", "-1": "?", 0: "✕" };

let photo = null; // the photo shown, as sent by the server
let chips = new Map(); // of the photo, by tag
let current = null; // the label that keys answer
let lastAnswered = null; // the label of this photo that was answered last
let visited = new Set(); // photos seen since the filter was changed; of likely label errors those passed over
let trail = []; // the way here, for going back
let searching = false; // the search takes the focus once the grid is there

// --- all photos ---------------------------------------------------------------------------

async function showGrid(key) {
  photo = null;
  $("photo-view").hidden = true;
  $("grid-view").hidden = false;
  if (key !== $("label").value) startTag();
  $("label").value = key;
  if ($("label").selectedIndex < 0) {
    $("label").value = "";
    history.replaceState(null, "", "#/");
  }
  const label = viewedTag();
  if (label !== null) $("bulk-label").value = shown(label);
  document.title = label === null ? "mlcrf review" : `${shown(label)} · mlcrf review`;
  if (searching) $("name").focus();
  searching = false;
  await fillGrid(trail.at(-1));
}

// Count no photo as seen, since the list is another one.
function startAnew() {
  visited = new Set();
  forgetNumbers();
}

// Show the photos of another tag, or all: none is compared with them.
function startTag() {
  startAnew();
  setModel(null);
}

// --- one photo ----------------------------------------------------------------------------

async function showPhoto(id) {
  const record = await ask(`/api/photos/${id}`);
  if (location.hash !== `#/photo/${id}`) return;
  $("grid-view").hidden = true;
  $("photo-view").hidden = false;
  photo = lastAnswered = null;
  if (!asksAboutSuspects()) visited.add(id);
  if (trail.at(-1) !== id) trail.push(id);
  clearWhy();
  $("photo").src = copyOf(record.photo, "large");
  $("photo").alt = `Photo ${record.photo.name}`;
  $("photo-name").textContent = record.photo.name;
  $("photo-name").title = record.photo.name;
  $("back").disabled = trail.length < 2;
  document.title = `${record.photo.name} · mlcrf review`;
  if (areTagsOld(record.progress)) return; // it is shown again once they are there
  // in this order as long as the photo is shown; what the model does not know comes last
  const order = present().sort((a, b) => (record.photo.labels[b].p ?? -1) - (record.photo.labels[a].p ?? -1));
  chips = new Map(order.map((label) => [label, chip(label)]));
  $("chips").replaceChildren(...chips.values());
  take(record);
  window.scrollTo(0, 0);
  prefetch().catch(() => {});
}

function chip(label) {
  const item = make("li", "chip");
  item.dataset.label = label;
  const name = make("span", "chip-name", shown(label));
  name.title = keyOf(label);
  name.addEventListener("click", () => choose(label));
  const buttons = make("span", "chip-buttons");
  for (const value of [1, -1, 0]) {
    const button = make("button", "", SIGNS[value]);
    button.type = "button";
    button.dataset.value = value;
    button.title = WORDS[value];
    button.setAttribute("aria-label", `${shown(label)}: ${WORDS[value]}`);
    button.addEventListener("click", (event) => {
      if (event.detail > 1) return; // the second half of a double click
      answer(label, button.getAttribute("aria-pressed") === "true" ? null : value);
    });
    buttons.append(button);
  }
  item.append(name, make("span", "chip-p"), buttons);
  return item;
}

const chipOf = (label) => chips.get(label);

// Show a photo as the server now sees it; the chips stay where they are.
function take(record, moved = true) {
  if (areTagsOld(record.progress)) return;
  const before = photo;
  photo = record.photo;
  showProgress(record.progress);
  badge($("photo-state"), photo.state);
  for (const label of present()) {
    const one = photo.labels[label];
    const node = chipOf(label);
    const p = one.known >= 0 ? one.known : one.p;
    node.style.setProperty("--p", `${100 * (p ?? 0)}%`);
    node.classList.toggle("present", p > 0.5);
    node.classList.toggle("absent", p <= 0.5);
    node.classList.toggle("conflict", one.conflict);
    const mine = one.votes.find((vote) => vote.person === $("person").value.trim());
    const held = mine ? mine.value : null;
    node.querySelectorAll("button").forEach((button) => button.setAttribute("aria-pressed", String(Number(button.dataset.value) === held)));
    showShare(node, one, before ? before.labels[label] : null);
    showVotes(node, one);
  }
  if (moved || photo.labels[current]?.votes.length) choose(nextLabel(), false);
  else followWhy(photo, explained());
  const isDone = present().every((label) => photo.labels[label].votes.length || photo.labels[label].p === null);
  $("accept").hidden = isDone;
  $("onward").hidden = !isDone;
}

// The tag to ask about: the one whose photos are viewed, then a likely label error, then what teaches most.
function nextLabel() {
  const viewed = viewedTag();
  if (viewed !== null && !photo.labels[viewed].votes.length) return viewed;
  return openSuspect()?.label ?? photo.question;
}

const openSuspect = () => photo.suspects.find(({ label }) => chipOf(label) && !photo.labels[label].votes.length);

// Say how the tag is annotated, if that is likely wrong.
function showSuspect(label) {
  const suspect = photo.suspects.find((one) => one.label === label);
  $("suspect").hidden = !suspect;
  if (!suspect) return;
  const [name, negated] = [shown(label), `not ${shown(label)}`];
  const [said, likely] = suspect.given ? [name, negated] : [negated, name];
  const because = suspect.because ? `, because ${suspect.because}` : "";
  $("suspect").replaceChildren("Annotated as ", make("strong", "", said), `. Likely ${likely}, ${percent(suspect.given ? 1 - suspect.p : suspect.p)}${because}.`);
}

function showShare(node, one, before) {
  const place = node.querySelector(".chip-p");
  const change = before && one.known < 0 && before.known < 0 && one.p !== null ? Math.round(100 * (one.p - before.p)) : 0;
  place.replaceChildren();
  if (Math.abs(change) >= 2) place.append(make("span", `delta ${change > 0 ? "up" : "down"}`, `${change > 0 ? "+" : "−"}${Math.abs(change)}`));
  if (one.promised) place.append(promisedMark());
  if (one.known < 0) place.append(one.p === null ? "–" : percent(one.p));
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
  followWhy(photo, explained());
  showSuspect(label);
  const text = $("ask-text");
  document.querySelector(".ask-buttons").hidden = label === null;
  $("onward").classList.toggle("main", label === null);
  if (label === null) {
    const yes = present().filter((one) => photo.labels[one].known === 1).map(shown);
    const isDone = present().every((one) => photo.labels[one].votes.length || photo.labels[one].p !== null);
    text.replaceChildren(isDone ? "Every tag is settled: " : "Tags of this photo: ", make("strong", "", yes.join(", ") || (isDone ? "none fits" : "none yet")), ".");
    return;
  }
  text.replaceChildren("Does the tag ", make("strong", "", shown(label)), " fit?");
  chipOf(label).classList.add("current");
  if (scroll) chipOf(label).scrollIntoView({ block: "nearest" });
}

// The tag whose reasons are shown; of a photo that is settled the last one answered, or the likeliest.
function explained() {
  return current ?? lastAnswered ?? chips.keys().next().value ?? null;
}

function step(by) {
  const order = [...$("chips").children].map((node) => Number(node.dataset.label));
  const at = order.indexOf(current);
  choose(order[Math.min(Math.max(at < 0 ? 0 : at + by, 0), order.length - 1)]);
}

function answer(label, value) {
  if (photo === null || label === null) return;
  const { id } = photo;
  const goesOn = asksAboutSuspects() && value !== null && label === current && label === openSuspect()?.label;
  if (goesOn) current = null; // until the next one is there, keys answer nothing
  const isRefused = (error) => {
    if (goesOn) current = label;
    refused(error);
  };
  chipOf(label).querySelectorAll("button").forEach((button) => button.setAttribute("aria-pressed", String(Number(button.dataset.value) === value)));
  lastAnswered = label;
  act(`/api/photos/${id}/answer`, { label: keyOf(label), value }).then((record) => {
    $("redo").hidden = true;
    if (goesOn && photo?.id === id) return void goToNext().catch(isRefused);
    if (photo?.id === id) take(record);
    const asked = current === null ? "every tag is settled" : `next: ${shown(current)}`;
    $("spoken").textContent = `${shown(label)}: ${WORDS[value]}; ${asked}`;
  }, isRefused);
}

// Say yes to a tag by its name, which is added if there is none.
async function addOwn() {
  const { id } = photo;
  const label = await tagNamed($("own-tag").value);
  if (label < 0 || photo?.id !== id) return;
  $("own-tag").value = "";
  if (!chipOf(label)) await showPhoto(id);
  answer(label, 1);
}

function accept() {
  if (photo === null || $("accept").hidden) return;
  const { id } = photo;
  act(`/api/photos/${id}/accept`, {}).then((record) => {
    $("redo").hidden = true;
    if (photo?.id === id) take(record);
  }, refused);
}

function goInTime(path, done) {
  act(path, {}).then((record) => {
    $("redo").hidden = path === "/api/redo" && record.photo === null;
    if (record.photo === null) return void notice(`You have nothing to be ${done}.`);
    $("spoken").textContent = done;
    if (!photo && (record.photos.length > 1 || viewedTag() !== null)) showTiles(record);
    else if (photo?.id === record.photo.id) take(record);
    else location.hash = `#/photo/${record.photo.id}`;
  }, refused);
}

const undo = () => goInTime("/api/undo", "undone");
const redo = () => goInTime("/api/redo", "redone");

function refused(error) {
  failed(error);
  if (photo) ask(`/api/photos/${photo.id}`).then((record) => { if (photo?.id === record.photo.id) take(record, false); }, failed);
}

// The first photo of the list that was not seen yet; of one more than were seen, one is left.
async function findNext(seen = visited) {
  const query = nextQuery();
  query.set("limit", seen.size + 1);
  const record = await ask(`/api/photos?${query}`);
  return record.photos.find((one) => !seen.has(one.id)) ?? null;
}

// Leave the photo, whether all that is asked about it is answered or not.
async function goNext() {
  if (photo) visited.add(photo.id);
  await goToNext();
}

async function goToNext() {
  const from = location.hash;
  await saved();
  const next = await findNext();
  if (location.hash !== from) return; // the person went elsewhere meanwhile
  if (next && next.id === photo?.id) await showPhoto(next.id); // it has another likely label error
  else if (next) location.hash = `#/photo/${next.id}`;
  else { notice("That was the last photo of this list."); location.hash = home(); }
}

async function prefetch() {
  const next = await findNext(new Set([...visited, photo?.id]));
  if (next) new Image().src = copyOf(next, "large");
}

function zoom(event) {
  const box = $("photo").getBoundingClientRect();
  const isPointed = event?.detail > 0;
  const at = isPointed ? pointIn($("photo"), box, event) : [];
  enlarge($("photo"), copyOf(photo, "full"), ...at);
}

// Where a click is in the photo, which is centred in its box, in fractions of its sides.
function pointIn(image, box, event) {
  const scale = Math.min(box.width / image.naturalWidth, box.height / image.naturalHeight);
  const fraction = (place, middle, side) => Math.min(Math.max(0.5 + (place - middle) / (side * scale), 0), 1);
  return [
    fraction(event.clientX, box.left + box.width / 2, image.naturalWidth),
    fraction(event.clientY, box.top + box.height / 2, image.naturalHeight),
  ];
}

function why() {
  toggleWhy(photo, explained());
}

function goBack() {
  if (trail.length < 2) return;
  trail.pop();
  location.hash = `#/photo/${trail.at(-1)}`;
}

// --- where we are, keys, clicks -------------------------------------------------------------

function route() {
  const [, kind, what] = /^#\/(photo|tag)\/(.+)$/.exec(location.hash) ?? [];
  (kind === "photo" ? showPhoto(Number(what)) : showGrid(kind ? decoded(what) : "")).catch(failed);
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

// Show the photos that are most like the one that is shown.
function goToLike() {
  setModel({ id: photo.id, name: photo.name });
  location.hash = home();
}

// Show the photos of the tag that is asked about.
function goToTag() {
  if (current === null) return;
  $("label").value = keyOf(current);
  startTag();
  location.hash = home();
}

const KEYS_OF_PHOTO = {
  y: () => answer(current, 1), n: () => answer(current, 0), u: () => answer(current, -1),
  a: accept, f: zoom, i: why, Delete: () => answer(current, null), Backspace: () => answer(current, null), ArrowUp: () => step(-1), ArrowDown: () => step(1),
  ArrowRight: () => goNext().catch(failed), ArrowLeft: goBack, Enter: () => goNext().catch(failed),
  "+": () => $("own-tag").focus(), l: goToLike, t: goToTag,
  g: () => { location.hash = home(); }, Escape: () => { location.hash = home(); },
};
const KEYS_OF_GRID = {
  s: () => goNext().catch(failed),
  ArrowRight: () => moveAmongTiles(1, false), ArrowLeft: () => moveAmongTiles(-1, false),
  ArrowDown: () => moveAmongTiles(1, true), ArrowUp: () => moveAmongTiles(-1, true),
  "Shift+ArrowRight": () => extend(1, false), "Shift+ArrowLeft": () => extend(-1, false),
  "Shift+ArrowDown": () => extend(1, true), "Shift+ArrowUp": () => extend(-1, true),
  x: toggleFocused, all: chooseAll, Escape: () => (selected().length ? clearSelection() : leaveComparison()),
  t: () => { if (selected().length) $("bulk-label").select(); else $("label").focus(); },
  r: () => showNewsNow().catch(failed), l: showLikeThis, g: () => { location.hash = "#/"; },
  1: () => goToPart(1), 2: () => goToPart(2), 3: () => goToPart(3), 4: () => goToPart(4), 5: () => goToPart(5),
  y: () => answerSelected(1), n: () => answerSelected(0), u: () => answerSelected(-1),
  o: () => answerSelected(1, others()), Delete: () => answerSelected(null),
};
function openHelp() {
  $("help").showModal();
  $("help").scrollTop = 0; // its button, which is last, has the focus
}

// what Ctrl or Cmd and a letter mean
const CONTROLS = { z: "z", "Shift+z": "redo", y: "redo", a: "all" };
const KEYS = {
  "?": openHelp, z: undo, redo, e: openTags, w: openWriting, m: openSaving,
  "/": () => {
    if (!$("grid-view").hidden) return $("name").focus();
    searching = true;
    location.hash = home();
  },
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, select, textarea");
  if (typing && event.key === "Escape") return void event.target.blur();
  const hasControl = event.ctrlKey || event.metaKey;
  const letter = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const shifted = event.shiftKey && (hasControl || letter.startsWith("Arrow")) ? `Shift+${letter}` : letter;
  const key = hasControl ? CONTROLS[shifted] : shifted;
  if (document.querySelector("dialog[open]") || typing || event.altKey || !key) return;
  // a button that has the focus is pressed by Enter, and is left alone
  if (event.key === "Enter" && event.target.closest("button, a")) return;
  const what = { ...KEYS, ...(photo ? KEYS_OF_PHOTO : KEYS_OF_GRID) }[key];
  if (!what || (event.repeat && !key.includes("Arrow"))) return;
  event.preventDefault();
  what();
});

// a button that was clicked is not pressed again by Enter, which goes to the next photo
document.addEventListener("click", (event) => { if (event.detail > 0) event.target.closest("button")?.blur(); });

const folders = JSON.parse(document.body.dataset.folders);
$("folder").append(...folders.map((name) => new Option(name, name)));
$("folder").hidden = !folders.length;

// Show the tags as they are now, in lists and on the photo.
function showTags() {
  const before = $("label").value;
  $("label").replaceChildren(new Option("Any tag", ""), ...present().map((label) => new Option(shown(label), keyOf(label))));
  $("label").value = before;
  if ($("label").selectedIndex < 0) $("label").value = "";
  $("bulk-labels").replaceChildren(...present().map((label) => new Option(shown(label))));
  showPromise();
}
onTags(() => {
  showTags();
  route();
});
showTags();
let typed = null;
for (const name of ["folder", "state", "order", "name"]) {
  $(name).addEventListener("input", () => {
    startAnew();
    clearTimeout(typed);
    typed = setTimeout(() => fillGrid().catch(failed), name === "name" ? 150 : 0);
  });
}
$("label").addEventListener("input", () => {
  startTag();
  location.hash = home();
});
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("start").addEventListener("click", () => goNext().catch(failed));
$("next").addEventListener("click", () => goNext().catch(failed));
$("back").addEventListener("click", goBack);
$("accept").addEventListener("click", accept);
$("onward").addEventListener("click", () => goNext().catch(failed));
$("all").addEventListener("click", chooseAll);
$("news").addEventListener("click", () => showNewsNow().catch(failed));
$("bulk-others").addEventListener("click", () => answerSelected(1, others()));
$("bulk-clear").addEventListener("click", clearSelection);
$("bulk-like").addEventListener("click", showLikeThis);
$("like").addEventListener("click", goToLike);
$("label").addEventListener("keydown", (event) => { if (event.key === "Enter") event.target.blur(); });
$("bulk").addEventListener("submit", (event) => { // by Enter in the field
  event.preventDefault();
  $("bulk-label").blur();
  focusLastTile();
});
document.querySelectorAll(".bulk [data-value]").forEach((button) => button.addEventListener("click", () => answerSelected(Number(button.dataset.value))));
$("enlarge").addEventListener("click", zoom);
$("why-button").addEventListener("click", why);
document.querySelector(".brand").addEventListener("click", (event) => {
  event.preventDefault();
  location.hash = photo ? home() : "#/";
});
$("undo").addEventListener("click", undo);
$("redo").addEventListener("click", redo);
document.querySelectorAll(".open-tags").forEach((button) => button.addEventListener("click", openTags));
$("own").addEventListener("submit", (event) => {
  event.preventDefault();
  addOwn().catch(failed);
});
$("help-button").addEventListener("click", openHelp);
document.querySelectorAll(".ask-buttons button").forEach((button) => button.addEventListener("click", () => answer(current, Number(button.dataset.value))));

$("person").value = localStorage.getItem("person") || document.body.dataset.person;
$("person").addEventListener("change", () => {
  if (!$("person").value.trim()) $("person").value = document.body.dataset.person;
  localStorage.setItem("person", $("person").value.trim());
  if (photo) take({ photo, progress: lastProgress }, false);
});

// Show what others answered, and what was learned, in the meantime. A tag's photos move once after an
// act, to show what it taught. They stay where they are while some are selected, and once somebody has
// begun to look through them: eyes that have passed over photos must not select others. A button shows
// the news then.
async function showNews() {
  const asked = Date.now();
  const progress = await ask("/api/progress");
  if (sinceAct() <= Date.now() - asked) return; // of before what was done meanwhile
  if (areTagsOld(progress)) return;
  const isNews = progress.answers !== lastProgress?.answers || progress.lessons !== lessonsShown();
  showProgress(progress);
  if (photo) {
    if (!isNews) return;
    const record = await ask(`/api/photos/${photo.id}`);
    if (isSaving() || photo?.id !== record.photo.id) return;
    if (JSON.stringify(record.photo) !== JSON.stringify(photo)) take(record, false);
    showsLessons(progress);
  } else if (isNews && viewedTag() !== null) {
    const lastAct = Date.now() - sinceAct();
    const isLookedAt = () => selected().length > 0 || movedAt > lastAct || lookedAt > Math.max(shownAt(), lastAct);
    if (isLookedAt()) $("news").hidden = false;
    else if (!isMoving) {
      isMoving = true;
      await fillGrid(undefined, () => !isLookedAt()).finally(() => (isMoving = false)); // what begins meanwhile sees the news in a second
      movedAt = Date.now();
    }
  }
}

async function showNewsNow() {
  clearSelection();
  await fillGrid();
}

let isMoving = false;
let movedAt = 0; // time at which photos moved by themselves last
let lookedAt = 0; // time of the last key, wheel or touch among the photos
for (const name of ["keydown", "wheel", "touchmove"]) {
  addEventListener(name, (event) => {
    if (event.target === document.body || event.target.closest("#parts")) lookedAt = Date.now();
  }, { capture: true, passive: true });
}

let seconds = 0;
setInterval(() => {
  seconds += 1;
  if (document.hidden || isSaving() || (sinceAct() > LEARNING_MS && seconds % 10)) return;
  showNews().catch(() => {});
}, 1000);
window.addEventListener("beforeunload", (event) => { if (isSaving()) event.preventDefault(); });
window.addEventListener("hashchange", route);
route();
if (!location.hash && asksAboutSuspects()) goNext().catch(failed);
