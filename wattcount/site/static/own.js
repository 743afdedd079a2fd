/* Runs of one's own over the public ones: files are read in the browser and go nowhere. They last as long as the tab. */
(() => {
  "use strict";
  const KEY = "wattcount-own";
  const MOST_BYTES = 64 * 1024 * 1024; // of a file: beyond it a page stands still
  const MOST_RUNS = 500; // that are kept
  const MOST_LISTED = 20; // that are named
  const MOST_ROWS = 20000; // of a table that are looked at
  const MOST_TEXT = 160; // characters of a name
  const PER_TOKEN = "energy_gpu_j_per_output_token";
  const TAKEN = "metrics.json of a record (its run.json beside it gives it its name), or the folder of a record; a bundle (.wattcount); a table of results as Parquet; what wattcount results or wattcount show print with --json, or results with --csv; tables that these pages give as CSV.";

  const UNREAD = { ".zip": "Unpack it first.", ".gz": "Unpack it first.", ".log": "It has no figures." }; // endings of files that are not read, and what to do

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
    return { name: text(name) || "own run", curve: text(about.curve ?? name) || "own run", values, low: number(figures.low) ?? (u95 && per > u95 ? per - u95 : null), high: number(figures.high) ?? (u95 ? per + u95 : null), rate_rps: number(about.rate_rps) ?? number(figures.rate_rps) ?? null, model: text(about.model ?? figures.model), valid: about.valid ?? true };
  };
  const isMetrics = (data) => data && typeof data === "object" && data.metrics && typeof data.metrics === "object" && "metrics_version" in data;
  const fromMetrics = (data, info, name) => {
    const config = info?.config ?? {};
    const load = number(config.scenario?.rate_rps);
    const gpu = Array.isArray(info?.gpus) ? info.gpus.map((one) => one?.name).filter(Boolean).join(" + ") : "";
    const what = `${config.model?.name ?? "own run"} on ${gpu || "?"}`;
    const words = info ? `${what}, ${load === null ? (config.scenario?.kind ?? "batch") : `server ${load} requests/s`}` : name;
    return run(`own: ${words}`, data.metrics, { curve: info ? `own: ${what}` : null, rate_rps: load ?? number(data.metrics["load/offered_rps"]), model: config.model?.name, valid: data.validity?.valid !== false });
  };
  const VALID = "valid";
  const fromRow = (row, at) => {
    // A table of results has a whole setting as JSON, which is no name.
    const setting = String(row.setting ?? "").startsWith("{") ? "" : row.setting;
    const load = row.load ?? (row.rate_rps ? `server ${row.rate_rps} requests/s` : row.num_requests ? `batch of ${row.num_requests}` : row.scenario);
    const what = setting || row.name || [row.model, row.gpu ?? row.found_name].filter(Boolean).join(" on ");
    const words = setting || row.name ? what : [what, load].filter(Boolean).join(", ");
    return run(`own: ${words || `row ${at + 1}`}`, row, { curve: what ? `own: ${what}` : null, valid: (row.valid_runs === undefined || number(row.valid_runs) > 0) && (row.status === undefined || row.status === VALID) });
  };
  const isRow = (row) => row && typeof row === "object" && Object.keys(row).some((key) => column(key) === PER_TOKEN);

  /** The runs in files, `[{ path, content }]`; throws an Error with words for people. */
  const runsOf = (files) => {
    const found = [];
    const infos = new Map();
    const folder = (path) => path.slice(0, path.lastIndexOf("/") + 1);
    const parsedJson = new Map();
    for (const { rows } of files) if (rows) found.push(...rows.filter(isRow).map(fromRow));
    for (const { path, content } of files) {
      if (content === undefined) continue;
      if (!/\.json$/i.test(path) && !/^\s*[[{]/.test(content.slice(0, 100))) continue;
      try { parsedJson.set(path, JSON.parse(content)); } catch { throw new Error(`${path} is no JSON that can be read`); }
      if (path.endsWith("run.json")) infos.set(folder(path), parsedJson.get(path));
    }
    for (const { path, content } of files) {
      if (content === undefined) continue;
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

  const text8 = new TextDecoder();
  const unpacked = (bytes, path) => W.tar(bytes, (name) => /(^|\/)(metrics|run)\.json$/.test(name)).map((one) => ({ path: `${path}/${one.path}`, content: text8.decode(one.bytes) }));
  const UNPACKED = [
    [/\.(wattcount|tar\.zst)$/i, (bytes, path) => unpacked(W.zstd(bytes), path)],
    [/\.tar$/i, unpacked],
    [/\.parquet$/i, async (bytes, path) => [{ path, rows: await W.parquet(bytes, MOST_ROWS) }]],
  ]; // by the ending of a name, what makes texts or rows of a file
  const inRecord = (path, paths) => paths.has(path.slice(0, path.lastIndexOf("/") + 1) + "metrics.json");
  const read = async (files) => {
    const wanted = [], paths = new Set(files.map((one) => one.path));
    for (const { path, file } of files) {
      if (/\.parquet$/i.test(path) && inRecord(path, paths)) continue; // a record's raw table, whose figures lie beside it
      const how = Object.entries(UNREAD).find(([ending]) => path.toLowerCase().endsWith(ending))?.[1];
      if (how) { if (files.length === 1) throw new Error(`${path} is not taken. ${how}`); continue; }
      if (file.size > MOST_BYTES) throw new Error(`${path} has ${(file.size / 1e6).toFixed(0)} MB; at most ${MOST_BYTES / 1e6} are taken`);
      const opened = UNPACKED.find(([ending]) => ending.test(path))?.[1];
      try {
        wanted.push(...(opened ? await opened(new Uint8Array(await file.arrayBuffer()), path) : [{ path, content: await file.text() }]));
      } catch (error) {
        // Beside a record's figures lie its raw tables, which are not needed.
        if (files.length === 1) throw new Error(`${path} cannot be read: ${error.message}`);
      }
    }
    return runsOf(wanted);
  };

  const MOST_FOLDERS = 4; // below each other
  /** Files of a drop, those in folders too. Both ways to folders are asked for at once: what is dropped is gone after that. */
  const dropped = async (transfer) => {
    const items = [...transfer.items], files = [...transfer.files];
    const entries = items.map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    if (!entries.some((entry) => entry.isDirectory)) return files.map((file) => ({ path: file.name, file }));
    const handles = items.map((item) => item.getAsFileSystemHandle?.());
    const found = [];
    const open = async (handle, path, depth) => {
      if (handle.kind === "file") found.push({ path, file: await handle.getFile() });
      else if (depth < MOST_FOLDERS) for await (const one of handle.values()) await open(one, `${path}/${one.name}`, depth + 1);
    };
    // Chromium opens folders of pages from disk in this way alone.
    if (handles.every(Boolean)) {
      for (const handle of await Promise.all(handles)) await open(handle, handle.name, 0);
      return found;
    }
    const walk = async (entry, depth) => {
      if (entry.isFile) found.push({ path: entry.fullPath.replace(/^\//, ""), file: await new Promise((done, failed) => entry.file(done, failed)) });
      else if (depth < MOST_FOLDERS) {
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
      const all = W.el("li", {}, W.el("button", { type: "button", class: "button", text: "Remove all of your own", onclick: () => { runs = []; keep(); draw(); changed(); } }));
      const more = runs.length > MOST_LISTED ? [W.el("li", { text: `and ${runs.length - MOST_LISTED} more` })] : [];
      list.replaceChildren(...(runs.length > 1 ? [all] : []), ...runs.slice(0, MOST_LISTED).map((one, at) => W.el("li", {}, one.name, one.valid ? "" : " (invalid)", " ", W.el("button", { type: "button", class: "button", text: "Remove", "aria-label": `Remove ${one.name}`, onclick: () => { runs.splice(at, 1); keep(); draw(); changed(); } }))), ...more);
      list.hidden = !runs.length;
    };
    const take = async (files) => {
      try {
        const found = await read(files);
        runs = [...runs, ...found].slice(-MOST_RUNS);
        keep();
        const left = Math.max(0, found.length - MOST_RUNS);
        status.textContent = `${W.count(found.length, "result")} of your own ${found.length === 1 ? "is" : "are"} read${left ? `, the last ${MOST_RUNS} of them are kept` : ""}. Nothing was sent anywhere.`;
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
      dropped(event.dataTransfer).then(take, () => { status.textContent = "This browser does not open a folder that is dropped on a page from disk: drop the files in it."; });
    });
    mount.replaceChildren(place);
    draw();
  };
})();
