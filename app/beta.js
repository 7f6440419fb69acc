// Runs once a page inside gr.HTML, after player.js, which keeps the steps and lets them play.

const [plane, wall, numbers, band] = [".plane", ".wall", ".numbers", ".band"].map(find);
const charts = [...stage.querySelectorAll(".curve")];
const LOWEST = -1; // the class term is unbounded below while the picture is noise
const SMALLEST = 34; // of a tile, in pixels
const NAMES = {
  prototype: "Î(X;Y)",
  contextual: "Ĥ(X|Y)",
  accuracy: "Recognised",
  recognised_diversity: "Diversity of those recognised",
};

let about = null; // of the run on show, or of the one that Start would begin
let count = 0;
let figures = null; // the judges' on the finished images, by column
let missed = null; // by column and row: what an image that is not recognised is taken for, null where it is
let column = -1; // the one that is pointed at
let map = null; // the β-IPC map of the study: {ipcs, betas, measures}, and what to say about it
let measure = null; // the one that it shows, null without a study

function total() {
  return count;
}

function preview(idle) {
  if (run >= 0) return;
  if (!map) buildMap(idle.map);
  lay(idle);
  find(".state").textContent = idle.hint;
  frames().forEach((image) => paint(image, idle.noise, "Noise, the same in every column"));
  charts.forEach(draw);
}

function begin(head) {
  [count, figures, missed] = [head.count, null, null];
  const noise = frames()[0] && frames()[0].src;
  const same = about && JSON.stringify(about.tile) === JSON.stringify(head.tile) && about.images === head.images;
  lay(head);
  if (noise && same) frames().forEach((image) => paint(image, noise, "Noise"));
  range.max = count;
  history.replaceState(history.state, "", addressOf(head.query));
  find(".said").textContent = "";
  fillTable();
  if (matchMedia("(max-width: 900px)").matches) {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    stage.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
  }
  render();
}

function ended(payload) {
  figures = payload.figures || null;
  missed = payload.missed || null;
  find(".said").textContent = payload.said || "";
  fillTable();
}

function show(index) {
  shown = Math.max(0, Math.min(index, steps.length - 1));
  frames().forEach((image, i) => {
    paint(image, steps[shown].frames[i], `${about.columns[i].name}: step ${shown + 1} of ${count}`);
  });
  render();
}

function paint(image, source, words) {
  image.src = source;
  image.alt = words;
}

function frames() {
  return [...wall.querySelectorAll(".column img")];
}

// What holds for a whole run: heads, rows, the size of everything.
function lay(newAbout) {
  about = newAbout;
  column = -1;
  find(".title").textContent = about.title;
  wall.querySelectorAll(".column, .rowmark").forEach((node) => node.remove());
  wall.append(...about.columns.map(columnOf));
  const mark = make("i", "rowmark");
  mark.hidden = true;
  wall.append(mark);
  numbers.replaceChildren(...Array.from({ length: about.images }, (_, i) => make("span", "", String(i + 1))));
  fit();
  markMap();
  point(-1);
}

function kindOf(i) {
  const { beta } = about.columns[i];
  return beta === null ? "unguided" : beta === 0 ? "prototype" : "contextual";
}

function columnOf({ name, beta }, i) {
  const node = make("div", `column ${kindOf(i)}`);
  const head = make("button", "head");
  head.type = "button";
  const words = make("b", "");
  if (beta === null) words.append("un\u00adguided");
  else words.append(make("span", "wide", "β = "), String(beta));
  head.append(words, make("small", "", "Explore ↗"));
  head.setAttribute("aria-label", `${name}: open in Explore`);
  head.title = beta === null ? "Open in Explore, whose first column is this one" : "Open in Explore";
  head.addEventListener("click", () => trigger("open", { column: i }));
  head.addEventListener("focus", () => point(i));
  head.addEventListener("blur", () => point(-1));
  const image = document.createElement("img");
  image.decoding = "sync";
  image.alt = "";
  const sheet = make("div", "sheet");
  sheet.append(image);
  node.append(head, sheet);
  return node;
}

function make(kind, className, text = "") {
  const node = document.createElement(kind);
  node.className = className;
  node.textContent = text;
  return node;
}

