"use strict";
// What the pages share. What comes from a run is only ever put into a page as text.

const at = (id) => document.getElementById(id);
const known = (value) => value !== null && value !== undefined;

// --- numbers, as in the report ------------------------------------------------------------------

function number(value) {
  if (!known(value)) return "–";
  const size = Math.abs(value);
  for (const [least, by, unit] of [[1e9, 1e9, "G"], [1e6, 1e6, "M"], [1e4, 1e3, "k"]])
    if (size >= least) return short(value / by) + unit;
  return size >= 100 ? value.toFixed(0) : short(value);
}
const short = (value) => String(Number(value.toPrecision(3)));
const percent = (value) => known(value) ? short(100 * value) + "%" : "–";
const fixed = (value, digits, unit = "") => known(value) ? value.toFixed(digits) + unit : "–";

// --- the page, changed in place -----------------------------------------------------------------

function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}
function make(tag, value = "", kind = "") {
  const element = document.createElement(tag);
  element.textContent = value;
  if (kind) element.className = kind;
  return element;
}
// As many children as there are values, made by `fresh` and kept up to date by `fill`.
function each(parent, values, fresh, fill) {
  while (parent.children.length > values.length) parent.lastElementChild.remove();
  values.forEach((value, i) => fill(parent.children[i] ?? parent.appendChild(fresh()), value, i));
}
// rows: of cells; a cell is a text, or [text, class].
function table(element, rows, head = null) {
  if (head && !element.tHead) {
    const row = element.createTHead().insertRow();
    head.forEach((name) => row.append(make("th", name)));
  }
  const body = element.tBodies[0] ?? element.createTBody();
  each(body, rows, () => make("tr"), (row, cells) =>
    each(row, cells, () => make("td"), (cell, value, i) => {
      const [shown, kind] = Array.isArray(value) ? value : [value, ""];
      if (head?.[i]) cell.dataset.name = head[i];
      text(cell, shown);
      if (cell.className !== kind) cell.className = kind;
    }));
}
