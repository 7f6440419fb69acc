// Runs once a page inside gr.HTML, after axes.js. The study's figures are drawn here; what is trained is drawn over them.

const tight = element.querySelector(".tight");
const find = (selector) => tight.querySelector(selector);
const about = props.value;
const [trial, slider, widths, go, outcome, bar] = [".trial", ".delta", ".d", ".go", ".outcome", ".bar"].map(find);
const ARMS = [
  { name: "VE", look: "ve", mark: "triangle" },
  { name: "cross-entropy", look: "cross", mark: "square" },
  { name: "VE, free length", look: "vefree", mark: "triangle", dash: "dashed", hidden: true },
  { name: "cross-entropy, free length", look: "crossfree", mark: "square", dash: "dashed", hidden: true },
  { name: "nearest of d points, untrained", look: "cells", mark: "diamond", dash: "dotted" },
  { name: "InfoNCE", look: "nce", mark: "tip" },
  { name: "MINE", look: "mine", mark: "plus" },
  { name: "nearest neighbours", look: "near", mark: "circle" },
];
const SILENCE_MS = 60000;

let trials = []; // what was trained here
let asked = 0; // the number of the question that waits, 0 where none does
let serial = 0;
let silence = null;
let withLonger = false;

const shown = () => ARMS.filter((arm) => arm.input.checked);

function build() {
  find(".said").textContent = about.said;
  find(".about").textContent = about.about;
  const fixed = { contextual: `d = ${about.features}`, width: `δ = ${about.width_delta}` };
  for (const key in fixed) find(`[data-chart=${key}] .fixed`).textContent = fixed[key];
  Object.assign(slider, { min: about.deltas[0], max: about.deltas[1], value: 2 });
  widths.replaceChildren(...about.widths.map((d) => Object.assign(document.createElement("option"), { value: d, textContent: d.toLocaleString("en") })));
  widths.value = about.features;
  for (const arm of ARMS) {
    const sample = svg("svg", { viewBox: "0 0 30 16", "aria-hidden": "true" });
    sample.append(svg("path", { class: `line ${arm.dash || ""} ${arm.look}`, d: "M1 8h28" }), mark(arm, 15, 8));
    arm.input = choice([sample, arm.name], !arm.hidden, render);
  }
  if (about.longer.length) {
    choice([`after ${about.longer_epochs} epochs (hollow)`], false, (on) => {
      withLonger = on;
      render();
    });
  }
  slider.dispatchEvent(new Event("input"));
}

function choice(words, isOn, changed) {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "checkbox", checked: isOn });
  input.addEventListener("change", () => changed(input.checked));
  label.append(input, ...words);
  find(".arms").append(label);
  return input;
}

function mark(arm, x, y, kind = "mark", size = 1) {
  const attributes = { class: `${kind} ${arm.look}` };
  const r = 5.5 * size;
  const shapes = {
    triangle: `M${x} ${y - 1.2 * r}l${1.2 * r} ${2.1 * r}h${-2.4 * r}z`,
    tip: `M${x} ${y + 1.2 * r}l${1.2 * r} ${-2.1 * r}h${-2.4 * r}z`,
    square: `M${x - 0.9 * r} ${y - 0.9 * r}h${1.8 * r}v${1.8 * r}h${-1.8 * r}z`,
    diamond: `M${x} ${y - 1.25 * r}l${r} ${1.25 * r}l${-r} ${1.25 * r}l${-r} ${-1.25 * r}z`,
    plus: `M${x - 0.4 * r} ${y - 1.1 * r}h${0.8 * r}v${0.7 * r}h${0.7 * r}v${0.8 * r}h${-0.7 * r}v${0.7 * r}h${-0.8 * r}v${-0.7 * r}h${-0.7 * r}v${-0.8 * r}h${0.7 * r}z`,
  };
  if (arm.mark === "circle") return svg("circle", { ...attributes, cx: x, cy: y, r: 0.95 * r });
  return svg("path", { ...attributes, d: shapes[arm.mark] });
}

