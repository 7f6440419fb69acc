// Runs once when the page is loaded, after copy_link.js. The address says behind its # which place is open and whether it is presented, as in
// #beta&present, so that a page that is loaded again, or opened by a link, is as it was.

// In a narrow window the last tabs are in a menu, where they have names only.
const TABS = "#places [data-tab-id], #places .overflow-dropdown button";
const PRESENT = "present";
const HAVE_STAGE = ["explore", "beta", "laboratory"];
const HAVE_START = ["explore", "beta", "distil"];
const bar = document.querySelector(".presentation");
const [button, copy] = [".present", ".copy"].map((name) => bar.querySelector(name));
let place = "explore";

const idOf = (tab) => tab.dataset.tabId || tab.textContent.trim().toLowerCase().replace(/^β.*/, "beta");
const isPresenting = () => document.body.classList.contains("presenting");
const tabs = () => [...document.querySelectorAll(TABS)];

function remember() {
  const url = new URL(location.href);
  const first = place === "explore" && !isPresenting() ? [] : [place];
  url.hash = [...first, ...(isPresenting() ? [PRESENT] : [])].join("&");
  history.replaceState(history.state, "", url.href.replace(/#$/, ""));
}

function show(tab) {
  place = idOf(tab);
  bar.querySelector(".place").textContent = tab.textContent.trim();
  bar.querySelector(".for-stage").hidden = !HAVE_STAGE.includes(place);
  bar.querySelector(".for-start").hidden = !HAVE_START.includes(place);
  bar.querySelector(".for-lessons").hidden = place !== "laboratory";
}

function present(on) {
  if (on === isPresenting()) return;
  document.body.classList.toggle("presenting", on);
  button.setAttribute("aria-pressed", on);
  button.querySelector("span").textContent = on ? "End (Esc)" : "Present";
  document.activeElement?.blur(); // else the space bar would press the button again
  scrollTo(0, 0);
  remember();
}

// By hand, and thus with the whole screen, which a browser gives to nobody else.
function toggle() {
  if (!isPresenting()) document.documentElement.requestFullscreen?.().catch(() => {});
  else if (document.fullscreenElement) document.exitFullscreen().catch(() => {});
  present(!isPresenting());
}

function follow() {
  const words = location.hash.slice(1).split("&");
  const wanted = tabs().find((tab) => words.includes(idOf(tab)));
  if (wanted && idOf(wanted) !== place) wanted.click();
  if (wanted || words[0] === PRESENT) present(words.includes(PRESENT));
}

document.addEventListener("click", (event) => {
  const tab = event.target.closest(TABS);
  if (!tab) return;
  show(tab);
  remember();
});
button.addEventListener("click", toggle);
document.addEventListener("fullscreenchange", () => document.fullscreenElement || present(false));
addEventListener("hashchange", follow);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (event.key === "Escape") return present(false);
  const typing = event.target.closest("textarea, select, input:not([type=range], [type=radio], [type=checkbox])");
  if (event.key.toLowerCase() === "p" && !typing) return toggle();
  if (event.key !== "Enter" || !isPresenting() || event.target !== document.body) return;
  const start = [...document.querySelectorAll("#places .buttons > button.primary")].find((node) => node.closest("[role=tabpanel]")?.checkVisibility());
  start?.click();
});

copy.addEventListener("click", () => copyLink(copy, location.href));

show(tabs().find((tab) => idOf(tab) === place));
follow();
