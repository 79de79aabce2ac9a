"use strict";
// The explorer of heads. One file for the saved page and for the widget: exploreHeads(root, packed, ask) builds it in
// root from the bytes of interp/explorer/packing.py. ask(prompt, heads), where a model answers, gives probabilities or
// null. Texts become text nodes, never markup.
async function exploreHeads(root, packed, ask = null) {
  const data = await unpacked(packed);
  const {maps, prompts, scales, kinds} = data;
  const state = {map: 0, beside: -1, prompt: 0, layer: 0, head: 0, view: "attention", sort: "high", filter: "", token: -1, all: false};
  const turned = new Map();  // "L3H5" -> factor, without those at 1
  const first = maps.findIndex((m) => m.ranking !== maps[0].ranking);
  const isPair = first > 0 && maps[first].role === "score" && maps[first].ranking !== "effects on these prompts";
  if (isPair) state.beside = first;

  // ---- small helpers
  const el = (tag, given = {}, ...inside) => put(document.createElement(tag), given, inside);
  const svg = (tag, given = {}, ...inside) => put(document.createElementNS("http://www.w3.org/2000/svg", tag), given, inside);
  function put(node, given, inside) {
    for (const [name, value] of Object.entries(given)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...inside);
    return node;
  }
  const text = (node, value) => { if (node.textContent !== value) node.textContent = value; };
  const label = (layer, head) => `L${layer}H${head}`;
  const parsed = (name) => name.slice(1).split("H").map(Number);
  const number = (v) => {
    if (v === null || v === undefined || !Number.isFinite(v)) return "–";
    const size = Math.abs(v);
    const said = size >= 1e6 ? v.toExponential(2) : size >= 1000 ? v.toFixed(0) : size === 0 ? "0" : size < 1e-3 ? v.toExponential(1) : v.toPrecision(3);
    return said.replace("-", "−");
  };
  const share = (v) => v < 0.0005 && v > 0 ? "< 0.001" : v.toFixed(3);
  const shapeOf = (m) => data.arrays[m.mean].shape;
  const has = (m, layer, head) => layer < shapeOf(m)[0] && head < shapeOf(m)[1];
  const at = (m, kind, layer, head) => m[kind] === undefined || !has(m, layer, head) ? NaN : data.array(m[kind])[layer * shapeOf(m)[1] + head];
  const interval = (m, l, h) => Number.isFinite(at(m, "low", l, h)) ? ` [${number(at(m, "low", l, h))}, ${number(at(m, "high", l, h))}]` : "";
  const nameOf = (m) => m.name;
  const titled = (m) => maps.some((o) => o !== m && o.measure === m.measure) || new Set(maps.map((o) => o.ranking)).size > 1 ? `${nameOf(m)} · ${m.of}` : nameOf(m);
  const placed = (m, l, h) => !has(m, l, h) ? "none" : m.few ? "too few" : `${place(m, l, h)} of ${data.array(m.mean).length}`;
  const placeCache = new Map();
  function place(m, layer, head) {  // from 1: the place of a head in a map's order, highest first
    if (!placeCache.has(m)) {
      const values = data.array(m.mean), order = [...values.keys()].sort((a, b) => values[b] - values[a]);
      const found = new Uint32Array(values.length);
      order.forEach((cell, i) => { found[cell] = i + 1; });
      placeCache.set(m, found);
    }
    return placeCache.get(m)[layer * shapeOf(m)[1] + head];
  }

  // ---- frame
  root.classList.add("hs");
  root.replaceChildren();
  const pick = (name, options, chosen, act, more = {}) => {
    const select = el("select", {onchange: () => act(select.value), class: more.wide ? "hs-wide" : null},
      ...options.map(([value, shown]) => el("option", {value, selected: String(value) === String(chosen)}, shown)));
    return el("label", {class: more.wide ? "hs-full" : null}, name, select);
  };
  const mapOptions = maps.map((m, i) => [i, titled(m) + (m.role === "control" ? " (control)" : "")]);
  const filter = el("input", {type: "search", placeholder: "L17, L17H7, a kind", autocomplete: "off", oninput: () => { state.filter = filter.value; state.all = false; drawList(); drawMaps(); }});
  const bar = el("div", {class: "hs-bar", role: "group", "aria-label": "What is shown"},
    pick("Colour by", mapOptions, 0, (v) => { state.map = +v; drawMaps(); drawList(); }),
    pick("Beside it", [[-1, "nothing"], ...mapOptions], state.beside, (v) => { state.beside = +v; columns.classList.toggle("hs-two", state.beside >= 0); layOut(); }),
    pick("List by", [["high", "highest first"], ["low", "lowest first"], ["size", "farthest from zero"], ["layer", "layer"]], "high", (v) => { state.sort = v; drawList(); }),
    el("label", {}, "Filter heads", filter),
    prompts.length ? pick("Prompt", prompts.map((p, i) => [i, `${i + 1}. ${p.title || p.id}`]), 0, (v) => choosePrompt(+v), {wide: true}) : "");
  const mapBox = el("div", {class: "hs-maps"}), read = el("p", {class: "hs-read"});
  const listBox = el("div", {class: "hs-card hs-list"});
  const headBox = el("section", {class: "hs-card hs-head-card", "aria-label": "The chosen head"});
  const answerBox = el("section", {class: "hs-card hs-answers-card", "aria-label": "The answer"});
  const columns = el("div", {class: `hs-columns${state.beside >= 0 ? " hs-two" : ""}`},
    el("div", {class: "hs-left"}, el("section", {class: "hs-card", "aria-label": "All heads"}, mapBox, read), listBox),
    el("div", {class: "hs-right"}, answerBox, headBox));
  root.append(bar, columns, ...notes());
  function notes() {
    const keys = el("details", {}, el("summary", {}, "Keys"),
      el("p", {}, "In the map: arrows choose a head, 0 turns it off, − and + turn it down and up by 0.25, 1 puts it back. In the prompt: left and right go from token to token. In the list: up and down."));
    return [keys, ...data.notes.map((note) => el("p", {class: "hs-soft hs-note"}, note))];
  }

  // ---- maps
  let drawn = [];
  const isShown = () => {
    const terms = state.filter.toUpperCase().split(/[\s,;]+/).filter(Boolean);
    if (!terms.length) return () => true;
    const hit = (term, name) => name === term || (/^L\d+$/.test(term) ? name.startsWith(`${term}H`) : /^L\d+H$/.test(term) ? name.startsWith(term) : (kinds[name] || "").toUpperCase().includes(term));
    return (name) => terms.some((term) => hit(term, name));
  };
  function layOut() {
    drawn = [state.map, ...(state.beside >= 0 ? [state.beside] : [])].map((index, i) => makeMap(i));
    mapBox.replaceChildren(...drawn.map((d) => d.box));
    drawMaps();
  }
  function makeMap(which) {
    const m = maps[which ? state.beside : state.map], [nLayers, nHeads] = shapeOf(m);
    const room = (state.beside >= 0 ? mapBox.clientWidth > 560 ? (mapBox.clientWidth - 16) / 2 : mapBox.clientWidth : mapBox.clientWidth) || 360;
    const left = 26, top = 14, width = Math.max(5, Math.min(34, (room - left - 2) / nHeads)), height = Math.max(7, Math.min(20, 560 / nLayers, width * 1.2 + 6));
    const cells = [], grid = svg("svg", {role: "grid", "aria-rowcount": nLayers, "aria-colcount": nHeads, "aria-label": "Heads: layers downwards, heads to the right. Arrow keys choose a head.",
      width: left + width * nHeads + 2, height: top + height * nLayers + 2, viewBox: `0 0 ${left + width * nHeads + 2} ${top + height * nLayers + 2}`});
    const everyRow = Math.ceil(12 / height), everyColumn = Math.ceil(18 / width);
    for (let h = 0; h < nHeads; h += everyColumn) grid.append(svg("text", {x: left + (h + .5) * width, y: 10, "text-anchor": "middle", "aria-hidden": "true"}, String(h)));
    for (let l = 0; l < nLayers; l++) {
      if (l % everyRow === 0) grid.append(svg("text", {x: left - 5, y: top + (l + .5) * height + 3.5, "text-anchor": "end", "aria-hidden": "true"}, String(l)));
      const row = svg("g", {role: "row", "aria-rowindex": l + 1});
      row.append(svg("rect", {class: "hs-ground", x: left, y: top + l * height, width: width * nHeads, height, "aria-hidden": "true"}));
      for (let h = 0; h < nHeads; h++) {
        const cell = svg("rect", {role: "gridcell", "aria-colindex": h + 1, tabindex: -1, class: "hs-cell", x: left + h * width, y: top + l * height, width, height, "data-cell": l * nHeads + h});
        row.append(cell);
        cells.push(cell);
      }
      grid.append(row);
    }
    const offs = svg("g", {"aria-hidden": "true"}), mark = svg("rect", {class: "hs-mark", width, height, rx: 2, "aria-hidden": "true"});
    grid.append(offs, mark);
    const cellOf = (event) => { const c = event.target.dataset && event.target.dataset.cell; return c === undefined ? null : [Math.floor(c / nHeads), c % nHeads]; };
    grid.addEventListener("click", (e) => { const c = cellOf(e); if (c) choose(...c); });
    grid.addEventListener("pointerover", (e) => { const c = cellOf(e); if (c) tell(m, ...c); });
    grid.addEventListener("pointerleave", () => tell(maps[state.map], state.layer, state.head));
    grid.addEventListener("keydown", (e) => {
      const moves = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};
      if (moves[e.key]) {
        const l = Math.min(nLayers - 1, Math.max(0, state.layer + moves[e.key][0])), h = Math.min(nHeads - 1, Math.max(0, state.head + moves[e.key][1]));
        choose(l, h);
        cells[l * nHeads + h].focus();
      } else if ("01+=-".includes(e.key) && e.key && canTurn()) {
        const now = turned.get(label(state.layer, state.head)) ?? 1;
        turn(state.layer, state.head, e.key === "0" ? 0 : e.key === "1" ? 1 : Math.min(2, Math.max(0, now + (e.key === "-" ? -.25 : .25))));
      } else return;
      e.preventDefault();
    });
    const heading = el("h3"), legend = el("div", {class: "hs-legend"});
    return {m, cells, mark, offs, left, top, width, height, nHeads, heading, legend, box: el("div", {class: "hs-map"}, heading, grid, legend)};
  }
  function drawMaps() {
    if (drawn.length && drawn[0].m !== maps[state.map]) {  // other colours, same cells, if the shapes are alike
      if (String(shapeOf(maps[state.map])) === String(shapeOf(drawn[0].m))) drawn[0].m = maps[state.map];
      else { layOut(); return; }
    }
    const shown = isShown();
    for (const d of drawn) {
      const m = d.m, values = data.array(m.mean);
      let far = 0;
      for (const v of values) if (Number.isFinite(v)) far = Math.max(far, Math.abs(v - m.base));
      d.heading.replaceChildren(titled(m), el("span", {}, `${m.unit ? `, ${m.unit}` : ""}, n = ${m.n}${m.few ? ", too few to order heads" : ""}`));
      const ramp = el("span", {class: `hs-ramp${m.signed ? "" : " hs-one"}`, "aria-hidden": "true"});
      d.legend.replaceChildren(number(m.signed ? m.base - far : m.base), ramp, number(m.base + far));
      values.forEach((v, i) => {
        const l = Math.floor(i / d.nHeads), h = i % d.nHeads, cell = d.cells[i];
        cell.setAttribute("class", `hs-cell ${v < m.base ? "hs-negative" : "hs-positive"}${shown(label(l, h)) ? "" : " hs-dim"}`);
        cell.setAttribute("fill-opacity", far ? (Math.abs(v - m.base) / far).toFixed(3) : "0");
        cell.setAttribute("aria-label", `${label(l, h)}: ${nameOf(m)} ${number(v)}`);
      });
    }
    markMaps();
  }
  function markMaps() {
    for (const d of drawn) {
      const there = has(d.m, state.layer, state.head);
      d.mark.setAttribute("visibility", there ? "visible" : "hidden");
      d.mark.setAttribute("x", d.left + state.head * d.width);
      d.mark.setAttribute("y", d.top + state.layer * d.height);
      if (d.last) { d.last.setAttribute("tabindex", -1); d.last.removeAttribute("aria-selected"); }
      d.last = there ? d.cells[state.layer * d.nHeads + state.head] : d.cells[0];
      d.last.setAttribute("tabindex", 0);
      if (there) d.last.setAttribute("aria-selected", "true");
      d.offs.replaceChildren(...[...turned.keys()].map(parsed).filter(([l, h]) => has(d.m, l, h)).map(([l, h]) =>
        svg("rect", {class: "hs-off", x: d.left + h * d.width + 1, y: d.top + l * d.height + 1, width: Math.max(2, d.width - 2), height: Math.max(2, d.height - 2)})));
    }
  }
  function tell(m, layer, head) {
    const kind = kinds[label(layer, head)];
    const told = [m, ...drawn.map((d) => d.m).filter((other) => other !== m)].filter((one) => has(one, layer, head)).map((one) =>
      `${drawn.length > 1 ? titled(one) : nameOf(one)} ${number(at(one, "mean", layer, head))}${interval(one, layer, head)}${one.few ? "" : `, place ${placed(one, layer, head)}`}`);
    text(read, `${label(layer, head)}: ${told.join("; ") || `no head of ${titled(m)}`}${kind ? `, ${kind}` : ""}`);
  }

  // ---- list
  const MOST_ROWS = 60;
  function drawList() {
    const m = maps[state.map], [nLayers, nHeads] = shapeOf(m), values = data.array(m.mean), shown = isShown();
    const cells = [...values.keys()].filter((i) => shown(label(Math.floor(i / nHeads), i % nHeads)));
    const by = {high: (a, b) => values[b] - values[a], low: (a, b) => values[a] - values[b], size: (a, b) => Math.abs(values[b] - m.base) - Math.abs(values[a] - m.base), layer: (a, b) => a - b};
    cells.sort(by[state.sort]);
    let far = 1e-30;
    for (const v of values) if (Number.isFinite(v)) far = Math.max(far, Math.abs(v - m.base));
    const rows = cells.slice(0, state.all ? cells.length : MOST_ROWS).map((i) => {
      const l = Math.floor(i / nHeads), h = i % nHeads, v = values[i], block = el("i", {class: v < m.base ? "hs-minus" : null});
      block.style.setProperty("--v", (Math.abs(v - m.base) / far).toFixed(4));
      return el("tr", {"data-head": label(l, h), tabindex: -1, "aria-selected": l === state.layer && h === state.head},
        el("th", {scope: "row"}, label(l, h), ...(kinds[label(l, h)] ? [el("small", {}, kinds[label(l, h)])] : [])), el("td", {}, el("span", {class: "hs-blocks", "aria-hidden": "true"}, block)),
        el("td", {}, number(v), el("small", {}, interval(m, l, h))));
    });
    const body = el("tbody", {}, ...rows);
    body.addEventListener("click", (e) => { const row = e.target.closest("tr"); if (row) choose(...parsed(row.dataset.head)); });
    body.addEventListener("keydown", (e) => {
      const row = e.target.closest("tr"), next = e.key === "ArrowDown" ? row.nextElementSibling : e.key === "ArrowUp" ? row.previousElementSibling : null;
      if (!next) return;
      e.preventDefault();
      choose(...parsed(next.dataset.head));
      next.focus();
    });
    const more = cells.length > rows.length ? el("button", {type: "button", onclick: () => { state.all = true; drawList(); }}, `Show all ${cells.length} heads`) : "";
    const count = cells.length === values.length ? "" : `, ${cells.length} of ${values.length} heads`;
    listBox.replaceChildren(el("h2", {}, "Heads", el("small", {role: "status"}, `by ${titled(m)}${count}`)),
      el("div", {class: "hs-scroll"}, el("table", {},
        el("thead", {}, el("tr", {}, el("th", {scope: "col"}, "head"), el("th", {scope: "col"}, el("span", {class: "hs-hidden"}, "drawn")), el("th", {scope: "col"}, `${nameOf(m)}, 95 % interval`))), body)), more);
    listBox.body = body;
    markList();
  }
  function markList() {
    const name = label(state.layer, state.head), rows = [...listBox.body.rows];
    if (listBox.last) { listBox.last.setAttribute("aria-selected", "false"); listBox.last.setAttribute("tabindex", -1); }
    listBox.last = rows.find((row) => row.dataset.head === name) || null;
    rows.slice(0, 1).forEach((row) => row.setAttribute("tabindex", listBox.last ? -1 : 0));
    if (listBox.last) { listBox.last.setAttribute("aria-selected", "true"); listBox.last.setAttribute("tabindex", 0); }
  }

  // ---- the chosen head
  const tokenBox = el("div", {class: "hs-tokens", role: "listbox", "aria-label": "Tokens of the prompt"});
  const tokenRead = el("p", {class: "hs-read", role: "status"}), numbers = el("div", {class: "hs-wide-table"}), pictureBox = el("div", {class: "hs-picture"});
  const headTitle = el("h2"), viewBox = el("div", {class: "hs-choices", role: "group", "aria-label": "What the tokens show"}), viewNote = el("p", {class: "hs-soft"});
  headBox.append(headTitle, numbers, viewBox, viewNote, pictureBox, tokenBox, tokenRead);
  let spans = [], patches = [];
  const prompt = () => prompts[state.prompt];
  const isPatch = (p, i) => p.picture && i >= p.first_patch && i < p.first_patch + p.grid[0] * p.grid[1];
  function choosePrompt(index) {
    state.prompt = index;
    state.token = -1;
    makeTokens();
    drawHead();
    drawAnswer();
  }
  function makeTokens() {
    const p = prompt();
    spans = [];
    patches = [];
    if (!p) { for (const node of [tokenBox, tokenRead, pictureBox, viewBox, viewNote]) node.hidden = true; return; }
    pictureBox.replaceChildren();
    if (p.picture) {
      const [rows, cols] = p.grid;
      const image = svg("svg", {viewBox: `0 0 ${cols * 10} ${rows * 10}`, role: "img", "aria-label": `The picture, ${rows} rows of ${cols} patches; the colour is the chosen head's.`},
        svg("image", {href: `data:image/png;base64,${p.picture}`, width: cols * 10, height: rows * 10, preserveAspectRatio: "none"}));
      for (let i = 0; i < rows * cols; i++) {
        const patch = svg("rect", {x: (i % cols) * 10, y: Math.floor(i / cols) * 10, width: 10, height: 10, class: "hs-patch", onpointerenter: () => tellToken(p.first_patch + i)});
        patches.push(patch);
        image.append(patch);
      }
      pictureBox.append(image);
    }
    pictureBox.hidden = !p.picture;
    const inside = [];
    p.tokens.forEach((token, i) => {
      if (isPatch(p, i)) { if (i === p.first_patch) { const chip = el("span", {class: "hs-chip hs-a", role: "option", "aria-selected": "false"}, "picture"); chip.isChip = true; inside.push(chip); } spans.push(null); return; }
      const span = el("span", {role: "option", "aria-selected": "false", tabindex: i === p.tokens.length - 1 ? 0 : -1, "data-token": i}, token + (token.includes("↵") ? "\n" : ""));
      spans.push(span);
      inside.push(span);
    });
    tokenBox.replaceChildren(...inside);
  }
  tokenBox.addEventListener("pointerover", (e) => { if (e.target.dataset.token !== undefined) chooseToken(+e.target.dataset.token); });
  tokenBox.addEventListener("pointerleave", () => chooseToken(-1));
  tokenBox.addEventListener("click", (e) => { if (e.target.dataset.token !== undefined) chooseToken(+e.target.dataset.token); });
  tokenBox.addEventListener("focusin", (e) => { if (e.target.dataset.token !== undefined) chooseToken(+e.target.dataset.token); });
  tokenBox.addEventListener("keydown", (e) => {
    const step = {ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1}[e.key];
    if (!step) return;
    e.preventDefault();
    let next = Number(document.activeElement.dataset.token ?? state.token) + step;
    if (root.getRootNode().activeElement) next = Number(root.getRootNode().activeElement.dataset.token) + step;
    while (next >= 0 && next < spans.length && !spans[next]) next += step;
    if (spans[next]) { spans.forEach((s) => s && s.setAttribute("tabindex", -1)); spans[next].setAttribute("tabindex", 0); spans[next].focus(); }
  });
  const headsOf = (p) => data.arrays[p.attention ?? p.contribution ?? p.changes].shape;
  const cellOf = (p) => state.layer * headsOf(p)[1] + state.head;
  const isIn = (p) => state.layer < headsOf(p)[0] && state.head < headsOf(p)[1];  // rankings may be of models of two shapes
  const knows = (p) => isIn(p) && (p.known === undefined || data.array(p.known)[cellOf(p)] === 1);
  function attentionOf(p) {
    const n = p.tokens.length, start = cellOf(p) * n;
    return Float32Array.from(data.array(p.attention).subarray(start, start + n), (v) => (v / 255) ** 2);
  }
  function contributionOf(p) {
    const n = p.tokens.length, cell = cellOf(p), far = data.array(p.contribution_scale)[cell];
    return Float32Array.from(data.array(p.contribution).subarray(cell * n, (cell + 1) * n), (v) => (v - 128) / 127 * far);
  }
  let current = null;  // values of the tokens that are shown
  function drawHead() {
    const name = label(state.layer, state.head), kind = kinds[name];
    headTitle.replaceChildren(name, el("small", {}, `layer ${state.layer}, head ${state.head}${kind ? `; ${kind}` : ""}`));
    const hasVerdicts = maps.some((m) => m.verdicts);
    const rows = maps.filter((m) => has(m, state.layer, state.head)).map((m) => {
      const verdict = m.verdicts && m.verdicts[state.layer * shapeOf(m)[1] + state.head];
      return el("tr", {title: m.meaning}, el("td", {}, titled(m), m.role === "control" ? el("small", {}, " control") : ""),
        el("td", {}, number(at(m, "mean", state.layer, state.head)), el("small", {}, interval(m, state.layer, state.head))),
        el("td", {}, placed(m, state.layer, state.head)), ...(hasVerdicts ? [el("td", {}, verdict || "")] : []));
    });
    numbers.replaceChildren(el("table", {class: "hs-numbers"}, el("thead", {}, el("tr", {}, el("th", {scope: "col"}, "measure"), el("th", {scope: "col"}, "mean, 95 % interval"), el("th", {scope: "col"}, "place"), ...(hasVerdicts ? [el("th", {scope: "col"}, "under the control")] : []))), el("tbody", {}, ...rows)));
    drawTokens();
  }
  function drawTokens() {
    const p = prompt();
    if (!p) return;
    const kindsOfView = [["attention", "Where it looks"], ["contribution", "What it writes, by token"]].filter(([kind]) => p[kind] !== undefined);
    if (!kindsOfView.some(([kind]) => kind === state.view) && kindsOfView.length) state.view = kindsOfView[0][0];
    viewBox.replaceChildren(...kindsOfView.map(([kind, said]) => el("button", {type: "button", "aria-pressed": String(kind === state.view), onclick: () => { state.view = kind; drawTokens(); }}, said)));
    const known = kindsOfView.length > 0 && knows(p);
    viewBox.hidden = !kindsOfView.length;
    current = !known ? null : state.view === "attention" ? attentionOf(p) : contributionOf(p);
    const isAttention = state.view === "attention";
    let far = 1e-9, sum = 0;
    if (current) for (const v of current) { far = Math.max(far, Math.abs(v)); sum += v; }
    text(viewNote, !kindsOfView.length ? "Attention could not be read; see the notes below." : !known ? "This head's attention in this prompt is not in the file." :
      isAttention ? `Attention from the answer's position (the last token). Full colour: ${number(far)}, on a square-root scale.${p.sources !== undefined ? " Point at a token: outlined, where the head looks from there; underlined, where from it is looked at." : ""}`
        : `What the head reads from each token and writes toward ${p.answers[0] ? `“${p.answers[0].trim()}”` : "the first answer"} (orange) or against it (blue), in logits. Full colour: ${number(far)}; sum ${number(sum)}.`);
    spans.forEach((span, i) => {
      const v = current ? current[i] : 0;
      if (!span) return;
      span.style.setProperty("--s", (isAttention ? Math.sqrt(Math.abs(v) / far) : Math.abs(v) / far).toFixed(3));
      span.className = isAttention ? "hs-a" : v < 0 ? "hs-n" : "hs-p";
    });
    patches.forEach((patch, i) => {
      const v = current ? current[p.first_patch + i] : 0;
      patch.setAttribute("class", `hs-patch ${isAttention ? "hs-pa" : v < 0 ? "hs-negative" : "hs-positive"}`);
      patch.setAttribute("fill-opacity", (.85 * (isAttention ? Math.sqrt(Math.abs(v) / far) : Math.abs(v) / far)).toFixed(3));
    });
    const chip = [...tokenBox.children].find((node) => node.isChip);
    if (chip) {
      let inPicture = 0;
      patches.forEach((_, i) => { inPicture += current ? current[p.first_patch + i] : 0; });
      text(chip, `picture, ${patches.length} patches: ${number(inPicture)}`);
    }
    markToken();
  }
  function sourcesOf(p, token) {  // of one token: [place, weight], strongest first
    if (p.sources === undefined) return [];
    const [k, nLayers, nHeads, n] = data.arrays[p.sources].shape, places = data.array(p.sources), weights = data.array(p.weights), found = [];
    for (let i = 0; i < k; i++) {
      const where = ((i * nLayers + state.layer) * nHeads + state.head) * n + token, weight = (weights[where] / 255) ** 2;
      if (weight > 0) found.push([places[where], weight]);
    }
    return found;
  }
  const quoted = (p, i) => isPatch(p, i) ? `patch ${i - p.first_patch}` : `“${p.tokens[i].trim() || p.tokens[i]}”`;
  function chooseToken(token) { if (token !== state.token) { state.token = token; markToken(); } }
  function tellToken(token) { state.token = token; markToken(); }
  function markToken() {
    const p = prompt(), token = state.token;
    for (const span of spans) if (span) { span.classList.remove("hs-source", "hs-reader", "hs-here"); span.setAttribute("aria-selected", "false"); }
    if (token < 0 || token >= p.tokens.length) { text(tokenRead, ""); return; }
    const here = spans[token];
    if (here) { here.classList.add("hs-here"); here.setAttribute("aria-selected", "true"); }
    const said = [`${p.positions[token]}: ${quoted(p, token)}`];
    if (current) said.push(`${state.view === "attention" ? "attention from the answer" : "contribution"} ${number(current[token])}`);
    const from = sourcesOf(p, token), to = [];
    if (p.sources !== undefined) {
      for (let t = token; t < p.tokens.length; t++) for (const [where, weight] of sourcesOf(p, t)) if (where === token && weight >= .05) to.push([t, weight]);
      to.sort((a, b) => b[1] - a[1]);
      for (const [where, weight] of from) if (weight >= .05 && spans[where]) spans[where].classList.add("hs-source");
      for (const [where] of to) if (spans[where]) spans[where].classList.add("hs-reader");
      said.push(`from here the head looks at ${from.map(([i, w]) => `${quoted(p, i)} ${number(w)}`).join(", ") || "nothing"}`);
      if (to.length) said.push(`looked at from ${to.slice(0, 5).map(([i, w]) => `${quoted(p, i)} ${number(w)}`).join(", ")}${to.length > 5 ? ` and ${to.length - 5} more` : ""}`);
    }
    text(tokenRead, `${said.join("; ")}.`);
  }

  // ---- the answer
  const canTurn = () => Boolean(prompt() && prompt().clean && (prompt().changes !== undefined ? isIn(prompt()) : ask));
  function changeOf(p, layer, head, factor) {  // of each log probability, between the measured points
    const [, nHeads, nScales, nAnswers] = data.arrays[p.changes].shape, values = data.array(p.changes);
    const start = (layer * nHeads + head) * nScales * nAnswers, unit = p.changes_scale / 32767;
    const points = [...scales.map((s, i) => [s, (a) => values[start + i * nAnswers + a] * unit]), [1, () => 0]].sort((a, b) => a[0] - b[0]);
    let i = points.findIndex(([s]) => s >= factor);
    if (i < 0) i = points.length - 1;
    const [high, atHigh] = points[i], [low, atLow] = points[Math.max(0, i - 1)], part = high === low ? 1 : (factor - low) / (high - low);
    return Array.from({length: nAnswers}, (_, a) => atLow(a) + (atHigh(a) - atLow(a)) * part);
  }
  function estimated(p) {
    const logs = p.clean.map((v) => Math.log(Math.max(v, 1e-30)));
    for (const [name, factor] of turned) changeOf(p, ...parsed(name), factor).forEach((c, a) => { logs[a] += c; });
    const top = Math.max(...logs), sizes = logs.map((v) => Math.exp(v - top)), whole = sizes.reduce((a, b) => a + b, 0);
    return sizes.map((v) => v / whole);
  }
  // One question at a time, a moment after the slider rests; what moves meanwhile is asked when the answer is there.
  const RESTS_MS = 40;
  let isAsking = false, isStale = false, resting = 0;
  function askSoon() {
    clearTimeout(resting);
    isStale = true;
    text(answerNote, "Asking the model …");
    resting = setTimeout(askLive, RESTS_MS);
  }
  async function askLive() {
    if (isAsking || !isStale) return;
    isAsking = true;
    isStale = false;
    const index = state.prompt, heads = [...turned].map(([name, factor]) => [...parsed(name), factor]);
    try {
      const found = await ask(index, heads);
      if (isStale || index !== state.prompt || !turned.size) return;
      if (found && found.error) text(answerNote, `The model could not answer: ${found.error}`);
      else if (found) showAnswer(found, "measured");
    } finally {
      isAsking = false;
      if (isStale) askSoon();
    }
  }
  function turn(layer, head, factor) {
    const name = label(layer, head);
    if (Math.abs(factor - 1) < 1e-9) turned.delete(name); else turned.set(name, factor);
    markMaps();
    drawAnswer();
  }
  const bars = el("div", {class: "hs-answers"}), sliders = el("div"), answerNote = el("p", {class: "hs-soft"}), answerSaid = el("p", {class: "hs-hidden", role: "status"});
  const reset = el("button", {type: "button", onclick: () => { turned.clear(); markMaps(); drawAnswer(); }}, "Put all heads back");
  answerBox.append(el("h2", {}, "The answer", el("small", {}, "turn heads down and see what becomes of it")), bars, sliders, el("div", {class: "hs-choices"}, reset), answerNote, answerSaid);
  let sliderRows = new Map();
  function drawAnswer() {
    const p = prompt();
    answerBox.hidden = !p || !p.clean;
    if (answerBox.hidden) return;
    const names = [...new Set([...(canTurn() ? [label(state.layer, state.head)] : []), ...turned.keys()])];
    if (String(names) !== String([...sliderRows.keys()])) {
      const kept = sliderRows;
      sliderRows = new Map(names.map((name) => [name, kept.get(name) || slider(name)]));
      sliders.replaceChildren(...[...sliderRows.values()].map((row) => row.box));
    }
    for (const [name, row] of sliderRows) {
      const factor = turned.get(name) ?? 1;
      if (Number(row.input.value) !== factor) row.input.value = factor;
      text(row.output, `× ${factor.toFixed(2)}`);
      row.input.setAttribute("aria-valuetext", `${name}'s output times ${factor.toFixed(2)}`);
      row.off.setAttribute("aria-pressed", String(factor === 0));
    }
    reset.hidden = !turned.size;
    if (p.changes !== undefined) showAnswer(estimated(p), turned.size ? "estimated" : "clean");
    else showAnswer(p.clean, "clean");
    if (ask && turned.size) askSoon();
  }
  function slider(name) {
    const act = () => turn(...parsed(name), Number(input.value));
    const input = el("input", {type: "range", min: 0, max: 2, step: .05, value: 1, "aria-label": `Multiply the output of ${name} by`, oninput: act});
    const output = el("output"), off = el("button", {type: "button", "aria-pressed": "false", "aria-label": `Turn ${name} off`, onclick: () => turn(...parsed(name), (turned.get(name) ?? 1) === 0 ? 1 : 0)}, "off");
    return {input, output, off, box: el("div", {class: "hs-turn"}, el("b", {}, name), input, output, off)};
  }
  let gauges = {for: null, rows: []};
  function showAnswer(found, how) {
    const p = prompt();
    if (gauges.for !== p) {
      gauges = {for: p, rows: [...p.answers, "anything else"].map((name, a) => {
        const fill = el("i"), tick = el("u"), said = el("span");
        tick.style.setProperty("--v", p.clean[a]);
        return {name, fill, said, box: el("div", {class: "hs-answer"}, el("span", {}, a < p.answers.length ? `“${name.trim() || name}”` : name), el("div", {class: `hs-gauge${a < p.answers.length ? "" : " hs-rest"}`, "aria-hidden": "true"}, fill, tick), said)};
      })};
      bars.replaceChildren(...gauges.rows.map((row) => row.box));
    }
    gauges.rows.forEach((row, a) => {
      row.fill.style.setProperty("--v", found[a]);
      text(row.said, turned.size ? `${share(p.clean[a])} → ${share(found[a])}` : share(found[a]));
    });
    const where = data.positions === "answer" ? "at the answer's position" : data.positions === "all" ? "at every position" : `at the positions “${data.positions}”`;
    text(answerNote, how === "measured" && turned.size ? `Measured: the model ran with these heads turned ${where}.` : how === "clean" || !turned.size ? `Probabilities of the next token, nothing turned. A head is turned ${where}; the line in a bar then marks what it was.` :
      (turned.size === 1 ? `Computed beforehand with the head's output times ${[...scales, 1].sort((a, b) => a - b).join(", ")} ${where}; between these, log probabilities are interpolated.`
        : "The sum of what each head does alone, on log probabilities: together they may do otherwise. A notebook with the model measures it."));
    const off = [...turned].map(([name, factor]) => `${name} times ${factor.toFixed(2)}`).join(", ");
    clearTimeout(showAnswer.timer);
    showAnswer.timer = setTimeout(() => text(answerSaid, `${off || "Nothing turned"}: ${gauges.rows.map((row, a) => `${row.name} ${share(found[a])}`).join(", ")}`), 400);
  }

  // ---- begin
  function choose(layer, head) {
    state.layer = layer;
    state.head = head;
    markMaps();
    markList();
    tell(maps[state.map], layer, head);
    drawHead();
    drawAnswer();
  }
  const best = data.array(maps[0].mean).reduce((b, v, i, all) => v > all[b] ? i : b, 0);
  state.layer = Math.floor(best / shapeOf(maps[0])[1]);
  state.head = best % shapeOf(maps[0])[1];
  if (prompts.length && prompts[0].known !== undefined && !knows(prompts[0])) {  // a file of a report: begin at a head that it has
    const known = data.array(prompts[0].known).indexOf(1);
    if (known >= 0) { state.layer = Math.floor(known / shapeOf(maps[0])[1]); state.head = known % shapeOf(maps[0])[1]; }
  }
  makeTokens();
  layOut();
  drawList();
  choose(state.layer, state.head);
  let lastWidth = mapBox.clientWidth;
  new ResizeObserver(() => { if (Math.abs(mapBox.clientWidth - lastWidth) > 4) { lastWidth = mapBox.clientWidth; layOut(); } }).observe(mapBox);
  return {choose, turn, state};

  // ---- bytes
  async function unpacked(bytes) {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    const buffer = await new Response(stream).arrayBuffer();
    const length = new DataView(buffer).getUint32(0, true);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
    const types = {u1: Uint8Array, u2: Uint16Array, i2: Int16Array, f4: Float32Array}, views = new Map();
    header.array = (index) => {
      if (!views.has(index)) {
        const {kind, shape, at} = header.arrays[index];
        views.set(index, new types[kind](buffer, 4 + length + at, shape.reduce((a, b) => a * b, 1)));
      }
      return views.get(index);
    };
    return header;
  }
}
