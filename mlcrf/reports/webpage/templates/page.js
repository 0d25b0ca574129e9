"use strict";
// Reads a pair of the heatmap out, under the pointer, a finger or the arrow keys.
(() => {
  const table = document.querySelector("table.heat");
  const output = document.querySelector(".readout output");
  if (!table || !output) return;
  const columns = [...table.tHead.rows[0].cells].slice(1);
  const rows = [...table.tBodies[0].rows];
  const start = output.textContent;
  let marked = [];
  let stop = null;

  const show = (cell) => {
    for (const header of marked) header.classList.remove("on");
    marked = [];
    if (!cell) {
      output.textContent = start;
      return;
    }
    const row = cell.parentElement.cells[0];
    const column = columns[cell.cellIndex - 1];
    marked = [row, column];
    for (const header of marked) header.classList.add("on");
    const names = `${row.textContent.trim()} × ${column.textContent.trim()}`;
    const value = cell.textContent.trim();
    let said = "no coupling";
    if (cell.className === "d") said = "the same label";
    else if (cell.className === "i") said = "one implies the other, by rule";
    else if (value) said = `${value}, ${value.startsWith("+") ? "they attract" : "they repel"}`;
    output.textContent = `${names}: ${said}`;
  };

  const cellOf = (event) => (event.target instanceof Element ? event.target.closest("tbody td") : null);
  const stopAt = (cell) => {
    if (stop) stop.tabIndex = -1;
    stop = cell;
    stop.tabIndex = 0;
  };

  table.addEventListener("pointerover", (event) => show(cellOf(event)));
  table.addEventListener("pointerleave", () => show(null));
  table.addEventListener("click", (event) => {
    const cell = cellOf(event);
    if (cell) show(cell);
  });
  table.addEventListener("focusin", (event) => show(cellOf(event)));
  table.addEventListener("focusout", () => show(null));
  table.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const cell = cellOf(event);
    if (!step || !cell) return;
    event.preventDefault();
    const row = rows[rows.indexOf(cell.parentElement) + step[0]];
    const next = row && row.cells[cell.cellIndex + step[1]];
    if (!next || next.tagName !== "TD") return;
    stopAt(next);
    next.focus();
  });
  stopAt(rows[0].cells[1]);
})();
