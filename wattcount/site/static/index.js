/* The overview: what load does to the energy of a token, of some models. */
W.start(() => {
  "use strict";
  const chosen = window.WATTCOUNT.curves.curves.filter((curve) => curve.usual);
  const mount = document.getElementById("curves");
  if (!chosen.length || !mount) return;
  const points = chosen.flatMap((curve) => curve.points.map((point) => ({ ...point, curve: curve.name })));
  mount.hidden = false;
  W.plot(mount.querySelector("div"), {
    kind: "load_curve", data: { tokens: points.map(W.tokenRow) }, name: "energy_by_load",
    description: `Energy of a token by offered load: ${chosen.map((curve) => curve.name).join("; ")}`,
    table: { heads: ["curve", "requests/s", "mJ per token", "at least", "at most"], rows: points.map((point) => { const row = W.tokenRow(point); return [row.what, row.rate_rps, row.value, row.low, row.high]; }) },
  });
});
