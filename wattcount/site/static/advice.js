/* Advice: choose a model, a load and bounds; the choice stands in the address. The whole table below stays as it is. */
W.start(() => {
  "use strict";
  const all = window.WATTCOUNT?.advice ?? [];
  const ask = document.getElementById("ask");
  if (!all.length || !ask) return;
  const mount = document.getElementById("one");
  const BATCH = "batch";
  const FIELDS = [["model", "Model"], ["load", "Load"], ["lengths", "Tokens in/out"], ["bounds", "Bounds, kept by 95 %"]];
  const rate = (load) => (load === BATCH ? Infinity : parseFloat(load));
  const values = (key, among) => [...new Set(among.map((one) => one[key]))].sort((a, b) => (key === "load" ? rate(a) - rate(b) : key === "bounds" ? 0 : a.localeCompare(b, "en", { numeric: true })));

  // Whoever comes without a choice sees a load for which there is advice.
  const usual = all.find((one) => !one.refusal && rate(one.load) >= 4 && one.load !== BATCH) ?? all.find((one) => !one.refusal) ?? all[0];
  const table = document.getElementById("all");
  const every = W.el("button", { type: "button", class: "button noprint", "aria-pressed": "false", text: "All models", onclick: () => { every.setAttribute("aria-pressed", every.getAttribute("aria-pressed") === "true" ? "false" : "true"); draw(); } });
  table.closest(".tablebox").before(W.el("p", {}, every));

  const choice = () => {
    const state = W.state();
    const found = {};
    let among = all;
    for (const [key] of FIELDS) {
      const there = values(key, among);
      const wanted = state.get(key);
      found[key] = there.includes(wanted) ? wanted : there.includes(usual[key]) ? usual[key] : there[0];
      found[`${key}s`] = there;
      among = among.filter((one) => one[key] === found[key]);
    }
    return { found, one: among[0] };
  };

  const command = (title, text) => (text ? [W.el("h3", { text: title }), W.el("pre", { tabindex: "0", "aria-label": title }, W.el("code", { text }))] : []);
  /** The setting, with links to what was measured: one, or the two rates around. */
  const measured = ({ setting, how, measured: cells }) => {
    const link = ([id], text) => W.el("a", { href: W.link("setting", id), text });
    if (cells.length === 1) return [link(cells[0], setting), how === "measured" ? "" : W.el("small", { text: ` ${how}` })];
    return [setting, " ", W.el("small", {}, `${how} between `, ...cells.flatMap((cell, at) => [at ? " and " : "", link(cell, `${cell[1]} requests/s`)]))];
  };
  const axis = (options) => {
    const low = Math.log(Math.min(...options.map((o) => o.low))), high = Math.log(Math.max(...options.map((o) => o.high)));
    return (value) => 3 + 106 * (high > low ? (Math.log(value) - low) / (high - low) : 0.5);
  };
  const picture = (option, at) => {
    const made = W.svg("svg", { viewBox: "0 0 112 16", "aria-hidden": "true" }, W.svg("line", { class: "base", x1: 0, x2: 112, y1: 8, y2: 8 }));
    made.append(W.svg("line", { class: "band", x1: at(option.low), x2: at(option.high), y1: 8, y2: 8 }), W.svg("circle", { class: "mid", cx: at(option.value), cy: 8, r: 3 }));
    return made;
  };

  const draw = () => {
    const { found, one } = choice();
    ask.hidden = false;
    ask.replaceChildren(...FIELDS.map(([key, title]) => {
      const select = W.el("select", { "data-key": key, onchange: (event) => {
        const state = new URLSearchParams();
        for (const [name] of FIELDS) { const value = name === key ? event.target.value : found[name]; if (value) state.set(name, value); }
        W.setState(state);
        draw();
        ask.querySelector(`[data-key="${key}"]`).focus();
      } }, ...found[`${key}s`].map((value) => W.el("option", { value, selected: value === found[key], text: value || "none: a batch promises no latency" })));
      return W.el("label", { class: "field stack" }, W.el("span", { text: title }), select);
    }));
    const whole = every.getAttribute("aria-pressed") === "true";
    for (const row of table.tBodies[0].rows) row.hidden = !whole && all[Number(row.dataset.row)].model !== found.model;
    const first = one.options[0];
    const parts = [W.el("h2", { class: "unseen", text: "Advice for this load" })];
    if (one.refusal) parts.push(W.el("p", { class: "says" }, W.el("span", { class: "tag warn", text: "no advice" }), ` ${one.refusal}.`));
    else {
      parts.push(W.el("p", { class: "says read" }, W.el("strong", { text: `${first.gpu}, ${first.setting}` }), `: ${first.energy} J per good request (${first.interval}, ${first.how}); ${one.why}.`));
      parts.push(W.el("dl", { class: "facts" },
        W.el("div", {}, W.el("dt", { text: "It is the best of these with" }), W.el("dd", {}, one.sure, W.el("small", { text: " probability" }))),
        W.el("div", {}, W.el("dt", { text: "Expected regret" }), W.el("dd", { text: one.regret })),
        first.share ? W.el("div", {}, W.el("dt", { text: "Requests that keep the bounds" }), W.el("dd", {}, W.el("small", { text: "at least " }), first.share)) : null,
        W.el("div", {}, W.el("dt", { text: "Carbon" }), W.el("dd", {}, first.carbon, W.el("small", { text: " g per 1,000 good requests" })))));
    }
    if (one.options.length) {
      const at = axis(one.options);
      const heads = [["GPUs", ""], ["Setting", ""], ["Each", ""], ["Energy", "J per good request"], ["To the first", ""]];
      const rows = one.options.map((option) => W.el("tr", {},
        W.el("td", { class: "words", text: option.gpu }), W.el("td", { class: "words" }, ...measured(option)), W.el("td", { text: option.each ?? "–" }),
        W.el("td", { class: "n" }, W.el("span", { class: "interval" }, W.el("span", {}, `${option.energy} `, W.el("small", { text: option.interval })), picture(option, at))), W.el("td", { class: "n", text: option.to_first })));
      const csv = () => W.csv(["gpus", "setting", "rate_each", "j_per_good_request", "low_j", "high_j", "how"], one.options.map((o) => [o.gpu, o.setting, o.each, o.value, o.low, o.high, o.how]));
      parts.push(W.el("h3", { text: "Options" }),
        W.el("div", { class: "tablebox", role: "region", tabindex: "0", "aria-label": "Options" }, W.el("table", {}, W.el("caption", { class: "unseen", text: "Options, the least energy first" }),
          W.el("thead", {}, W.el("tr", {}, ...heads.map(([name, unit], place) => W.el("th", { scope: "col", class: place > 2 ? "n" : null }, name, unit ? W.el("span", { class: "unit", text: unit }) : "")))), W.el("tbody", {}, ...rows))),
        W.el("div", { class: "under" }, W.el("span", { text: one.more ? `and ${W.count(one.more, "more option")} that take more` : W.count(rows.length, "option") }), W.csvButton("options", csv)));
    }
    for (const note of one.notes) parts.push(W.el("p", { class: "soft small", text: note }));
    if (one.left_out.length && !one.refusal) parts.push(W.el("p", { class: "soft small", text: `Left out: ${one.left_out.join("; ")}.` }));
    parts.push(...command("Serve each replica with", one.serve), ...command("Verify it with", one.verify));
    if (one.tell && one.tell !== one.verify) parts.push(...command("This run would tell more", one.tell));
    mount.replaceChildren(...parts);
  };
  addEventListener("hashchange", draw);
  draw();
});
