"use strict";

const byId = (id) => document.getElementById(id);
const COLOURS = ["#e6194b", "#0082c8", "#f58231", "#911eb4", "#008080", "#3cb44b", "#f032e6", "#aa6e28", "#000080", "#808000"];
const SHARP = 1000; // px of the longer side of a drawn image, at least
const NAMED = 12; // boxes with a label and a row of the table, the best ones
const EVERY = 2000; // ms between two looks at the last verdicts
let token = sessionStorage.getItem("token") || "";
let waiting = null; // the image that was dropped before the token was known

async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { ...options, headers: { ...headers, ...options.headers } });
  if (answer.status === 401) {
    byId("login").hidden = false;
    byId("wrong").textContent = token ? "This token is not the service's." : "The service asks for its token.";
  }
  return answer;
}

function row(cells) {
  const line = document.createElement("tr");
  for (const [text, kind] of cells) {
    const cell = line.insertCell();
    cell.textContent = text; // as text: names and ids may hold anything
    if (kind) cell.className = kind;
  }
  return line;
}

function draw(image, boxes) {
  const canvas = byId("picture");
  const scale = Math.max(1, SHARP / Math.max(image.width, image.height)); // small images get sharp lines too
  const [wide, high] = [image.width * scale, image.height * scale];
  canvas.width = wide;
  canvas.height = high;
  const pen = canvas.getContext("2d");
  const unit = Math.max(wide, high) / 600;
  pen.imageSmoothingEnabled = false;
  pen.drawImage(image, 0, 0, wide, high);
  pen.font = `${12 * unit}px system-ui, sans-serif`;
  pen.textBaseline = "top";
  pen.lineWidth = 2 * unit;
  boxes.map((box, place) => [box, place < NAMED]).reverse().forEach(([box, named]) => {
    const [x1, y1, x2, y2] = box.Box.map((side) => side * scale);
    pen.strokeStyle = pen.fillStyle = COLOURS[box.ClassIndex % COLOURS.length];
    pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
    if (!named) return;
    const label = `${box.Class} ${box.Score.toFixed(2)}`;
    const width = pen.measureText(label).width + 6 * unit;
    const left = Math.max(0, Math.min(x1, wide - width));
    const top = y1 >= 16 * unit ? y1 - 16 * unit : Math.min(y2, high - 16 * unit);
    pen.fillRect(left, top, width, 16 * unit);
    pen.fillStyle = "#fff";
    pen.fillText(label, left + 3 * unit, top + 2 * unit);
  });
  canvas.hidden = false;
  byId("hint").hidden = true;
}

function show(result, image) {
  const verdict = result.Verdict || "UNDEFINED";
  byId("code").textContent = verdict;
  byId("code").className = verdict;
  byId("verdict").className = `verdict ${verdict}`;
  byId("rule").textContent = result.Rule || "";
  byId("facts").textContent = "LatencyMs" in result ? `${result.Width} x ${result.Height} px, ${result.LatencyMs.toFixed(0)} ms` : "";
  byId("verdict").hidden = false;
  const boxes = result.Boxes || [];
  byId("boxes").hidden = !boxes.length;
  byId("boxes").tBodies[0].replaceChildren(...boxes.slice(0, NAMED).map((box) =>
    row([[box.Class], [box.Score.toFixed(3), "number"], ...box.Box.map((side) => [side.toFixed(0), "number"])])));
  byId("more").textContent = boxes.length > NAMED ? `and ${boxes.length - NAMED} more, of lower scores` : "";
  if (image) draw(image, boxes);
}

async function inspect(file) {
  if (!file) return;
  waiting = file;
  byId("drop").classList.add("busy");
  try {
    const image = await createImageBitmap(file).catch(() => null); // some formats only the service can read
    if (image) draw(image, []);
    const answer = await ask("inspect", { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
    if (answer.status === 401) return;
    waiting = null;
    if (!image) {
      byId("picture").hidden = true;
      byId("hint").hidden = false;
    }
    show(await answer.json(), image);
    await refresh();
  } catch (error) {
    show({ Verdict: "UNDEFINED", Rule: `the service does not answer (${error.message})` });
  } finally {
    byId("drop").classList.remove("busy");
    byId("file").value = "";
  }
}

async function refresh() {
  const answer = await ask("recent");
  if (!answer.ok) return;
  if (!byId("model").textContent) byId("model").textContent = (await (await ask("v2")).json()).model;
  const events = await answer.json();
  byId("none").hidden = events.length > 0;
  byId("recent").tBodies[0].replaceChildren(...events.slice(0, 20).map((event) => {
    const time = new Date(event.CreationTime).toLocaleTimeString([], { hour12: false });
    const milliseconds = "LatencyMs" in event ? event.LatencyMs.toFixed(0) : "";
    return row([[time], [event.Verdict, event.Verdict], [event.PartId || event.MeasId.slice(0, 8), "any"], [event.Rule, "any"], [milliseconds, "number"]]);
  }));
}

async function health() {
  const state = byId("state");
  try {
    const { ready, parts } = await (await fetch("v2/health/ready")).json();
    const broken = Object.keys(parts).filter((name) => !parts[name]);
    state.className = `state ${ready && !broken.length ? "up" : "down"}`;
    state.textContent = broken.length ? `not working: ${broken.join(", ")}` : "ready";
  } catch {
    state.className = "state down";
    state.textContent = "the service does not answer";
  }
}

async function poll() {
  if (!document.hidden) {
    await health();
    if (byId("login").hidden) await refresh().catch(() => {});
  }
  setTimeout(poll, EVERY);
}

const drop = byId("drop");
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop") inspect(event.dataTransfer.files[0]);
  });
}
drop.addEventListener("keydown", (event) => {
  if (event.target === drop && (event.key === "Enter" || event.key === " ")) byId("file").click();
});
byId("file").addEventListener("change", (event) => inspect(event.target.files[0]));
byId("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  token = byId("token").value;
  const answer = await ask("recent");
  if (!answer.ok) return;
  sessionStorage.setItem("token", token);
  byId("login").hidden = true;
  await (waiting ? inspect(waiting) : refresh());
});
poll();
