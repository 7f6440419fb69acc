// Runs once a page inside gr.HTML, after player.js, which keeps the steps and lets them play.

const columns = [...stage.querySelectorAll("[data-column]")];
const charts = [...stage.querySelectorAll(".curve")];
const link = find(".link");
const measures = new Map(); // of each chart
const LOWEST = -1; // the class term is unbounded below while the picture is noise

let idle = null; // what was shown before any run
let head = null; // of the run on the stage
let tile = -1;

function total() {
  return head.count;
}

function preview(payload) {
  idle = payload;
  if (head && !head.recording) return;
  stopPlaying();
  [head, run, steps, told, drawn, state, shown] = [null, -1, [], 0, 0, "idle", -1];
  Object.assign(stage.dataset, { state, steps: 0, shown: 0 });
  find(".state").classList.remove("marked");
  play.disabled = range.disabled = link.disabled = true;
  readout.textContent = "";
  find(".title").textContent = idle.title;
  find(".state").textContent = idle.hint;
  describe(idle);
  columns.forEach((figure, i) => paint(figure, idle.noise[i], "Noise, the same in every column", idle.grid));
  charts.forEach((figure) => draw(figure, idle));
}

function begin(newHead) {
  head = newHead;
  find(".title").textContent = head.title;
  describe(head);
  range.max = head.count;
  if (!head.recording) history.replaceState(history.state, "", addressOf(head.query));
  if (matchMedia("(max-width: 900px)").matches && !head.recording) {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    stage.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
  }
  render();
}

function ended() {
  if (head.recording) playRecording();
}

// What holds for a whole run: captions, real images, bounds in words.
function describe(about) {
  columns.forEach((figure, i) => {
    figure.querySelector("b").textContent = about.columns[i].name;
    figure.querySelector("span").textContent = about.columns[i].caption;
  });
  const real = find(".real img");
  if (about.real) real.src = about.real;
  real.alt = `Real images of the class ${about.label}`;
  find(".real").hidden = !about.real;
  find(".credit").textContent = about.credit;
  charts.forEach((figure) => {
    const bound = about.bounds[figure.dataset.key];
    figure.querySelector(".bound").textContent = bound
      ? bound.words
      : "No bound to draw: against the mean of the real class, Ĥ may rise above log n.";
  });
}

function show(index) {
  shown = Math.max(0, Math.min(index, steps.length - 1));
  const step = steps[shown];
  columns.forEach((figure, i) => {
    paint(figure, step.frames[i], `${head.columns[i].name}: step ${shown + 1} of ${head.count}`, head.grid);
  });
  render();
}

function paint(figure, source, words, [rows, cols]) {
  const image = figure.querySelector("img");
  const sheet = figure.querySelector(".sheet");
  sheet.style.width = `${(100 * cols) / Math.max(rows, cols)}%`;
  sheet.style.height = `${(100 * rows) / Math.max(rows, cols)}%`;
  image.src = source;
  image.alt = words;
  image.hidden = false;
}

// Everything but the pictures.
function render() {
  stage.dataset.state = state;
  stage.dataset.steps = steps.length;
  stage.dataset.shown = shown + 1;
  const words = {
    running: steps.length ? "" : "Starting",
    finished: "Finished",
    stopped: `Stopped at step ${steps.length}`,
    failed: `Broken off at step ${steps.length}`,
  }[state];
  const marker = find(".state");
  const text = head.recording ? "A recording. Press Start for a run of your own" : words;
  if (marker.textContent !== text) marker.textContent = text;
  marker.classList.toggle("marked", state === "stopped" || state === "failed" || head.recording);

  const any = steps.length > 0;
  play.disabled = range.disabled = !any;
  link.disabled = head.recording;
  range.value = shown + 1;
  readout.textContent = any ? readoutWords() : "";
  range.setAttribute("aria-valuetext", readout.textContent);
  renderPlay();
  charts.forEach((figure) => draw(figure, head));
}

function readoutWords() {
  const pace = steps.at(-1).elapsed / steps.length;
  const parts = [`step ${shown + 1} of ${head.count}`, `t = ${steps[shown].t}`];
  if (!head.recording) parts.push(`${seconds(pace)} a step`);
  if (state === "running") parts.push(`${seconds(pace * (head.count - steps.length))} left`);
  return parts.join(" · ");
}

