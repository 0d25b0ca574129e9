// The window in which the decided tags are written to files beside the photos.

import { counted } from "./drawing.js";
import { leftOut } from "./promise.js";
import { actAndWait, ask } from "./server.js";

const $ = (id) => document.getElementById(id);

// The tags without an answer that are written: promised ones, those of least cost, or those of a least probability. A page has one of the choices.
const promised = () => $("write-promised")?.checked ?? false;
const atLeastCost = () => $("write-costs")?.checked ?? false;
const least = () => ($("write-likely")?.checked ? Number($("write-percent").value) / 100 : null);

export function openWriting() {
  say("");
  if ($("write-promised")) $("write-left-out").textContent = leftOut();
  $("writing").showModal();
  count();
}

// Say how many photos get how many tags.
async function count() {
  const query = promised() ? "?promised=1" : atLeastCost() ? "?at_least_cost=1" : least() === null ? "" : `?least=${least()}`;
  try {
    const { photos, tags } = await ask(`/api/decided${query}`);
    $("write-count").textContent = photos ? `${counted(tags, "tag")} for ${counted(photos, "photo")}.` : "No tag is decided yet: answer yes about a tag of some photo.";
    $("write-now").disabled = !photos;
  } catch (error) {
    say(error.message, true);
  }
}

function say(text, isFault = false) {
  $("write-said").textContent = text;
  $("write-said").classList.toggle("fault", isFault);
  $("write-undo").hidden = true;
}

async function write() {
  $("write-now").disabled = true;
  say("Writing…");
  try {
    tell(await actAndWait("/api/write", { least: least(), promised: promised(), at_least_cost: atLeastCost() }, "/api/written", ({ done, total }) => say(`Writing: ${done} of ${total} photos…`)));
  } catch (error) {
    say(error.message, true);
  }
  $("write-now").disabled = false;
}

// What was done, what was not and why, and how to undo it.
function tell({ files, left_alone: alone, failed, error, undo }) {
  const done = ["new", "changed", "deleted"].filter((action) => files[action]);
  const said = [];
  if (done.length) said.push(`Sidecars: ${done.map((action) => `${files[action]} ${action}`).join(", ")}.`);
  if (alone || !failed) said.push(`${counted(alone, "photo")} left alone.`);
  if (failed) said.push(`${counted(failed, "sidecar")} could not be written, the first is ${error}`);
  say(said.join(" "), failed > 0);
  $("write-undo").hidden = !done.length;
  $("write-command").textContent = undo;
}

$("write-form").addEventListener("submit", (event) => {
  event.preventDefault();
  write();
});
for (const name of ["write-answered", "write-promised", "write-costs", "write-likely", "write-percent"]) $(name)?.addEventListener("input", () => {
  if (name === "write-percent") $("write-likely").checked = true;
  if ($("write-percent")?.validity.valid ?? true) count();
});
$("write-close").addEventListener("click", () => $("writing").close());
document.querySelectorAll(".open-writing").forEach((button) => button.addEventListener("click", openWriting));
