// Runs once a page inside gr.HTML, which gives it `element`, `props`, `watch` and `trigger`. It knows which version of
// the set it has and asks the server for what is newer, so that nothing can be missed, and browsing needs no server.

const root = element.querySelector(".set");
const find = (selector) => root.querySelector(selector);
const [rows, detail, large, terms, back] = [".rows", ".detail", ".large", ".terms", ".back"].map(find);
const ASK_MS = 300; // between two questions while something moves
const SILENCE_MS = 8000; // after which a question counts as lost
const CARDS = 4; // up to so many images, classes stand beside each other
const NARROW = "(max-width: 1100px)";
const [SMALLEST, LARGEST, GAP] = [30, 64, 3]; // of a tile and between tiles, in pixels

let set = null; // {key, born, version} of the set on show
let about = null; // title, classes, ipc, bounds
let list = []; // the row of every class
let made = new Map();
let latest = {}; // the last payload
let picked = null; // {label, image}, image being null for a whole class
let heard = 0;
let timer = null;

function receive(payload) {
  if (!payload) return;
  if (payload.kind === "idle") {
    if (!set) begin(payload);
  } else if (payload.kind === "gone") {
    set = null;
    begin(payload);
  } else if (payload.kind === "open") {
    set = { key: payload.key, born: "", version: 0 };
    ask();
  } else {
    if (payload.about) {
      const other = !set || set.key !== payload.key;
      set = { key: payload.key, born: payload.born };
      begin({ ...payload, ...payload.about, keep: !other });
    } else if (!set || set.key !== payload.key || set.born !== payload.born) {
      set = { key: payload.key, born: "", version: 0 };
      return ask();
    }
    set.version = payload.version;
    latest = payload;
    payload.made.forEach(takeIn);
    render();
    listen();
  }
}

// Asking

function listen() {
  heard = Date.now();
  clearTimeout(timer);
  if (latest.busy) timer = setTimeout(ask, ASK_MS);
}

function ask() {
  heard = Date.now();
  clearTimeout(timer);
  if (!element.isConnected) return clearInterval(guard);
  trigger("look", { key: set.key, born: set.born, have: set.version, known: latest.known || "" });
}

const guard = setInterval(() => {
  if (set && latest.busy && Date.now() - heard > SILENCE_MS) ask();
}, 2000);

// The rows

function begin(payload) {
  about = payload;
  made = new Map();
  latest = payload;
  if (!payload.keep) picked = null;
  find(".body").append(detail);
  list = about.classes.map(rowOf);
  rows.replaceChildren(...list);
  rows.classList.toggle("cards", about.ipc <= CARDS);
  layOut();
  render();
}

function rowOf(name, label) {
  const row = make("div", "row");
  const title = make("button", "name");
  title.type = "button";
  title.disabled = true;
  title.append(make("b", "", name), make("span", "first"), make("span", "second"));
  title.addEventListener("click", () => pick({ label, image: null }));
  row.append(title, sheetOf(label));
  return row;
}

// A class's images side by side; each tile shows its own part of the strip that `--sheet` is.
function sheetOf(label) {
  const sheet = make("div", "tiles");
  for (let image = 0; image < about.ipc; image++) {
    const tile = make("button", "tile");
    tile.type = "button";
    tile.disabled = true;
    tile.tabIndex = image ? -1 : 0;
    tile.style.backgroundImage = "var(--sheet)";
    tile.style.backgroundSize = `${100 * about.ipc}% 100%`;
    tile.style.backgroundPosition = `${about.ipc > 1 ? (100 * image) / (about.ipc - 1) : 0}% 0`;
    tile.setAttribute("aria-label", `${about.classes[label]}, image ${image + 1}`);
    tile.addEventListener("click", () => pick({ label, image }));
    tile.addEventListener("keydown", (event) => move(event, label, image));
    sheet.append(tile);
  }
  return sheet;
}

