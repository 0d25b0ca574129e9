// A photo enlarged: by wheel or keys, moved by dragging or scrolling.

const $ = (id) => document.getElementById(id);
const STEP = 1.5;
const MOST = 12; // times the width at which the whole photo fits

let scale = 1;
let aspect = 1; // width by height
let drag = null; // where the pointer was, and whether it has moved since it was pressed

// Show a photo twice as large as it fits, around a point in fractions of its sides.
export function enlarge(preview, full, x = 0.5, y = 0.5) {
  const image = $("enlarged");
  image.src = preview.src;
  image.alt = preview.alt;
  aspect = preview.naturalWidth / preview.naturalHeight || 1;
  const better = new Image();
  better.addEventListener("load", () => { if (image.alt === preview.alt) image.src = full; });
  better.src = full;
  $("zoom").showModal();
  $("pan").focus();
  setScale(2, x, y);
}

function setScale(wanted, x, y, left = $("pan").clientWidth / 2, top = $("pan").clientHeight / 2) {
  const [pan, image] = [$("pan"), $("enlarged")];
  scale = Math.min(Math.max(wanted, 1), MOST);
  const width = scale * Math.min(pan.clientWidth, pan.clientHeight * aspect);
  image.style.setProperty("--width", `${width}px`);
  image.style.setProperty("--height", `${width / aspect}px`);
  pan.scrollTo(image.offsetLeft + x * image.offsetWidth - left, image.offsetTop + y * image.offsetHeight - top);
}

function scaleAround(factor, clientX = innerWidth / 2, clientY = innerHeight / 2) {
  const box = $("enlarged").getBoundingClientRect();
  setScale(scale * factor, (clientX - box.left) / box.width, (clientY - box.top) / box.height, clientX, clientY);
}

$("pan").addEventListener("wheel", (event) => {
  event.preventDefault();
  scaleAround(event.deltaY < 0 ? STEP : 1 / STEP, event.clientX, event.clientY);
}, { passive: false });
$("pan").addEventListener("pointerdown", (event) => {
  drag = { x: event.clientX, y: event.clientY, moved: false };
});
$("pan").addEventListener("pointermove", (event) => {
  if (!drag || event.pointerType !== "mouse" || !event.buttons) return;
  $("pan").scrollBy(drag.x - event.clientX, drag.y - event.clientY);
  drag = { x: event.clientX, y: event.clientY, moved: true };
});
$("pan").addEventListener("click", () => { if (!drag?.moved) $("zoom").close(); });
$("zoom-close").addEventListener("click", () => $("zoom").close());
$("zoom").addEventListener("keydown", (event) => {
  if (event.key === "+" || event.key === "=") scaleAround(STEP);
  else if (event.key === "-") scaleAround(1 / STEP);
  else if (event.key === "f") $("zoom").close();
});
