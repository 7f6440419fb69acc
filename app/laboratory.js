// Runs once a page inside gr.HTML, which gives it `element`, `props`, `watch` and `trigger`. The server computes whole
// runs; here they are kept, drawn and interpolated between steps, so that playing and scrubbing need no server.

const lab = element.querySelector(".lab");
const find = (selector) => lab.querySelector(selector);
const all = (selector) => [...lab.querySelectorAll(selector)];
const about = props.value; // scenes, presets, lessons, limits: what the page starts with
const figures = all("[data-way]");
const [go, range, clock, notice] = [".go", ".time", ".clock", ".notice"].map(find);
const ICONS = { play: "M4 2.5v11l9-5.5z", pause: "M3.5 2.5h3v11h-3zM9.5 2.5h3v11h-3z" };
const SHAPES = ["●", "▲", "■"];
const NAMES = ["first", "second", "third"];
const WIDEST = 5.6; // the plane is seen from −view to view, which is at most this where one draws
const PLAY_MS = 6000; // of a whole run at speed 1
const SETTLE_MS = 8; // after a slider moved, before the server is asked
const CURVE_MS = 500; // of rest, before the curve over β is asked for
const SILENCE_MS = 15000; // after which a question counts as lost
const LOWEST = -1; // the class term is unbounded below while all is noise
const GRID = 150; // cells of the density's picture
const LONGEST = 1.1; // of an arrow, in units of the plane
const calm = matchMedia("(prefers-reduced-motion: reduce)");

let settings = { ...about.settings, points: about.settings.points.join("_") };
let run = null; // the last one, unpacked
let curve = null;
let truth = null;
let learning = { history: [], busy: false };
let time = about.steps;
let playing = false;
let before = 0; // when the last frame was drawn
let drawing = false;
let pen = 0;
let stale = false; // the picture is of another scene or encoder than is set
let rewind = true; // the next run plays from its beginning
let frames = 0;
let view = WIDEST;

// Asking. The answers come in any order, and of two that come at once one can be lost: every question has a number, and
// is asked again under the same one, since a slow answer is as good as a second.

let serial = 0;
const open = {}; // by kind of question: its number, while it waits
const timers = {};

function ask(what, more = {}) {
  open[what] = ++serial;
  send(what, more);
}

function send(what, more) {
  wait(what, more);
  trigger(what, { asked: open[what], settings, ...more });
}

function wait(what, more) {
  clearTimeout(timers[what]);
  timers[what] = setTimeout(() => element.isConnected && open[what] && send(what, { ...more, again: false }), SILENCE_MS);
}

function answered(what, payload, more = false) {
  if (!open[what] || open[what] !== payload.asked) return false;
  if (more) wait(what, {});
  else {
    clearTimeout(timers[what]);
    open[what] = 0;
  }
  return true;
}

let waiting = null; // a change that came while a run was computed
let settle = null;
let rest = null;

function askRun(delay = SETTLE_MS) {
  clearTimeout(settle);
  settle = setTimeout(() => {
    if (open.play) waiting = true;
    else ask("play");
  }, delay);
}

// Once the visitor rests, and where it is not there yet.
function askCurve() {
  clearTimeout(rest);
  rest = setTimeout(() => {
    const key = curveKey();
    if (stale || open.measure || (curve && curve.key === key)) return;
    askedCurve = key;
    ask("measure");
  }, CURVE_MS);
}

let askedCurve = "";
function curveKey() {
  return [settings.scene, settings.points, settings.encoder, settings.n, settings.eta].join("|");
}

function askTraining(again = false) {
  stale = true;
  curve = null;
  ask("train", { again });
  learning = { history: [], busy: true };
  render();
}

function receive(payload) {
  if (!payload || payload.kind === "idle") return;
  const { kind } = payload;
  if (kind === "opened" && answered("enter", payload)) {
    take(payload.settings);
    complain(payload.wrong);
    enterScene();
  } else if ((kind === "learning" || kind === "learnt") && answered("train", payload, kind === "learning")) {
    learning = { history: payload.history, busy: kind === "learning" };
    truth = payload.truth;
    if (kind === "learnt") askRun(0);
    render();
  } else if (kind === "run" && answered("play", payload)) {
    stale = false;
    if (fault) complain([]);
    accept(payload);
  } else if (kind === "curve" && answered("measure", payload)) {
    curve = { ...payload, key: askedCurve };
    if (askedCurve !== curveKey()) askCurve();
    render();
  } else if (kind === "film" && answered("film", payload)) {
    const type = { gif: "image/gif", mp4: "video/mp4" }[payload.format];
    download(`${fileStem()}.${payload.format}`, URL.createObjectURL(new Blob([bytes(payload.content)], { type })));
    renderRolls();
  } else if (kind === "untrained") {
    const [what] = ["play", "measure", "film"].filter((name) => answered(name, payload));
    if (what === "play" && !open.train) askTraining();
  } else if (kind === "wrong") {
    const [what] = ["play", "measure", "train", "film"].filter((name) => answered(name, payload));
    if (what === "train") learning = { history: [], busy: false };
    if (what && what !== "measure") complain(payload.wrong, true);
    renderRolls();
    render();
  }
  if (waiting && !open.play) {
    waiting = null;
    askRun(0);
  }
}

let fault = false; // whether what is said is of the settings as they are, and not of the link

function complain(sentences, ofSettings = false) {
  fault = ofSettings;
  const text = sentences.join(" ");
  if (notice.textContent !== text) notice.textContent = text;
}

// A run as it was sent: whole numbers and floats in base 64.

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
}

