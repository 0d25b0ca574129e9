// Talking to the server: every act has a name of its own, so that sending it again after a lost
// reply changes nothing; what cannot be sent is kept until the server is there again.

class Refused extends Error {}

const $ = (id) => document.getElementById(id);
const AWAY = "mlcrf review does not answer. Start it again as before; this page then goes on.";
const LOCKED = "mlcrf review was started anew. Open the address that it printed last; this page then goes on.";
const PAUSE = 300; // milliseconds between questions how far it is

let waiting = 0; // acts that are not on the disk yet
let acted = 0; // time of the last act
let queue = Promise.resolve(); // acts, one after the other
let lost = null; // the timer that asks whether the server is there again

export async function ask(path, options) {
  const reply = await fetch(path, { credentials: "same-origin", ...options }).catch(() => { throw new Error(AWAY); });
  const record = await reply.json().catch(() => ({}));
  if (reply.ok) return record;
  if (reply.status === 403) throw new Error(LOCKED);
  const message = record.error || `the server said ${reply.status}`;
  throw reply.status < 500 ? new Refused(message) : new Error(message);
}

const newName = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");

export function act(path, content) {
  const body = JSON.stringify({ person: $("person").value.trim(), request: newName(), ...content });
  waiting += 1;
  acted = Date.now();
  const sent = queue.then(() => send(path, body)).finally(() => { waiting -= 1; });
  queue = sent.catch(() => {});
  return sent;
}

// Act, and wait until what takes the server longer is done; `told` hears how far it is.
export async function actAndWait(path, content, statusPath, told = () => {}) {
  let status = await act(path, content);
  while (status.is_running) {
    told(status);
    await new Promise((done) => setTimeout(done, PAUSE));
    status = await ask(statusPath);
  }
  return status;
}

export const sinceAct = () => Date.now() - acted;
export const isSaving = () => waiting > 0;
export const saved = () => queue;

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

export function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

// Say what went wrong; if the server cannot be reached, go on once it can.
export function failed(error, goOn = () => location.reload()) {
  notice(error.message);
  if (error instanceof Refused || lost) return;
  lost = setInterval(() => {
    if (waiting) return;
    ask("/api/progress").then(() => {
      clearInterval(lost);
      lost = null;
      notice("");
      goOn();
    }, () => {});
  }, 2000);
}
