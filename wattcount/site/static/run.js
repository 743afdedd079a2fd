/* One run, `#id=RESULT`: its data lies in runs/RESULT.js and is loaded when it is asked for. `at`, `from`, `to`: seconds of its time. */
W.start(() => {
  "use strict";
  const SAFE = /^[A-Za-z0-9][\w.-]{0,127}$/;
  const PANELS = [["power", "Power", "W"], ["flight", "Requests", ""], ["tokens", "Tokens of the steps", "tokens/s"], ["temperature", "Temperature", "°C"], ["clock", "SM clock", "MHz"]];
  const PIXELS_A_SIGN = 8; // width of a letter in a picture, with some room
  const part = (id) => document.getElementById(id);
  const heading = document.querySelector("h1");
  const pairs = (items) => W.el("dl", { class: "pairs" }, ...items.filter(([, value]) => value !== null && value !== undefined && value !== "").flatMap(([name, value]) => [W.el("dt", { text: name }), W.el("dd", {}, value)]));
  const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
  /** A definition: `words` as code, links as their text. */
  const defined = (text) => W.el("span", {}, ...text.replace(/\[([^\]]*)\]\([^)]*\)/g, "$1").split("`").map((piece, at) => (at % 2 ? W.el("code", { text: piece }) : piece)));

  const load = (id) => new Promise((done) => {
    window.WATTCOUNT.run = null;
    const script = W.el("script", { src: `runs/${encodeURIComponent(id)}.js` });
    script.onload = async () => { script.remove(); await W.unpack(); done(window.WATTCOUNT.run); };
    script.onerror = () => { script.remove(); done(null); };
    document.head.append(script);
  });

  // -- time

  const spread = (run) => {
    const rows = {};
    for (const [name, series] of Object.entries(run.series)) rows[name] = series.flatMap(([what, values]) => run.edges_s.map((t_s, at) => ({ t_s, what, value: values[Math.min(at, values.length - 1)] })));
    // Above a narrow picture only phases that have room for their names are named.
    const perPixel = (run.edges_s.at(-1) - run.edges_s[0]) / part("power").clientWidth;
    const phases = run.phases.map((one) => ({ ...one, label: (one.end_s - one.start_s) / perPixel > PIXELS_A_SIGN * one.label.length ? one.label : "" }));
    return { ...rows, phases, moment: [{ t_s: null }] };
  };
  const at = (run, second) => {
    const { edges_s: edges } = run;
    if (second === null || !(second >= edges[0] && second <= edges.at(-1))) return null;
    let low = 0, high = edges.length - 2;
    while (low < high) { const middle = (low + high + 1) >> 1; if (edges[middle] <= second) low = middle; else high = middle - 1; }
    return low;
  };
  const say = (run, second) => {
    const found = at(run, second);
    if (found === null) return [W.el("p", { text: `Nothing is known of second ${second}: the run is known from ${W.significant(run.edges_s[0], 4)} to ${W.significant(run.edges_s.at(-1), 4)} s.` })];
    const phase = run.phases.find((one) => second >= one.start_s && second <= one.end_s);
    const told = PANELS.flatMap(([name, title, unit]) => (run.series[name] ?? []).flatMap(([what, values]) => {
      const words = name === "flight" ? `Requests ${what}` : name === "tokens" ? `Tokens, ${what}` : run.series[name].length > 1 ? `${title}, ${what}` : title;
      return values[found] === null ? [] : [W.el("div", {}, W.el("dt", { text: words }), W.el("dd", {}, W.significant(values[found], 3), unit ? " " : "", W.el("small", { text: unit })))];
    }));
    const length = run.edges_s[found + 1] - run.edges_s[found];
    return [W.el("p", {}, W.el("strong", { text: `At second ${W.significant(second, 4)}` }), phase ? `, in the ${phase.phase}` : "", W.el("span", { class: "soft", text: `: means over ${W.significant(1000 * length, 2)} ms` })), W.el("dl", { class: "facts" }, ...told)];
  };

  const drawTime = (run) => {
    part("picture").hidden = run.edges_s.length < 2;
    if (part("picture").hidden) return;
    let view = null;
    const whole = [run.edges_s[0], run.edges_s.at(-1)];
    const number = (key) => { const text = W.state().get(key); return text && Number.isFinite(Number(text)) ? Number(text) : null; };
    let shown = number("from") !== null && number("to") > number("from") ? [number("from"), number("to")] : whole;
    const show = (ends) => {
      const length = Math.min(ends[1] - ends[0], whole[1] - whole[0]);
      const from = Math.min(Math.max(ends[0], whole[0]), whole[1] - length);
      shown = [from, from + length];
      view?.signal("zoom_t_s", shown).run();
      const now = W.state();
      const all = shown[0] === whole[0] && shown[1] === whole[1];
      for (const [key, value] of [["from", shown[0]], ["to", shown[1]]]) if (all) now.delete(key); else now.set(key, String(Number(value.toFixed(3))));
      W.setState(now);
    };
    const scaled = (factor) => { const middle = (shown[0] + shown[1]) / 2, half = (factor * (shown[1] - shown[0])) / 2; show([middle - half, middle + half]); };
    const moved = (share) => show(shown.map((end) => end + share * (shown[1] - shown[0])));
    const button = (text, label, act) => W.el("button", { type: "button", class: "button", "aria-label": label, text, onclick: act });
    part("times").replaceChildren(
      button("All", "Show the whole run", () => show(whole)),
      ...run.phases.map((one) => button(capital(one.phase), `Show the phase ${one.phase}`, () => { const edge = 0.05 * (one.end_s - one.start_s); show([one.start_s - edge, one.end_s + edge]); })),
      button("+", "Zoom in", () => scaled(0.5)), button("−", "Zoom out", () => scaled(2)), button("←", "Earlier", () => moved(-0.25)), button("→", "Later", () => moved(0.25)),
      W.el("small", { class: "soft", text: "Drag to move, shift and wheel to zoom." }));
    const names = PANELS.flatMap(([name, title, unit]) => (run.series[name] ?? []).map(([what]) => `${title}, ${what}${unit ? `, ${unit}` : ""}`));
    const columns = PANELS.flatMap(([name]) => (run.series[name] ?? []).map(([, values]) => values));
    W.plot(part("power"), {
      kind: "power_trace", data: spread(run), description: `Power over time, with phases, requests, temperature and clocks: ${run.name}`, name: `run_${run.id}`, still: true,
      table: { heads: ["from, s", "to, s", ...names], rows: run.edges_s.slice(0, -1).map((from, row) => [from, run.edges_s[row + 1], ...columns.map((values) => values[row])]) },
      onView: (made) => {
        view = made;
        view.signal("zoom_t_s", shown).run();
        mark();
      },
    });
    const mark = () => view?.data("moment", [{ t_s: at(run, number("at")) === null ? null : number("at") }]).run();
    const tellOf = (second) => { part("told").replaceChildren(...(second === null ? [] : say(run, second))); mark(); };
    const field = W.el("input", { type: "number", step: "any", inputmode: "decimal", id: "second", min: String(whole[0]), max: String(whole[1]) });
    const tell = () => {
      const second = field.value === "" ? null : Number(field.value);
      const now = W.state();
      if (second === null) now.delete("at"); else now.set("at", field.value);
      W.setState(now);
      tellOf(second);
    };
    field.value = number("at") ?? "";
    field.addEventListener("input", tell);
    part("moment").replaceChildren(W.el("label", { class: "field" }, W.el("span", { text: "What did it do at second" }), field, W.el("span", { class: "soft", text: "of its window? Before it, seconds are negative." })));
    tellOf(number("at"));
  };

  // -- everything else

  const drawPictures = (run) => {
    const latencies = run.latencies.flatMap(([what, ms, share]) => ms.map((value, row) => ({ what, ms: value, share: share[row] })));
    if (latencies.length) {
      W.plot(part("latencies"), {
        kind: "latency_distribution", data: { latencies, bounds: run.bounds }, description: `Share of requests by latency: ${run.name}`, name: `latencies_${run.id}`,
        table: { heads: ["of", "ms", "share as fast or faster"], rows: latencies.map((row) => [row.what, row.ms, row.share]) },
      });
    } else part("latencies").replaceChildren(W.el("p", { class: "empty", text: "No request of its window is known." }));
    if (run.parts.length || run.causes.length) {
      W.plot(part("budget"), {
        kind: "energy_budget", data: { parts: run.parts, causes: run.causes }, description: `Where the energy of the window went, and what its uncertainty is made of: ${run.name}`, name: `budget_${run.id}`,
        table: { heads: ["what", "J", "% of the energy", "why"], rows: [...run.parts.map((row) => [row.what, row.j, 100 * row.share, "part of the energy"]), ...run.causes.map((row) => [row.cause, row.j, row.percent, `uncertainty, 95 %: ${row.about}; ${row.what}`])] },
      });
    } else part("budget").replaceChildren(W.el("p", { class: "empty", text: "The energy of its window is not known." }));
  };

  const drawFindings = (run, told) => {
    const item = (one) => {
      const spec = told.findings[one.code];
      return W.el("li", {}, W.el("p", {}, W.el("span", { class: one.invalidates ? "tag warn" : "tag", text: one.invalidates ? "makes it invalid" : "remark" }), " ", W.el("strong", { text: one.message })),
        W.el("p", { class: "small soft" }, `${one.code}: ${one.figure}, limit ${one.limit}. `, spec ? defined(`${capital(spec.figure)}; limit: ${spec.limit}.`) : ""),
        spec?.why ? W.el("p", { class: "small" }, "Why it matters: ", defined(spec.why), ".") : null,
        spec?.to_do ? W.el("p", { class: "small" }, W.el("strong", { text: "To do: " }), defined(spec.to_do), ".") : null);
    };
    const others = run.verdict.messages.filter((message) => !run.findings.some((one) => one.message === message));
    const list = [...others.map((message) => W.el("li", {}, W.el("p", {}, W.el("span", { class: "tag warn", text: run.verdict.status }), " ", message))), ...run.findings.map(item), ...run.notes.map((note) => W.el("li", {}, W.el("p", {}, W.el("span", { class: "tag", text: "note" }), " ", note)))];
    part("findings").replaceChildren(list.length ? W.el("ul", { class: "cards" }, ...list) : W.el("p", { class: "empty", text: "Nothing speaks against its figures." }));
  };

  const drawFigures = (run, told) => {
    const rows = run.figures.map(([key, value, text, u95, why]) => ({ key, value, text, u95, why, unit: told.figures[key]?.[0] ?? "J", about: told.figures[key]?.[1] ?? "energy of the window of one GPU" }));
    const mount = W.el("div");
    const draw = (words) => {
      const named = (row) => words.every((word) => row.key.includes(word));
      const wanted = rows.filter((row) => words.every((word) => `${row.key} ${row.about}`.toLowerCase().includes(word))).sort((a, b) => named(b) - named(a));
      W.drawTable(mount, {
        name: `run_${run.id}_figures`, caption: "Every figure of the run, with its definition", rows: wanted, empty: "No figure has these words.",
        columns: [
          { key: "key", heading: "Figure", value: (row) => row.key, text: (row) => row.key, node: (row) => W.el("code", { text: row.key }) },
          { key: "value", heading: "Value", number: true, value: (row) => row.value, text: (row) => row.text, node: (row) => (row.value === null ? W.el("span", { class: "soft", text: "–" }) : row.text) },
          { key: "u95", heading: "± 95 %", number: true, value: (row) => row.u95, text: (row) => (row.u95 === null || !row.value ? "–" : `${W.significant((100 * row.u95) / Math.abs(row.value), 2)} %`) },
          { key: "about", heading: "What it is", words: true, value: (row) => row.about, text: (row) => row.about, node: (row) => W.el("span", {}, defined(row.about), row.value === null ? W.el("small", { text: `. Missing: ${told.null_reasons[row.why] ?? row.why}` }) : null) },
        ],
        all: [["key", (row) => row.key], ["value", (row) => row.value], ["unit", (row) => row.unit], ["u95", (row) => row.u95], ["why_null", (row) => row.why], ["definition", (row) => row.about]].map(([key, value]) => ({ key, heading: key, value })),
      });
    };
    const search = W.el("input", { type: "search", placeholder: "Find a figure", "aria-label": "Find a figure", oninput: (event) => draw(event.target.value.toLowerCase().split(/\s+/).filter(Boolean)) });
    part("figures").replaceChildren(W.el("div", { class: "filters noprint" }, search), mount);
    draw([]);
  };

  const drawRun = (run, row) => {
    const told = window.WATTCOUNT.definitions;
    heading.textContent = run.name;
    document.title = `${run.name} – wattcount`;
    part("lead").textContent = `${run.run_id}; ${run.evidence}`;
    const valid = run.verdict.status === "valid";
    part("verdict").replaceChildren(
      W.el("p", {}, W.el("span", { class: valid ? "tag good" : "tag warn", text: valid ? "valid" : `${run.verdict.status}: do not use these numbers` }), " ", valid ? (run.findings.length ? W.el("a", { href: "#findings", text: W.count(run.findings.length, "remark"), onclick: (event) => { event.preventDefault(); part("findings").scrollIntoView(); } }) : "") : run.verdict.reasons.join(", ")),
      ...run.caveats.map((text) => W.el("p", { class: "banner", text })),
      W.el("p", { class: "under noprint" }, W.el("span", {}, row ? W.el("a", { class: "button", href: W.link("setting", row.setting), text: "Its setting, and the other runs" }) : null, " ",
        run.download ? W.el("a", { class: "button", href: run.download, download: `${run.id}.zip`, text: "The record (ZIP)" }) : null, " ",
        W.el("button", { type: "button", class: "button", text: "This page's data (JSON)", onclick: () => W.download(`run_${run.id}.json`, JSON.stringify(run), "application/json") }))));
    part("facts").replaceChildren(pairs([...run.facts.map(([name, value]) => [capital(name), value]), ["Record", row?.record ?? null], ["Licence", row?.licence ?? null], ["Submission", row?.submission ? W.el("a", { href: `submissions.html#s-${row.submission}`, text: row.submission }) : null]]));
    drawTime(run);
    drawPictures(run);
    drawFindings(run, told);
    drawFigures(run, told);
  };

  const withoutRecord = (row) => {
    const figures = window.WATTCOUNT.meta.figures.filter((figure) => row[figure.key] !== null);
    heading.textContent = row.run_id ?? row.id;
    part("lead").textContent = "Of this result there is no record here, so there are its figures alone.";
    for (const id of ["picture", "findings", "all"]) part(id).hidden = true;
    part("findings").previousElementSibling.hidden = true;
    part("verdict").replaceChildren(W.el("p", {}, W.el("span", { class: row.status === "valid" ? "tag good" : "tag warn", text: row.status }), " ", W.el("a", { class: "button", href: W.link("setting", row.setting), text: "Its setting" })));
    part("facts").replaceChildren(pairs([...figures.map((figure) => [figure.heading, `${W.significant(row[figure.key] * figure.factor, 4)} ${figure.unit}`]), ["Measured by", row.measured_by], ["Began", row.started_utc], ["Submission", row.submission], ["Licence", row.licence]]));
  };

  let drawnId = null;
  const draw = async () => {
    const id = W.state().get("id") ?? "";
    if (id === drawnId) return;
    drawnId = id;
    for (const one of ["parts", "picture", "findings", "all"]) part(one).hidden = false;
    part("findings").previousElementSibling.hidden = false;
    const row = W.rowsWith("rows", "id", id)[0];
    const run = SAFE.test(id) && (!row || row.record) ? await load(id) : null; // a result without a record has no script
    if (drawnId !== id) return;
    if (run) drawRun(run, row);
    else if (row) withoutRecord(row);
    else {
      heading.textContent = "Run";
      part("parts").hidden = true;
      part("lead").replaceChildren(id ? "There is no run with this id here. Runs are listed with their setting: see the " : "Choose a run on the page of its setting: see the ", W.el("a", { href: "leaderboard.html", text: "leaderboard" }), ".");
    }
    document.body.dataset.drawn = id;
  };
  addEventListener("hashchange", draw);
  draw();
});
