/* Data of the scripts in data/ and runs/: unpacked, and tables as rows by the names of their columns. */
(() => {
  "use strict";
  const packed = ((window.WATTCOUNT ??= {}).packed ??= {});
  const TOO_OLD = "This browser cannot unpack the tables of this page: that takes Chrome or Edge 80, Firefox 113, Safari 16.4, or a later one. The same rows lie in api/ as JSON.";
  const unpack = async (text) => {
    const bytes = Uint8Array.fromBase64?.(text) ?? Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  };
  /** Unpacks what scripts have added since; it stands in `window.WATTCOUNT` by its name, and is gone from what is packed. */
  W.unpack = () => Promise.all(Object.keys(packed).map(async (name) => {
    const text = packed[name];
    delete packed[name];
    window.WATTCOUNT[name] = await unpack(text);
  }));
  /** Runs the script of a page once all of its data are there. */
  W.start = (draw) => {
    const there = new Promise((done) => (document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", done) : done()));
    const data = globalThis.DecompressionStream ? W.unpack() : Promise.reject(new Error(TOO_OLD));
    Promise.all([data, there]).then(() => { draw(); document.body.dataset.ready = ""; }, (error) => {
      document.getElementById("main").append(W.el("p", { class: "banner", role: "alert", text: error.message }));
    });
  };

  const made = {};
  /** `read(at)` gives the row number `at` of a table as an object by column. */
  const reader = ({ columns, texts, values }) => {
    const known = columns.map((column) => [column, values[column], texts[column]]);
    return (at) => {
      const found = {};
      for (const [column, all, words] of known) {
        const value = all ? all[at] : null;
        found[column] = words && value !== null ? words[value] : value;
      }
      return found;
    };
  };
  /** The rows of a table, e.g. `W.rows("settings")`: objects by column. Empty where the page did not load it. */
  W.rows = (name) => {
    const table = window.WATTCOUNT[name];
    return (made[name] ??= table ? Array.from({ length: table.number }, (_, at) => at).map(reader(table)) : []);
  };
  /** The rows whose text in a column is `value`: without making the others. */
  W.rowsWith = (name, column, value) => {
    const table = window.WATTCOUNT[name];
    if (!table?.values[column]) return [];
    const wanted = table.texts[column] ? table.texts[column].indexOf(value) : value;
    const read = reader(table);
    return table.values[column].flatMap((one, at) => (one === wanted ? [read(at)] : []));
  };
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