function accept(payload) {
  const x = new Int16Array(bytes(payload.x));
  const { n } = payload.settings;
  run = { ...payload, n, x, forces: new Float32Array(bytes(payload.forces)), steps: payload.t.length };
  run.size = 3 * run.classes * n; // particles
  run.magnify = magnification();
  if (rewind) {
    rewind = false;
    time = calm.matches ? run.steps : 0;
    play(!calm.matches);
  }
  const url = new URL(location.href);
  url.searchParams.delete("lab");
  const rest = url.searchParams.toString();
  url.search = [rest, payload.query && `lab=${payload.query}`].filter(Boolean).join("&");
  history.replaceState(history.state, "", url.href);
  lab.dataset.run = payload.asked;
  drawAll();
  render();
  askCurve();
}

// The forces are small: drawn so much longer that half of them are half as long as an arrow should be at most.
function magnification() {
  const lengths = [];
  const [kinds, each] = [run.forces.length / 3, run.forces];
  for (let i = kinds; i < each.length; i += 2) {
    const length = Math.hypot(each[i], each[i + 1]);
    if (length > 1e-6) lengths.push(length);
  }
  if (!lengths.length) return 1;
  lengths.sort((a, b) => a - b);
  const size = LONGEST / 2 / lengths[Math.floor(lengths.length / 2)];
  return Math.max(1, Number(size.toPrecision(1)));
}

// Settings

function take(values) {
  settings = { ...settings, ...values, points: [].concat(values.points).join("_") };
  for (const name of ["n", "beta", "eta", "seed"]) show(name);
  all(".scenes input").forEach((input) => (input.checked = input.value === settings.scene));
  all(".encoders input").forEach((input) => (input.checked = input.value === settings.encoder));
  drawing = settings.scene === "drawn";
  renderLesson();
}

// A long slider with fine steps near 0: the value grows with the square of the way, but n grows evenly.
const DIALS = {
  n: { low: 1, high: about.most.n, to: (p) => Math.round(1 + p * (about.most.n - 1)), from: (v) => (v - 1) / (about.most.n - 1) },
  beta: squared(about.most.beta),
  eta: squared(about.most.eta),
};

function squared(most) {
  const to = (p) => Number((most * p * p).toPrecision(2));
  return { low: 0, high: most, to, from: (v) => Math.sqrt(Math.max(0, v) / most) };
}

function show(name) {
  const dial = find(`.dial[data-name=${name}]`);
  const slider = dial.querySelector("input[type=range]");
  dial.querySelector("input[type=number]").value = settings[name];
  if (!slider) return;
  slider.value = 1000 * DIALS[name].from(settings[name]);
  slider.setAttribute("aria-valuetext", settings[name]);
}

for (const dial of all(".dial")) {
  const { name } = dial.dataset;
  const [slider, box] = ["input[type=range]", "input[type=number]"].map((kind) => dial.querySelector(kind));
  box.setAttribute("aria-label", `${dial.querySelector("b").textContent}, exactly`);
  box.addEventListener("input", () => {
    settings = { ...settings, [name]: box.value, lesson: 0 };
    if (slider && box.value !== "") slider.value = 1000 * DIALS[name].from(Number(box.value));
    changed();
  });
  if (!slider) continue;
  Object.assign(slider, { min: 0, max: 1000, step: name === "n" ? 1000 / (about.most.n - 1) : 1 });
  slider.setAttribute("aria-label", dial.querySelector("b").textContent);
  slider.addEventListener("input", () => {
    settings = { ...settings, [name]: DIALS[name].to(slider.value / 1000), lesson: 0 };
    box.value = settings[name];
    slider.setAttribute("aria-valuetext", settings[name]);
    changed();
  });
}

function changed() {
  renderLesson();
  complain([]);
  if (!stale) askRun();
}

find(".dice").addEventListener("click", () => {
  settings = { ...settings, seed: Math.floor(Math.random() * 100000), lesson: 0 };
  show("seed");
  changed();
});

function choices(box, name, options, chosen) {
  box.replaceChildren(
    ...options.map((option) => {
      const label = document.createElement("label");
      const input = Object.assign(document.createElement("input"), { type: "radio", name: `lab-${name}`, value: option.name });
      input.addEventListener("change", () => chosen(option.name));
      label.append(input, Object.assign(document.createElement("span"), { textContent: option.title }));
      return label;
    })
  );
}

choices(find(".scenes .options"), "scene", about.scenes, (scene) => {
  settings = { ...settings, scene, points: "", lesson: 0 };
  drawing = scene === "drawn";
  enterScene();
});
choices(find(".encoders .options"), "encoder", about.encoders, (encoder) => {
  settings = { ...settings, encoder, lesson: 0 };
  enterScene();
});

// A scene that is set: its density at once, its encoder as soon as it is trained.
function enterScene() {
  open.play = open.measure = 0; // their answers would be of another scene
  paintDensity();
  renderLesson();
  const ready = settings.scene !== "drawn" || points().length;
  if (ready) askTraining();
  else {
    [stale, run, curve, truth] = [true, null, null, null];
    learning = { history: [], busy: false };
    play(false);
  }
  drawAll();
  render();
}

find(".train").addEventListener("click", () => askTraining(true));

// Lessons

find(".numbers").replaceChildren(
  ...about.lessons.map((lesson, i) => {
    const item = document.createElement("li");
    const button = Object.assign(document.createElement("button"), { type: "button" });
    const words = Object.assign(document.createElement("span"), { textContent: lesson.title });
    button.append(Object.assign(document.createElement("i"), { textContent: i + 1 }), words);
    button.setAttribute("aria-label", `Lesson ${i + 1}: ${lesson.title}`);
    button.addEventListener("click", () => {
      rewind = true;
      take(lesson.settings);
      complain([]);
      enterScene();
    });
    item.append(button);
    return item;
  })
);