// Curves

function draw(figure, about) {
  const { width, height, size } = measures.get(figure) ?? {};
  if (!width) return;
  const key = figure.dataset.key;
  const bound = about.bounds[key];
  const values = steps.flatMap((step) => step[key]);
  const [low, high] = key === "prototype" ? [LOWEST, bound.value * 1.06] : [0, ceiling(values, bound)];
  const last = about.timesteps;
  const margin = { left: 44 * size, right: 168 * size, top: 22 * size, bottom: 40 * size };
  const x = (t) => margin.left + ((last - t) / last) * (width - margin.left - margin.right);
  const y = (value) =>
    margin.top + ((high - Math.max(low, Math.min(high, value))) / (high - low)) * (height - margin.top - margin.bottom);
  const [axes, curves] = figure.querySelectorAll("svg > g");
  const scale = JSON.stringify([width, height, size, low, high, last, bound]);
  if (axes.dataset.scale !== scale) {
    axes.replaceChildren(...axesOf({ x, y, low, high, last, margin, height, size, bound }));
    axes.dataset.scale = scale;
  }

  const chart = figure.querySelector("svg");
  chart.dataset.points = steps.length;
  chart.onpointerdown = chart.onpointermove = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    if (!steps.length) return;
    const at = event.clientX - chart.getBoundingClientRect().left;
    const distance = steps.map((step) => Math.abs(x(step.t) - at));
    scrub(distance.indexOf(Math.min(...distance)));
  };
  const title = figure.querySelector("b").textContent;
  if (!steps.length) {
    curves.replaceChildren();
    chart.setAttribute("aria-label", `${title}: no run yet`);
    return;
  }
  const now = Math.max(0, shown);
  const nodes = [svg("line", { class: "cursor", x1: x(steps[now].t), x2: x(steps[now].t), y1: margin.top, y2: y(low) })];
  const named = about.columns.map((column, i) => ({ i, name: column.name, value: steps[now][key][i] }));
  for (const { i } of named) {
    const points = steps.map((step) => `${x(step.t).toFixed(1)},${y(step[key][i]).toFixed(1)}`).join(" ");
    nodes.push(svg("polyline", { class: `c${i}`, points }));
  }
  for (const { i, value } of named) nodes.push(mark(i, x(steps[now].t), y(value)));
  for (const label of spread(named, y, 18 * size, height - margin.bottom)) {
    nodes.push(mark(label.i, x(0) + 16, label.y));
    const words = `${label.name} ${label.value.toFixed(high - low < 1 ? 3 : 2).replace("-", "−")}`;
    nodes.push(svg("text", { class: `name c${label.i}`, x: x(0) + 27, y: label.y + 5 * size }, words));
  }
  curves.replaceChildren(...nodes);
  const spoken = named.map(({ name, value }) => `${name} ${value.toFixed(2)}`).join(", ");
  chart.setAttribute("aria-label", `${title} at step ${now + 1}: ${spoken}`);
}

// What stays while a run grows: rules, ticks and the bound.
function axesOf({ x, y, low, high, last, margin, height, size, bound }) {
  const nodes = [];
  const gap = tickGap(high - low);
  for (let tick = Math.ceil(low / gap) * gap; tick <= high + 1e-9; tick += gap) {
    nodes.push(svg("line", { class: "axis", x1: x(last), x2: x(0), y1: y(tick), y2: y(tick) }));
    const words = tick.toFixed(gap < 0.1 ? 2 : gap < 1 ? 1 : 0).replace("-", "−");
    nodes.push(svg("text", { x: margin.left - 8, y: y(tick) + 4 * size, "text-anchor": "end" }, words));
  }
  const roomy = x(0) - x(last) > 220 * size;
  for (const share of roomy ? [1, 0.75, 0.5, 0.25, 0] : [1, 0.5, 0]) {
    const t = Math.round(last * share);
    nodes.push(svg("text", { x: x(t), y: height - 21 * size, "text-anchor": "middle" }, share === 1 && roomy ? `t = ${t}` : t));
  }
  nodes.push(svg("text", { x: x(last), y: height - 4, "text-anchor": "middle" }, "noise"));
  nodes.push(svg("text", { x: x(0), y: height - 4, "text-anchor": "middle" }, "image"));
  if (bound && bound.value <= high) {
    nodes.push(svg("line", { class: "limit", x1: x(last), x2: x(0), y1: y(bound.value), y2: y(bound.value) }));
    nodes.push(svg("text", { x: x(last) + 4, y: y(bound.value) - 6 }, bound.name));
  } else if (bound) {
    nodes.push(svg("text", { x: x(last) + 4, y: 12 * size }, `↑ ${bound.name} lies above`));
  }
  return nodes;
}

