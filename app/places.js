// Runs once when the page is loaded. The address remembers the place behind its #, so that a page that is loaded again
// opens where it was.
() => {
  // In a narrow window the last tabs are in a menu, where they have names only.
  const TABS = "#places [data-tab-id], #places .overflow-dropdown button";
  const idOf = (tab) => tab.dataset.tabId || tab.textContent.trim().toLowerCase().replace(/^β.*/, "beta");
  document.addEventListener("click", (event) => {
    const tab = event.target.closest(TABS);
    if (!tab) return;
    const url = new URL(location.href);
    url.hash = idOf(tab) === "explore" ? "" : idOf(tab);
    history.replaceState(history.state, "", url.href.replace(/#$/, ""));
  });
  const wanted = location.hash.slice(1);
  const place = wanted && [...document.querySelectorAll(TABS)].find((tab) => idOf(tab) === wanted);
  if (place) place.click();
}
