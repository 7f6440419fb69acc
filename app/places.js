// Runs once when the page is loaded. The address remembers the place behind its #, so that a page that is loaded again
// opens where it was.
() => {
  document.addEventListener("click", (event) => {
    const tab = event.target.closest("#places [data-tab-id]");
    if (!tab) return;
    const url = new URL(location.href);
    url.hash = tab.dataset.tabId === "explore" ? "" : tab.dataset.tabId;
    history.replaceState(history.state, "", url.href.replace(/#$/, ""));
  });
  if (location.hash === "#distil") document.querySelector("#places [data-tab-id=distil]").click();
}