// Shape as well as hue: a circle, a square, a triangle.
function mark(i, x, y) {
  const attributes = { class: `mark c${i}` };
  if (i === 0) return svg("circle", { ...attributes, cx: x, cy: y, r: 5.5 });
  if (i === 1) return svg("rect", { ...attributes, x: x - 5, y: y - 5, width: 10, height: 10 });
  return svg("path", { ...attributes, d: `M${x} ${y - 6.5}l6.5 11.5h-13z` });
}

// The top of the Ĥ axis follows the curves, since log n can be far above them; it never leaves the bound behind.
function ceiling(values, bound) {
  const most = Math.max(0.08, ...values) * 1.1;
  const size = 10 ** Math.floor(Math.log10(most));
  const top = [1, 1.5, 2, 3, 5, 7.5, 10].map((factor) => factor * size).find((value) => value >= most);
  return bound && bound.value > 0 && top > bound.value * 0.9 ? Math.max(bound.value * 1.06, most) : top;
}

function tickGap(span) {
  const size = 10 ** Math.floor(Math.log10(span / 4));
  return [1, 2, 5, 10].map((factor) => factor * size).find((gap) => span / gap <= 5);
}

// Labels at their value's height, pushed apart where they would overlap.
function spread(labels, y, gap, bottom) {
  const placed = labels.map((label) => ({ ...label, y: y(label.value) })).sort((a, b) => a.y - b.y || a.i - b.i);
  for (let i = 1; i < placed.length; i++) placed[i].y = Math.max(placed[i].y, placed[i - 1].y + gap);
  let limit = bottom - 4;
  for (let i = placed.length - 1; i >= 0; i--, limit -= gap) placed[i].y = Math.min(placed[i].y, limit);
  return placed;
}

// From its beginning, unless the visitor's system asks for calm: then its last step stands.
function playRecording() {
  if (timer !== null || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  show(0);
  toggle();
}

link.addEventListener("click", () => copyLink(link, addressOf(head.query)));

// The same place in every grid is the same noise: pointing at an image marks its siblings.

columns.forEach((figure) => {
  const sheet = figure.querySelector(".sheet");
  sheet.addEventListener("pointermove", (event) => {
    if (!head) return;
    const box = sheet.getBoundingClientRect();
    const [rows, cols] = head.grid;
    const row = Math.floor(((event.clientY - box.top) / box.height) * rows);
    const col = Math.floor(((event.clientX - box.left) / box.width) * cols);
    pointAt(row >= 0 && row < rows && col >= 0 && col < cols ? row * cols + col : -1);
  });
  sheet.addEventListener("pointerleave", () => pointAt(-1));
});

function pointAt(index) {
  tile = head && index < head.images ? index : -1;
  columns.forEach((figure) => {
    const box = figure.querySelector(".tile");
    box.hidden = tile < 0;
    if (tile < 0) return;
    const [rows, cols] = head.grid;
    box.style.left = `${(100 * (tile % cols)) / cols}%`;
    box.style.top = `${(100 * Math.floor(tile / cols)) / rows}%`;
    box.style.width = `${100 / cols}%`;
    box.style.height = `${100 / rows}%`;
  });
}

watch("value", () => receive(props.value));
// Measured here alone: to ask while drawing would lay the page out once more in each step.
new ResizeObserver(() => {
  const size = Number(getComputedStyle(stage).getPropertyValue("--size")); // of letters, against the usual
  for (const figure of charts) {
    const { clientWidth: width, clientHeight: height } = figure.querySelector("svg");
    measures.set(figure, { width, height, size });
    if (head || idle) draw(figure, head || idle);
  }
}).observe(stage);
receive(props.value);