function make(kind, className, text = "") {
  const node = document.createElement(kind);
  node.className = className;
  node.textContent = text;
  return node;
}

// Swapped when it is decoded, so that nothing flickers.
function paint(sheet, source) {
  if (sheet.coming === source) return;
  sheet.coming = source;
  const image = new Image();
  image.src = source;
  image.decode().catch(() => {}).then(() => {
    if (sheet.coming === source) sheet.style.setProperty("--sheet", `url(${source})`);
  });
}

function clear(sheet) {
  sheet.coming = "";
  sheet.style.removeProperty("--sheet");
}

function takeIn(payload) {
  made.set(payload.label, payload);
  const row = list[payload.label];
  paint(row.querySelector(".tiles"), payload.sheet);
  row.querySelector(".name").disabled = false;
  row.querySelectorAll(".tile").forEach((tile, i) => mark(tile, payload, i));
  const { prototype, contextual } = payload.figures;
  row.querySelector(".first").textContent = recognised(payload);
  row.querySelector(".second").textContent = `Î ${nats(prototype)} · Ĥ ${nats(contextual)}`;
}

function mark(tile, payload, image) {
  const missed = payload.taken_for[image] !== payload.label;
  tile.disabled = false;
  tile.classList.toggle("missed", missed);
  const name = `${about.classes[payload.label]}, image ${image + 1}`;
  tile.setAttribute("aria-label", missed ? `${name}, taken for ${about.classes[payload.taken_for[image]]}` : name);
}

function count(payload) {
  return payload.taken_for.filter((label) => label === payload.label).length;
}

function recognised(payload) {
  if (about.ipc === 1) return count(payload) ? "recognised" : "not recognised";
  return `${count(payload)} of ${about.ipc} recognised`;
}

function nats(value) {
  return value === null ? "–" : value.toFixed(2).replace("-", "−");
}

function layOut() {
  if (!list.length) return;
  const cards = about.ipc <= CARDS;
  const side = about.ipc === 1 ? 104 : cards ? 72 : LARGEST;
  rows.style.setProperty("--side", `${side}px`);
  rows.style.setProperty("--card", `${about.ipc * (side + GAP)}px`);
  const width = list[0].querySelector(".tiles").clientWidth;
  if (!width) return;
  const most = Math.max(1, Math.floor((width + GAP) / (SMALLEST + GAP)));
  rows.style.setProperty("--columns", cards ? about.ipc : Math.ceil(about.ipc / Math.ceil(about.ipc / most)));
}

// Everything that changes

function render() {
  const { state = "idle", work = null } = latest;
  Object.assign(root.dataset, { state, done: made.size, classes: about.classes.length, key: set ? set.key : "" });
  find(".title").textContent = about.title;
  const marker = find(".state");
  if (marker.textContent !== latest.words) marker.textContent = latest.words;
  marker.classList.toggle("marked", state === "stopped" || state === "failed");

  const share = (100 * (made.size + (work ? work.step / work.steps : 0))) / about.classes.length;
  find(".bar i").style.width = `${share}%`;
  find(".bar").setAttribute("aria-valuenow", Math.round(share));
  find(".readout").textContent = readout(work);

  list.forEach((row, label) => {
    const working = work !== null && work.label === label;
    row.classList.toggle("working", working);
    row.classList.toggle("picked", picked !== null && picked.label === label);
    if (made.has(label)) return;
    if (working) paint(row.querySelector(".tiles"), work.sheet);
    else clear(row.querySelector(".tiles"));
    row.querySelector(".first").textContent = working ? `step ${work.step} of ${work.steps}` : "";
  });
  renderDetail(work);
}

function readout(work) {
  if (!set) return "";
  const parts = [`${made.size} of ${about.classes.length} classes`];
  if (work) parts.push(`step ${work.step} of ${work.steps}`);
  if (latest.left) parts.push(`about ${seconds(latest.left)} left`);
  return parts.join(" · ");
}

