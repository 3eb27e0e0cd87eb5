// A click on a column's head sorts the table by it: numbers by value, the rest as text, empty cells last.
document.addEventListener("click", (event) => {
  const head = event.target.closest("article th");
  if (!head) return;
  const table = head.closest("table");
  const body = table.tBodies[0];
  const column = [...head.parentNode.children].indexOf(head);
  const descending = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const text = (row) => row.cells[column].textContent.trim();
  const number = (value) => parseFloat(value.replace(/,/g, ""));
  const rows = [...body.rows].sort((a, b) => {
    const [x, y] = [text(a), text(b)];
    if (!x || !y) return !x - !y;
    const order = isNaN(number(x)) || isNaN(number(y)) ? x.localeCompare(y) : number(x) - number(y);
    return descending ? -order : order;
  });
  body.append(...rows);
});
