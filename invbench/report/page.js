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
// Filter: rows, columns and curves whose trial and method lack one of the words are hidden, and what is empty then.
const filter = document.getElementById("filter");
const main = document.querySelector("main");
const series = JSON.parse(main.dataset.series);
const narrow = () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (text) => words.every((word) => text.toLowerCase().includes(word));
  const trial = (item) => item.closest("[data-trial]")?.dataset.trial ?? "";
  let rows = 0;
  for (const item of main.querySelectorAll("[data-method]")) {
    item.hidden = !fits(`${trial(item)} ${item.dataset.method}`);
    if (item.matches("tr") && !item.hidden) rows += 1;
  }
  for (const line of main.querySelectorAll(".series")) {
    const index = [...line.classList].find((name) => /^s\d+$/.test(name)).slice(1);
    line.classList.toggle("gone", !fits(`${trial(line)} ${series[index]}`));
  }
  for (const part of main.querySelectorAll("[data-trial]")) {
    const items = [...part.querySelectorAll("[data-method], .series")];
    if (items.length) part.hidden = items.every((item) => item.hidden || item.classList.contains("gone"));
  }
  if (words.length) for (const fold of main.querySelectorAll("details.fold")) fold.open = true;
  document.getElementById("shown").textContent =
    words.length ? `${rows || "No"} row${rows === 1 ? "" : "s"} with “${words.join(" ")}”` : "";
};
filter?.addEventListener("input", narrow);
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