function renderLesson() {
  const lesson = about.lessons[settings.lesson - 1];
  all(".numbers button").forEach((button, i) => {
    if (i + 1 === Number(settings.lesson)) button.setAttribute("aria-current", "step");
    else button.removeAttribute("aria-current");
  });
  if (lesson) {
    find(".lesson h2").textContent = `${settings.lesson}. ${lesson.title}`;
    find(".look").textContent = lesson.look;
    find(".why").textContent = lesson.why;
  }
  find(".lesson").hidden = !lesson;
}

// Drawing a scene

function points() {
  const numbers = settings.points ? settings.points.split("_").map(Number) : [];
  return Array.from({ length: numbers.length / 3 }, (_, i) => numbers.slice(3 * i, 3 * i + 3));
}

function setPoints(rows) {
  open.play = open.measure = 0;
  settings = { ...settings, points: rows.flat().join("_"), lesson: 0 };
  [stale, run, curve] = [true, null, null];
  play(false);
  paintDensity();
  drawAll();
  render();
}

find(".pens").replaceChildren(
  ...SHAPES.map((shape, label) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: shape });
    button.style.color = `var(--class${label})`;
    button.setAttribute("role", "radio");
    button.setAttribute("aria-label", `${NAMES[label]} class`);
    button.addEventListener("click", () => {
      pen = label;
      render();
    });
    return button;
  })
);
find(".undo").addEventListener("click", () => setPoints(points().slice(0, -1)));
find(".wipe").addEventListener("click", () => setPoints([]));

figures.forEach((figure) => {
  const canvas = figure.querySelector("canvas");
  canvas.addEventListener("click", (event) => {
    if (!drawing) return;
    const box = canvas.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * 2 * view - view;
    const y = view - ((event.clientY - box.top) / box.height) * 2 * view;
    const rows = points();
    const kept = rows.filter(([a, b]) => Math.hypot(a - x, b - y) > 0.4);
    if (kept.length === rows.length) kept.push([Number(x.toFixed(2)), Number(y.toFixed(2)), pen]);
    setPoints(kept);
  });
});

// The plane. What changes seldom (the density) is painted once, into a picture of its own.

const density = document.createElement("canvas");
density.width = density.height = GRID;
const backdrop = document.createElement("canvas"); // the density at the size of the planes
const sprites = [0, 1, 2].map(() => document.createElement("canvas")); // a particle of each class
let ink = {};

function readInk() {
  const style = getComputedStyle(lab);
  const names = ["class0", "class1", "class2", "unguided", "prototype", "contextual", "paper", "ink", "quiet"];
  for (const name of names) ink[name] = style.getPropertyValue(`--${name}`).trim();
}

function modes() {
  if (settings.scene !== "drawn") return about.presets[settings.scene] || [];
  return points().map(([x, y, label]) => [label, x, y, 0.3, 1]);
}

function rgb(color) {
  const box = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d");
  box.fillStyle = color;
  box.fillRect(0, 0, 1, 1);
  return box.getImageData(0, 0, 1, 1).data;
}

function paintDensity() {
  readInk();
  view = drawing ? WIDEST : Math.max(4, ...modes().flatMap(([, x, y, std]) => [Math.abs(x) + 3 * std, Math.abs(y) + 3 * std]));
  const context = density.getContext("2d");
  const image = context.createImageData(GRID, GRID);
  const colors = [0, 1, 2].map((label) => rgb(ink[`class${label}`]));
  const fields = colors.map(() => null);
  for (const [label, x, y, std, weight] of modes()) {
    const field = (fields[label] ||= new Float32Array(GRID * GRID));
    const across = (place) => Float32Array.from({ length: GRID }, (_, i) => Math.exp(-((((i + 0.5) / GRID) * 2 * view - view - place) ** 2) / (2 * std * std)));
    const [columns, rows] = [across(x), across(-y)];
    for (let j = 0; j < GRID; j++) for (let i = 0; i < GRID; i++) field[j * GRID + i] += (weight / (std * std)) * columns[i] * rows[j];
  }
  const tops = fields.map((field) => (field ? field.reduce((a, b) => Math.max(a, b), 0) : 1));
  for (let cell = 0; cell < GRID * GRID; cell++) {
    let [r, g, b, sum] = [0, 0, 0, 0];
    fields.forEach((field, label) => {
      if (!field) return;
      const share = Math.sqrt(field[cell] / tops[label]);
      r += share * colors[label][0];
      g += share * colors[label][1];
      b += share * colors[label][2];
      sum += share;
    });
    if (sum < 0.01) continue;
    image.data.set([r / sum, g / sum, b / sum, 110 * Math.min(1, sum)], 4 * cell);
  }
  context.putImageData(image, 0, 0);
  backdrop.width = 0; // to be painted again
}

function paintBackdrop(size) {
  backdrop.width = backdrop.height = size;
  const context = backdrop.getContext("2d", { alpha: false });
  context.fillStyle = ink.paper;
  context.fillRect(0, 0, size, size);
  context.drawImage(density, 0, 0, size, size);
}

// A picture of one particle is cheaper to draw five hundred times than its outline.
function paintSprites(r) {
  const side = 2 * Math.ceil(1.6 * r + 2);
  sprites.forEach((sprite, label) => {
    sprite.width = sprite.height = side;
    const context = sprite.getContext("2d");
    trace(context, label, side / 2, side / 2, r);
    context.fillStyle = ink[`class${label}`];
    context.fill();
    context.strokeStyle = ink.paper;
    context.lineWidth = Math.max(1, r / 4);
    context.stroke();
  });
  sprites.look = lookOf(r);
}