function seconds(value) {
  return value >= 90 ? `${Math.round(value / 60)} min` : `${Math.max(1, Math.round(value))} s`;
}

// What is seen in large: the class at work, or what was picked

let inLarge = ""; // which class and image `large` is built for

function renderDetail(work) {
  const entry = picked && made.get(picked.label);
  root.dataset.picked = entry ? `${picked.label}:${picked.image ?? ""}` : "";
  back.hidden = true;
  markPicked();
  place(entry);
  if (entry && picked.image !== null) return showImage(entry, picked.image);
  if (entry) return showClass(entry, work);
  if (work) return showWork(work);
  const some = made.size > 0;
  if (some) caption("Pick an image or a class", "to see it in large, with its figures.");
  else caption("The class at work", "is seen here in large while it is made, and afterwards whatever you pick.");
  fill("none", () => []);
  terms.replaceChildren();
}

function markPicked() {
  rows.querySelectorAll(".tile.picked").forEach((tile) => tile.classList.remove("picked"));
  if (picked && picked.image !== null) tileAt(picked.label, picked.image).classList.add("picked");
}

// In a narrow window what was picked unfolds below its own row.
function place(entry) {
  if (entry && matchMedia(NARROW).matches) {
    if (list[entry.label].nextElementSibling !== detail) list[entry.label].after(detail);
  } else if (rows.contains(detail)) find(".body").append(detail);
}

function tileAt(label, image) {
  return list[label].querySelectorAll(".tile")[image];
}

function caption(what, which) {
  find(".what").textContent = what;
  find(".which").textContent = which;
}

function fill(what, content) {
  const id = `${set ? set.key : ""} ${what}`;
  if (id === inLarge && large.firstChild) return;
  inLarge = id;
  large.replaceChildren(...content());
}

function sheetInLarge(label, clickable) {
  const sheet = sheetOf(label);
  sheet.style.setProperty("--columns", Math.ceil(Math.sqrt(about.ipc)));
  sheet.style.setProperty("--side", "1fr");
  sheet.querySelectorAll(".tile").forEach((tile, i) => {
    if (clickable) mark(tile, made.get(label), i);
    else tile.setAttribute("aria-hidden", "true");
  });
  return sheet;
}

function showWork(work) {
  const name = about.classes[work.label];
  caption(`${name}, at work`, "x̃0: what the model, looking at the noise of this step, expects the images to become.");
  fill(`work ${work.label}`, () => [sheetInLarge(work.label, false)]);
  paint(large.firstChild, work.sheet);
  terms.replaceChildren();
}

function showClass(entry, work) {
  const name = about.classes[entry.label];
  caption(name, about.ipc === 1 ? "1 image" : `${about.ipc} images, made together`);
  fill(`class ${entry.label}`, () => [sheetInLarge(entry.label, true)]);
  paint(large.firstChild, entry.sheet);
  const { prototype, contextual, held_out_contextual, recognised_diversity } = entry.figures;
  const share = `${count(entry)} of ${about.ipc}`;
  const parts = [
    term("Î(X;Y)", nats(prototype), "nats. How surely the class is recognised" + atMost("prototype"), meter("prototype", prototype)),
    term("Ĥ(X|Y)", nats(contextual), "nats. How much the images differ" + atMost("contextual"), meter("contextual", contextual)),
  ];
  if (held_out_contextual !== null)
    parts.push(term("Ĥ, held out", nats(held_out_contextual), "nats. The same by a second estimator that guided nothing."));
  parts.push(term("recognised", share, "By a classifier that guided nothing."));
  if (recognised_diversity !== null)
    parts.push(term("diversity", recognised_diversity.toFixed(3), "Of those recognised, in its features."));
  terms.replaceChildren(...parts.flat());
  if (work) offer("← The class at work", () => pick(null));
}