// A chart: what is across it (δ or d), what is measured, and the lines of what is known.
const CHARTS = {
  prototype: { across: "delta", measure: "prototype", yname: "nats" },
  gap: { across: "delta", measure: "gap", yname: "nats" },
  contextual: { across: "delta", measure: "contextual", yname: "nats" },
  width: { across: "d", measure: "contextual", yname: "nats" },
};

function render() {
  tight.dataset.trials = trials.length;
  for (const key in CHARTS) draw(key, find(`[data-chart=${key}] svg`));
}

function draw(key, chart) {
  if (!chart.clientWidth) return;
  const { across, measure, yname } = CHARTS[key];
  const isWide = across === "d";
  const place = (row) => (isWide ? Math.log2(row.d) : row.delta);
  const belongs = (row) => measure in row && !(isWide && row.arm === "nearest neighbours") && (isWide ? row.delta === about.width_delta : row.d === about.features);
  const rows = about.rows.filter(belongs);
  const longer = withLonger ? about.longer.filter(belongs) : [];
  const own = trials.flatMap(({ figures, ...cell }) => Object.entries(figures).map(([arm, found]) => ({ ...cell, arm, [measure]: [found[measure], 0] }))).filter(belongs);
  const names = shown().map((arm) => arm.name);
  const seen = [...rows, ...longer, ...own].filter((row) => names.includes(row.arm));
  const values = seen.flatMap((row) => [row[measure][0] - row[measure][1], row[measure][0] + row[measure][1]]);
  const known = { prototype: about.truth.map(([, value]) => value), gap: [0], contextual: [0, about.entropy], width: [0, about.entropy, Math.log(about.widths.at(-1))] }[key];
  const [low, high] = [Math.min(...values, ...known, 0), Math.max(...values, ...known)];
  const room = 0.05 * (high - low || 1);
  const xs = isWide ? [Math.log2(about.widths[0]) - 0.2, Math.log2(about.widths.at(-1)) + 0.2] : [about.deltas[0] - 0.15, about.deltas[1] + 0.15];
  const plot = frameOf(chart, {
    x: xs,
    y: [key === "gap" ? low - room : Math.min(0, low), high + room],
    xname: isWide ? "d, entries of f(x)" : "δ, side of the triangle of means",
    yname,
    xticks: isWide ? about.widths.map((d) => [Math.log2(d), d.toLocaleString("en")]) : about.truth.map(([delta]) => [delta, String(delta)]),
    margins: { left: 56 * Number(getComputedStyle(chart).getPropertyValue("--size")) },
  });
  const { x, y, nodes } = plot;
  const path = (points) => points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
  const level = (value, words) => {
    nodes.push(svg("path", { class: "truth", d: path([[xs[0], value], [xs[1], value]]) }));
    nodes.push(svg("text", { class: "halo", x: x(xs[0]) + 6, y: y(value) - 7 }, words));
  };
  if (key === "prototype") nodes.push(svg("path", { class: "truth", d: path(about.truth) }));
  if (key === "gap") nodes.push(svg("path", { class: "truth", d: path([[xs[0], 0], [xs[1], 0]]) }));
  if (measure === "contextual") level(about.entropy, `h(X|Y) = ${number(about.entropy, 3)}`);
  if (key === "contextual") limit(plot, Math.log(about.features), `log ${about.features}`);
  if (isWide) {
    nodes.push(svg("path", { class: "limit", d: path(about.widths.map((d) => [Math.log2(d), Math.log(d)])) }));
    nodes.push(svg("text", { class: "halo", x: x(Math.log2(about.widths[2])) - 10, y: y(Math.log(about.widths[2])) - 12, "text-anchor": "end" }, "log d"));
  }
  for (const arm of shown()) {
    const points = rows.filter((row) => row.arm === arm.name).sort((a, b) => place(a) - place(b));
    if (points.length) nodes.push(svg("path", { class: `line ${arm.dash || ""} ${arm.look}`, d: path(points.map((row) => [place(row), row[measure][0]])) }));
    for (const row of points) {
      const [value, error] = row[measure];
      if (error) nodes.push(svg("line", { class: `bar ${arm.look}`, x1: x(place(row)), x2: x(place(row)), y1: y(value - error), y2: y(value + error) }));
      const node = mark(arm, x(place(row)), y(value));
      node.append(svg("title", {}, `${arm.name}: ${number(value, 4)} ± ${number(error, 4)} nats`));
      nodes.push(node);
    }
    for (const row of longer.filter((other) => other.arm === arm.name)) {
      const before = points.find((other) => place(other) === place(row));
      if (before) nodes.push(svg("line", { class: `way ${arm.look}`, x1: x(place(row)), x2: x(place(row)), y1: y(before[measure][0]), y2: y(row[measure][0]) }));
      const node = mark(arm, x(place(row)), y(row[measure][0]), "longer", 1.1);
      node.append(svg("title", {}, `${arm.name} after ${about.longer_epochs} epochs: ${number(row[measure][0], 4)} nats`));
      nodes.push(node);
    }
  }
  for (const row of own) {
    const arm = ARMS.find(({ name }) => name === row.arm);
    if (arm.input.checked) nodes.push(mark(arm, x(place(row)), y(row[measure][0]), "own", 1.5));
  }
  chart.replaceChildren(...nodes);
  chart.dataset.own = own.length;
  const last = shown().map((arm) => {
    const row = rows.filter((other) => other.arm === arm.name).at(-1);
    return row && `${arm.name} ${number(row[measure][0], 3)}`;
  });
  const end = isWide ? `d = ${about.widths.at(-1)}` : `δ = ${about.deltas[1]}`;
  chart.setAttribute("aria-label", `${chart.closest("figure").querySelector("figcaption").textContent}. At ${end}: ${last.filter(Boolean).join(", ")} nats`);
}

