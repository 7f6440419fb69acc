// In every page's head. When the server has put this page's bundle back, a bar says so, with links to both bundles:
// the server answers 410 to whatever the page asks for, and ends the stream by which the page says that it is there.
(() => {
  const plain = window.fetch.bind(window);

  window.fetch = async (...given) => {
    const response = await plain(...given);
    if (response.status === 410) tell(await response.clone().json());
    return response;
  };

  // Gradio has begun its stream before this script runs. It is listed when it ends.
  new PerformanceObserver((list) => {
    if (list.getEntries().some((entry) => entry.name.includes("/heartbeat/"))) look();
  }).observe({ type: "resource", buffered: true });

  async function look() {
    try {
      const response = await plain("here", { cache: "no-store" });
      if (response.status === 410) tell(await response.json());
    } catch {} // the server has ended, or the page is left
  }

  function tell(words) {
    if (document.querySelector("#put-back") || !words.here) return;
    const bar = document.createElement("div");
    bar.id = "put-back";
    bar.setAttribute("role", "alert");
    const theme = new URLSearchParams(location.search).get("__theme");
    const link = (text, address) => Object.assign(document.createElement("a"), { textContent: text, href: address });
    bar.append(
      Object.assign(document.createElement("p"), { textContent: words.detail }),
      link(`Open ${words.title} again`, location.href),
      link(`Go to ${words.here_title}`, `../${encodeURIComponent(words.here)}/${theme ? `?__theme=${encodeURIComponent(theme)}` : ""}`)
    );
    bar.children[1].addEventListener("click", (event) => {
      event.preventDefault();
      location.reload(); // a link to the very address, with its #, would not load it
    });
    document.body.append(bar);
  }

  addEventListener("visibilitychange", () => document.visibilityState === "visible" && look());
})();