function lookOf(r) {
  return `${r} ${ink.class0} ${ink.paper}`;
}

// Of all particles of a way and class at `time`, straight between two steps.
function place(way, label, i, at) {
  const step = Math.min(run.steps - 1, Math.floor(at));
  const part = at - step;
  const from = 2 * (step * run.size + (way * run.classes + label) * run.n + i);
  const to = from + 2 * run.size;
  const { x, pixels } = run;
  return [(x[from] + part * (x[to] - x[from])) / pixels, (x[from + 1] + part * (x[to + 1] - x[from + 1])) / pixels];
}

function trace(context, label, x, y, r) {
  if (label === 0) {
    context.moveTo(x + r, y);
    context.arc(x, y, r, 0, 2 * Math.PI);
  } else if (label === 1) {
    context.moveTo(x, y - 1.25 * r);
    context.lineTo(x + 1.15 * r, y + 0.8 * r);
    context.lineTo(x - 1.15 * r, y + 0.8 * r);
    context.closePath();
  } else context.rect(x - 0.9 * r, y - 0.9 * r, 1.8 * r, 1.8 * r);
}

function drawAll() {
  figures.forEach((figure, way) => drawPlane(figure.querySelector("canvas"), way));
}

function drawPlane(canvas, way, size = canvas.width) {
  if (!size) return;
  const context = canvas.getContext("2d", { alpha: false });
  const unit = size / (2 * view);
  const px = (x) => (x + view) * unit;
  const py = (y) => (view - y) * unit;
  if (backdrop.width !== size) paintBackdrop(size);
  context.drawImage(backdrop, 0, 0);
  if (!run || stale) {
    if (drawing) drawModes(context, px, py, size);
    return;
  }
  const r = (size / 400) * Math.max(3.4, Math.min(6.5, 7 - run.n / 12));
  if (sprites.look !== lookOf(r)) paintSprites(r);
  for (let label = 0; label < run.classes; label++) {
    if (time > 0) {
      context.beginPath();
      for (let i = 0; i < run.arrows; i++) {
        for (let back = 3; back >= 0; back--) {
          const [x, y] = place(way, label, i, Math.max(0, time - back));
          back === 3 ? context.moveTo(px(x), py(y)) : context.lineTo(px(x), py(y));
        }
      }
      context.strokeStyle = ink[`class${label}`];
      context.globalAlpha = 0.35;
      context.lineWidth = r * 0.7;
      context.stroke();
      context.globalAlpha = 1;
    }
    const half = sprites[label].width / 2;
    for (let i = 0; i < run.n; i++) {
      const [x, y] = place(way, label, i, time);
      context.drawImage(sprites[label], px(x) - half, py(y) - half);
    }
  }
  for (const kind of arrowsShown()) drawArrows(context, way, kind, px, py, size / 400);
}

function drawModes(context, px, py, size) {
  for (const [label, x, y] of modes()) {
    context.beginPath();
    trace(context, label, px(x), py(y), size / 60);
    context.strokeStyle = ink[`class${label}`];
    context.lineWidth = size / 200;
    context.stroke();
  }
}

function arrowsShown() {
  return all(".arrows input:checked").map((input) => Number(input.value));
}

function drawArrows(context, way, kind, px, py, scale) {
  if (time >= run.steps) return;
  const step = Math.floor(time);
  const block = run.arrows * run.classes * 3;
  const grow = kind ? run.magnify : 0.5;
  context.beginPath();
  for (let label = 0; label < run.classes; label++) {
    for (let i = 0; i < run.arrows; i++) {
      const at = 2 * ((kind * run.steps + step) * block + (way * run.classes + label) * run.arrows + i);
      let [dx, dy] = [grow * run.forces[at], grow * run.forces[at + 1]];
      const length = Math.hypot(dx, dy);
      if (length < 0.02) continue;
      if (length > LONGEST * 1.5) [dx, dy] = [(dx / length) * LONGEST * 1.5, (dy / length) * LONGEST * 1.5];
      const [x, y] = place(way, label, i, time);
      const [ax, ay, bx, by] = [px(x), py(y), px(x + dx), py(y + dy)];
      const [angle, head] = [Math.atan2(by - ay, bx - ax), Math.min(9 * scale, Math.hypot(bx - ax, by - ay) * 0.5)];
      context.moveTo(ax, ay);
      context.lineTo(bx, by);
      context.moveTo(bx - head * Math.cos(angle - 0.45), by - head * Math.sin(angle - 0.45));
      context.lineTo(bx, by);
      context.lineTo(bx - head * Math.cos(angle + 0.45), by - head * Math.sin(angle + 0.45));
    }
  }
  context.setLineDash(kind ? [] : [5 * scale, 3 * scale]);
  context.lineWidth = [1.6, 2, 3][kind] * scale;
  context.strokeStyle = [ink.unguided, ink.prototype, ink.contextual][kind];
  context.stroke();
  context.setLineDash([]);
}

// Playing

function play(on) {
  playing = on && run !== null;
  before = performance.now();
  if (playing) requestAnimationFrame(frame);
  renderClock();
}

function frame(now) {
  if (!playing || !element.isConnected) return;
  const pace = Number(find(".pace select").value) * (run.steps / PLAY_MS);
  time = Math.min(run.steps, time + (now - before) * pace);
  before = now;
  lab.dataset.frames = ++frames;
  if (lab.checkVisibility()) drawAll();
  if (time >= run.steps) playing = false;
  renderClock();
  if (Math.round(time) !== marked) moveCursors();
  if (playing) requestAnimationFrame(frame);
}

function toggle() {
  if (!run) return;
  if (!playing && time >= run.steps) time = 0;
  play(!playing);
  render();
}