// Tiles as large as the columns and the height allow.
function fit() {
  const box = geometry();
  if (!box.width) return;
  const { height, width, gap } = about.tile;
  const tall = about.images * (height + gap) - gap;
  const isPresented = document.body.classList.contains("presenting");
  const room = isPresented ? window.innerHeight - 470 : clamp(0.55 * window.innerHeight, 380, 640);
  const side = Math.max(SMALLEST, (room * width) / tall);
  const tile = Math.floor(Math.min(box.step - 6, side));
  stage.style.setProperty("--tile", `${tile}px`);
  frames().forEach((image) => (image.style.aspectRatio = `${width} / ${tall}`));
  numbers.style.rowGap = `${(gap * tile) / width}px`;
  numbers.style.gridAutoRows = `${(height * tile) / width}px`;
}

function geometry() {
  const left = wall.querySelector(".rows").offsetWidth;
  const width = wall.clientWidth;
  const step = (width - left) / about.columns.length;
  return { left, width, step, centre: (i) => left + (i + 0.5) * step };
}

// Everything but the pictures.
function render() {
  Object.assign(stage.dataset, { state, steps: steps.length, shown: shown + 1 });
  const words = {
    running: !steps.length ? "Starting" : steps.length === count ? "Judging the images" : "",
    finished: "Finished",
    stopped: `Stopped at step ${steps.length}`,
    failed: `Broken off at step ${steps.length}`,
  }[state];
  const marker = find(".state");
  if (marker.textContent !== words) marker.textContent = words;
  marker.classList.toggle("marked", state === "stopped" || state === "failed");

  play.disabled = range.disabled = !steps.length;
  range.value = shown + 1;
  readout.textContent = steps.length ? readoutWords() : "";
  range.setAttribute("aria-valuetext", readout.textContent);
  renderPlay();
  find(".basis").textContent = basis();
  markMissed();
  charts.forEach(draw);
}

// A cross on each finished image that the judge takes for another class.
function markMissed() {
  wall.querySelectorAll(".missed").forEach((node) => node.remove());
  if (!isFinal()) return;
  const { height, gap } = about.tile;
  const tall = about.images * (height + gap) - gap;
  wall.querySelectorAll(".sheet").forEach((sheet, i) => {
    missed[i].forEach((name, j) => {
      if (name === null) return;
      const cross = make("i", "missed", "✕");
      cross.title = `taken for ${name}`;
      cross.style.top = `${(100 * j * (height + gap)) / tall}%`;
      sheet.append(cross);
    });
    const others = missed[i].flatMap((name, j) => (name === null ? [] : [`image ${j + 1} is taken for ${name}`]));
    sheet.querySelector("img").alt = `${about.columns[i].name}, finished: ${others.join(", ") || "all are recognised"}`;
  });
}

function basis() {
  if (!steps.length) return "";
  if (isFinal()) return missed.flat().some(Boolean) ? "Of the finished images; ✕ is not recognised." : "Of the finished images.";
  return `Î and Ĥ at step ${shown + 1}, of what the guidance looks at.`;
}

function isFinal() {
  return figures !== null && shown === steps.length - 1;
}

function readoutWords() {
  const pace = steps.at(-1).elapsed / steps.length;
  const parts = [`step ${shown + 1} of ${count}`, `t = ${steps[shown].t}`, `${seconds(pace)} a step`];
  if (state === "running") parts.push(`${seconds(pace * (count - steps.length))} left`);
  return parts.join(" · ");
}

// Curves

// The values of a chart by column, null where there is none; nothing where there are none yet.
function valuesOf(key) {
  if (key === "accuracy" || key === "recognised_diversity") return figures && figures.map((figure) => figure[key]);
  if (isFinal()) return figures.map((figure) => figure[key]);
  return steps.length ? steps[Math.max(0, shown)][key] : null;
}

