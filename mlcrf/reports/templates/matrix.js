"use strict";
// Draws the couplings, from all labels at once down to single pairs. Names are only ever text.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const unpacked = (text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0)).buffer;
  const ends = new (data.wide ? Uint32Array : Uint16Array)(unpacked(data.ends));
  const values = new Int16Array(unpacked(data.values));
  const { names, clusters } = data;
  const count = names.length;
  const LEVELS = 24;
  const canvas = document.getElementById("matrix");
  const brush = canvas.getContext("2d");
  const tip = document.getElementById("tip");
  const find = document.getElementById("find");
  const found = document.getElementById("found");

  const edgeOf = new Map();
  for (let edge = 0; edge < values.length; edge += 1) {
    edgeOf.set(Math.min(ends[2 * edge], ends[2 * edge + 1]) * count + Math.max(ends[2 * edge], ends[2 * edge + 1]), edge);
  }
  const ruleOf = new Set(data.rules.map(([child, parent]) => Math.min(child, parent) * count + Math.max(child, parent)));
  const keyOf = (row, column) => Math.min(row, column) * count + Math.max(row, column);
  const said = (value) => `${value < 0 ? "\u2212" : "+"}${Math.abs(value).toFixed(2)}`;
  const valueOf = (edge) => values[edge] * data.unit;

  let width = 0, height = 0, left = 0, top = 0;  // of the canvas, and of its margins, in CSS pixels
  const view = { x: 0, y: 0, scale: 1 };  // the label at the plot's corner, pixels a label
  let chosen = -1;
  let colours = null;

  const readColours = () => {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    const shades = (name) => Array.from({ length: LEVELS + 1 }, (_, level) => {
      const strength = 0.12 + 0.88 * level / LEVELS;
      return `rgb(${of(name)} / ${strength.toFixed(3)})`;
    });
    colours = {
      ink: of("--ink"), soft: of("--soft"), zero: of("--zero"), grid: of("--grid"), panel: of("--panel"),
      band: `rgb(${of("--band")} / .16)`, attract: shades("--attract"), repel: shades("--repel"),
    };
  };

  const side = () => Math.min(width - left, height - top);
  const smallest = () => Math.min(40, side() / count);
  const clampView = () => {
    view.scale = Math.min(60, Math.max(smallest(), view.scale));
    const most = (room) => Math.max(0, count - room / view.scale);
    view.x = Math.min(Math.max(0, view.x), most(width - left));
    view.y = Math.min(Math.max(0, view.y), most(height - top));
  };
  const showAll = () => {
    view.scale = smallest();
    view.x = view.y = 0;
    redraw();
  };
  const zoom = (factor, x = (width + left) / 2, y = (height + top) / 2) => {
    const before = view.scale;
    view.scale = Math.min(60, Math.max(smallest(), before * factor));
    view.x += (x - left) / before - (x - left) / view.scale;
    view.y += (y - top) / before - (y - top) / view.scale;
    redraw();
  };
  const centre = (row, column) => {
    view.scale = Math.max(view.scale, 18);
    view.x = column + 0.5 - (width - left) / view.scale / 2;
    view.y = row + 0.5 - (height - top) / view.scale / 2;
    redraw();
  };

  // What stands in the margins: names of labels where they can be read, else those of clusters.
  const marks = (first, last) => {
    const gap = 13;
    if (view.scale >= gap - 2 || !clusters.length) {
      const step = Math.max(1, Math.ceil(gap / view.scale));
      const some = [];
      for (let label = Math.ceil(Math.max(0, first) / step) * step; label < Math.min(count, last); label += step) {
        some.push([label + 0.5, names[label]]);
      }
      return some;
    }
    const taken = [];
    const visible = clusters
      .map(([start, size, name]) => [Math.max(start, first), Math.min(start + size, last), name])
      .filter(([low, high]) => high > low)
      .sort((one, other) => (other[1] - other[0]) - (one[1] - one[0]));
    for (const [low, high, name] of visible) {
      const middle = (low + high) / 2;
      if (taken.every(([other]) => Math.abs(other - middle) * view.scale >= gap)) taken.push([middle, name]);
    }
    return taken;
  };

  const shortened = (text, room) => {
    if (brush.measureText(text).width <= room) return text;
    const signs = Array.from(text);
    while (signs.length && brush.measureText(`${signs.join("")}…`).width > room) signs.length -= 1;
    return `${signs.join("")}…`;
  };

  const draw = () => {
    const ratio = window.devicePixelRatio || 1;
    brush.setTransform(ratio, 0, 0, ratio, 0, 0);
    brush.fillStyle = colours.panel;
    brush.fillRect(0, 0, width, height);
    const { scale } = view;
    const right = Math.min(width, left + (count - view.x) * scale);
    const bottom = Math.min(height, top + (count - view.y) * scale);
    brush.save();
    brush.beginPath();
    brush.rect(left, top, right - left, bottom - top);
    brush.clip();
    brush.fillStyle = colours.zero;
    brush.fillRect(left, top, right - left, bottom - top);
    const across = (column) => left + (column - view.x) * scale;
    const down = (row) => top + (row - view.y) * scale;
    const lastColumn = view.x + (width - left) / scale, lastRow = view.y + (height - top) / scale;
    const size = Math.max(scale, 1.6) + (scale > 1.6 ? 0.5 : 0);
    const numbers = scale >= 34;
    brush.textAlign = "center";
    brush.textBaseline = "middle";
    brush.font = "11px system-ui, sans-serif";
    const cell = (row, column, edge) => {
      if (column + 1 < view.x || column > lastColumn || row + 1 < view.y || row > lastRow) return;
      const value = valueOf(edge);
      const level = Math.min(LEVELS, Math.round(LEVELS * Math.abs(value) / data.strongest));
      brush.fillStyle = (value < 0 ? colours.repel : colours.attract)[level];
      brush.fillRect(across(column), down(row), size, size);
      if (numbers) {
        brush.fillStyle = level > LEVELS / 2 ? colours.panel : colours.ink;
        brush.fillText(said(value), across(column) + scale / 2, down(row) + scale / 2);
      }
    };
    for (let edge = 0; edge < values.length; edge += 1) {
      cell(ends[2 * edge], ends[2 * edge + 1], edge);
      cell(ends[2 * edge + 1], ends[2 * edge], edge);
    }
    if (scale >= 3) {
      brush.fillStyle = colours.grid;
      for (let label = Math.floor(Math.max(view.x, view.y)); label < Math.min(count, lastColumn, lastRow); label += 1) {
        brush.fillRect(across(label), down(label), scale, scale);
      }
      brush.fillStyle = colours.soft;
      for (const [child, parent] of data.rules) {
        for (const [row, column] of [[child, parent], [parent, child]]) {
          brush.fillText("\u21d2", across(column) + scale / 2, down(row) + scale / 2);
        }
      }
    }
    brush.strokeStyle = colours.grid;
    brush.lineWidth = 0.75;
    for (const [start, length] of clusters) {
      if (length * scale >= 5) brush.strokeRect(across(start), down(start), length * scale, length * scale);
    }
    if (chosen >= 0) {
      const band = Math.max(2, scale);
      brush.fillStyle = colours.band;
      brush.fillRect(left, down(chosen), right - left, band);
      brush.fillRect(across(chosen), top, band, bottom - top);
    }
    brush.restore();
    brush.fillStyle = colours.ink;
    brush.font = "12px system-ui, sans-serif";
    brush.textAlign = "right";
    for (const [row, text] of marks(view.y, Math.min(count, lastRow))) {
      brush.fillText(shortened(text, left - 10), left - 6, down(row));
    }
    brush.textAlign = "left";
    for (const [column, text] of marks(view.x, Math.min(count, lastColumn))) {
      brush.save();
      brush.translate(across(column), top - 6);
      brush.rotate(-Math.PI / 2);
      brush.fillText(shortened(text, top - 10), 0, 0);
      brush.restore();
    }
  };

  let waiting = false;
  const redraw = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      clampView();
      draw();
    });
  };
  const measure = () => {
    const whole = !width || view.scale <= smallest() * 1.001;
    const box = canvas.getBoundingClientRect();
    const ratio = window.devicePixelRatio || 1;
    width = box.width;
    height = box.height;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    left = Math.min(190, width * 0.3);
    top = Math.min(150, height * 0.25);
    if (whole) view.scale = smallest();
    redraw();
  };

  // The pair under a point; from afar the strongest one near it.
  const pairAt = (x, y) => {
    const column = Math.floor(view.x + (x - left) / view.scale);
    const row = Math.floor(view.y + (y - top) / view.scale);
    if (x < left || y < top || row < 0 || column < 0 || row >= count || column >= count) return null;
    let best = { row, column, edge: edgeOf.get(keyOf(row, column)) };
    const reach = view.scale >= 4 ? 0 : Math.min(24, Math.ceil(3 / view.scale));
    for (let i = Math.max(0, row - reach); reach && i <= Math.min(count - 1, row + reach); i += 1) {
      for (let j = Math.max(0, column - reach); j <= Math.min(count - 1, column + reach); j += 1) {
        const edge = edgeOf.get(keyOf(i, j));
        if (edge !== undefined && (best.edge === undefined || edge > best.edge)) best = { row: i, column: j, edge };
      }
    }
    return best;
  };
  const describe = ({ row, column, edge }) => {
    if (row === column) return names[row];
    let what = values.length < data.all ? "not among the strongest couplings" : "no coupling";
    if (ruleOf.has(keyOf(row, column))) what = "one implies the other, by rule";
    else if (edge !== undefined) what = `${said(valueOf(edge))}, they ${values[edge] < 0 ? "repel" : "attract"}`;
    return `${names[row]} × ${names[column]}: ${what}`;
  };
  const showTip = (x, y) => {
    const pair = pairAt(x, y);
    tip.hidden = !pair;
    if (!pair) return;
    tip.textContent = describe(pair);
    tip.style.left = `${Math.max(0, Math.min(x + 14, width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${y + 18 + tip.offsetHeight > height ? y - tip.offsetHeight - 10 : y + 18}px`;
  };

  const choose = (label) => {
    chosen = label;
    document.getElementById("chosen").textContent = names[label];
    const list = document.getElementById("partners");
    list.replaceChildren();
    const strongest = [];
    for (let edge = values.length - 1; edge >= 0 && strongest.length < 40; edge -= 1) {
      if (ends[2 * edge] === label) strongest.push([ends[2 * edge + 1], edge]);
      else if (ends[2 * edge + 1] === label) strongest.push([ends[2 * edge], edge]);
    }
    for (const [other, edge] of strongest) {
      const name = document.createElement("bdi"), value = document.createElement("span");
      name.textContent = names[other];
      value.textContent = said(valueOf(edge));
      value.className = values[edge] < 0 ? "repel" : "attract";
      list.append(item([name, value], () => centre(label, other)));
    }
    if (!strongest.length) list.append("No coupling of it is shown.");
    redraw();
  };
  const item = (parts, act) => {
    const line = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.append(...parts);
    button.addEventListener("click", act);
    line.append(button);
    return line;
  };

  const small = names.map((name) => name.toLowerCase());
  const matches = () => {
    const wanted = find.value.trim().toLowerCase();
    if (!wanted) return [];
    const rank = (name) => (name === wanted ? 0 : name.startsWith(wanted) ? 1 : name.includes(wanted) ? 2 : 3);
    return small
      .map((name, label) => [rank(name), label])
      .filter(([how]) => how < 3)
      .sort((one, other) => one[0] - other[0] || one[1] - other[1])
      .map(([, label]) => label);
  };
  const go = (label) => {
    choose(label);
    centre(label, label);
  };
  find.addEventListener("input", () => {
    const all = matches();
    found.replaceChildren(...all.slice(0, 12).map((label) => item([names[label]], () => go(label))));
    if (all.length > 12) found.append(`and ${all.length - 12} more`);
    if (find.value.trim() && !all.length) found.append("no such label");
  });
  find.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && matches().length) go(matches()[0]);
  });

  const pointers = new Map();
  let moved = 0;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, place(event));
    moved = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    const before = pointers.get(event.pointerId);
    if (!before) {
      showTip(x, y);
      return;
    }
    tip.hidden = true;
    const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    pointers.set(event.pointerId, [x, y]);
    moved += Math.abs(x - before[0]) + Math.abs(y - before[1]);
    if (others.length) {
      const [ox, oy] = others[0];
      const was = Math.hypot(before[0] - ox, before[1] - oy), is = Math.hypot(x - ox, y - oy);
      if (was > 0) zoom(is / was, (x + ox) / 2, (y + oy) / 2);
      return;
    }
    view.x -= (x - before[0]) / view.scale;
    view.y -= (y - before[1]) / view.scale;
    redraw();
  });
  const release = (event) => {
    const clicked = event.type === "pointerup" && pointers.size === 1 && moved < 4;
    pointers.delete(event.pointerId);
    const pair = clicked ? pairAt(...place(event)) : null;
    if (pair) {
      choose(pair.row);
      showTip(...place(event));
    }
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    tip.hidden = true;
    zoom(Math.exp(-Math.max(-120, Math.min(120, event.deltaY)) / 400), ...place(event));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [0, -60], ArrowDown: [0, 60], ArrowLeft: [-60, 0], ArrowRight: [60, 0] }[event.key];
    if (step) {
      view.x += step[0] / view.scale;
      view.y += step[1] / view.scale;
      redraw();
    } else if (event.key === "+" || event.key === "=") zoom(1.4);
    else if (event.key === "-") zoom(1 / 1.4);
    else if (event.key === "0") showAll();
    else return;
    event.preventDefault();
  });
  document.getElementById("in").addEventListener("click", () => zoom(1.6));
  document.getElementById("out").addEventListener("click", () => zoom(1 / 1.6));
  document.getElementById("all").addEventListener("click", showAll);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    readColours();
    redraw();
  });
  readColours();
  new ResizeObserver(measure).observe(canvas);
})();
