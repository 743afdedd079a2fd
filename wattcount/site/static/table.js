/* Tables that are made in the browser: sorted, in parts, with intervals, places and a download. */
(() => {
  "use strict";
  const PER_TOKEN = "energy_gpu_j_per_output_token";
  const PART = 100; // rows that are drawn at a time: more than a screen, and drawn in a tenth of a second
  const SVG_WIDTH = 112;

  /** Whether nobody measured a row: these stand apart. */
  W.isPredicted = (row) => row.evidence === "predicted";
  const level = (row) => (W.isPredicted(row) ? 90 : 95); // of its interval [%]
  W.intervalLevel = level;
  /** Whether the screen is that of a phone. */
  W.NARROW = matchMedia("(max-width: 46rem)").matches;

  // -- columns of settings

  const figures = () => window.WATTCOUNT.meta.figures;
  const words = (key, heading, more = {}) => ({ key, heading, value: (row) => row[key], text: (row) => row[key] ?? "–", ...more });
  const linked = (key, heading, page, id = (row) => row[key]) =>
    words(key, heading, { node: (row) => W.el("a", { href: W.link(page, id(row)), text: row[key] }) });

  const figureColumn = (figure) => ({
    key: figure.key,
    heading: figure.heading,
    unit: figure.unit,
    number: true,
    value: (row) => row[figure.key],
    text: (row) => W.significant(row[figure.key] === null ? null : row[figure.key] * figure.factor),
  });

  /** Everything that a table of settings can show, by key. */
  W.settingColumns = () => {
    const found = [
      { key: "place", heading: "Place", title: "Place within its load by energy per output token; a range where others cannot be told from it", number: true, value: (row) => row.place?.low ?? null, text: (row) => placeText(row), node: placeNode, csv: (row) => (row.place ? placeText(row) : null) },
      linked("model", "Model", "model"),
      { ...linked("gpu", "GPU", "gpu", (row) => row.gpu_model), words: true },
      words("load", "Load", { words: true, rank: loadRank }),
      { ...linked("setting", "Setting", "setting", (row) => row.id), words: true },
      ...figures().map((figure) => (figure.key === PER_TOKEN ? intervalColumn(figure) : figureColumn(figure))),
      { key: "slo", heading: "Keeps SLO", unit: "of requests", number: true, title: "Share of requests that keep the SLO, by the figures: at least, to at most", value: (row) => row.slo_low, text: sloText },
      words("precision", "Precision"),
      words("engine", "Engine"),
      words("weights", "Weights"),
      words("evidence", "Evidence"),
      words("origin", "Origin"),
      words("instrument", "Instrument"),
      words("measured_by", "Measured by"),
      words("tier", "Tier", { node: (row) => (row.tier ? W.el("span", { class: row.tier === "reproduced" ? "tag good" : "tag", text: row.tier }) : W.el("span", { class: "soft", text: "–" })) }),
      ...[["runs", "Runs"], ["boards", "Boards"], ["starts", "Starts"], ["gpus", "GPUs"], ["rate_rps", "Rate"], ["num_requests", "Requests"], ["input_tokens", "Input"], ["output_tokens", "Output tokens"]].map(([key, heading]) =>
        words(key, heading, { number: true, unit: { rate_rps: "requests/s", input_tokens: "tokens" }[key] })),
      words("basis", "Rests on", { words: true }),
      words("id", "Id"),
    ];
    return new Map(found.map((column) => [column.key, column]));
  };

  // Columns that stand below each other in one cell on a phone.
  const STACKED = ["model", "gpu", "load", "setting"];
  /** The columns with these keys; on a phone what a setting is stands in one cell, and its energy beside it. */
  W.columnsOf = (columns, keys) => {
    const stacked = W.NARROW ? STACKED.filter((key) => keys.includes(key)) : [];
    if (stacked.length < 2) return keys.map((key) => columns.get(key));
    const first = columns.get(stacked[0]);
    const parts = stacked.map((key) => columns.get(key));
    const cell = { ...first, heading: parts.map((one) => one.heading).join(", "), words: true, stacked: true, node: (row) => W.el("span", { class: "stacked" }, ...parts.map((one) => W.el("span", {}, one.node ? one.node(row) : one.text(row)))) };
    const rest = keys.filter((key) => !stacked.includes(key) && key !== PER_TOKEN);
    return [cell, ...(keys.includes(PER_TOKEN) ? [PER_TOKEN] : []), ...rest].map((one) => columns.get(one) ?? one);
  };

  const loadRank = (row) => [row.kind, row.rate_rps ?? row.num_requests ?? 0, row.load];

  const sloText = (row) => {
    if (row.slo_low === null) return "–";
    const low = Math.floor(row.slo_low * 100), high = Math.floor(row.slo_high * 100);
    return low === high ? `${low} %` : `${low}–${high} %`;
  };

  // -- places among the rows that are shown

  const placeText = (row) => {
    if (!row.place) return "–";
    const { low, high, of } = row.place;
    return `${low === high ? low : `${low}–${high}`} of ${of}`;
  };
  const placeNode = (row) => {
    if (!row.place) return W.el("span", { class: "soft", text: "–", title: row.ranked === null ? "it has no energy per output token" : "no interval: nothing was repeated, so no place can be told" });
    const { low, high, of } = row.place;
    const title = low === high ? "" : `cannot be told from ${W.count(high - low, "other")} with this load`;
    return W.el("span", { class: "place", title }, low === high ? `${low}` : `${low}–${high}`, W.el("small", { text: ` of ${of}` }));
  };
  /** Gives each row `place`: where it stands among these rows with its load; null where nothing tells. */
  W.givePlaces = (rows) => {
    const loads = new Map();
    for (const row of rows) {
      row.place = null;
      if (row.ranked != null && row.ties != null) {
        if (!loads.has(row.ranked)) loads.set(row.ranked, []);
        loads.get(row.ranked).push(row);
      }
    }
    for (const group of loads.values()) {
      group.sort((a, b) => a.rank - b.rank);
      const there = new Set(group.map((row) => row.rank));
      group.forEach((row, at) => {
        const ties = row.ties.filter((rank) => there.has(rank));
        const below = ties.filter((rank) => rank < row.rank).length;
        row.place = { low: 1 + at - below, high: 1 + at + ties.length - below, of: group.length };
      });
    }
    return loads.size;
  };
  /** Rows in their order, each with the number of its tie: 0, or that of the rows that cannot be told from the first of them. */
  const tiesOf = (rows) => {
    const found = new Map();
    let first = null, number = 0, members = [];
    const close = () => { if (members.length > 1) { number += 1; members.forEach((row) => found.set(row, number)); } };
    for (const row of rows) {
      if (row.ties === null || row.ties === undefined) continue;
      if (first && first.ties.includes(row.rank)) members.push(row);
      else { close(); first = row; members = [row]; }
    }
    close();
    return found;
  };

  // -- intervals

  const intervalColumn = (figure) => ({
    ...figureColumn(figure),
    interval: true,
    title: "with its 95 % interval: of method, sensor and how repeats scatter",
    heads: ["low", "high"],
  });
  /** The axis that the intervals of rows share: logarithmic, for they span orders of magnitude. */
  W.axis = (rows) => {
    const ends = rows.flatMap((row) => [row.low ?? row[PER_TOKEN], row.high ?? row[PER_TOKEN]]).filter((value) => value > 0);
    const low = Math.log(Math.min(...ends)), high = Math.log(Math.max(...ends));
    return (value) => 3 + (SVG_WIDTH - 6) * (high > low ? (Math.log(value) - low) / (high - low) : 0.5);
  };
  W.intervalNode = (row, figure, axis) => {
    const value = row[PER_TOKEN];
    if (value === null) return W.el("span", { class: "soft", text: "–" });
    const shown = (one) => W.significant(one * figure.factor);
    const told = row.low !== null;
    const range = told ? `${shown(row.low)}–${shown(row.high)}` : "no interval";
    const picture = W.svg("svg", { viewBox: `0 0 ${SVG_WIDTH} 16`, "aria-hidden": "true", preserveAspectRatio: "none" }, W.svg("line", { class: "base", x1: 0, x2: SVG_WIDTH, y1: 8, y2: 8 }));
    if (told) picture.append(W.svg("line", { class: "band", x1: axis(row.low), x2: Math.max(axis(row.high), axis(row.low) + 0.5), y1: 8, y2: 8 }));
    picture.append(W.isPredicted(row) ? W.svg("rect", { class: "untold", x: axis(value) - 3, y: 5, width: 6, height: 6, transform: `rotate(45 ${axis(value)} 8)` }) : W.svg("circle", { class: told ? "mid" : "untold", cx: axis(value), cy: 8, r: 3 }));
    return W.el("span", { class: W.isPredicted(row) ? "interval predicted" : "interval", title: told ? `${level(row)} %: ${range} ${figure.unit}` : "no interval: nothing was repeated, and nothing tells how such runs scatter" },
      W.el("span", {}, W.isPredicted(row) ? W.el("span", { class: "tag warn", text: "predicted" }) : "", " ", shown(value), " ", W.el("small", { text: range })), picture);
  };

  // -- the table itself

  const compare = (a, b) => {
    if (Array.isArray(a)) {
      for (let at = 0; at < a.length; at++) { const found = compare(a[at], b[at]); if (found) return found; }
      return 0;
    }
    return typeof a === "string" || typeof b === "string" ? String(a).localeCompare(String(b), "en", { numeric: true }) : a - b;
  };
  W.sorted = (rows, column, down) => {
    const rank = column.rank ?? column.value;
    const known = rows.filter((row) => column.value(row) !== null && column.value(row) !== undefined);
    const rest = rows.filter((row) => column.value(row) === null || column.value(row) === undefined);
    known.sort((a, b) => (down ? -1 : 1) * compare(rank(a), rank(b)));
    return [...known, ...rest];
  };

  /**
   * A table in `mount`.
   *   name, caption   of the download, and for who cannot see it
   *   columns         those that are shown, in order
   *   rows            all
   *   sort            { key, down }; null: as the rows come
   *   onSort          called with it when somebody sorts; null: it is not sorted by its heads
   *   all             columns of the download; those that are shown where it is left out
   *   pick            null, or { has(row), set(row, on) }: a box before each row
   */
  W.drawTable = (mount, { name, caption, columns, rows, sort = null, onSort = null, all = columns, pick = null, empty = "Nothing is here." }) => {
    if (!rows.length) {
      mount.replaceChildren(W.el("p", { class: "empty", text: empty }));
      return;
    }
    const loads = W.givePlaces(rows);
    const by = sort && [...all, ...columns].find((column) => column.key === sort.key);
    const ordered = by ? W.sorted(rows, by, sort.down) : rows;
    const ties = loads === 1 && (!sort || sort.key === PER_TOKEN || sort.key === "place") ? tiesOf(sort?.down ? [...ordered].reverse() : ordered) : new Map();
    const axis = columns.some((column) => column.interval) ? W.axis(rows) : null;
    const figure = axis && figures().find((one) => one.key === PER_TOKEN);

    const head = W.el("tr", {}, pick ? W.el("th", { scope: "col" }, W.el("span", { class: "unseen", text: "compare" })) : null, ...columns.map((column) => {
      const sorted = sort && sort.key === column.key;
      const label = [W.el("span", { class: "head", text: column.heading }), column.unit ? W.el("span", { class: "unit", text: column.unit }) : null];
      const inner = onSort
        ? W.el("button", { type: "button", class: "sorter", title: column.title ?? null, onclick: () => onSort({ key: column.key, down: sorted ? !sort.down : false }) }, ...label.filter(Boolean))
        : W.el("span", { title: column.title ?? null }, ...label.filter(Boolean));
      return W.el("th", { scope: "col", class: column.interval ? "n wide" : column.number ? "n" : null, "aria-sort": sorted ? (sort.down ? "descending" : "ascending") : null }, inner);
    }));
    const body = W.el("tbody");
    const draw = (row) => {
      const tie = ties.get(row);
      const made = W.el("tr", { class: tie ? (tie % 2 ? "tied" : "tied-odd") : null, title: tie ? "these rows cannot be told apart" : null });
      if (pick) made.append(W.el("td", {}, W.el("input", { type: "checkbox", checked: pick.has(row), "aria-label": `compare ${row.model}, ${row.gpu}, ${row.load}, ${row.setting}`, onchange: (event) => pick.set(row, event.target.checked, event.target) })));
      for (const column of columns) {
        const content = column.interval ? W.intervalNode(row, figure, axis) : column.node ? column.node(row) : column.text(row);
        made.append(W.el("td", { class: column.number ? "n" : column.stacked ? null : column.words ? "words" : null, "data-key": column.key }, content));
      }
      return made;
    };
    let drawn = 0;
    const more = W.el("button", { type: "button", class: "button noprint", onclick: () => drawMore(PART * 5) });
    const told = W.el("span", { role: "status" });
    const drawMore = (number) => {
      body.append(...ordered.slice(drawn, drawn + number).map(draw));
      drawn = Math.min(ordered.length, drawn + number);
      told.textContent = drawn < ordered.length ? `${drawn.toLocaleString("en-US")} of ${W.count(ordered.length, "row")}` : W.count(ordered.length, "row");
      more.hidden = drawn >= ordered.length;
      more.textContent = `${Math.min(PART * 5, ordered.length - drawn)} more`;
    };
    drawMore(PART);
    const csv = () => {
      const heads = all.flatMap((column) => [column.key, ...(column.heads ?? [])]);
      return W.csv(heads, ordered.map((row) => all.flatMap((column) => [column.csv ? column.csv(row) : column.value(row), ...(column.heads ?? []).map((key) => row[key])])));
    };
    mount.replaceChildren(
      W.el("div", { class: "tablebox", role: "region", tabindex: "0", "aria-label": caption }, W.el("table", {}, W.el("caption", { class: "unseen", text: caption }), W.el("thead", {}, head), body)),
      W.el("div", { class: "under" }, told, more, W.csvButton(name, csv)),
    );
  };
})();
