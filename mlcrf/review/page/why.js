// Why a tag is as likely as it is: parts in log-odds, and where in the photo the picture's part is.

import { make, percent, WORDS } from "./drawing.js";
import { ask } from "./server.js";
import { keyOf, numberOf, shown } from "./tags.js";

const $ = (id) => document.getElementById(id);
const MOST = 8; // other tags with a bar of their own
const LEAST = 0.02; // a smaller part is summed up with others
const STRONGEST = 190; // opacity of the strongest place, of 255
const COLOURS = { for: [214, 51, 17], against: [0, 98, 190] }; // also told apart by the colour-blind

let isOpen = false;
let wanted = null; // the photo and tag to explain next
let asking = false;
let explained = ""; // the question whose reply is shown
let places = null; // the map that is drawn

// --- asking -------------------------------------------------------------------------------

export function toggleWhy(photo, label) {
  isOpen = !isOpen;
  $("why").hidden = !isOpen;
  $("why-button").setAttribute("aria-pressed", String(isOpen));
  explained = "";
  clear();
  followWhy(photo, label);
}

// Take down what is shown, before another photo comes.
export function clearWhy() {
  explained = "";
  clear();
}

// Explain a tag of a photo if that is wanted, unless it is explained already.
export function followWhy(photo, label) {
  if (!isOpen) return;
  const question = JSON.stringify([photo.id, label, photo.labels.map(({ p, known }) => [p, known])]);
  if (question === explained) return;
  explained = question;
  if (label === null) return void say("There is no tag yet.");
  wanted = { photo, label };
  askNext();
}

// One question at a time; those in between are left out.
async function askNext() {
  if (asking) return;
  asking = true;
  while (wanted) {
    const { photo, label } = wanted;
    wanted = null;
    if (!$("why-title").textContent) $("why-note").textContent = "Looking at the photo…"; // the first takes seconds
    try {
      const reasons = await ask(`/api/photos/${photo.id}/why?${new URLSearchParams({ label: keyOf(label) })}`);
      if (!wanted && isOpen && explained) show(photo, label, reasons);
    } catch (error) {
      if (!wanted && isOpen && explained) say(`${shown(label)}: ${error.message}.`);
    }
  }
  asking = false;
}

// --- parts --------------------------------------------------------------------------------

function clear() {
  $("why-title").textContent = "";
  $("why-parts").replaceChildren();
  $("why-note").textContent = "";
  places = null;
  drawMap();
}

function say(text) {
  clear();
  $("why-note").textContent = text;
  bringIntoView();
}

function show(photo, label, reasons) {
  const name = shown(label);
  const { known, votes } = photo.labels[label];
  const isGiven = known >= 0 && votes.length > 0;
  if (reasons.log_odds === null) {
    const answers = reasons.settled_by.map((key) => `${shown(numberOf(key))} (${reasons.p > 0 ? "yes" : "no"})`);
    return void say(`${name} follows from ${answers.join(", ")}.`);
  }
  const rows = listRows(photo, reasons.parts, isGiven);
  const longest = Math.max(...rows.map(([, value]) => Math.abs(value)));
  $("why-title").textContent = isGiven ? `${name} was answered ${WORDS[known]}; without that it would be at ${percent(reasons.p)}` : `Why ${name} is at ${percent(reasons.p)}`;
  $("why-parts").replaceChildren(...rows.map(([words, value]) => partRow(words, value, longest)), totalRow(reasons));
  $("why-note").textContent = reasons.map ? "" : `No map: ${reasons.no_map}.`;
  places = reasons.map;
  $("why-key").hidden = !places;
  drawMap();
  bringIntoView();
  $("spoken").textContent = `${$("why-title").textContent}: ${rows.slice(0, 4).map(([words, value]) => `${words} ${signed(value)}`).join(", ")}`;
}

// On a phone a tag is chosen below the photo and the parts.
function bringIntoView() {
  const { top } = $("why").getBoundingClientRect();
  if (top < 0 || top > innerHeight - 60) scrollTo(0, 0);
}

// The picture first, then other tags by size, small ones together.
function listRows(photo, parts, isGiven) {
  const nameOf = ({ kind, label }) => {
    if (kind === "image") return "the picture itself";
    if (kind === "unexplained") return "error of inference";
    if (kind === "rules") return "rules";
    const { known, p } = photo.labels[numberOf(label)];
    if (known === 1) return `${shown(numberOf(label))} (yes)`;
    return isGiven ? shown(numberOf(label)) : `${shown(numberOf(label))} (${percent(p)})`; // which depends on the answer
  };
  const tags = parts.filter(({ kind }) => kind === "label" || kind === "known");
  const large = tags.filter((part, at) => at < MOST && Math.abs(part.log_odds) >= LEAST);
  const rows = [parts[0], ...large].map((part) => [nameOf(part), part.log_odds]);
  const small = tags.slice(large.length);
  if (small.length) rows.push([small.length === 1 ? nameOf(small[0]) : `${small.length} others`, small.reduce((sum, { log_odds: value }) => sum + value, 0)]);
  const ends = parts.filter(({ kind, log_odds: value }) => kind === "rules" || (kind === "unexplained" && Math.abs(value) >= 0.005));
  return [...rows, ...ends.map((part) => [nameOf(part), part.log_odds])];
}

const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

function partRow(words, value, longest) {
  const row = make("li", "part");
  const bar = make("span", `part-bar ${value < 0 ? "against" : "for"}`);
  bar.style.setProperty("--size", `${(50 * Math.abs(value)) / (longest || 1)}%`);
  const name = make("span", "part-name", words);
  name.title = words;
  row.append(name, bar, make("span", "part-value", signed(value)));
  return row;
}

function totalRow({ log_odds: value, p }) {
  const row = make("li", "part total");
  row.append(make("span", "part-name", "together, in log-odds"), make("span", "part-value", `${signed(value)} (${percent(p)})`));
  return row;
}

// --- the map ------------------------------------------------------------------------------

// Draw the map over the photo. The bias, which comes from no place, is shared by all of them, so
// that the colours add up to the picture's part.
function drawMap() {
  const [canvas, photo] = [$("evidence"), $("photo")];
  canvas.hidden = !places || !photo.naturalWidth;
  $("enlarge").classList.toggle("mapped", !canvas.hidden);
  $("why-key").hidden = !places;
  if (canvas.hidden) return;
  const values = places.rows.flat();
  const shared = places.bias / values.length;
  const strongest = Math.max(...values.map((value) => Math.abs(value + shared)));
  const small = document.createElement("canvas");
  [small.width, small.height] = [places.rows[0].length, places.rows.length];
  const pixels = values.flatMap((value) => {
    const share = (value + shared) / (strongest || 1);
    return [...(share < 0 ? COLOURS.against : COLOURS.for), Math.round(STRONGEST * Math.abs(share))];
  });
  small.getContext("2d").putImageData(new ImageData(Uint8ClampedArray.from(pixels), small.width, small.height), 0, 0);
  // as large as the photo in its proportions, so that both fit their box alike
  canvas.width = 800;
  canvas.height = Math.max(1, Math.round((800 * photo.naturalHeight) / photo.naturalWidth));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

$("photo").addEventListener("load", drawMap);
