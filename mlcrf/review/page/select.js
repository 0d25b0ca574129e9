// Many photos at once: select tiles of the grid by clicks, ranges, dragging or keys.

const $ = (id) => document.getElementById(id);
const FAR = 6; // pixels that the mouse moves before a press becomes a drag

const chosen = new Set(); // ids of the photos
let anchor = null; // the tile where a range begins
let band = null; // where a drag began, and what was chosen before it
let wasDragged = false; // the click that ends a drag opens nothing

const tiles = () => [...document.querySelectorAll(".tile")];
const idOf = (tile) => Number(tile.dataset.photo);

export const selected = () => [...chosen];
export const selectedTiles = () => [...document.querySelectorAll(".tile.chosen")];

// Photos that are shown beside the selected ones, in the same parts, and have no answer there.
export function others() {
  const parts = new Set(selectedTiles().map((tile) => tile.closest(".part")));
  return [...parts].flatMap((part) => [...part.querySelectorAll(".tile:not(.chosen, :has([data-answer]))")]).map(idOf);
}

// Show which tiles are chosen, and the bar for them. Photos that are shown no more are not chosen either.
export function showSelection() {
  const shown = new Set(tiles().map(idOf));
  for (const id of [...chosen]) if (!shown.has(id)) chosen.delete(id);
  for (const tile of tiles()) {
    tile.classList.toggle("chosen", chosen.has(idOf(tile)));
    tile.setAttribute("aria-pressed", String(chosen.has(idOf(tile))));
  }
  $("bulk").hidden = !chosen.size;
  $("bulk-like").hidden = chosen.size !== 1;
  const count = others().length;
  $("bulk-others").hidden = !count;
  $("bulk-others").querySelector("span").textContent = `Yes, and no to the other ${count}`;
  $("bulk-count").textContent = chosen.size === 1 ? "1 selected" : `${chosen.size} selected`;
}

export function choose(which, keep = true) {
  if (!keep) chosen.clear();
  for (const tile of which) chosen.add(idOf(tile));
  showSelection();
}

export function clearSelection() {
  chosen.clear();
  anchor = null;
  showSelection();
}

function toggle(tile) {
  if (!chosen.delete(idOf(tile))) chosen.add(idOf(tile));
  anchor = tile;
  showSelection();
}

function chooseRange(tile) {
  const all = tiles();
  const [from, to] = [Math.max(all.indexOf(anchor), 0), all.indexOf(tile)].sort((a, b) => a - b);
  choose(all.slice(from, to + 1));
}

// Select by a click on a tile; return whether that is what the click meant.
export function isSelecting(event, tile) {
  if (wasDragged) return true;
  if (event.shiftKey) chooseRange(tile);
  else if (event.ctrlKey || event.metaKey || event.target.closest(".tick") || chosen.size) toggle(tile);
  else return false;
  return true;
}

// Keys on the tile that has the focus: x toggles, arrows with Shift extend.
export function toggleFocused() {
  const tile = document.activeElement?.closest(".tile");
  if (tile) toggle(tile);
}

export function extendTo(before) {
  const tile = document.activeElement?.closest(".tile");
  if (!tile) return;
  if (!chosen.size) anchor = before ?? tile;
  chooseRange(tile);
}

$("grid-view").addEventListener("pointerdown", (event) => {
  wasDragged = false;
  if (event.pointerType !== "mouse" || event.button || event.target.closest(".filters, .bulk, button:not(.tile)")) return;
  band = { x: event.clientX, y: event.clientY + scrollY, before: event.ctrlKey || event.shiftKey ? [...chosen] : null };
});
addEventListener("pointermove", (event) => {
  if (!band || !event.buttons) return;
  const [x, y] = [event.clientX, event.clientY + scrollY];
  if (!wasDragged && Math.hypot(x - band.x, y - band.y) < FAR) return;
  wasDragged = true;
  const box = { left: Math.min(x, band.x), right: Math.max(x, band.x), top: Math.min(y, band.y) - scrollY, bottom: Math.max(y, band.y) - scrollY };
  for (const side of ["left", "top"]) $("band").style.setProperty(`--${side}`, `${box[side]}px`);
  $("band").style.setProperty("--width", `${box.right - box.left}px`);
  $("band").style.setProperty("--height", `${box.bottom - box.top}px`);
  $("band").hidden = false;
  chosen.clear();
  for (const id of band.before ?? []) chosen.add(id);
  choose(tiles().filter((tile) => {
    const at = tile.getBoundingClientRect();
    return at.left < box.right && at.right > box.left && at.top < box.bottom && at.bottom > box.top;
  }));
});
addEventListener("pointerup", () => {
  band = null;
  $("band").hidden = true;
});
