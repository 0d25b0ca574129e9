// How far the review has come, in the header.

import { counted } from "./drawing.js";
import { isSaving } from "./server.js";

const $ = (id) => document.getElementById(id);

export let lastProgress = null; // as last received

let filledAt = 0; // time at which lessons were shown last

export const lessonsShown = () => Number(document.body.dataset.lessons ?? 0);
export const shownAt = () => filledAt;

// Remember what had been learned when the photos that are shown were asked for.
export function showsLessons(progress) {
  document.body.dataset.lessons = progress.lessons;
  filledAt = Date.now();
}

export function showProgress(progress) {
  lastProgress = progress;
  if (progress.start !== document.body.dataset.start && !isSaving()) location.reload(); // labels may be others
  const [done, all] = progress.suspects ? [progress.suspects_settled, progress.suspects] : [progress.done, progress.photos];
  const share = all ? (100 * done) / all : 0;
  $("done-bar").style.setProperty("--share", `${share}%`);
  const parts = [`${done} of ${all} ${progress.suspects ? "suspects" : "done"}`];
  if (progress.conflict) parts.push(`${progress.conflict} in conflict`);
  parts.push(counted(progress.answers, "answer"));
  $("progress-text").textContent = parts.join(" · ");
}