function draw(figure) {
  const chart = figure.querySelector(":scope > svg");
  const { key } = figure.dataset;
  const { left, width, centre } = geometry();
  const height = chart.clientHeight;
  if (!width || !height) return;
  const values = valuesOf(key);
  const bound = about.bounds[key];
  const scale = scaleOf(key, (values || []).filter((value) => value !== null), bound, !values);
  const [top, bottom] = [24, height - 12];
  const y = (value) => bottom - ((clamp(value, scale.low, scale.high) - scale.low) / (scale.high - scale.low)) * (bottom - top);
  const nodes = [];
  const lines = [...(bound ? [y(bound.value)] : []), ...(values && values[0] !== null ? [y(values[0])] : [])];
  const besides = (at) => [at - 10, at + 21].find((base) => fits(base, height, lines)) || at - 10;
  for (const { value, words } of scale.ticks) {
    nodes.push(svg("line", { class: "axis", x1: left, x2: width, y1: y(value), y2: y(value) }));
    nodes.push(svg("text", { x: left - (left < 40 ? 3 : 8), y: y(value) + 4, "text-anchor": "end" }, words));
  }
  if (values && bound && bound.value <= scale.high && bound.value > 0) {
    nodes.push(svg("line", { class: "limit", x1: left, x2: width, y1: y(bound.value), y2: y(bound.value) }));
  }
  if (values) {
    if (values[0] !== null) nodes.push(svg("line", { class: "level", x1: centre(0), x2: width, y1: y(values[0]), y2: y(values[0]) }));
    const known = values.map((value, i) => ({ value, i })).filter(({ value }) => value !== null);
    for (const line of unbroken(known.filter(({ i }) => i > 0))) {
      nodes.push(svg("polyline", { class: "path", points: line.map(({ value, i }) => `${centre(i)},${y(value)}`).join(" ") }));
    }
    for (const { value, i } of known) nodes.push(mark(i, centre(i), y(value)));
    for (const { value, i } of known) {
      const place = { class: `value${i === column ? " picked" : ""}`, x: centre(i), y: besides(y(value)), "text-anchor": "middle" };
      nodes.push(svg("text", place, inWords(key, value)));
    }
    values.forEach((value, i) => value === null && nodes.push(svg("text", { x: centre(i), y: bottom - 4, "text-anchor": "middle" }, "–")));
  } else {
    nodes.push(svg("text", { class: "empty", x: left, y: (top + bottom) / 2 + 5 }, waitingWords(key)));
  }
  chart.replaceChildren(...nodes);
  chart.dataset.points = values ? values.filter((value) => value !== null).length : 0;
  chart.setAttribute("aria-label", `${NAMES[key]}: ${values
    ? values.map((value, i) => `${about.columns[i].name} ${value === null ? "no figure" : inWords(key, value)}`).join(", ")
    : waitingWords(key) || "no run yet"}`);
}

function waitingWords(key) {
  if (key !== "accuracy" && key !== "recognised_diversity") return "";
  if (state === "stopped" || state === "failed") return "Only finished images are judged.";
  return state === "running" ? "As soon as the images are finished." : "";
}

// Whether digits on this baseline stay within the chart and clear of the lines across it.
function fits(base, height, lines) {
  return base > 11 && base < height - 1 && lines.every((line) => Math.abs(base - 5 - line) > 8);
}

// A column without a figure is a gap in the line.
function unbroken(points) {
  const lines = [];
  points.forEach((point, j) => {
    if (j && points[j - 1].i === point.i - 1) lines.at(-1).push(point);
    else lines.push([point]);
  });
  return lines.filter((line) => line.length > 1);
}

function clamp(value, low, high) {
  return Math.max(low, Math.min(high, value));
}

function inWords(key, value) {
  if (key === "accuracy") return String(Math.round(value * about.images));
  return value.toFixed(key === "recognised_diversity" ? 3 : 2).replace("-", "−");
}

// The scale follows the values: near their bound, differences of a tenth are to be seen; Ĥ and counts start at 0.
function scaleOf(key, values, bound, isEmpty) {
  if (key === "accuracy") {
    return { low: 0, high: 1, ticks: [0, 1].map((value) => ({ value, words: inWords(key, value) })) };
  }
  if (isEmpty) return { low: 0, high: 1, ticks: [0, 1].map((value) => ({ value, words: "" })) };
  if (key === "prototype") {
    const short = bound.value - Math.max(LOWEST, Math.min(bound.value - 0.05, ...values));
    const span = [0.1, 0.2, 0.5, 1, 2].find((size) => size >= short) || bound.value - LOWEST;
    return ticked(bound.value - span, Math.max(bound.value, ...values));
  }
  return ticked(0, ceiling(key === "contextual" ? 0.08 : 0.01, values, key === "contextual" ? bound : null));
}

