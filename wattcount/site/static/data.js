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
  /** Whether this site has a page. */
  W.hasPage = (name) => window.WATTCOUNT.meta.pages.includes(name);
})();
