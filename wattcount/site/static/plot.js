/* A picture on a page: drawn in its place's width and the page's colours, with its table and its downloads. */
(() => {
  "use strict";
  const drawn = new Map();
  const again = (wanted = null) => { for (const [mount, draw] of drawn) if (mount.isConnected) { if (!wanted || wanted(mount)) draw(); } else drawn.delete(mount); };
  document.addEventListener("wattcount:theme", () => again());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => again());
  new ResizeObserver(() => again((mount) => mount.clientWidth !== mount.drawnWidth)).observe(document.documentElement);
  addEventListener("beforeprint", () => again());

  /** `name`, `caption`, `heads` and `rows` (plain values; null: not known) as a table with its CSV. `hidden`: heads that stand in the CSV alone. */
  W.plainTable = ({ name, caption, heads, rows, hidden = [] }) => {
    const numbers = heads.map((_, at) => rows.some((row) => typeof row[at] === "number"));
    const whole = heads.map((_, at) => rows.every((row) => typeof row[at] !== "number" || (Number.isInteger(row[at]) && Math.abs(row[at]) < 10000)));
    const text = (value, at) => (typeof value !== "number" ? value ?? "–" : /against .*%$/.test(heads[at]) ? `${value > 0 ? "+" : ""}${value.toFixed(1)}` : whole[at] ? String(value) : W.significant(value, 4));
    const cell = (value, at) => W.el(at ? "td" : "th", { class: numbers[at] ? "n" : typeof value === "string" && value.length > 24 ? "words" : null, scope: at ? null : "row" }, value instanceof Node ? value : text(value, at));
    const shown = (row) => row.flatMap((value, at) => (hidden.includes(heads[at]) ? [] : [cell(value, at)]));
    return W.el("div", {},
      W.el("div", { class: "tablebox", role: "region", tabindex: "0", "aria-label": caption },
        W.el("table", {}, W.el("caption", { class: "unseen", text: caption }),
          W.el("thead", {}, W.el("tr", {}, ...heads.flatMap((head, at) => (hidden.includes(head) ? [] : [W.el("th", { scope: "col", class: numbers[at] ? "n" : null, text: head })])))),
          W.el("tbody", {}, ...rows.map((row) => W.el("tr", {}, ...shown(row)))))),
      W.el("div", { class: "under" }, W.el("span", { text: W.count(rows.length, "row") }), W.csvButton(name, () => W.csv(heads, rows.map((row) => row.map((value) => (value instanceof Node ? value.textContent : value)))))));
  };

  /** What a point of a load curve is. */
  W.pointKind = (point) => (point.overloaded ? "could not keep up" : point.knee ? "knee" : "measured");
  /** Points of load curves, each with the name of its `curve`, as the spec has them; and the energy of a token. */
  W.curveRow = (point) => ({ what: point.curve, rate_rps: point.rate_rps, kind: W.pointKind(point) });
  W.tokenRow = (point) => ({ ...W.curveRow(point), value: 1e3 * point.j_per_token, low: point.low === null ? null : 1e3 * point.low, high: point.high === null ? null : 1e3 * point.high });

  /**
   * Draws into `mount`.
   *   kind          of the specs in data/pictures.js
   *   change        null, or what is to be changed in a copy of the spec
   *   data          rows by the names that the spec has
   *   description   for who does not see it
   *   name          of the downloads
   *   table         { heads, rows }: what the picture shows, as a table
   *   onView        is called with Vega's view whenever it was drawn
   *   still         without what only a pointer shows
   */
  W.plot = (mount, { kind, change = null, data, description, name, table, onView = null, still = false }) => {
    const { specs, themes } = window.WATTCOUNT.pictures;
    const spec = change ? structuredClone(specs[kind]) : specs[kind];
    if (change) change(spec);
    const place = W.el("div", { class: "picture" });
    let view = null;
    const save = async (type) => {
      if (!view) return;
      const image = type === "svg" ? new Blob([await view.toSVG()], { type: "image/svg+xml" }) : await view.toCanvas(2).then((canvas) => new Promise((done) => canvas.toBlob(done)));
      const link = W.el("a", { href: URL.createObjectURL(image), download: `${name}.${type}` });
      document.body.append(link);
      link.click();
      link.remove();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    };
    const button = (type) => W.el("button", { type: "button", class: "button noprint", text: type.toUpperCase(), "aria-label": `Download the picture ${name} as ${type.toUpperCase()}`, onclick: () => save(type) });
    const rows = W.el("details", { class: "plottable" }, W.el("summary", { text: "The same as a table" }));
    rows.addEventListener("toggle", () => { if (rows.open && rows.children.length === 1) rows.append(W.plainTable({ name, caption: description, ...table })); });
    mount.replaceChildren(W.el("figure", { class: "plot" }, place, W.el("div", { class: "under" }, rows, W.el("span", {}, button("svg"), " ", button("png")))));
    const draw = async () => {
      place.drawnWidth = place.clientWidth;
      const made = await WattcountFigures.draw(place, { spec, data, config: themes[W.isDark() ? "dark" : "light"], description, dark: W.isDark(), still });
      view?.finalize();
      view = made;
      if (onView && view) onView(view);
    };
    drawn.set(place, draw);
    return draw();
  };
})();