function scrub(to) {
  if (!run) return;
  playing = false;
  time = Math.max(0, Math.min(run.steps, to));
  drawAll();
  renderClock();
  moveCursors();
}

go.addEventListener("click", toggle);
range.addEventListener("input", () => scrub(Number(range.value)));
all(".arrows input").forEach((input) => input.addEventListener("change", drawAll));

function onKey(event) {
  if (!element.isConnected) return document.removeEventListener("keydown", onKey);
  const free = event.target === document.body || event.target === range || event.target === lab;
  if (!lab.checkVisibility() || event.ctrlKey || event.metaKey || event.altKey) return;
  const lesson = Number(settings.lesson) + { PageDown: 1, PageUp: -1 }[event.key]; // the keys of a presenter in the hand
  if (lesson && document.body.classList.contains("presenting")) {
    event.preventDefault();
    return all(".numbers button")[lesson - 1]?.click();
  }
  if (!free || !run) return;
  const moves = { ArrowLeft: Math.ceil(time) - 1, ArrowRight: Math.floor(time) + 1, Home: 0, End: run.steps };
  if (event.key === " ") toggle();
  else if (event.key in moves) scrub(moves[event.key]);
  else return;
  event.preventDefault();
}
document.addEventListener("keydown", onKey);

function renderClock() {
  range.disabled = go.disabled = !run;
  range.value = time;
  const step = Math.round(time);
  if (step === renderClock.step && playing === renderClock.playing && run === renderClock.run) return;
  Object.assign(renderClock, { step, playing, run });
  const words = run ? `step ${step} of ${run.steps} · t = ${step < run.steps ? run.t[step] : 0}` : "";
  if (clock.textContent !== words) {
    clock.textContent = words;
    range.setAttribute("aria-valuetext", words);
  }
  lab.dataset.time = step;
  lab.dataset.playing = playing ? "yes" : "no";
  const name = playing ? "Pause" : "Play";
  if (go.getAttribute("aria-label") === name) return;
  go.setAttribute("aria-label", name);
  go.querySelector("path").setAttribute("d", playing ? ICONS.pause : ICONS.play);
}

// Everything but the planes

function render() {
  const busy = learning.busy;
  Object.assign(lab.dataset, {
    state: busy ? "learning" : run && !stale ? "ready" : "idle",
    learnt: learning.history.length,
    stale: stale ? "yes" : "no",
    drawing: drawing ? "yes" : "no",
  });
  find(".drawing").hidden = !drawing;
  all(".pens button").forEach((button, label) => button.setAttribute("aria-checked", label === pen));
  const train = find(".train");
  train.disabled = busy || (settings.scene === "drawn" && !points().length);
  train.textContent = busy ? "Training…" : "Train the encoder";
  renderLearning();
  renderOutcome();
  renderClock();
  charts();
  find(".truth").innerHTML = truth ? truthWords() : "";
  all(".actions button").forEach((button) => (button.disabled = !run || stale));
}

function renderLearning() {
  const { history } = learning;
  const chart = find(".progress");
  const last = history.at(-1);
  const words = last
    ? `loss ${number(last.loss)} · Î ${number(last.prototype)} · Ĥ ${number(last.contextual)} nats, held out`
    : learning.busy
      ? "Waiting for the trainer"
      : settings.scene === "drawn"
        ? "Draw modes of two or three classes, then train"
        : "";
  const spoken = find(".learnt");
  if (spoken.textContent !== words) spoken.textContent = words;
  chart.setAttribute("aria-label", `Training: ${words}`);
  if (!truth) return chart.replaceChildren();
  const most = Math.max(truth.label_entropy * 1.15, ...history.map((moment) => moment.contextual));
  const losses = history.map((moment) => moment.loss);
  const [lossLow, lossHigh] = [Math.min(0, ...losses), Math.max(1e-6, ...losses)];
  const x = (share) => 8 + share * 220;
  const y = (value) => 108 - (Math.max(0, value) / most) * 90;
  const line = (name, height) => history.map((moment) => `${x(moment.share).toFixed(1)},${height(moment[name]).toFixed(1)}`).join(" ");
  const loss = (value) => 108 - ((value - lossLow) / (lossHigh - lossLow)) * 70;
  const nodes = [
    svg("line", { class: "limit", x1: 8, x2: 272, y1: y(truth.prototype), y2: y(truth.prototype) }),
    svg("text", { class: "halo", x: 272, y: y(truth.prototype) - 5, "text-anchor": "end" }, "true I(X;Y)"),
    svg("polyline", { class: "w0", points: line("loss", loss) }),
    svg("polyline", { class: "w1", points: line("prototype", y) }),
    svg("polyline", { class: "w2", points: line("contextual", y) }),
  ];
  if (last) {
    const labels = [["loss", 0, loss(last.loss)], ["Î", 1, y(last.prototype) + 9], ["Ĥ", 2, y(last.contextual)]];
    const placed = spread(labels.map(([name, way, at]) => ({ name, way, y: at })), 16, 112);
    for (const label of placed) {
      nodes.push(svg("text", { class: `name w${label.way}`, x: x(last.share) + 8, y: label.y + 6 }, label.name));
    }
  }
  chart.replaceChildren(...nodes);
}

function truthWords() {
  return (
    `The truth of this scene: <b>I(X;Y) = ${number(truth.prototype, 3)}</b> nats, at most H(Y) = ${number(truth.label_entropy, 3)}; ` +
    `the best possible classifier is right on ${number(100 * truth.accuracy, 1)} %. ` +
    `The differential entropy <b>H(X|Y) = ${number(truth.entropy, 2)}</b> nats can be negative and grows with the unit of length: Ĥ, a KL ` +
    `divergence between two softmaxes, is no estimate of it. What Ĥ could tell is which mode a point is of: H(M|Y) = ` +
    `<b>${number(truth.mode_entropy, 2)}</b> nats. Real points stand ${number(about.real_distance)} standard deviations from their mode on average.`
  );
}

