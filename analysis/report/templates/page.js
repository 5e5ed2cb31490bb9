"use strict";
// Sorting, and what print and links need of closed details. Without this script the page is whole, in the ladder's order.
(() => {
  const sorted = new Map(); // table id -> {column, direction}: kept when a live page swaps its content

  const directions = { none: "ascending", ascending: "descending", descending: "none" };

  function compare(a, b, direction) {
    if (a === "" || b === "") return (a === "") - (b === ""); // what is not known comes last, whichever way
    const x = Number(a), y = Number(b);
    const order = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en") : x - y;
    return direction === "descending" ? -order : order;
  }

  function sort(table, column, direction) {
    const body = table.tBodies[0];
    const key = (row) => row.cells[column].dataset.value ?? "";
    const rows = [...body.rows].sort((p, q) => Number(p.dataset.place) - Number(q.dataset.place));
    if (direction !== "none") rows.sort((p, q) => compare(key(p), key(q), direction));
    body.append(...rows);
    for (const [i, head] of [...table.tHead.rows[0].cells].entries()) {
      if (i === column && direction !== "none") head.setAttribute("aria-sort", direction);
      else head.removeAttribute("aria-sort");
    }
    if (direction === "none") { delete table.dataset.sorted; sorted.delete(table.id); }
    else { table.dataset.sorted = direction; sorted.set(table.id, { column, direction }); }
  }

  function prepareTable(table) {
    for (const [i, row] of [...table.tBodies[0].rows].entries()) row.dataset.place = i;
    for (const [column, head] of [...table.tHead.rows[0].cells].entries()) {
      if (!head.hasAttribute("data-sort")) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.id = `${table.id}-sort-${column}`;
      button.textContent = head.textContent;
      button.addEventListener("click", () => sort(table, column, directions[head.getAttribute("aria-sort") ?? "none"]));
      head.replaceChildren(button);
    }
    const before = sorted.get(table.id);
    if (before) sort(table, before.column, before.direction);
  }

  function prepareDetails() {
    const first = document.querySelector("details.row");
    if (!first) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "open-all";
    button.id = "open-all";
    const rows = () => [...document.querySelectorAll("details.row")];
    const label = () => { button.textContent = rows().every((d) => d.open) ? "Close all" : "Open all"; };
    button.addEventListener("click", () => { const open = !rows().every((d) => d.open); for (const d of rows()) d.open = open; label(); });
    label();
    first.before(button);
  }

  function reveal() {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const details = target && target.closest("details");
    if (details && !details.open) { details.open = true; target.scrollIntoView(); }
  }

  function prepare() {
    for (const table of document.querySelectorAll("table.sortable")) prepareTable(table);
    prepareDetails();
  }

  let closed = [];
  addEventListener("beforeprint", () => { closed = [...document.querySelectorAll("details:not([open])")]; for (const d of closed) d.open = true; });
  addEventListener("afterprint", () => { for (const d of closed) d.open = false; });
  addEventListener("hashchange", reveal);
  document.addEventListener("content-swapped", prepare);
  prepare();
  reveal();
})();
