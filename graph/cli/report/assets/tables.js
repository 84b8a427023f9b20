// Tables: a click on a heading sorts, up or down, then back to the first order.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const first = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.order === undefined ? null : Number(cell.dataset.order);
  };
  const text = (row, column) => row.cells[column].textContent.trim();
  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      const numbers = heading.classList.contains("number");
      const order = numbers ? ["descending", "ascending", null] : ["ascending", "descending", null];
      const next = order[(order.indexOf(heading.getAttribute("aria-sort")) + 1) % 3];
      for (const each of headings) each.removeAttribute("aria-sort");
      const rows = [...first];
      if (next !== null) {
        heading.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1;
        rows.sort((a, b) => {
          const x = value(a, column), y = value(b, column);
          if (x === null && y === null) return sign * text(a, column).localeCompare(text(b, column), "en", { numeric: true });
          if (x === null || Number.isNaN(x)) return 1;
          if (y === null || Number.isNaN(y)) return -1;
          return sign * (x - y);
        });
      }
      table.classList.toggle("sorted", next !== null);
      body.append(...rows);
    });
  });
}
