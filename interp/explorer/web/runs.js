"use strict";
// The list of runs: filtered, sorted, two of them side by side.
(() => {
  const bar = document.getElementById("bar"), body = document.getElementById("rows"), beside = document.getElementById("beside");
  if (!bar) return;
  const rows = [...body.rows], field = (id) => document.getElementById(id);
  const count = field("count"), chosen = [];
  const orders = {
    old: (a, b) => a.dataset.created.localeCompare(b.dataset.created),
    model: (a, b) => a.dataset.model.localeCompare(b.dataset.model),
    title: (a, b) => a.dataset.title.localeCompare(b.dataset.title, "en", {numeric: true}),
  };
  function draw() {
    const words = field("search").value.toLowerCase().split(/\s+/).filter(Boolean), model = field("model").value, kind = field("kind").value;
    let shown = 0;
    for (const row of rows) {
      const data = row.dataset;
      row.hidden = !(words.every((word) => data.text.includes(word)) && (!model || data.model === model) && (!kind || data.kind === kind));
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${rows.length} runs`;
    const order = orders[field("order").value];
    body.append(...(order ? [...rows].sort(order) : rows));
  }
  function compare(box) {
    if (box.checked) chosen.push(box); else chosen.splice(chosen.indexOf(box), 1);
    while (chosen.length > 2) chosen.shift().checked = false;
    const cards = chosen.map((one) => field(`run-${one.dataset.number}`).content.cloneNode(true));
    const folders = cards.map((card) => card.querySelector(".folder").textContent);
    beside.replaceChildren(...cards);
    if (chosen.length === 2) {
      const how = document.createElement("p"), code = document.createElement("code");
      code.textContent = `interp view ${folders.map((f) => /^[\w./-]+$/.test(f) ? f : `'${f.replaceAll("'", "'\\''")}'`).join(" ")}`;
      how.append("Two rankings, head by head, from this folder: ", code);
      beside.append(how);
    }
  }
  for (const id of ["search", "model", "kind", "order"]) field(id).addEventListener("input", draw);
  body.addEventListener("change", (event) => { if (event.target.matches(".two")) compare(event.target); });
  for (const box of body.querySelectorAll(".two")) box.checked = false;
  bar.hidden = false;
  draw();
})();
