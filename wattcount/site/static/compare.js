/* Settings side by side, `#id=SETTING&id=SETTING...`, and runs of one's own. */
W.start(() => {
  "use strict";
  const MOST = 6, LETTERS = "ABCDEF";
  const PER_TOKEN = "energy_gpu_j_per_output_token";
  const settings = W.rows("settings").filter((row) => row.status === "valid");
  const byId = new Map(settings.map((row) => [row.id, row]));
  const { compared } = window.WATTCOUNT.pictures;
  const figures = window.WATTCOUNT.meta.figures;
  const nameOf = (row) => `${row.model}, ${row.gpu}, ${row.load}, ${row.setting}`;
  const board = document.getElementById("board");
  const choose = document.getElementById("choose");

  const chosen = () => [...new Set(W.state().getAll("id"))].filter((id) => byId.has(id)).slice(0, MOST);
  const choice = (ids) => { const state = W.state(); state.delete("id"); for (const id of ids) state.append("id", id); W.setState(state); draw(); };

  const listed = new Map();
  for (const row of settings) { const name = nameOf(row); listed.set(listed.has(name) ? `${name} (${row.id})` : name, row.id); }
  const list = W.el("datalist", { id: "settings" });
  const field = W.el("input", { type: "search", list: "settings", id: "setting", autocomplete: "off", placeholder: "model, GPU, load, ..." });
  const told = W.el("span", { class: "small soft", role: "status" });
  const add = () => {
    const words = field.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
    if (!words.length) return;
    const exact = listed.get(field.value);
    const found = exact ? [exact] : [...listed].filter(([name]) => words.every((word) => name.toLowerCase().includes(word))).map(([, id]) => id);
    if (!found.length) { told.textContent = "No setting has all of these words."; return; }
    if (found.length > 1) { told.textContent = `${found.length.toLocaleString("en-US")} settings have all of these words: choose one of the list.`; return; }
    if (chosen().length + W.ownRuns().length >= MOST) { told.textContent = `At most ${MOST} can be told apart: remove one first.`; return; }
    field.value = "";
    told.textContent = "";
    choice([...chosen(), ...found]);
  };
  field.addEventListener("change", add);
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
    const some = words.length ? [...listed.keys()].filter((name) => words.every((word) => name.toLowerCase().includes(word))).slice(0, 50) : [];
    list.replaceChildren(...some.map((value) => W.el("option", { value })));
  });
  field.addEventListener("keydown", (event) => { if (event.key === "Enter") add(); });
  const picked = W.el("ul", { class: "picked small" });
  choose.append(W.el("label", { class: "field stack", for: "setting" }, W.el("span", { text: "Add a setting" }), field), list, told, picked);

  const value = (one, key) => (one.row ? one.row[key] : one.own.values[key] ?? null);
  const ends = (one, key) => (key !== PER_TOKEN ? [null, null] : one.row ? [one.row.low, one.row.high] : [one.own.low, one.own.high]);
  const draw = () => {
    const ids = chosen();
    const all = [...ids.map((id) => ({ row: byId.get(id), name: nameOf(byId.get(id)) })), ...W.ownRuns().map((own) => ({ own, name: own.name }))].slice(0, MOST);
    picked.replaceChildren(...all.map((one, at) => W.el("li", {}, `${LETTERS[at]}: `, one.row ? W.el("a", { href: W.link("setting", one.row.id), text: one.name }) : one.name, " ", one.row ? W.el("button", { type: "button", class: "button", text: "Remove", "aria-label": `Remove ${one.name}`, onclick: () => choice(ids.filter((id) => id !== one.row.id)) }) : null)));
    if (all.length < 2) {
      board.replaceChildren(W.el("p", { class: "empty", text: all.length ? "One more, and they are drawn side by side." : "Choose two to six settings." }));
      return;
    }
    // In the picture only what tells them apart.
    const PARTS = ["model", "gpu", "load", "setting"];
    const differ = PARTS.filter((key) => new Set(all.filter((one) => one.row).map((one) => one.row[key])).size > 1);
    const cut = (name) => (name.length > 120 ? name.slice(0, 119) + "…" : name);
    const short = (one) => cut(one.row ? (differ.length ? differ : PARTS).map((key) => one.row[key]).join(", ") : one.name);
    const data = {};
    compared.forEach((figure, number) => {
      data[`figure${number}`] = all.flatMap((one, at) => {
        const found = value(one, figure.column);
        if (found === null || found === undefined) return [];
        const [low, high] = ends(one, figure.column);
        return [{ letter: LETTERS[at], what: `${LETTERS[at]}: ${short(one)}`, value: found * figure.factor, low: low === null ? null : low * figure.factor, high: high === null ? null : high * figure.factor }];
      });
    });
    const known = figures.filter((figure) => all.some((one) => (value(one, figure.key) ?? null) !== null));
    const base = all[0];
    const heads = ["Figure", "Unit", ...all.map((_, at) => LETTERS[at]), ...all.slice(1).map((_, at) => `${LETTERS[at + 1]} against A, %`)];
    const rows = known.map((figure) => {
      const values = all.map((one) => { const found = value(one, figure.key) ?? null; return found === null ? null : found * figure.factor; });
      return [figure.heading, figure.unit, ...values, ...values.slice(1).map((one) => (one === null || !values[0] ? null : 100 * (one / values[0] - 1)))];
    });
    const picture = W.el("div"), table = W.el("div");
    const mixed = new Set(all.map((one) => (one.row ? `${one.row.evidence}, ${one.row.weights} weights` : "own"))).size > 1;
    board.replaceChildren(
      mixed ? W.el("p", { class: "banner", text: "Not all of these are of one kind (evidence, weights, or a run of your own): a difference may come from that." }) : "",
      picture, W.el("h2", { text: "All figures" }), table,
      W.el("p", { class: "small soft read", text: `A is ${base.name}. Differences without an interval may be chance: the setting pages say which of them are told.` }));
    W.plot(picture, { kind: "compare", data, description: `Settings side by side: ${all.map((one, at) => `${LETTERS[at]} ${one.name}`).join("; ")}`, name: "compare", table: { heads, rows } });
    table.replaceChildren(W.plainTable({ name: "compare_figures", caption: "All figures of the compared settings", heads, rows }));
  };
  W.ownPlace(document.getElementById("own"), draw);
  addEventListener("hashchange", draw);
  draw();
});