function renderOutcome() {
  const box = find(".outcome");
  if (!run) {
    box.replaceChildren();
    return figures.forEach((figure) => (figure.querySelector(".tally").textContent = ""));
  }
  find(".with").textContent = `and β = ${run.settings.beta} times the context`;
  find(".arrows .scale").textContent = `of ${run.arrows} in each class; forces drawn ${run.magnify} times as long as they move, the longest cut short`;
  const names = { 0: "unguided", 1: "prototype", 2: "contextual" };
  figures.forEach((figure, way) => {
    const found = run.outcomes[names[way]];
    figure.querySelector(".tally").textContent = `ends in ${found.modes} of ${run.total_modes} modes, ${number(found.distance, 1)} σ away`;
    figure.querySelector("canvas").setAttribute(
      "aria-label",
      `${names[way]}: ${run.n} particles of each class end in ${found.modes} of ${run.total_modes} modes, ` +
        `${number(found.distance, 1)} standard deviations from the nearest on average`
    );
  });
  const row = (name, found, attributes) =>
    `<tr ${attributes}><th scope="row">${name}</th><td>${found.modes} of ${run.total_modes}</td><td>${number(found.distance)}</td>` +
    `<td>${number(100 * found.accuracy, 0)} %</td><td>${found.prototype === null ? "" : number(found.prototype)}</td>` +
    `<td>${found.contextual === null ? "" : number(found.contextual)}</td></tr>`;
  const real = {
    modes: number(run.chance, 1),
    distance: about.real_distance,
    accuracy: truth ? truth.accuracy : NaN,
    prototype: learning.history.length ? learning.history.at(-1).prototype : null,
    contextual: null,
  };
  box.innerHTML =
    "<table><thead><tr><td></td><th>modes reached<small>within 3 σ</small></th><th>distance<small>to the nearest mode, in σ</small></th>" +
    "<th>class kept<small>by the true posterior</small></th><th>Î(X;Y)<small>nats, the encoder’s</small></th><th>Ĥ(X|Y)<small>nats, the encoder’s</small></th></tr></thead><tbody>" +
    Object.entries(names).map(([way, name]) => row(name, run.outcomes[name], `data-way="${way}"`)).join("") +
    row(`as many real points`, real, `class="real"`) +
    "</tbody></table>";
}

// Charts

// Shape as well as hue: a circle, a square, a triangle.
function mark(way, x, y, kind = "mark", size = 1) {
  const attributes = { class: `${kind} w${way}` };
  if (way === 0) return svg("circle", { ...attributes, cx: x, cy: y, r: 5.5 * size });
  if (way === 1) return svg("rect", { ...attributes, x: x - 5 * size, y: y - 5 * size, width: 10 * size, height: 10 * size });
  return svg("path", { ...attributes, d: `M${x} ${y - 6.5 * size}l${6.5 * size} ${11.5 * size}h${-13 * size}z` });
}

// Labels at their heights, pushed apart where they would overlap.
function spread(labels, gap, bottom) {
  const placed = [...labels].sort((a, b) => a.y - b.y || a.way - b.way);
  for (let i = 1; i < placed.length; i++) placed[i].y = Math.max(placed[i].y, placed[i - 1].y + gap);
  let limit = bottom - 4;
  for (let i = placed.length - 1; i >= 0; i--, limit -= gap) placed[i].y = Math.min(placed[i].y, limit);
  return placed;
}

const cursors = []; // of the charts over time: what moves with the clock

function charts() {
  cursors.length = 0;
  const names = about.columns;
  for (const figure of all("[data-chart]")) {
    const chart = figure.querySelector("svg");
    if (!chart.clientWidth) continue;
    if (!run) chart.replaceChildren();
    else if (figure.dataset.chart === "plane") planeChart(chart, names);
    else if (figure.dataset.chart === "trade") tradeChart(chart);
    else timeChart(chart, figure.dataset.chart, names);
  }
  moveCursors();
}

function timeChart(chart, key, names) {
  const values = run[key];
  const bounds = key === "prototype" ? truth && [truth.prototype, "true I(X;Y)"] : [run.log_n, `log ${run.n}`];
  const top = Math.max(0.1, ...values.flat(), key === "prototype" && truth ? truth.label_entropy : 0) * 1.08;
  const fits = bounds && bounds[0] <= 3 * top && bounds[0] > 0;
  const high = fits ? Math.max(top, bounds[0] * 1.06) : top;
  const plot = frameOf(chart, {
    x: [0, run.steps],
    y: [key === "prototype" ? LOWEST : 0, high],
    xname: "step",
    yname: key === "prototype" ? "Î, nats" : "Ĥ, nats",
    xticks: [0, 10, 20, 30, 40, 50].map((step) => [step, step === 0 ? "noise" : step === run.steps ? "data" : step]),
    margins: { right: 172 * Number(getComputedStyle(lab).getPropertyValue("--size")) },
  });
  if (fits) limit(plot, bounds[0], bounds[1]);
  else if (bounds) plot.nodes.push(svg("text", { x: plot.x(0) + 4, y: 34 }, bounds[0] > 0 ? `↑ ${bounds[1]} = ${number(bounds[0])} lies above` : `log 1 = 0: Ĥ cannot rise`));
  if (key === "prototype" && truth && truth.label_entropy - truth.prototype > 0.12 * high) limit(plot, truth.label_entropy, "H(Y)");
  names.forEach((_, way) => {
    const line = values.map((row, step) => `${plot.x(step + 1).toFixed(1)},${plot.y(row[way]).toFixed(1)}`).join(" ");
    plot.nodes.push(svg("polyline", { class: `w${way}`, points: line }));
  });
  const moving = svg("g", {});
  chart.replaceChildren(...plot.nodes, moving);
  cursors.push((step) => {
    const row = values[Math.max(0, step - 1)];
    const at = plot.x(Math.max(1, step));
    const labels = spread(names.map((name, way) => ({ name, way, value: row[way], y: plot.y(row[way]) })), 19 * plot.size, plot.bottom);
    moving.replaceChildren(
      svg("line", { class: "cursor", x1: at, x2: at, y1: 40, y2: plot.bottom }),
      ...names.map((_, way) => mark(way, at, plot.y(row[way]))),
      ...labels.flatMap(({ name, way, value, y }) => [
        mark(way, plot.x(run.steps) + 16, y),
        svg("text", { class: `name w${way}`, x: plot.x(run.steps) + 27, y: y + 5 }, `${name} ${number(value)}`),
      ])
    );
    const words = names.map((name, way) => `${name} ${number(row[way])}`).join(", ");
    chart.setAttribute("aria-label", `${key === "prototype" ? "Î" : "Ĥ"} at step ${step}: ${words}`);
  });
}

