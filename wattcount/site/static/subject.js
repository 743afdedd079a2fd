/* The pages of models and of GPUs: without an id a list of all, with `#id=NAME` one of them. */
W.start(() => {
  "use strict";
  const page = document.body.dataset.page;
  const key = page === "model" ? "model" : "gpu_model";
  const other = page === "model" ? ["gpu", "GPU", "gpu", "gpu_model"] : ["model", "Model", "model", "model"];
  const PER_TOKEN = "energy_gpu_j_per_output_token";
  const everything = W.rows("settings");
  const rows = everything.filter((row) => !W.isPredicted(row));
  const apart = document.getElementById("predicted");
  const facts = window.WATTCOUNT.meta[page === "model" ? "models" : "gpus"];
  const heading = document.querySelector("h1");
  const lead = document.getElementById("lead");
  const about = document.getElementById("about");
  const mount = document.getElementById("board");
  const columns = W.settingColumns();
  let sort = null;

  const all = () => {
    const subjects = new Map();
    for (const row of rows) {
      if (!subjects.has(row[key])) subjects.set(row[key], []);
      subjects.get(row[key]).push(row);
    }
    heading.textContent = page === "model" ? "Models" : "GPUs";
    document.title = `${heading.textContent} – wattcount`;
    lead.textContent = page === "model" ? `${W.count(subjects.size, "model")} with results. Least energy is over all loads, so it compares loads as much as models: open one to see it load by load.` : `${W.count(subjects.size, "GPU model")} with results. Open one to see it load by load.`;
    about.hidden = true;
    const list = [...subjects].map(([name, found]) => {
      const energies = found.map((row) => row[PER_TOKEN]).filter((value) => value !== null);
      return { name, ...(facts[name] ?? {}), settings: found.length, runs: found.reduce((sum, row) => sum + row.runs, 0), others: new Set(found.map((row) => row[other[3]])).size, origins: [...new Set(found.map((row) => row.origin))].sort().join(", "), least: energies.length ? Math.min(...energies) : null };
    });
    const number = (name, title, unit, shown = (value) => String(value)) => ({ key: name, heading: title, unit, number: true, value: (row) => row[name] ?? null, text: (row) => ((row[name] ?? null) === null ? "–" : shown(row[name])) });
    const shown = [
      { key: "name", heading: page === "model" ? "Model" : "GPU", value: (row) => row.name, text: (row) => row.name, node: (row) => W.el("a", { href: W.link(page, row.name), text: row.name }) },
      ...(page === "model"
        ? [number("parameters_b", "Parameters", "10⁹", (v) => W.significant(v)), number("active_parameters_b", "for one token", "10⁹", (v) => W.significant(v))]
        : [number("memory_gib", "Memory", "GiB"), number("memory_bandwidth_gb_s", "Bandwidth", "GB/s"), number("tdp_w", "Power limit", "W")]
      ).filter((column) => list.some((row) => column.value(row) !== null)),
      number("others", page === "model" ? "GPU kinds" : "Models"),
      number("settings", "Settings"),
      number("runs", "Runs"),
      number("least", "Least energy", "mJ per output token", (v) => W.significant(v * 1000)),
      { key: "origins", heading: "Origin", words: true, value: (row) => row.origins, text: (row) => row.origins },
    ];
    W.drawTable(mount, { name: `${page}s`, caption: heading.textContent, columns: shown, rows: list, sort: sort ?? { key: "name", down: false }, onSort: (now) => { sort = now; all(); } });
  };

  const one = (id) => {
    const measured = rows.filter((row) => row[key] === id), predicted = everything.filter((row) => W.isPredicted(row) && row[key] === id);
    const found = measured.length ? measured : predicted;
    heading.textContent = id;
    document.title = `${id} – wattcount`;
    about.hidden = !found.length;
    if (!found.length) {
      lead.textContent = "";
      mount.replaceChildren(W.el("p", { class: "empty" }, `There is no ${page === "model" ? "model" : "GPU"} of this name here. `, W.el("a", { href: `${page}.html`, text: "See all." })));
      return;
    }
    const known = facts[id] ?? {};
    lead.textContent = `${W.count(found.length, "setting")} from ${W.count(found.reduce((sum, row) => sum + row.runs, 0), "run")}, ${page === "model" ? "on" : "of"} ${W.count(new Set(found.map((row) => row[other[3]])).size, page === "model" ? "GPU model" : "model")}.`;
    const told = page === "model"
      ? [["Parameters", known.parameters_b, "× 10⁹"], ["for one token", known.active_parameters_b, "× 10⁹"], ["Hub", known.hf_id, ""]]
      : [["Memory", known.memory_gib, "GiB"], ["Memory bandwidth", known.memory_bandwidth_gb_s, "GB/s"], ["FP16, dense", known.fp16_dense_tflops, "TFLOP/s"], ["FP8, dense", known.fp8_dense_tflops, "TFLOP/s"], ["Power limit", known.tdp_w, "W"]];
    const shown = told.filter(([, value]) => value !== null && value !== undefined);
    about.hidden = !shown.length;
    about.replaceChildren(...shown.map(([name, value, unit]) => W.el("div", {}, W.el("dt", { text: name }), W.el("dd", { class: typeof value === "number" ? null : "text" }, typeof value === "number" ? W.significant(value, 4).replace(/\.0+$/, "") : value, " ", W.el("small", { text: unit })))));
    const keys = ["place", other[0], "load", "setting", PER_TOKEN, "power_gpu_mean_w", "throughput_output_tokens_per_s", "latency_ttft_p95_ms", "latency_tpot_p95_ms", "runs"];
    // Load by load, the least energy first: that is how settings are compared.
    const ordered = sort ? found : W.sorted(W.sorted(found, columns.get(PER_TOKEN), false), columns.get("load"), false);
    W.drawTable(mount, { name: id.replace(/[^\w.-]+/g, "_").slice(0, 60), caption: `Settings of ${id}`, columns: W.columnsOf(columns, keys), rows: ordered, sort, all: [...columns.values()], onSort: (now) => { sort = now; one(id); } });
    apart.hidden = !measured.length || !predicted.length;
    if (!apart.hidden) W.drawTable(apart.querySelector("div"), { name: "predicted", caption: `Predicted settings of ${id}`, columns: W.columnsOf(columns, keys.filter((name) => name !== "place" && name !== "runs")), rows: W.sorted(predicted, columns.get("load"), false), all: [...columns.values()] });
    const more = document.getElementById("more");
    more.href = `leaderboard.html#${page === "model" ? "model" : "gpu"}=${encodeURIComponent(page === "model" ? id : found[0].gpu)}`;
  };

  const draw = () => {
    const id = W.state().get("id");
    document.getElementById("more").hidden = id === null;
    apart.hidden = true;
    if (id === null) all();
    else one(id);
  };
  addEventListener("hashchange", () => { sort = null; draw(); scrollTo(0, 0); });
  draw();
});
