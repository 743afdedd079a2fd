/* The leaderboard: filters, columns and order stand in the address. */
W.start(() => {
  "use strict";
  const rows = W.rows("settings");
  const columns = W.settingColumns();
  const DEFAULT = ["place", "model", "gpu", "load", "setting", "energy_gpu_j_per_output_token", "throughput_output_tokens_per_s", "latency_ttft_p95_ms", "latency_tpot_p95_ms", "runs", "tier"];
  const FACETS = [["model", "Model"], ["gpu", "GPU"], ["load", "Load"], ["setting", "Setting"], ["precision", "Precision"], ["tier", "Tier"], ["evidence", "Evidence"], ["weights", "Weights"], ["origin", "Origin"], ["engine", "Engine"]];
  const BOUNDS = [["ttft", "TTFT"], ["tpot", "TPOT"], ["e2e", "E2E"]];
  const OWN = "wattcount", ALL = "*";
  const OWN_FIRST = rows.some((row) => row.origin === OWN) && rows.some((row) => row.origin !== OWN);
  const APART = rows.some(W.isPredicted) && !rows.every(W.isPredicted); // then what is predicted is shown to whoever asks for it
  const NONE = "not told";
  const MOST_COMPARED = 6;
  const filters = document.getElementById("filters");
  const mount = document.getElementById("board");
  const picture = document.getElementById("picture");
  const pictured = document.getElementById("pictured");
  const AGAINST = [["latency_tpot_p95_ms", "TPOT p95"], ["latency_ttft_p95_ms", "TTFT p95"], ["latency_e2e_p95_ms", "E2E p95"], ["throughput_output_tokens_per_s", "Output"], ["power_gpu_mean_w", "Mean power"]];
  const LESS = new Set(["latency_tpot_p95_ms", "latency_ttft_p95_ms", "latency_e2e_p95_ms", "power_gpu_mean_w"]); // figures of which less is better
  const COLOURS = [["gpu_model", "GPU"], ["model", "Model"], ["precision", "Precision"], ["kind", "Kind of load"], ["evidence", "Evidence"]];
  const MOST_COLOURS = 8, MOST_POINTS = 600; // that an eye tells apart; that a browser draws in a third of a second
  const REST = "others";
  if (W.NARROW) pictured.open = false;
  const valueOf = (row, key) => row[key] ?? NONE;

  // -- the state, as the address has it
  const read = () => {
    const state = W.state();
    const sort = state.get("sort") ?? "energy_gpu_j_per_output_token";
    // Whoever comes without a choice sees our own results: they have intervals. `origin=*` is everything.
    if (!state.has("origin")) { if (OWN_FIRST && ![...state.keys()].length) state.append("origin", OWN); }
    else if (state.get("origin") === ALL) state.delete("origin");
    const wanted = (state.get("columns") ?? "").split(",").filter((key) => columns.has(key));
    return {
      chosen: new Map(FACETS.map(([key]) => [key, new Set(state.getAll(key))])),
      bounds: new Map(BOUNDS.map(([key]) => [key, Number(state.get(key)) > 0 ? Number(state.get(key)) : null])),
      sure: state.get("sure") === "1",
      sort: { key: columns.has(sort.replace(/^-/, "")) ? sort.replace(/^-/, "") : "energy_gpu_j_per_output_token", down: sort.startsWith("-") },
      columns: wanted.length ? wanted : null,
      picked: new Set(state.getAll("pick")),
      against: AGAINST.some(([key]) => key === state.get("against")) ? state.get("against") : AGAINST[0][0],
      colour: COLOURS.some(([key]) => key === state.get("colour")) ? state.get("colour") : COLOURS[0][0],
    };
  };
  let state = read();
  const write = () => {
    const out = new URLSearchParams();
    for (const [key, values] of state.chosen) for (const value of values) out.append(key, value);
    for (const [key, bound] of state.bounds) if (bound !== null) out.append(key, String(bound));
    if (state.sure) out.append("sure", "1");
    if (state.sort.key !== "energy_gpu_j_per_output_token" || state.sort.down) out.append("sort", (state.sort.down ? "-" : "") + state.sort.key);
    if (state.columns) out.append("columns", state.columns.join(","));
    for (const id of state.picked) out.append("pick", id);
    if (state.against !== AGAINST[0][0]) out.append("against", state.against);
    if (state.colour !== COLOURS[0][0]) out.append("colour", state.colour);
    if (OWN_FIRST && out.toString() === "") out.append("origin", ALL);
    else if (OWN_FIRST && out.toString() === `origin=${OWN}`) out.delete("origin");
    W.setState(out);
  };

  // -- whether a setting keeps the bounds, by the percentiles that are known: (least, most) share of requests
  const KEPT = 0.95;
  const attained = (row) => {
    const bounds = Object.fromEntries([...state.bounds].filter(([, bound]) => bound !== null));
    if (!Object.keys(bounds).length) return { low: row.slo_low, high: row.slo_high };
    return row.kind === "batch" ? null : W.shareWithin((name, p) => row[`latency_${name}_p${p}_ms`], bounds);
  };
  const bounded = () => [...state.bounds.values()].some((bound) => bound !== null);
  const passes = (row, without = null) => {
    if (without !== "evidence" && APART && W.isPredicted(row) && !state.chosen.get("evidence").has(row.evidence)) return false;
    for (const [key, values] of state.chosen) if (key !== without && values.size && !values.has(String(valueOf(row, key)))) return false;
    if (!bounded()) return true;
    const share = attained(row);
    if (share === null) return false;
    return state.sure ? share.low >= KEPT : share.high >= KEPT;
  };

  // -- filters
  const facet = ([key, heading]) => {
    const values = new Map();
    for (const row of rows) values.set(String(valueOf(row, key)), 0);
    if (values.size < 2) return null;
    const chosen = state.chosen.get(key);
    const summary = W.el("summary");
    const box = W.el("details", { "data-facet": key }, summary);
    const title = () => {
      box.classList.toggle("on", chosen.size > 0);
      summary.textContent = chosen.size === 0 ? heading : chosen.size === 1 ? `${heading}: ${[...chosen][0]}` : `${heading}: ${chosen.size} chosen`;
    };
    title();
    const fill = () => {
      for (const value of values.keys()) values.set(value, 0);
      for (const row of rows) if (passes(row, key)) { const value = String(valueOf(row, key)); values.set(value, values.get(value) + 1); }
      const order = [...values].sort((a, b) => (b[1] > 0) - (a[1] > 0) || a[0].localeCompare(b[0], "en", { numeric: true }));
      const list = W.el("fieldset", {}, W.el("legend", { class: "unseen", text: heading }));
      for (const [value, number] of order) {
        list.append(W.el("label", {}, W.el("input", { type: "checkbox", checked: chosen.has(value), onchange: (event) => { event.target.checked ? chosen.add(value) : chosen.delete(value); title(); changed(); } }), W.el("span", { text: value }), W.el("small", { text: number.toLocaleString("en-US") })));
      }
      const search = order.length > 8 ? W.el("input", { type: "search", placeholder: `Find a ${heading.toLowerCase()}`, "aria-label": `Find a ${heading.toLowerCase()}`, oninput: (event) => {
        const text = event.target.value.toLowerCase();
        for (const label of list.querySelectorAll("label")) label.hidden = !label.textContent.toLowerCase().includes(text);
      } }) : null;
      box.querySelector(".choices")?.remove();
      box.append(W.el("div", { class: "choices" }, search, list));
    };
    box.addEventListener("toggle", () => {
      if (!box.open) return;
      for (const other of filters.querySelectorAll("details[open]")) if (other !== box) other.open = false;
      fill();
      box.querySelector("input")?.focus();
    });
    return box;
  };
  const columnChooser = () => {
    const box = W.el("details", { "data-facet": "columns" }, W.el("summary", { text: "Columns" }));
    const list = W.el("fieldset", {}, W.el("legend", { class: "unseen", text: "Columns" }));
    for (const column of columns.values()) {
      if (!rows.some((row) => column.key === "place" || column.key === "slo" || column.value(row) !== null)) continue;
      list.append(W.el("label", {}, W.el("input", { type: "checkbox", checked: (state.columns ?? DEFAULT).includes(column.key), onchange: (event) => {
        const now = new Set(state.columns ?? DEFAULT);
        event.target.checked ? now.add(column.key) : now.delete(column.key);
        const kept = [...new Set([...(state.columns ?? DEFAULT), ...columns.keys()])].filter((key) => now.has(key));
        state.columns = kept.length ? kept : null;
        changed();
      } }), W.el("span", { text: column.heading }), W.el("small", { text: column.unit ?? "" })));
    }
    box.append(W.el("div", { class: "choices" }, list));
    return box;
  };
  const boundFields = () => {
    const summary = W.el("summary");
    const box = W.el("details", { "data-facet": "slo" }, summary);
    const title = () => {
      const set = BOUNDS.filter(([key]) => state.bounds.get(key) !== null).map(([key, name]) => `${name} ≤ ${state.bounds.get(key)} ms`);
      box.classList.toggle("on", set.length > 0);
      summary.textContent = set.length ? `SLO: ${set.join(", ")}` : "SLO";
    };
    title();
    const list = W.el("fieldset", {}, W.el("legend", { class: "small soft", text: "95 % of the requests keep each bound" }));
    for (const [key, name] of BOUNDS) {
      list.append(W.el("label", {}, W.el("span", { text: `${name} at most, ms` }), W.el("input", { type: "number", min: "0", step: "any", inputmode: "decimal", value: state.bounds.get(key) ?? "", oninput: (event) => {
        state.bounds.set(key, Number(event.target.value) > 0 ? Number(event.target.value) : null);
        title();
        changed();
      } })));
    }
    list.append(W.el("label", {}, W.el("input", { type: "checkbox", checked: state.sure, onchange: (event) => { state.sure = event.target.checked; changed(); } }), W.el("span", { text: "only where the figures surely say so" })));
    box.append(W.el("div", { class: "choices" }, list));
    box.addEventListener("toggle", () => { if (box.open) for (const other of filters.querySelectorAll("details[open]")) if (other !== box) other.open = false; });
    return box;
  };
  const clear = W.el("button", { type: "button", class: "button", text: "Clear", onclick: () => { W.setState(new URLSearchParams(OWN_FIRST ? { origin: ALL } : {})); state = read(); build(); changed(); } });
  const compareLink = W.el("a", { class: "button primary", href: "compare.html", hidden: true });
  const build = () => filters.replaceChildren(...FACETS.slice(0, 4).map(facet).filter(Boolean), boundFields(), ...FACETS.slice(4).map(facet).filter(Boolean), columnChooser(), clear, compareLink);

  // -- the picture
  const axes = () => {
    const choice = (title, key, options) => W.el("label", { class: "field" }, W.el("span", { text: title }), W.el("select", { onchange: (event) => { state[key] = event.target.value; write(); drawPicture(); } }, ...options.map(([value, text]) => W.el("option", { value, text, selected: state[key] === value }))));
    document.getElementById("axes").replaceChildren(choice("Energy per output token against", "against", AGAINST), choice("coloured by", "colour", COLOURS));
  };
  const drawPicture = () => {
    if (!pictured.open) return;
    const figure = window.WATTCOUNT.meta.figures.find((one) => one.key === state.against);
    const there = shownRows.filter((row) => row.energy_gpu_j_per_output_token > 0 && row[state.against] > 0);
    pictured.hidden = there.length < 2;
    if (pictured.hidden) return;
    const some = W.sorted(there, columns.get("energy_gpu_j_per_output_token"), false).slice(0, MOST_POINTS);
    const numbers = new Map();
    for (const row of some) { const value = String(valueOf(row, state.colour)); numbers.set(value, (numbers.get(value) ?? 0) + 1); }
    const named = [...numbers].sort((a, b) => b[1] - a[1]).map(([value]) => value);
    const first = new Set(named.length > MOST_COLOURS ? named.slice(0, MOST_COLOURS - 1) : named);
    const points = some.map((row) => { const value = String(valueOf(row, state.colour)), x = row[state.against] * figure.factor;
      return { name: [row.model, row.gpu, row.load, row.setting].join(", "), what: first.has(value) ? value : REST, x, order: LESS.has(figure.key) ? x : -x, value: 1e3 * row.energy_gpu_j_per_output_token, low: row.low === null ? null : 1e3 * row.low, high: row.high === null ? null : 1e3 * row.high, evidence: row.evidence, href: W.link("setting", row.id) }; })
      .sort((a, b) => (a.what === REST) - (b.what === REST) || named.indexOf(a.what) - named.indexOf(b.what));
    const against = `${figure.heading} [${figure.unit}]`;
    W.plot(picture, {
      kind: "tradeoff", data: { points }, name: "tradeoff", description: `Energy per output token against ${against} of ${W.count(points.length, "setting")}`,
      change: (spec) => { spec.title = `Energy per output token against ${figure.heading}, log scales${points.length < there.length ? `: the ${MOST_POINTS} with the least energy` : ""}`; for (const layer of spec.layer) layer.encoding.x.axis.title = against; },
      table: { heads: ["setting", "of", "mJ per token", "at least", "at most", against, "evidence"], rows: points.map((row) => [W.el("a", { href: row.href, text: row.name }), row.what, row.value, row.low, row.high, row.x, row.evidence]) },
    });
  };
  let shownRows = [];
  pictured.addEventListener("toggle", () => drawPicture());

  // -- drawing
  const draw = () => {
    const found = rows.filter((row) => passes(row));
    if (bounded()) for (const row of found) { const share = attained(row); row.slo_now = share; }
    // A load that is chosen stands in its filter: its column would only say it again.
    const keys = state.columns ? [...state.columns] : DEFAULT.filter((key) => (key !== "load" || state.chosen.get("load").size !== 1) && (key !== "tier" || new Set(found.map((row) => row.tier)).size > 1));
    if (bounded() && !keys.includes("slo")) keys.splice(keys.indexOf("runs") < 0 ? keys.length : keys.indexOf("runs"), 0, "slo");
    const slo = columns.get("slo");
    const now = bounded() ? { ...slo, value: (row) => row.slo_now.low, text: (row) => { const low = Math.floor(row.slo_now.low * 100 + 1e-9), high = Math.floor(row.slo_now.high * 100 + 1e-9); return low === high ? `${low} %` : `${low}–${high} %`; } } : slo;
    const pick = W.hasPage("compare") ? { has: (row) => state.picked.has(row.id), set: (row, on, box) => {
      if (on && state.picked.size >= MOST_COMPARED) { box.checked = false; return; }
      on ? state.picked.add(row.id) : state.picked.delete(row.id);
      write();
      picked();
    } } : null;
    shownRows = found;
    drawPicture();
    W.drawTable(mount, {
      name: "leaderboard", caption: "Settings, with the 95 % interval of their energy per output token", pick,
      columns: W.columnsOf(new Map([...columns, ["slo", now]]), keys), rows: found, sort: state.sort, all: [...columns.values()],
      onSort: (sort) => { state.sort = sort; changed(sort.key); },
      empty: "No setting has all of that. Clear a filter, or measure it: wattcount model=… gpu=… scenario=…",
    });
  };
  const picked = () => {
    compareLink.hidden = state.picked.size < 2;
    compareLink.textContent = `Compare ${state.picked.size}`;
    compareLink.href = "compare.html#" + [...state.picked].map((id) => "id=" + encodeURIComponent(id)).join("&");
  };
  const changed = (key = null) => {
    write();
    draw();
    picked();
    clear.hidden = ![...state.chosen.values()].some((set) => set.size) && !bounded();
    if (key) [...mount.querySelectorAll("th .sorter")][[...mount.querySelectorAll("th .sorter")].findIndex((one) => one.closest("th").hasAttribute("aria-sort"))]?.focus();
  };
  document.addEventListener("click", (event) => { for (const box of filters.querySelectorAll("details[open]")) if (!box.contains(event.target)) box.open = false; });
  filters.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    const open = filters.querySelector("details[open]");
    if (open) { open.open = false; open.querySelector("summary").focus(); }
  });
  addEventListener("hashchange", () => { state = read(); build(); axes(); draw(); picked(); });
  axes();
  build();
  changed();
});
