
for (const table of document.querySelectorAll("table.sortable")) {
  const value = (row, column) => {
    const text = row.children[column].textContent.replace("\u2212", "-").replace(/[,%]/g, "").trim();
    return text === "" || text === "\u2013" ? -Infinity : Number(text);
  };
  for (const head of table.querySelectorAll("th[data-column]")) {
    const column = Number(head.dataset.column);
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const order = head.ariaSort === "descending" ? "ascending" : "descending";
      for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const rows = [...table.tBodies[0].rows];
      const words = rows.some((row) => Number.isNaN(value(row, column)));
      rows.sort((a, b) => words ? b.children[column].textContent.localeCompare(a.children[column].textContent)
        : value(b, column) - value(a, column));
      table.tBodies[0].append(...(order === "descending" ? rows : rows.reverse()));
    });
  }
}
