// A click on a column's head sorts the table by it: numbers by value, then the rest as text, then empty cells.
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
    const [left, right] = [number(x), number(y)];
    if (isNaN(left) !== isNaN(right)) return isNaN(left) - isNaN(right);
    const order = isNaN(left) ? x.localeCompare(y) : left - right;
    return descending ? -order : order;
  });
  body.append(...rows);
});
