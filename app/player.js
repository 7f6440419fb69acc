// Comes before the script of a stage inside gr.HTML, which gives both `element`, `props`, `watch` and `trigger`. It keeps
// every step that the server sends, so that playing and scrubbing need no server. The stage's own script has `total()`,
// how many steps there will be, `preview(idle)`, `begin(head)`, `ended(payload)`, `show(index)` and `render()`, and
// calls `receive(props.value)`.

const stage = element.querySelector("[data-state]");
const find = (selector) => stage.querySelector(selector);
const [play, range, readout] = [".play", ".range", ".readout"].map(find);
const ICONS = { play: "M4 2.5v11l9-5.5z", pause: "M3.5 2.5h3v11h-3zM9.5 2.5h3v11h-3z" };
const PLAY_MS = 5000; // of a whole run, as long as its frames are neither a flicker nor a slide show

let run = -1; // the number of the one on the stage, -1 before any; a recording's is 0, and visitors' runs ascend
let steps = [];
let told = 0; // how many steps the server has spoken of: Infinity of a run whose start is not here
let state = "idle";
let drawn = 0; // how many of the steps the page has been drawn with
let shown = -1;
let following = true; // the newest step is shown as it comes
let timer = null; // while playing
let asked = false; // for the steps that are not here

// Two messages that arrive within one turn of the page leave only the later one in props.value: the server has the rest.
function receive(message) {
  const payload = JSON.parse(message);
  (payload.kind === "many" ? payload.payloads : [payload]).forEach(take);
  showNew();
  if (steps.length < told && !asked) {
    asked = true;
    trigger("missing", { have: told === Infinity ? 0 : steps.length });
  }
}

function take(payload) {
  if (payload.kind === "idle") {
    preview(payload);
  } else if (payload.run < run) {
    return; // the last word of a run that another one has replaced
  } else if (payload.kind === "start") {
    asked = false; // an answer to "missing" begins so
    if (payload.run === run) return;
    stopPlaying();
    [run, steps, told, drawn, state, shown, following] = [payload.run, [], 0, 0, "running", -1, true];
    begin(payload);
  } else if (payload.run !== run) {
    told = Infinity;
  } else if (payload.kind === "step") {
    told = Math.max(told, payload.index + 1);
    if (payload.index === steps.length) steps.push(payload);
  } else if (payload.kind === "end") {
    told = Math.max(told, payload.count);
    if (payload.count > steps.length) return; // it comes again with the steps before it
    showNew();
    [state, following] = [payload.state, false];
    ended(payload);
    render();
  }
}

// Of steps that came together only the last is drawn.
function showNew() {
  if (steps.length === drawn) return;
  drawn = steps.length;
  if (following) show(steps.length - 1);
  else render();
}

function isMoving() {
  return timer !== null || (following && state === "running");
}

function renderPlay() {
  play.setAttribute("aria-label", isMoving() ? "Pause" : "Play");
  play.querySelector("path").setAttribute("d", isMoving() ? ICONS.pause : ICONS.play);
}

function scrub(index) {
  stopPlaying();
  following = state === "running" && index >= steps.length - 1;
  show(index);
}

function stopPlaying() {
  clearInterval(timer);
  timer = null;
}

function toggle() {
  if (!steps.length) return;
  if (isMoving()) {
    stopPlaying();
    following = false;
    return render();
  }
  if (shown >= steps.length - 1 && state !== "running") show(0);
  timer = setInterval(() => {
    if (shown < steps.length - 1) return show(shown + 1);
    stopPlaying();
    following = state === "running";
    render();
  }, Math.max(60, Math.min(250, PLAY_MS / total())));
  render();
}

play.addEventListener("click", toggle);
range.addEventListener("input", () => {
  // The track is as long as the whole run: what has not been computed yet cannot be shown.
  scrub(Math.min(Number(range.value), steps.length) - 1);
});

function onKey(event) {
  if (!element.isConnected) return document.removeEventListener("keydown", onKey);
  const free = event.target === document.body || event.target === range || event.target === stage;
  if (!free || !stage.checkVisibility() || !steps.length || event.ctrlKey || event.metaKey || event.altKey) return;
  const moves = { ArrowLeft: shown - 1, ArrowRight: shown + 1, Home: 0, End: steps.length - 1 };
  if (event.key === " ") toggle();
  else if (event.key in moves) scrub(moves[event.key]);
  else return;
  event.preventDefault();
}
document.addEventListener("keydown", onKey);

// The one that reopens this run. What is not of a run stays: the theme, and the laboratory's experiment.
function addressOf(query) {
  const url = new URL(location.href);
  const others = url.search.slice(1).split("&").filter((part) => /^(__theme|lab)=/.test(part));
  url.search = [query, ...others].join("&");
  return url.href;
}

function seconds(value) {
  if (value >= 90) return `${Math.round(value / 60)} min`;
  return `${value < 9.95 ? value.toPrecision(2) : Math.round(value)} s`;
}

function svg(name, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (text !== undefined) node.textContent = text;
  return node;
}
