// What is wrong with a page of the site as it is shown: run in the browser by site_look.py.
const faults = [], wide = document.documentElement.clientWidth;
const all = (selector) => [...document.querySelectorAll("article " + selector)];
const start = (e) => e.textContent.trim().replace(/\s+/g, " ").slice(0, 40);

if (document.documentElement.scrollWidth > wide) {
  const beyond = all("*").filter((e) => e.getBoundingClientRect().right > wide + 1 && !e.closest("pre, .md-typeset__scrollwrap"));
  faults.push("scrolls sideways: " + beyond.slice(0, 3).map((e) => e.tagName + " " + start(e)));
}

const scrolls = (e) => e && (["auto", "scroll"].includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
for (const table of all("table")) {
  if (table.getBoundingClientRect().right > wide && !scrolls(table)) faults.push("table is cut off: " + start(table));
  for (const cell of table.querySelectorAll("td")) {
    const lines = cell.clientHeight / parseFloat(getComputedStyle(cell).lineHeight);
    if (lines > 12 && cell.clientWidth < 200 && cell.textContent.length > 100) faults.push("squeezed cell: " + start(cell));
  }
}

for (const image of all("img")) {
  const shown = image.clientWidth - 2 * parseFloat(getComputedStyle(image).paddingLeft);
  if (!image.naturalWidth) faults.push("no picture: " + image.src);
  else if (!image.src.endsWith(".svg") && image.naturalWidth < shown) faults.push("enlarged picture: " + image.src);
}

// WCAG's contrast of a text with the nearest opaque background.
const numbers = (color) => color.match(/[\d.]+/g).map(Number);
const linear = (v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const background = (e) => {
  for (; e; e = e.parentElement) {
    const color = numbers(getComputedStyle(e).backgroundColor);
    if ((color[3] ?? 1) > 0.9) return color;
  }
  return [255, 255, 255];
};
for (const e of all(":is(p, li, td, th, a, code, span, h1, h2, h3):not(.headerlink)")) {
  if (![...e.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()) || !e.offsetParent) continue;
  const [color, behind] = [numbers(getComputedStyle(e).color), background(e)];
  const mixed = behind.slice(0, 3).map((v, i) => v + (color[i] - v) * (color[3] ?? 1));
  const [high, low] = [luminance(mixed), luminance(behind)].sort((a, b) => b - a);
  if ((high + 0.05) / (low + 0.05) < 3) faults.push("low contrast: " + e.tagName + " " + start(e));
}
return [...new Set(faults)];
