/* Tables of the scripts in data/, as rows by the names of their columns. */
(() => {
  "use strict";
  const made = {};
  /** The rows of a table, e.g. `W.rows("settings")`: objects by column. Empty where the page did not load it. */
  W.rows = (name) => {
    if (made[name]) return made[name];
    const table = (window.WATTCOUNT ?? {})[name];
    if (!table) return [];
    const { columns, empty, texts, rows } = table;
    const coded = columns.map((column) => texts[column]);
    made[name] = rows.map((row) => {
      const found = {};
      for (const column of empty) found[column] = null;
      for (let at = 0; at < columns.length; at++) found[columns[at]] = coded[at] && row[at] !== null ? coded[at][row[at]] : row[at];
      return found;
    });
    return made[name];
  };
  /** The row with an id; undefined: there is none. */
  W.row = (name, id) => W.rows(name).find((row) => row.id === id);
  /** The percentiles that are known of a latency. */
  W.PERCENTILES = [50, 95, 99];
  /** (least, most) share of requests that keep bounds, e.g. `{ ttft: 500 }` in ms, by the percentiles `of(name, p)` that are known, as
      wattcount.study.service has it. null: none is known. */
  W.shareWithin = (of, bounds) => {
    const names = Object.keys(bounds);
    let least = 0, most = 0, known = 0;
    for (const name of names) {
      let low = 0, high = 1, told = false;
      for (const p of W.PERCENTILES) {
        const value = of(name, p);
        if (value === null) continue;
        told = true;
        if (value <= bounds[name]) high = Math.min(high, 1 - p / 100);
        else low = Math.max(low, 1 - p / 100);
      }
      if (told) { known += 1; least = Math.max(least, low); most += high; }
    }
    return known ? { low: 1 - (known < names.length ? 1 : Math.min(1, most)), high: 1 - least } : null;
  };
  /** Whether this site has a page. */
  W.hasPage = (name) => window.WATTCOUNT.meta.pages.includes(name);
})();