function planeChart(chart, names) {
  const { prototype, contextual } = run;
  const right = Math.max(0.1, ...contextual.flat()) * 1.08;
  const high = Math.max(...prototype.flat(), truth ? truth.label_entropy : 0) * 1.08;
  const plot = frameOf(chart, { x: [0, right], y: [LOWEST, high], xname: "Ĥ, nats: varied →", yname: "↑ Î, nats: recognisable" });
  if (truth) limit(plot, truth.prototype, "true I(X;Y)");
  names.forEach((_, way) => {
    const line = prototype.map((row, step) => `${plot.x(contextual[step][way]).toFixed(1)},${plot.y(row[way]).toFixed(1)}`).join(" ");
    plot.nodes.push(svg("polyline", { class: `w${way} thin`, points: line }));
  });
  const moving = svg("g", {});
  chart.replaceChildren(...plot.nodes, moving);
  cursors.push((step) => {
    const at = Math.max(0, step - 1);
    moving.replaceChildren(...names.map((_, way) => mark(way, plot.x(contextual[at][way]), plot.y(prototype[at][way]), "mark", 1.3)));
    const words = names.map((name, way) => `${name} at Ĥ ${number(contextual[at][way])} and Î ${number(prototype[at][way])}`).join("; ");
    chart.setAttribute("aria-label", `The information plane at step ${step}: ${words}`);
  });
}

function tradeChart(chart) {
  find(".seeds").textContent = curve ? `(${curve.seeds} seeds, ± 1 standard error)` : "";
  chart.dataset.points = curve ? curve.points.length : 0;
  if (!curve) {
    chart.setAttribute("aria-label", "What β buys and costs: being computed");
    return chart.replaceChildren(svg("text", { x: chart.clientWidth / 2, y: chart.clientHeight / 2, "text-anchor": "middle" }, "being computed"));
  }
  const spots = curve.points.map(({ beta, mean, error }) => ({ beta, x: mean.distance, y: mean.modes, ex: error.distance, ey: error.modes }));
  const own = about.columns.map((name) => run.outcomes[name]);
  const xs = [about.real_distance, ...spots.map((spot) => spot.x), ...own.map((found) => found.distance)];
  const ys = [...spots.flatMap((spot) => [spot.y - spot.ey, spot.y + spot.ey]), run.chance, ...own.map((found) => found.modes)];
  const pad = (values) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return [low - 0.07 * (high - low) - 0.05, high + 0.07 * (high - low) + 0.05];
  };
  const plot = frameOf(chart, { x: pad(xs), y: pad(ys), xname: "distance to the nearest mode, σ: off the data →", yname: "↑ modes reached" });
  const { x, y, nodes } = plot;
  const line = (dx, words, place) => {
    nodes.push(svg("line", { class: "limit", x1: x(dx), x2: x(dx), y1: 40, y2: plot.bottom }));
    nodes.push(svg("text", { class: "halo", x: x(dx) + 6, y: place }, words));
  };
  line(about.real_distance, "real data", plot.bottom - 6);
  const guided = spots.slice(1);
  nodes.push(svg("polyline", { class: "w2 thin", points: guided.map((spot) => `${x(spot.x).toFixed(1)},${y(spot.y).toFixed(1)}`).join(" ") }));
  spots.forEach((spot, i) => {
    const way = i ? 2 : 0;
    nodes.push(svg("path", { class: `bar w${way}`, d: `M${x(spot.x - spot.ex)} ${y(spot.y)}H${x(spot.x + spot.ex)}M${x(spot.x)} ${y(spot.y - spot.ey)}V${y(spot.y + spot.ey)}` }));
    nodes.push(mark(way, x(spot.x), y(spot.y), "hollow", 0.85));
  });
  own.forEach((found, way) => nodes.push(mark(way, x(found.distance), y(found.modes), "mark", 1.25)));
  const taken = [...spots.map((spot) => [x(spot.x), y(spot.y), 14, 14])];
  for (const spot of [guided.at(-1), guided[0], spots[0], ...guided.slice(1, -1).reverse()]) {
    const words = spot.beta === null ? "unguided" : spot === guided.at(-1) || spot === guided[0] ? `β = ${spot.beta}` : `${spot.beta}`;
    const wide = 8.5 * words.length;
    const places = [[10, 5, 0], [-10 - wide, 5, 0], [-wide / 2, -12, 0], [-wide / 2, 24, 0], [8, -10, 0], [8, 20, 0], [-8 - wide, -10, 0], [-8 - wide, 20, 0]];
    const free = places.find(([dx, dy]) => {
      const box = [x(spot.x) + dx + wide / 2, y(spot.y) + dy - 4, wide, 15];
      const inside = box[0] - wide / 2 > 48 && box[0] + wide / 2 < plot.width - 4 && box[1] > 36 && box[1] < plot.bottom - 6;
      return inside && !taken.some((other) => Math.abs(other[0] - box[0]) < (other[2] + box[2]) / 2 && Math.abs(other[1] - box[1]) < (other[3] + box[3]) / 2);
    });
    if (!free) continue;
    taken.push([x(spot.x) + free[0] + wide / 2, y(spot.y) + free[1] - 4, wide, 15]);
    nodes.push(svg("text", { class: `name halo w${spot.beta === null ? 0 : 2}`, x: x(spot.x) + free[0], y: y(spot.y) + free[1] }, words));
  }
  chart.replaceChildren(...nodes);
  const words = spots.map((spot) => `${spot.beta === null ? "unguided" : `β ${spot.beta}`}: ${number(spot.y, 1)} modes at ${number(spot.x, 1)} σ`);
  chart.setAttribute("aria-label", `What β buys and costs. ${words.join("; ")}`);
}

