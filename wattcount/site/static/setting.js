/* One setting, `#id=SETTING`: what it is, what its energy rests on, its runs, and what else serves the load. */
W.start(() => {
  "use strict";
  const PER_TOKEN = "energy_gpu_j_per_output_token";
  const MOST_COMPARED = 6;
  const settings = W.rows("settings");
  const figures = window.WATTCOUNT.meta.figures;
  const columns = W.settingColumns();
  const heading = document.querySelector("h1");
  const lead = document.getElementById("lead");
  const parts = document.getElementById("parts");
  let sort = null;

  const pairs = (items) => W.el("dl", { class: "pairs" }, ...items.filter(([, value]) => value !== null && value !== undefined && value !== "").flatMap(([name, value]) => [W.el("dt", { text: name }), W.el("dd", {}, value)]));

  const draw = () => {
    const id = W.state().get("id");
    const row = settings.find((one) => one.id === id);
    if (!row) {
      heading.textContent = "Setting";
      lead.replaceChildren(id === null ? "Choose a setting on the " : "There is no setting with this id here. See the ", W.el("a", { href: "leaderboard.html", text: "leaderboard" }), ".");
      parts.hidden = true;
      return;
    }
    parts.hidden = false;
    heading.textContent = `${row.model} on ${row.gpu}`;
    document.title = `${heading.textContent} – wattcount`;
    lead.textContent = `${row.load}; ${row.setting}`;

    // -- the figure, and what it rests on
    const energy = figures.find((one) => one.key === PER_TOKEN);
    const shown = (value) => W.significant(value * energy.factor);
    const first = document.getElementById("answer");
    first.replaceChildren();
    const caveat = window.WATTCOUNT.meta.caveats[row.evidence];
    if (caveat) first.append(W.el("p", { class: "banner", text: caveat }));
    if (row[PER_TOKEN] === null) first.append(W.el("p", { class: "empty", text: row.status === "valid" ? "No energy per output token: what measured it does not tell." : `No valid run: ${row.status}. Its figures stand for nothing.` }));
    else {
      const half = row.low === null ? null : (Math.log(row.high) - Math.log(row.low)) / 2;
      first.append(W.el("dl", { class: "facts" },
        W.el("div", {}, W.el("dt", { text: energy.heading }), W.el("dd", {}, shown(row[PER_TOKEN]), " ", W.el("small", { text: energy.unit }))),
        W.el("div", {}, W.el("dt", { text: `${W.intervalLevel(row)} % interval` }), W.el("dd", {}, row.low === null ? "none" : `${shown(row.low)}–${shown(row.high)}`, " ", W.el("small", { text: row.low === null ? "" : `${energy.unit}, about ± ${W.significant(100 * half, 2)} %` }))),
        W.el("div", {}, W.el("dt", { text: "Rests on" }), W.el("dd", {}, W.el("small", { text: row.basis ?? "–" })))));
    }
    document.getElementById("facts").replaceChildren(pairs([
      ["Model", W.el("a", { href: W.link("model", row.model), text: row.model })],
      ["GPU", W.el("a", { href: W.link("gpu", row.gpu_model), text: row.gpu })],
      ["Load", row.load], ["Setting", row.setting], ["Precision", row.precision], ["Weights", row.weights],
      ["Engine", [row.engine, row.engine_version].filter(Boolean).join(" ")], ["Evidence", row.evidence], ["Origin", row.origin],
      ["Instrument", row.instrument], ["Measured by", row.measured_by], ["Tier", row.tier], ["Id", W.el("code", { text: row.id })],
    ]));

    // -- all figures
    const told = figures.filter((figure) => row[figure.key] !== null).map((figure) => ({ figure }));
    W.drawTable(document.getElementById("figures"), {
      name: `setting_${row.id}_figures`, caption: "Figures of the setting: means over its valid runs", rows: told, empty: "No figure is known.",
      columns: [
        { key: "figure", heading: "Figure", value: (one) => one.figure.key, text: (one) => one.figure.heading, node: (one) => W.el("a", { href: `method.html#${one.figure.key}`, text: one.figure.heading }) },
        { key: "value", heading: "Mean", number: true, value: (one) => row[one.figure.key], text: (one) => `${W.significant(row[one.figure.key] * one.figure.factor, 4)} ${one.figure.unit}` },
      ],
    });

    // -- runs
    const runs = W.rowsWith("rows", "setting", id);
    const runColumn = (key, title, more = {}) => ({ key, heading: title, value: (one) => one[key], text: (one) => one[key] ?? "–", ...more });
    const figureColumns = figures.filter((figure) => runs.some((one) => one[figure.key] !== null)).map((figure) => ({ key: figure.key, heading: figure.heading, unit: figure.unit, number: true, value: (one) => one[figure.key], text: (one) => W.significant(one[figure.key] === null ? null : one[figure.key] * figure.factor) }));
    const u95 = { key: "energy_gpu_j_per_output_token_u95", heading: "± this run, 95 %", unit: energy.unit, number: true, title: "by method and sensor alone", value: (one) => one.energy_gpu_j_per_output_token_u95, text: (one) => W.significant(one.energy_gpu_j_per_output_token_u95 === null ? null : one.energy_gpu_j_per_output_token_u95 * energy.factor, 2) };
    const short = (text) => (text ?? "–").replace(/GPU-([0-9a-f]{4})[^,]*/g, "$1");
    const name = (one) => one.run_id ?? one.id;
    const all = [
      runColumn("id", "Run", { words: true, text: name, node: (one) => (W.hasPage("run") ? W.el("a", { href: W.link("run", one.id), text: name(one) }) : name(one)) }),
      runColumn("status", "Verdict", { text: (one) => (one.status === "valid" ? "valid" : `${one.status}: ${one.reasons ?? ""}`), node: (one) => W.el("span", { class: one.status === "valid" ? "tag good" : "tag warn", text: one.status, title: one.reasons ?? "" }) }),
      runColumn("repeat", "Repeat", { number: true }), runColumn("board", "Board", { text: (one) => short(one.board) }),
      runColumn("started_utc", "Began, UTC", { number: true, text: (one) => (one.started_utc ?? "–").slice(0, 16).replace("T", " ") }),
      ...(figureColumns.length ? [figureColumns[0], u95, ...figureColumns.slice(1)] : []),
      runColumn("submission", "Submission", { node: (one) => (one.submission ? W.el("a", { href: `submissions.html#s-${one.submission}`, text: one.submission }) : "–") }),
      runColumn("record", "Record"), runColumn("licence", "Licence"), runColumn("session", "Session"), runColumn("host", "Host"), runColumn("seed", "Seed"), runColumn("measured_by", "Measured by"), runColumn("reasons", "Findings"),
    ];
    const few = new Set(["id", "status", "repeat", "board", "started_utc", PER_TOKEN, "energy_gpu_j_per_output_token_u95", "power_gpu_mean_w", "throughput_output_tokens_per_s", "latency_ttft_p95_ms", "latency_tpot_p95_ms", "submission"]);
    W.drawTable(document.getElementById("runs"), { name: `setting_${row.id}_runs`, caption: "Runs of the setting", columns: all.filter((column) => few.has(column.key) && runs.some((one) => column.value(one) !== null)), all, rows: runs });

    // -- what else serves this load
    const rivals = settings.filter((one) => one.model === row.model && one.ranked !== null && one.ranked === row.ranked);
    const beside = [row, ...rivals.filter((one) => one !== row).sort((a, b) => a[PER_TOKEN] - b[PER_TOKEN])].slice(0, MOST_COMPARED);
    const compare = document.getElementById("compare");
    compare.hidden = beside.length < 2;
    compare.textContent = `Compare it with the ${beside.length === 2 ? "other" : `first ${beside.length - 1} of them`}`;
    compare.href = "compare.html#" + beside.map((one) => "id=" + encodeURIComponent(one.id)).join("&");
    W.drawTable(document.getElementById("rivals"), {
      name: `load_of_${row.id}`, caption: "All settings of this model with this load", rows: rivals.length > 1 ? rivals : [], sort: sort ?? { key: PER_TOKEN, down: false }, all: [...columns.values()],
      columns: W.columnsOf(columns, ["place", "gpu", "setting", PER_TOKEN, "power_gpu_mean_w", "latency_ttft_p95_ms", "latency_tpot_p95_ms", "runs"]),
      onSort: (now) => { sort = now; draw(); }, empty: "Nothing else was measured with this model and load, so there is nothing to compare it with.",
    });
  };
  addEventListener("hashchange", () => { sort = null; draw(); scrollTo(0, 0); });
  draw();
});
