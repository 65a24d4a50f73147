"use strict";
// Sorting: a heading sorts its table, a second time the other way; what has no value stays last.
const key = (row, column) => {
  const cell = row.cells[column];
  const value = cell.dataset.value ?? cell.textContent.trim();
  if (value === "") return null;
  return Number.isNaN(Number(value)) ? value : Number(value);
};
const order = (a, b) =>
  typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true });
for (const button of document.querySelectorAll("button.sort")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const body = heading.closest("table").querySelector("tbody[data-sort]");
    const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
    const keyed = [...body.rows].map((row) => [key(row, heading.cellIndex), row]);
    keyed.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : sign * order(a, b)));
    body.append(...keyed.map(([, row]) => row));
  });
}
// Legends: the chosen method stays, in all figures, the others fade.
for (const button of document.querySelectorAll("button.pick")) {
  button.addEventListener("click", () => {
    const chosen = button.getAttribute("aria-pressed") === "true" ? null : button.dataset.series;
    for (const other of document.querySelectorAll("button.pick"))
      other.setAttribute("aria-pressed", String(other.dataset.series === chosen));
    for (const line of document.querySelectorAll(".series"))
      line.classList.toggle("faded", chosen !== null && !line.classList.contains("s" + chosen));
  });
}
// Pictures: enlarged with their original; arrow keys walk through the grid.
const dialog = document.getElementById("zoom");
const pictures = [...document.querySelectorAll("button.zoom")];
let current = 0;
const enlarge = (index) => {
  current = (index + pictures.length) % pictures.length;
  const button = pictures[current];
  const tiles = [...button.closest("tr").querySelectorAll("td.original .tile"), ...button.querySelectorAll(".tile")];
  document.getElementById("zoom-title").textContent = button.dataset.title;
  document.getElementById("zoom-captions").textContent =
    [...button.nextElementSibling.children].map((line) => line.textContent).join(" · ");
  const box = document.getElementById("zoom-tiles");
  box.className = button.closest("table").className.replace("grid ", "");
  box.replaceChildren(...tiles.map((tile) => {
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.textContent = tile.dataset.what;
    figure.append(tile.cloneNode(), caption);
    return figure;
  }));
  if (!dialog.open) dialog.showModal();
};
pictures.forEach((button, index) => button.addEventListener("click", () => enlarge(index)));
document.getElementById("zoom-close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("close", () => pictures[current].focus());
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowRight") enlarge(current + 1);
  if (event.key === "ArrowLeft") enlarge(current - 1);
});
// Paper has no way to unfold.
window.addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details.fold, details.study")) details.open = true;
});
