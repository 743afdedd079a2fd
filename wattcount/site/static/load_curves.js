/* Load curves, `#curve=NAME&...&ttft=MS&tpot=MS`: energy per token and per good request by offered load, with latencies beside. */
W.start(() => {
  "use strict";
  const MOST = 8; // lines that colours tell apart
  const NAMES = ["ttft", "tpot", "e2e"];
  const SLIDERS = [["ttft", "TTFT", 10, 20000], ["tpot", "TPOT", 2, 500]];
  const { curves, slo: usual } = window.WATTCOUNT.curves;
  const board = document.getElementById("board");
  const choose = document.getElementById("choose");
  const byName = new Map();
  curves.forEach((curve) => { let name = curve.name, number = 2; while (byName.has(name)) name = `${curve.name} (${number++})`; byName.set(name, { ...curve, name }); });

  const read = () => {
    const state = W.state();
    const wanted = state.getAll("curve").filter((name) => byName.has(name)).slice(0, MOST);
    const bounds = {};
    for (const [key] of SLIDERS) bounds[key] = Number(state.get(key)) > 0 ? Number(state.get(key)) : usual[key];
    return { chosen: new Set(wanted.length ? wanted : [...byName.values()].filter((curve) => curve.usual).map((curve) => curve.name)), bounds };
  };
  let state = read();
  const write = () => {
    const out = new URLSearchParams();
    for (const name of state.chosen) out.append("curve", name);
    for (const [key] of SLIDERS) if (state.bounds[key] !== usual[key]) out.append(key, String(state.bounds[key]));
    W.setState(out);
  };

  /** (least, most) share of requests that keep the bounds: counted where the requests are known, else by percentiles. */
  W.goodShare = (point, bounds) => {
    if (point.requests) {
      const known = NAMES.map((name) => [point.requests[name], bounds[name]]).filter(([, bound]) => bound !== undefined);
      const number = point.requests.e2e.length;
      let good = 0;
      for (let at = 0; at < number; at++) {
        const ended = point.requests.e2e[at] !== -1 && point.requests.e2e[at] !== null;
        if (ended && known.every(([values, bound]) => values[at] === null || (values[at] !== -1 && values[at] <= bound))) good++;
      }
      return { low: good / number, high: good / number, of: point.of, counted: number };
    }
    return W.shareWithin((name, p) => point.percentiles[name][W.PERCENTILES.indexOf(p)], bounds);
  };

  const points = () => [...state.chosen].flatMap((name) => {
    const curve = byName.get(name);
    return curve.points.map((point) => ({ curve: name, evidence: curve.evidence, ...point, share: W.goodShare(point, state.bounds) }));
  });
  const own = () => {
    const there = W.ownRuns().filter((one) => one.rate_rps > 0 && one.values.energy_gpu_j_per_output_token > 0);
    const some = new Set([...new Set(there.map((one) => one.curve))].slice(0, Math.max(1, MOST - state.chosen.size)));
    return there.filter((one) => some.has(one.curve)).sort((a, b) => a.rate_rps - b.rate_rps).map(ownPoint);
  };
  const ownPoint = (one) => {
    const percentiles = Object.fromEntries(NAMES.map((name) => [name, W.PERCENTILES.map((p) => one.values[`latency_${name}_p${p}_ms`] ?? null)]));
    const point = { curve: one.valid ? one.curve : `${one.curve}, invalid`, rate_rps: one.rate_rps, j_per_token: one.values.energy_gpu_j_per_output_token, low: one.low, high: one.high, j_per_request: one.values.energy_gpu_j_per_request ?? null, knee: false, overloaded: false, percentiles, evidence: "own run", basis: "your own run: method and sensor alone" };
    return { ...point, share: W.goodShare(point, state.bounds) };
  };

  const rowsOf = (all) => {
    const data = { tokens: [], good: [], ttft: [], tpot: [], ttft_slo: [{ ms: state.bounds.ttft }], tpot_slo: [{ ms: state.bounds.tpot }] };
    for (const point of all) {
      const at = W.curveRow(point);
      data.tokens.push(W.tokenRow(point));
      if (point.j_per_request !== null && point.share?.high > 0) {
        const low = point.j_per_request / point.share.high;
        data.good.push({ ...at, value: low, low, high: point.share.low > 0 ? point.j_per_request / point.share.low : null, share: point.share.high });
      }
      for (const name of ["ttft", "tpot"]) if (point.percentiles[name][1] !== null) data[name].push({ ...at, value: point.percentiles[name][1] });
    }
    return data;
  };

  const percent = (share) => (share === null ? "–" : share.high - share.low < 0.005 ? `${Math.floor(100 * share.low + 1e-9)} %` : `${Math.floor(100 * share.low + 1e-9)}–${Math.floor(100 * share.high + 1e-9)} %`);
  let running = false, wanted = false;
  const draw = async () => {
    if (running) { wanted = true; return; }
    running = true;
    const all = [...points(), ...own()];
    if (!all.length) board.replaceChildren(W.el("p", { class: "empty", text: curves.length ? "Choose a curve." : "No setting here was measured at three rates or more." }));
    else {
      const heads = ["curve", "requests/s", "mJ per token", "at least", "at most", "J per request", "J per good request", "keep the SLO", "TTFT p95, ms", "TPOT p95, ms", "what", "evidence", "rests on"];
      const value = (one) => (one === null || one === undefined ? null : one);
      const rows = all.map((point) => [point.curve, point.rate_rps, 1e3 * point.j_per_token, point.low === null ? null : 1e3 * point.low, point.high === null ? null : 1e3 * point.high, value(point.j_per_request), point.share?.high > 0 && point.j_per_request !== null && point.share.high - point.share.low < 0.005 ? point.j_per_request / point.share.high : null, percent(point.share), value(point.percentiles.ttft[1]), value(point.percentiles.tpot[1]), W.pointKind(point), point.evidence, point.basis]);
      const picture = board.querySelector(".curves") ?? W.el("div", { class: "curves" });
      const table = board.querySelector(".points") ?? W.el("div", { class: "points" });
      const knees = board.querySelector(".knees") ?? W.el("ul", { class: "knees small" });
      if (!picture.isConnected) board.replaceChildren(picture, W.el("h2", { text: "Where a token stops getting cheaper" }), knees, W.el("h2", { text: "Points" }), table);
      knees.replaceChildren(...[...state.chosen].map((name) => {
        const knee = byName.get(name).points.find((point) => point.knee);
        const top = byName.get(name).points.at(-1).rate_rps;
        return W.el("li", { text: knee ? `${name}: from ${knee.rate_rps} requests/s on, a token costs within ${100 * window.WATTCOUNT.curves.knee_share} % of the least.` : `${name}: not seen up to ${top} requests/s, the highest rate that was measured.` });
      }));
      await W.plot(picture, { kind: "load_curve", data: rowsOf(all), description: `Energy and latency by offered load: ${[...new Set(all.map((point) => point.curve))].join("; ")}`, name: "load_curves", table: { heads, rows } });
      table.replaceChildren(W.plainTable({ name: "load_curve_points", caption: "Points of the load curves", heads, hidden: ["rests on", ...(new Set(all.map((point) => point.evidence)).size > 1 ? [] : ["evidence"])], rows: rows.map((row, at) => [all[at].id ? W.el("a", { href: W.link("setting", all[at].id), text: row[0] }) : row[0], ...row.slice(1)]) }));
    }
    board.dataset.drawn = String(Number(board.dataset.drawn ?? 0) + 1);
    running = false;
    if (wanted) { wanted = false; draw(); }
  };

  // -- choices
  const slider = ([key, title, least, most]) => {
    const log = (value) => Math.log(value);
    const input = W.el("input", { type: "range", min: String(log(least)), max: String(log(most)), step: "any", "aria-label": `SLO of ${title}` });
    const box = W.el("input", { type: "number", min: "0", step: "any", inputmode: "decimal", "aria-label": `SLO of ${title} in ms` });
    const show = () => { input.value = String(log(state.bounds[key])); box.value = String(state.bounds[key]); input.setAttribute("aria-valuetext", `${state.bounds[key]} ms`); };
    const set = (value) => { if (value > 0) { state.bounds[key] = value; write(); draw(); } };
    input.addEventListener("input", () => { set(Number(Math.exp(Number(input.value)).toPrecision(2))); show(); });
    box.addEventListener("change", () => { set(Number(box.value)); show(); });
    show();
    return [W.el("div", { class: "field" }, W.el("span", { text: `${title} at most` }), input, box, W.el("span", { text: "ms" })), show];
  };
  const build = () => {
    const summary = W.el("summary");
    const title = () => { summary.textContent = `Curves: ${state.chosen.size} of ${byName.size}`; };
    const boxes = W.el("fieldset", {}, W.el("legend", { class: "unseen", text: "Curves" }));
    for (const name of byName.keys()) {
      const box = W.el("input", { type: "checkbox", checked: state.chosen.has(name) });
      box.addEventListener("change", () => {
        if (box.checked && state.chosen.size >= MOST) { box.checked = false; return; }
        box.checked ? state.chosen.add(name) : state.chosen.delete(name);
        title();
        write();
        draw();
      });
      boxes.append(W.el("label", { class: "field" }, box, W.el("span", { text: name })));
    }
    title();
    choose.replaceChildren(W.el("details", { class: "curvelist" }, summary, boxes), ...SLIDERS.map((one) => slider(one)[0]));
  };
  addEventListener("hashchange", () => { state = read(); build(); draw(); });
  build();
  W.ownPlace(document.getElementById("own"), draw);
  draw();
});
