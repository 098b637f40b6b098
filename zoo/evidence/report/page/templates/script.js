"use strict";
// Sort tables by a column: numbers by value, texts by the alphabet.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const rows = [...table.tBodies[0].rows].sort((one, other) => {
        const [a, b] = [key(one), key(other)];
        const order = a !== "" && b !== "" && !isNaN(a) && !isNaN(b) ? a - b : a.localeCompare(b);
        return down ? -order : order;
      });
      table.tBodies[0].append(...rows);
    });
  });
}
// Show the mistakes of a cell of the confusion matrix, or those that hold a text.
const list = document.getElementById("mistake-list");
if (list) {
  const tools = document.getElementById("mistake-tools");
  const search = Object.assign(document.createElement("input"), { type: "search", placeholder: "filter by text or class" });
  search.setAttribute("aria-label", "filter mistakes by text or class");
  const clear = Object.assign(document.createElement("button"), { type: "button", textContent: "show all", hidden: true });
  const status = document.createElement("span");
  status.setAttribute("role", "status");
  tools.append(search, clear, status);
  let pair = "";
  const show = (name) => {
    const wanted = search.value.toLowerCase();
    let count = 0;
    for (const item of list.children) {
      item.hidden = (pair && item.dataset.pair !== pair) || !item.textContent.toLowerCase().includes(wanted);
      count += !item.hidden;
    }
    clear.hidden = !pair && !wanted;
    status.textContent = clear.hidden ? "" : `${name ? `${name}: ` : ""}${count} shown`;
  };
  const choose = (cell) => {
    document.querySelectorAll(".matrix td.on").forEach((other) => other.classList.remove("on"));
    pair = cell ? cell.dataset.pair : "";
    cell?.classList.add("on");
    show(cell ? cell.dataset.name : "");
  };
  search.addEventListener("input", () => show(""));
  clear.addEventListener("click", () => { search.value = ""; choose(null); });
  for (const link of document.querySelectorAll(".matrix a")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const cell = link.closest("td");
      choose(cell.classList.contains("on") ? null : cell);
      if (pair) document.getElementById("mistakes").scrollIntoView();
    });
  }
}
// Enlarge an image where it is, by pointer or keyboard.
for (const image of document.querySelectorAll("img.zoom")) {
  image.tabIndex = 0;
  image.setAttribute("role", "button");
  image.setAttribute("aria-expanded", "false");
  const toggle = () => image.setAttribute("aria-expanded", String(image.classList.toggle("large")));
  image.addEventListener("click", toggle);
  image.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); toggle(); }
  });
}