function showImage(entry, image) {
  const name = about.classes[entry.label];
  caption(name, about.ipc === 1 ? "the one image of its class" : `image ${image + 1} of ${about.ipc}`);
  fill(`image ${entry.label} ${image}`, () => {
    const sheet = make("div", "tiles");
    sheet.style.setProperty("--columns", 1);
    sheet.style.setProperty("--side", "1fr");
    const tile = make("div", "tile");
    tile.setAttribute("role", "img");
    tile.setAttribute("aria-label", `${name}, image ${image + 1}, in large`);
    tile.style.cssText = tileAt(entry.label, image).style.cssText;
    sheet.append(tile);
    return [sheet];
  });
  paint(large.firstChild, entry.sheet);
  const [prototype, contextual] = [entry.prototype[image], entry.contextual[image]];
  const right = entry.taken_for[image] === entry.label;
  const recognised = term("recognised", right ? "✓ yes" : "✕ no", right
    ? "By a classifier that guided nothing."
    : `A classifier that guided nothing takes it for ${about.classes[entry.taken_for[image]]}.`);
  if (!right) recognised[0].classList.add("missed");
  terms.replaceChildren(
    ...term("H(Y) + log P(y|x)", nats(prototype), "nats. Its part in Î(X;Y)" + atMost("prototype"), meter("prototype", prototype)),
    ...term(about.bounds.contextual === null ? "KL(p ‖ Q)" : "KL(p ‖ Q̂)", nats(contextual), contextualWords(), meter("contextual", contextual)),
    ...recognised,
  );
  if (about.ipc > 1) offer(`← All of ${name}`, () => pick({ label: entry.label, image: null }));
}

function contextualWords() {
  if (about.bounds.contextual === null) return "nats. Its part in Ĥ(X|Y): how unlike it is to the mean of the real class.";
  return "nats. Its part in Ĥ(X|Y): how unlike it is to the mean of those made with it.";
}

function atMost(key) {
  const bound = about.bounds[key];
  if (bound === null) return ".";
  const count = key === "prototype" ? about.classes.length : about.ipc;
  return `; at most log ${count} = ${bound.toFixed(2)}.`;
}

function meter(key, value) {
  const bound = about.bounds[key];
  if (!bound) return null;
  const box = make("div", "meter");
  const bar = make("i", "");
  bar.style.width = `${100 * Math.max(0, Math.min(1, value / bound))}%`;
  bar.style.setProperty("--meter", `var(--${key})`);
  box.append(bar);
  return box;
}

function term(name, value, words, bar = null) {
  const dt = make("dt", "", name);
  dt.append(make("span", "", value));
  const dd = make("dd", "", words);
  if (bar) dd.prepend(bar);
  return [dt, dd];
}

function offer(words, action) {
  back.hidden = false;
  back.textContent = words;
  back.onclick = action;
}

// Picking

function pick(choice) {
  picked = choice;
  render();
  if (choice && matchMedia(NARROW).matches) {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    detail.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "nearest" });
  }
}

function move(event, label, image) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const columns = Number(rows.style.getPropertyValue("--columns")) || 1;
  const inRows = !large.contains(event.target);
  const across = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const down = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (event.key === "Escape") pick(null);
  else if (inRows && across) focusAt(label, image + across);
  else if (inRows && down && image + down * columns >= 0 && image + down * columns < about.ipc) {
    focusAt(label, image + down * columns);
  } else if (inRows && down) focusAt(label + down, down > 0 ? image % columns : lastAbove(image, columns));
  else return;
  event.preventDefault();
}

function lastAbove(image, columns) {
  const start = Math.floor((about.ipc - 1) / columns) * columns;
  return Math.min(about.ipc - 1, start + (image % columns));
}

function focusAt(label, image) {
  if (!made.has(label) || image < 0 || image >= about.ipc) return;
  list[label].querySelectorAll(".tile").forEach((tile, i) => (tile.tabIndex = i === image ? 0 : -1));
  tileAt(label, image).focus();
  pick({ label, image });
}

watch("value", () => receive(props.value));
new ResizeObserver(layOut).observe(rows);
receive(props.value);
