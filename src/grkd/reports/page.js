"use strict";
// A page that is loaded again, as `grkd watch` does, keeps what was typed, chosen and opened, and its place.
const controls = () => [...document.querySelectorAll(".finder input, .finder select")];
const folds = () => [...document.querySelectorAll("details")];
let kept = null;
try { kept = JSON.parse(sessionStorage.getItem("page")); } catch { /* no storage: nothing is kept */ }
if (kept && kept.path === location.pathname) {
  controls().forEach((one, at) => { if (kept.values[at] !== undefined) one.value = kept.values[at]; });
  if (kept.open.length === folds().length) folds().forEach((one, at) => { one.open = kept.open[at]; });
} else {
  kept = null;
}
addEventListener("pagehide", () => {
  const state = {
    path: location.pathname, place: [scrollX, scrollY], focus: controls().indexOf(document.activeElement),
    values: controls().map(one => one.value), open: folds().map(one => one.open),
  };
  try { sessionStorage.setItem("page", JSON.stringify(state)); } catch { /* as above */ }
});
// Lists that can be searched: .finder holds the controls, data-for names the list, [data-item] are its entries.
for (const finder of document.querySelectorAll(".finder")) {
  const list = document.getElementById(finder.dataset.for);
  const items = [...list.querySelectorAll("[data-item]")].map(item => [item, item.textContent.toLowerCase()]);
  const [search, kind, told] = ["input", "select", "output"].map(name => finder.querySelector(name));
  const show = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const [item, text] of items) {
      const fits = words.every(word => text.includes(word)) &&
        (!kind || !kind.value || item.dataset.item.split(" ").includes(kind.value));
      item.hidden = !fits;
      shown += fits;
    }
    told.value = shown === items.length ? "" : `${shown} of ${items.length} shown`;
  };
  search.addEventListener("input", show);
  if (kind) kind.addEventListener("change", show);
  finder.hidden = false;
  show();
}
// A table that is wider than its place says so.
const tables = [...document.querySelectorAll(".scroll")];
const say = () => {
  for (const table of tables) {
    const wide = table.scrollWidth > table.clientWidth + 1;
    table.classList.toggle("wide", wide);
    table.classList.toggle("fits", !wide && table.clientWidth > 600);
    if (table.previousElementSibling?.classList.contains("hint")) table.previousElementSibling.hidden = !wide;
  }
};
addEventListener("resize", say);
document.addEventListener("toggle", say, true);
say();
if (kept) {
  controls()[kept.focus]?.focus({preventScroll: true});
  scrollTo({left: kept.place[0], top: kept.place[1], behavior: "instant"});
}
