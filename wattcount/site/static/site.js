/* What every page has: colours, downloads, and helpers for other scripts, as `window.W`. Text of others is only ever put in as text. */
(() => {
  "use strict";
  const W = (window.W = {});
  const root = document.documentElement;

  // -- colours: as the system has them, until somebody chooses
  const THEMES = ["auto", "light", "dark"];
  const THEME_WORDS = { auto: "as the system has them", light: "light", dark: "dark" };
  const stored = () => {
    try { return localStorage.getItem("wattcount-theme"); } catch { return null; }
  };
  const setTheme = (theme) => {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
    const button = document.querySelector("[data-theme-switch]");
    if (button) {
      button.setAttribute("aria-label", "Colours: " + THEME_WORDS[theme]);
      button.title = "Colours: " + THEME_WORDS[theme];
      button.firstElementChild.textContent = { auto: "◐", light: "☀", dark: "☾" }[theme];
    }
    document.dispatchEvent(new CustomEvent("wattcount:theme"));
  };
  const theme = () => (THEMES.includes(stored()) ? stored() : "auto");
  setTheme(theme());
  /** The colour that a property of the style stands for, e.g. `--accent`, as `rgb(...)`. */
  W.color = (property) => {
    const probe = document.createElement("i");
    probe.style.color = `var(${property})`;
    probe.hidden = true;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
  W.isDark = () => theme() === "dark" || (theme() === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);

  // -- elements
  /** An element with attributes and children; texts stay texts. */
  W.el = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (key === "text") made.textContent = value;
      else made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  };
  const SVG = "http://www.w3.org/2000/svg";
  W.svg = (name, attributes = {}, ...children) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };

  // -- figures
  /** A figure with so many significant digits, and commas in whole parts above 9,999. None is a dash. */
  W.significant = (value, digits = 3) => {
    if (value === null || value === undefined) return "–";
    if (value === 0) return "0";
    const exponent = Number(value.toExponential(digits - 1).split("e")[1]);
    const text = value.toFixed(Math.max(0, digits - 1 - exponent));
    return Math.abs(value) >= 10000 ? Number(text).toLocaleString("en-US") : text;
  };
  W.count = (number, what) => `${number.toLocaleString("en-US")} ${what}${number === 1 ? "" : "s"}`;

  // -- addresses: what a view shows stands behind the #, so that it can be sent and opened from disk
  W.state = () => new URLSearchParams(location.hash.slice(1));
  W.setState = (state) => {
    const text = [...state].filter(([, value]) => value !== "").map(([key, value]) => `${encodeURIComponent(key)}=${encodeURIComponent(value).replace(/%2C/g, ",").replace(/%20/g, "+")}`).join("&");
    history.replaceState(null, "", text ? "#" + text : location.pathname + location.search);
  };
  W.link = (page, id) => `${page}.html#id=${encodeURIComponent(id)}`;

  // -- downloads
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    let text = String(value);
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text))) text = "'" + text;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  W.csv = (heads, rows) => [heads, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
  W.download = (name, text, type = "text/csv;charset=utf-8") => {
    const link = W.el("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  const csvOf = (table) => {
    const texts = (row) => [...row.cells].map((one) => one.dataset.value ?? one.textContent.trim());
    const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden);
    return W.csv(texts(table.tHead.rows[table.tHead.rows.length - 1]), rows.map(texts));
  };
  W.csvButton = (name, make) =>
    W.el("button", { type: "button", class: "button noprint", text: "CSV", "aria-label": `Download the table ${name} as CSV`, onclick: () => W.download(`${name}.csv`, make()) });

  // -- once the page is there
  document.addEventListener("DOMContentLoaded", () => {
    setTheme(theme());
    document.querySelector("[data-theme-switch]")?.addEventListener("click", () => {
      const next = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
      try { localStorage.setItem("wattcount-theme", next); } catch { /* then it lasts as long as the page */ }
      setTheme(next);
    });
    document.querySelector('nav a[aria-current="page"]')?.scrollIntoView({ block: "nearest", inline: "center" });
    for (const table of document.querySelectorAll("table[data-csv]")) {
      const name = table.dataset.csv;
      const box = table.closest(".tablebox") ?? table;
      box.after(W.el("div", { class: "under" }, W.el("span", { text: W.count(table.tBodies[0].rows.length, "row") }), W.csvButton(name, () => csvOf(table))));
    }
  });
})();
