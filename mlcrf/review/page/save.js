// The window in which what was learned is saved as a model.

import { counted } from "./drawing.js";
import { actAndWait } from "./server.js";

const $ = (id) => document.getElementById(id);

export function openSaving() {
  say("");
  $("save-replace").checked = false;
  $("saving").showModal();
}

function say(text, isFault = false) {
  $("save-said").textContent = text;
  $("save-said").classList.toggle("fault", isFault);
  $("save-use").hidden = true;
}

async function save() {
  $("save-now").disabled = true;
  say("Saving…");
  try {
    tell(await actAndWait("/api/save", { name: $("save-name").value, replace: $("save-replace").checked }, "/api/saved"));
  } catch (error) {
    say(error.message, true);
  }
  $("save-now").disabled = false;
}

function tell({ path, tags, photos, commands: [predict, tag] }) {
  say(`Saved ${counted(tags, "tag")}, from answers about ${counted(photos, "photo")}, in ${path}.`);
  $("save-predict").textContent = predict;
  $("save-tag").textContent = tag;
  $("save-use").hidden = false;
}

$("save-form").addEventListener("submit", (event) => {
  event.preventDefault();
  save();
});
$("save-close").addEventListener("click", () => $("saving").close());
document.querySelectorAll(".open-saving").forEach((button) => button.addEventListener("click", openSaving));