slider.addEventListener("input", () => {
  slider.nextElementSibling.textContent = Number(slider.value).toFixed(1);
});

trial.addEventListener("submit", (event) => {
  event.preventDefault();
  if (asked) return;
  asked = ++serial;
  trigger("watch", { asked, delta: Number(slider.value), d: Number(widths.value), seed: 1000 + Math.floor(Math.random() * 1e6) });
  tight.dataset.state = "running";
  outcome.textContent = "Waiting for its turn on the bench";
  expect();
});

// An answer that never comes must not leave the button dead.
function expect() {
  go.disabled = true;
  clearTimeout(silence);
  silence = setTimeout(() => finish("The server does not answer. Try again."), SILENCE_MS);
}

function finish(words) {
  clearTimeout(silence);
  asked = 0;
  go.disabled = false;
  tight.dataset.state = "idle";
  progress(0);
  outcome.textContent = words;
}

function progress(share) {
  bar.firstElementChild.style.width = `${100 * share}%`;
  bar.setAttribute("aria-valuenow", Math.round(100 * share));
}

function receive(payload) {
  if (!payload || !asked || payload.asked !== asked) return;
  if (payload.kind === "wrong") return finish(payload.wrong);
  expect();
  progress(payload.done / payload.total);
  const done = Object.keys(payload.figures).length;
  outcome.textContent = `Training ${ARMS[Math.min(done, 1)].name}: step ${payload.done} of ${payload.total}`;
  if (payload.kind !== "watched") return;
  trials.push(payload);
  finish(verdict(payload));
  render();
}

function verdict({ delta, d, truth, figures }) {
  const [ours, other] = [figures.VE, figures["cross-entropy"]];
  const onCharts = [d === about.features && "by δ", delta === about.width_delta && "by d"].filter(Boolean);
  return (
    `δ = ${delta}, d = ${d}: the true I(X;Y) of these points is ${number(truth, 3)}. Î is ${number(ours.prototype, 3)} by VE and ` +
    `${number(other.prototype, 3)} by cross-entropy; Ĥ is ${number(ours.contextual)} and ${number(other.contextual)}, where no f could ` +
    `give more than log d = ${number(Math.log(d))}. ` +
    (onCharts.length ? `They stand in the charts ${onCharts.join(" and ")}, outlined.` : `The charts are of d = ${about.features} and of δ = ${about.width_delta}, so that these have no place in them.`)
  );
}

build();
render();
watch("value", () => receive(props.value));
new ResizeObserver(render).observe(tight);