function ticked(low, high) {
  const gap = high - low;
  const digits = gap < 0.05 ? 3 : gap < 3 ? 2 : 1;
  return { low, high, ticks: [low, high].map((value) => ({ value, words: value.toFixed(digits).replace("-", "−") })) };
}

function ceiling(least, values, bound) {
  const most = Math.max(least, ...values) * 1.1;
  const size = 10 ** Math.floor(Math.log10(most));
  const top = [1, 1.5, 2, 3, 5, 7.5, 10].map((factor) => factor * size).find((value) => value >= most);
  return bound && bound.value > 0 && top > bound.value * 0.75 ? Math.max(bound.value, ...values) : top;
}

// Shape as well as hue: a circle, a square, a triangle.
function mark(i, x, y) {
  const attributes = { class: `mark ${kindOf(i)}${i === column ? " picked" : ""}` };
  if (kindOf(i) === "unguided") return svg("circle", { ...attributes, cx: x, cy: y, r: 5.5 });
  if (kindOf(i) === "prototype") return svg("rect", { ...attributes, x: x - 5, y: y - 5, width: 10, height: 10 });
  return svg("path", { ...attributes, d: `M${x} ${y - 6.5}l6.5 11.5h-13z` });
}

// Pointing: a column is marked from its head to its last point, a row is the same noise in every column.

function point(i) {
  if (i === column && band.hidden === i < 0) return;
  column = i;
  stage.dataset.column = i < 0 ? "" : about.columns[i].name;
  band.hidden = i < 0;
  if (i >= 0) {
    const { left, step } = geometry();
    band.style.left = `${left + i * step}px`;
    band.style.width = `${step}px`;
  }
  charts.forEach(draw);
}

function pointRow(row) {
  const mark = wall.querySelector(".rowmark");
  mark.hidden = row < 0;
  if (row < 0) return;
  const number = numbers.children[row];
  mark.style.top = `${number.offsetTop - 1}px`;
  mark.style.height = `${number.offsetHeight + 2}px`;
}

function focused() {
  const heads = [...wall.querySelectorAll(".head")];
  return heads.indexOf(document.activeElement);
}

plane.addEventListener("pointermove", (event) => {
  if (!about) return;
  const { left, step } = geometry();
  const across = event.clientX - plane.getBoundingClientRect().left - left;
  const i = across < 0 ? -1 : Math.floor(across / step);
  point(i < about.columns.length ? i : -1);
  const row = [...numbers.children].findIndex((node) => {
    const box = node.getBoundingClientRect();
    return event.clientY >= box.top && event.clientY < box.bottom;
  });
  pointRow(wall.contains(event.target) && i >= 0 ? row : -1);
});
plane.addEventListener("pointerleave", () => {
  if (!about) return;
  point(focused());
  pointRow(-1);
});

// The figures as a table

function fillTable() {
  const table = find(".figures table");
  find(".figures").classList.toggle("none", !figures);
  if (!figures) {
    find(".figures").open = false;
    return table.replaceChildren();
  }
  const shownFigures = [
    ["prototype", "Î(X;Y), nats"],
    ["contextual", "Ĥ(X|Y), nats"],
    ["held_out_contextual", "Ĥ, held out, nats"],
    ["accuracy", "recognised"],
    ["recognised_diversity", "diversity of those recognised"],
  ].filter(([key]) => figures.some((figure) => figure[key] !== null));
  const head = row("th", ["column", ...shownFigures.map(([, name]) => name)], "col");
  const body = about.columns.map(({ name }, i) => row("td", [name, ...shownFigures.map(([key]) => cellWords(key, figures[i][key]))]));
  const [thead, tbody] = [make("thead", ""), make("tbody", "")];
  thead.append(head);
  tbody.append(...body);
  table.replaceChildren(thead, tbody);
}

function cellWords(key, value) {
  if (value === null) return "–";
  if (key === "accuracy") return `${Math.round(value * about.images)} of ${about.images}`;
  return value.toFixed(3).replace("-", "−");
}

function row(kind, texts, scope = "row") {
  const node = make("tr", "");
  node.append(...texts.map((text, i) => {
    const cell = make(i ? kind : "th", "", text);
    if (cell.tagName === "TH") cell.scope = i ? "col" : scope;
    return cell;
  }));
  return node;
}

// The map