let marked = -1; // the step that the cursors stand at
function moveCursors() {
  marked = Math.round(time);
  cursors.forEach((move) => move(marked));
}

// Taking away

function download(name, address) {
  const anchor = Object.assign(document.createElement("a"), { href: address, download: name });
  document.body.append(anchor);
  anchor.click();
  anchor.remove();
}

function fileStem() {
  return `igds-laboratory-${run.settings.scene}-n${run.n}-beta${run.settings.beta}-eta${run.settings.eta}`;
}

find(".picture").addEventListener("click", () => {
  const [side, gap, head] = [720, 24, 76];
  const sheet = Object.assign(document.createElement("canvas"), { width: 3 * side + 4 * gap, height: side + head + gap });
  const context = sheet.getContext("2d");
  context.fillStyle = ink.paper;
  context.fillRect(0, 0, sheet.width, sheet.height);
  about.columns.forEach((name, way) => {
    const plane = Object.assign(document.createElement("canvas"), { width: side, height: side });
    drawPlane(plane, way, side);
    const left = gap + way * (side + gap);
    context.drawImage(plane, left, head);
    context.strokeStyle = ink[name];
    context.lineWidth = 3;
    context.strokeRect(left, head, side, side);
    context.fillStyle = ink[name];
    context.font = "600 34px system-ui, sans-serif";
    const beta = way === 2 ? ` β = ${run.settings.beta}` : "";
    context.fillText(`${name}${beta}: ${run.outcomes[name].modes} of ${run.total_modes} modes`, left, 52);
  });
  download(`${fileStem()}.png`, sheet.toDataURL("image/png"));
});

// The four charts in one drawing that needs no style sheet.
find(".vector").addEventListener("click", () => {
  const boxes = all("[data-chart] svg");
  const [width, height] = [Math.max(...boxes.map((box) => box.clientWidth)), boxes[0].clientHeight + 34];
  const sheet = svg("svg", { xmlns: "http://www.w3.org/2000/svg", viewBox: `0 0 ${2 * width + 40} ${2 * height}` });
  sheet.append(svg("rect", { width: "100%", height: "100%", fill: ink.paper }));
  boxes.forEach((box, i) => {
    const group = svg("g", { transform: `translate(${(i % 2) * (width + 40)} ${Math.floor(i / 2) * height + 30})` });
    const copy = box.cloneNode(true);
    const [from, to] = [[...box.querySelectorAll("*")], [...copy.querySelectorAll("*")]];
    from.forEach((node, j) => {
      const style = getComputedStyle(node);
      for (const name of ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "font-size", "font-weight", "opacity", "paint-order"])
        to[j].setAttribute(name, style.getPropertyValue(name));
      to[j].removeAttribute("class");
    });
    const title = box.closest("figure").querySelector("b").textContent;
    group.append(svg("text", { x: 4, y: -12, fill: ink.ink, "font-size": 17, "font-weight": 650 }, title), ...copy.childNodes);
    sheet.append(group);
  });
  sheet.setAttribute("font-family", "system-ui, sans-serif");
  const text = new XMLSerializer().serializeToString(sheet);
  download(`${fileStem()}.svg`, URL.createObjectURL(new Blob([text], { type: "image/svg+xml" })));
});

for (const roll of all(".roll")) {
  roll.addEventListener("click", () => {
    roll.textContent = "Drawing…";
    ask("film", { format: roll.dataset.format });
  });
}

function renderRolls() {
  all(".roll").forEach((roll) => (roll.textContent = `Animation ${roll.dataset.format.toUpperCase()}`));
}

find(".link").addEventListener("click", () => copyLink(find(".link"), location.href));

new ResizeObserver(() => {
  readInk();
  figures.forEach((figure) => {
    const canvas = figure.querySelector("canvas");
    const side = Math.round(canvas.clientWidth * Math.min(2, devicePixelRatio || 1));
    if (side && canvas.width !== side) canvas.width = canvas.height = side;
  });
  drawAll();
  charts();
}).observe(lab);

new MutationObserver(() => {
  paintDensity();
  drawAll();
}).observe(document.body, { attributes: true, attributeFilter: ["class"] });

watch("value", () => receive(props.value));
take(about.settings);
paintDensity();
render();
ask("enter", { query: new URLSearchParams(location.search).get("lab") || "" });
