/* Runs of one's own over the public ones: files are read in the browser and go nowhere. They last as long as the tab. */
(() => {
  "use strict";
  const KEY = "wattcount-own";
  const MOST_BYTES = 64 * 1024 * 1024; // of a file: beyond it a page stands still
  const MOST_RUNS = 200; // that are kept
  const MOST_TEXT = 160; // characters of a name
  const PER_TOKEN = "energy_gpu_j_per_output_token";
  const TAKEN = "metrics.json of a record (its run.json beside it gives it its name), or the folder of a record; what wattcount results or wattcount show print with --json, or results with --csv; tables that these pages give as CSV.";

  const UNREAD = {
    ".wattcount": "A bundle is unpacked with tar --zstd -xf FILE; then drop the folder of a record in it.",
    ".parquet": "A table of results is written as CSV with duckdb -c \"COPY (FROM 'FILE') TO 'results.csv'\"; then drop that.",
    ".zst": "Unpack it first.", ".tar": "Unpack it first.", ".zip": "Unpack it first.", ".log": "It has no figures.",
  }; // endings of files that are not read, and what to do

  const text = (value) => (typeof value === "string" ? value.replace(/[\u0000-\u001f\u007f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "").slice(0, MOST_TEXT) : "");
  const number = (value) => {
    if (value === null || value === undefined || value === "" || typeof value === "boolean") return null;
    const found = Number(value);
    return Number.isFinite(found) ? found : null;
  };
  const column = (key) => key.replaceAll("/", "_");

  /** Rows of CSV by its heads, as RFC 4180 has it. */
  const parsed = (content) => {
    const rows = [[]];
    let field = "", quoted = false;
    for (let at = 0; at < content.length; at++) {
      const sign = content[at];
      if (quoted) {
        if (sign !== '"') field += sign;
        else if (content[at + 1] === '"') { field += '"'; at++; } else quoted = false;
      } else if (sign === '"') quoted = true;
      else if (sign === ",") { rows.at(-1).push(field); field = ""; }
      else if (sign === "\n") { rows.at(-1).push(field); field = ""; rows.push([]); }
      else if (sign !== "\r") field += sign;
    }
    rows.at(-1).push(field);
    const [heads, ...rest] = rows.filter((row) => row.length > 1 || row[0] !== "");
    return heads ? rest.map((row) => Object.fromEntries(heads.map((head, at) => [head, row[at] ?? ""]))) : [];
  };

  const run = (name, figures, about = {}) => {
    const values = {};
    for (const [key, value] of Object.entries(figures)) { const found = number(value); if (found !== null) values[column(key)] = found; }
    const per = values[PER_TOKEN], whole = values.energy_gpu_j, u95 = values[`${PER_TOKEN}_u95`] ?? (per && whole && values.energy_gpu_j_u95 ? (per * values.energy_gpu_j_u95) / whole : null);
    return { name: text(name) || "own run", values, low: number(figures.low) ?? (u95 && per > u95 ? per - u95 : null), high: number(figures.high) ?? (u95 ? per + u95 : null), rate_rps: number(about.rate_rps) ?? number(figures.rate_rps) ?? null, model: text(about.model ?? figures.model), valid: about.valid ?? true };
  };
  const isMetrics = (data) => data && typeof data === "object" && data.metrics && typeof data.metrics === "object" && "metrics_version" in data;
  const fromMetrics = (data, info, name) => {
    const config = info?.config ?? {};
    const load = number(config.scenario?.rate_rps);
    const gpu = Array.isArray(info?.gpus) ? info.gpus.map((one) => one?.name).filter(Boolean).join(" + ") : "";
    const words = info ? `${config.model?.name ?? "own run"} on ${gpu || "?"}, ${load === null ? (config.scenario?.kind ?? "batch") : `server ${load} requests/s`}` : name;
    return run(`own: ${words}`, data.metrics, { rate_rps: load ?? number(data.metrics["load/offered_rps"]), model: config.model?.name, valid: data.validity?.valid !== false });
  };
  const fromRow = (row, at) => run(`own: ${row.setting || row.name || [row.model, row.gpu, row.load].filter(Boolean).join(", ") || `row ${at + 1}`}`, row, { valid: row.valid_runs === undefined || number(row.valid_runs) > 0 });
  const isRow = (row) => row && typeof row === "object" && Object.keys(row).some((key) => column(key) === PER_TOKEN);

  /** The runs in files, `[{ path, content }]`; throws an Error with words for people. */
  const runsOf = (files) => {
    const found = [];
    const infos = new Map();
    const folder = (path) => path.slice(0, path.lastIndexOf("/") + 1);
    const parsedJson = new Map();
    for (const { path, content } of files) {
      if (!/\.json$/i.test(path) && !/^\s*[[{]/.test(content.slice(0, 100))) continue;
      try { parsedJson.set(path, JSON.parse(content)); } catch { throw new Error(`${path} is no JSON that can be read`); }
      if (path.endsWith("run.json")) infos.set(folder(path), parsedJson.get(path));
    }
    for (const { path, content } of files) {
      const data = parsedJson.get(path);
      if (path.endsWith("run.json") && data?.config) continue;
      if (isMetrics(data)) found.push(fromMetrics(data, infos.get(folder(path)), path));
      else if (Array.isArray(data)) found.push(...data.filter(isRow).map(fromRow));
      else if (data && typeof data === "object") for (const [name, value] of Object.entries(data)) { if (isMetrics(value)) found.push(fromMetrics(value, null, name)); }
      else if (/\.csv$/i.test(path)) found.push(...parsed(content).filter(isRow).map(fromRow));
    }
    if (!found.length) throw new Error(`Nothing in ${files.map((file) => file.path).slice(0, 3).join(", ")} is a result with an energy. Taken are: ${TAKEN}`);
    return found;
  };

  const read = async (files) => {
    const wanted = [];
    for (const { path, file } of files) {
      const how = Object.entries(UNREAD).find(([ending]) => path.toLowerCase().endsWith(ending))?.[1];
      if (how) { if (files.length === 1) throw new Error(`${path} is not taken, as a browser needs a large library to read it. ${how}`); continue; }
      if (file.size > MOST_BYTES) throw new Error(`${path} has ${(file.size / 1e6).toFixed(0)} MB; at most ${MOST_BYTES / 1e6} are taken`);
      wanted.push({ path, content: await file.text() });
    }
    return runsOf(wanted);
  };

  /** Files of a drop, those in folders too. */
  const dropped = async (transfer) => {
    const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files].map((file) => ({ path: file.name, file }));
    const found = [];
    const walk = async (entry, depth) => {
      if (entry.isFile) found.push({ path: entry.fullPath.replace(/^\//, ""), file: await new Promise((done, failed) => entry.file(done, failed)) });
      else if (depth < 4) {
        const reader = entry.createReader();
        for (;;) {
          const some = await new Promise((done, failed) => reader.readEntries(done, failed));
          if (!some.length) break;
          for (const one of some) await walk(one, depth + 1);
        }
      }
    };
    for (const entry of entries) await walk(entry, 0);
    return found;
  };

  let runs = [];
  try { runs = JSON.parse(sessionStorage.getItem(KEY) ?? "[]"); } catch { /* then there are none yet */ }
  const keep = () => { try { sessionStorage.setItem(KEY, JSON.stringify(runs)); } catch { /* then they last as long as the page */ } };

  W.ownRuns = () => runs;
  W.runsOfFiles = runsOf;
  /** A place to drop files on or choose them; `changed` is called when there are other runs. */
  W.ownPlace = (mount, changed) => {
    const status = W.el("p", { class: "small", role: "status" });
    const list = W.el("ul", { class: "small" });
    const draw = () => {
      list.replaceChildren(...runs.map((one, at) => W.el("li", {}, one.name, one.valid ? "" : " (invalid)", " ", W.el("button", { type: "button", class: "button", text: "Remove", "aria-label": `Remove ${one.name}`, onclick: () => { runs.splice(at, 1); keep(); draw(); changed(); } }))));
      list.hidden = !runs.length;
    };
    const take = async (files) => {
      try {
        const found = await read(files);
        runs = [...runs, ...found].slice(-MOST_RUNS);
        keep();
        status.textContent = `${W.count(found.length, "result")} of your own ${found.length === 1 ? "is" : "are"} drawn. Nothing was sent anywhere.`;
        draw();
        changed();
      } catch (error) {
        status.textContent = error.message;
      }
    };
    const input = W.el("input", { type: "file", multiple: true, id: "own-files", "aria-describedby": "own-taken", onchange: (event) => { take([...event.target.files].map((file) => ({ path: file.name, file }))); event.target.value = ""; } });
    const place = W.el("div", { class: "drop noprint" }, W.el("label", { for: "own-files", text: "Your own run: drop its files here, or choose them." }), " ", input, W.el("p", { class: "small soft", id: "own-taken", text: `It is drawn in this browser and sent nowhere. Taken are: ${TAKEN}` }), status, list);
    const over = (event) => { if ([...event.dataTransfer.types].includes("Files")) { event.preventDefault(); place.classList.add("over"); } };
    document.addEventListener("dragover", over);
    document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) place.classList.remove("over"); });
    document.addEventListener("drop", (event) => {
      if (![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      place.classList.remove("over");
      dropped(event.dataTransfer).then(take);
    });
    mount.replaceChildren(place);
    draw();
  };
})();