function buildMap(given) {
  map = given;
  measure = map.measures ? Object.keys(map.measures)[0] : null;
  stage.dataset.map = measure ? "there" : "none";
  find(".map .about").textContent = map.about;
  if (!measure) return;
  for (const [key, { name }] of Object.entries(map.measures)) {
    const label = make("label", "", "");
    const input = document.createElement("input");
    Object.assign(input, { type: "radio", name: "beta-measure", value: key, checked: key === measure });
    input.addEventListener("change", () => {
      measure = key;
      fillMap();
      markMap();
    });
    label.append(input, name);
    find(".measures").append(label);
  }
  fillMap();
}

// The measure that is shown, over its own rows and columns where it has some.
function chosen() {
  return { ...map, ...map.measures[measure] };
}

function fillMap() {
  const { cells, ipcs, betas, about: words } = chosen();
  find(".about-measure").textContent = words === map.about ? "" : words;
  find(".about-measure").hidden = words === map.about;
  const means = cells.flat().filter(Boolean).map(([mean]) => mean);
  const [low, high] = [Math.min(...means), Math.max(...means)];
  const head = row("th", ["IPC", ...betas.map((beta) => (beta === null ? "un\u00adguided" : ""))], "col");
  betas.forEach((beta, j) => beta !== null && head.children[j + 1].append(make("span", "wide", "β = "), String(beta)));
  const rows = ipcs.map((ipc, i) => {
    const line = row("td", [String(ipc), ...cells[i].map((cell) => (cell ? mapWords(cell[0]) : "–"))]);
    [...line.querySelectorAll("td")].forEach((node, j) => {
      const cell = cells[i][j];
      node.classList.toggle("none", !cell);
      if (!cell) return;
      node.style.setProperty("--share", high > low ? (cell[0] - low) / (high - low) : 0);
      node.title = cell[1] === null ? "one seed" : `± ${mapWords(cell[1])} (standard error)`;
    });
    return line;
  });
  const [thead, tbody] = [make("thead", ""), make("tbody", "")];
  thead.append(head);
  tbody.append(...rows);
  find(".map table").replaceChildren(thead, tbody);
}

function mapWords(value) {
  if (measure === "accuracy" || measure === "trained") return (100 * value).toFixed(1);
  return value.toFixed(measure === "recognised_diversity" ? 3 : 2);
}

// The run on show, or the one that Start would begin: its range of β at the nearest studied IPC.
function markMap() {
  if (!measure || !about) return;
  const ratio = (ipc) => Math.max(ipc / about.images, about.images / ipc);
  const { ipcs, betas: studied } = chosen();
  const nearest = ipcs.reduce((best, ipc) => (ratio(ipc) < ratio(best) ? ipc : best));
  const betas = about.columns.map(({ beta }) => beta).filter((beta) => beta !== null);
  const [low, high] = [betas[0], betas.at(-1)];
  const inside = studied.map((beta, j) => ({ beta, j })).filter(({ beta }) => beta !== null && low <= beta && beta <= high);
  stage.querySelectorAll(".map td").forEach((cell) => cell.classList.remove("here"));
  const cells = stage.querySelectorAll(".map tbody tr")[ipcs.indexOf(nearest)].querySelectorAll("td");
  inside.forEach(({ j }) => cells[j].classList.add("here"));
  const here = find(".map .frame");
  here.hidden = !inside.length;
  if (inside.length) {
    const [first, end] = [cells[inside[0].j], cells[inside.at(-1).j]];
    Object.assign(here.style, {
      left: `${first.offsetLeft - 2}px`,
      top: `${first.offsetTop - 2}px`,
      width: `${end.offsetLeft + end.offsetWidth - first.offsetLeft + 4}px`,
      height: `${first.offsetHeight + 4}px`,
    });
  }
  const span = low === high ? `β = ${low}` : `β = ${low} to ${high}`;
  const away = nearest === about.images ? "" : `, the studied number nearest to its ${about.images}`;
  find(".here-words").textContent = inside.length
    ? `Framed: where the run above stands, ${span} at IPC ${nearest}${away}.`
    : `The run above, ${span} at IPC ${about.images}, lies between the studied β.`;
}

watch("value", () => receive(props.value));
new ResizeObserver(() => {
  if (!about) return;
  fit();
  markMap();
  const marked = column;
  column = -1;
  point(marked);
  charts.forEach(draw);
}).observe(stage);
fillTable();
receive(props.value);
