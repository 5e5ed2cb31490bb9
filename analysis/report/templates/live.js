"use strict";
// Only on a page that a server makes anew: fetches the page itself and swaps its content; scroll, sorting, open details and focus stay.
(() => {
  const seconds = Number(document.body.dataset.refresh);
  const status = document.getElementById("live-status");
  const pause = document.getElementById("live-pause");
  let paused = false;
  let last = "";

  function say(text) { if (status.textContent !== text) status.textContent = text; }

  function swap(text) {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    const open = new Set([...document.querySelectorAll("details[open]")].map((d) => d.dataset.key));
    const focus = document.activeElement && document.activeElement.id;
    const scrolls = new Map([...document.querySelectorAll(".scroll")].map((s) => [s.getAttribute("aria-label") ?? s.getAttribute("aria-labelledby"), s.scrollLeft]));
    const [x, y] = [scrollX, scrollY];
    for (const part of document.querySelectorAll("[data-live]")) {
      const other = fresh.querySelector(`[data-live="${part.dataset.live}"]`);
      if (!other) throw new Error("the answer is no report");
      part.replaceChildren(...[...other.childNodes].map((node) => document.adoptNode(node)));
    }
    document.title = fresh.title;
    for (const d of document.querySelectorAll("details")) d.open = open.has(d.dataset.key);
    document.dispatchEvent(new CustomEvent("content-swapped"));
    for (const s of document.querySelectorAll(".scroll")) s.scrollLeft = scrolls.get(s.getAttribute("aria-label") ?? s.getAttribute("aria-labelledby")) ?? 0;
    const again = focus && document.getElementById(focus);
    if (again) again.focus({ preventScroll: true });
    scrollTo(x, y);
  }

  async function look() {
    if (!paused && document.visibilityState === "visible") {
      try {
        const answer = await fetch(location.href.split("#")[0], { cache: "no-store" });
        if (!answer.ok) throw new Error(`status ${answer.status}`);
        const text = await answer.text();
        if (text !== last) { swap(text); last = text; }
        if (!paused) say(`Live: looks again every ${seconds} s.`);
      } catch (error) {
        say(`No new numbers: ${error.message}. Tries again every ${seconds} s.`);
      }
    }
    setTimeout(look, seconds * 1000);
  }

  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    say(paused ? "Paused: the numbers stand still." : `Live: looks again every ${seconds} s.`);
  });
  setTimeout(look, seconds * 1000);
})();
