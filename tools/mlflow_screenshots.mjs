// Screenshots of wattcount's runs in MLflow's UI, taken in a real browser.
//
//   npm install --no-save playwright-core          (and a Chromium: $CHROMIUM, else /usr/bin/chromium)
//   mlflow ui --backend-store-uri sqlite:///... &
//   node tools/mlflow_screenshots.mjs http://127.0.0.1:5000 docs/images [experiment] [runs to compare]
//
// Writes mlflow_runs.png (the saved view `Energy`), mlflow_charts.png (runs side by side),
// mlflow_compare.png (the compare page), mlflow_curve.png (power curves) and mlflow_run.png; of a store with a sweep
// in it mlflow_sweep.png alone.
import { mkdirSync } from 'node:fs';
import { chromium } from 'playwright-core';

const [base, out, experiment = 'wattcount', count = '4'] = process.argv.slice(2);
if (!out) {
  console.error('usage: node tools/mlflow_screenshots.mjs URL FOLDER [EXPERIMENT] [COUNT]');
  process.exit(2);
}
mkdirSync(out, { recursive: true });

async function api(path, body) {
  const options = body && { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) };
  const answer = await fetch(`${base}/ajax-api/2.0/mlflow/${path}`, options);
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

const found = await api(`experiments/get-by-name?experiment_name=${encodeURIComponent(experiment)}`);
const id = found.experiment.experiment_id;
const { runs: sweeps = [] } = await api('runs/search', { experiment_ids: [id], max_results: 1, filter: "tags.`wattcount.sweep_state` != ''" });
const { runs = [] } = await api('runs/search', { experiment_ids: [id], max_results: Number(count) });
if (!runs.length) throw new Error(`no runs in experiment ${experiment}`);
const ids = runs.map((run) => run.info.run_id);
console.log(runs.map((run) => `${run.info.run_name}  ${run.info.status}`).join('\n'));

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
const page = await browser.newPage({ viewport: { width: 1600, height: 900 } });
await page.addInitScript(() => {
  localStorage.setItem('mlflow.workflowType_v1', '"machine_learning"');
  localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
  localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
});

async function shot(name, path, { height = 900, ready, search, full, click } = {}) {
  await page.setViewportSize({ width: 1600, height });
  await page.goto('about:blank');
  await page.goto(`${base}/#/${path}`);
  await page.getByText(ready).first().waitFor({ timeout: 30000 });
  if (search) await page.getByPlaceholder('Search metric charts').fill(search);
  await page.waitForTimeout(4000); // plots are drawn after their data has come
  if (click) await page.getByText(click).first().click();
  if (full) {
    await page.locator('[data-component-id="fullscreen_button_chartcard"]').first().click();
    await page.waitForTimeout(2000);
  }
  await page.screenshot({ path: `${out}/${name}.png` });
  console.log(`${out}/${name}.png`);
}

if (sweeps.length) {
  await shot('mlflow_sweep', `experiments/${id}/runs/${sweeps[0].info.run_id}`, { ready: 'About this run', click: 'Show more', height: 1120 });
  await browser.close();
  process.exit(0);
}
const first = runs[0].info.run_name;
const list = encodeURIComponent(JSON.stringify(ids));
const compare = `compare-runs?runs=${list}&experiments=${encodeURIComponent(JSON.stringify([id]))}`;
const view = `experiments/${id}/runs?viewStateShareKey=wattcount-energy`;
await shot('mlflow_runs', view, { height: 560, ready: first });
await shot('mlflow_charts', `experiments/${id}/runs?compareRunsMode=CHART`, { height: 1560, ready: first, search: 'per_output_token|per_request|gpu_mean_w|idle_loaded_w|ttft_p50|tpot_p50|output_tokens_per_s' });
await shot('mlflow_curve', `experiments/${id}/runs?compareRunsMode=CHART`, { height: 800, ready: first, search: 'power_w', full: true });
await shot('mlflow_compare', compare, { height: 1800, ready: 'Run details' });
await shot('mlflow_run', `experiments/${id}/runs/${ids[0]}`, { ready: 'About this run', height: 1200 });
await browser.close();
