/* Draws the pictures of wattcount.figures in a browser: the same specs, with data that is there, in the colours and the width of the place.
   Needs `vegaEmbed`. Nothing is loaded from anywhere. */
(() => {
  "use strict";
  const CHILDREN = ["vconcat", "hconcat", "layer"];
  const EDGES = 78; // beside a panel: the labels of its axis and the padding [pixels]
  const NARROW = 520; // below this width, legends have one column and axes few ticks [pixels]

  const ERRORS = 1; // Vega's level of logs that has errors alone

  const copy = (value) => JSON.parse(JSON.stringify(value));
  const isEmpty = (spec, data) => spec.data?.name !== undefined && !data[spec.data.name]?.length;
  const parts = function* (spec) {
    yield spec;
    for (const key of CHILDREN) for (const child of spec[key] ?? []) yield* parts(child);
  };

  /** As figure.without_empty: no panel or layer without a row, no legend of one line; `still`: nothing that only a pointer shows. */
  const withoutEmpty = (spec, data, still) => {
    const dropped = (part) => isEmpty(part, data) || (still && part.name?.endsWith("_pointer"));
    const prune = (part) => {
      for (const key of CHILDREN) if (part[key]) part[key] = part[key].filter((child) => !dropped(child)).map(prune);
      const rows = part.data?.name === undefined ? null : data[part.data.name];
      if (rows && new Set(rows.map((row) => row.what)).size === 1)
        for (const one of [part, ...(part.layer ?? [])]) if (one.encoding?.color && "legend" in one.encoding.color) one.encoding.color.legend = null;
      return part;
    };
    const kept = prune(copy(spec));
    const names = new Set([...parts(kept)].map((part) => part.name));
    for (const param of kept.params ?? []) if (param.views) param.views = param.views.filter((view) => names.has(view));
    return kept;
  };

  /** As wide as its place; on a narrow one with fewer ticks, and legends below each other. */
  const fitted = (spec, width) => {
    const narrow = width < NARROW;
    for (const part of parts(spec)) {
      if (part.width !== undefined) part.width = Math.max(160, Math.round(width - EDGES));
      const colour = part.encoding?.color?.legend;
      if (colour) Object.assign(colour, { labelLimit: width - 90 }, narrow ? { columns: 1 } : {});
      const shape = part.encoding?.shape?.legend;
      if (shape && narrow) shape.columns = 1;
      const x = part.encoding?.x?.axis;
      if (x && narrow) x.tickCount = 4;
      if (part.mark?.limit !== undefined) part.mark.limit = Math.round(width - EDGES);
      if (part.title) part.title = { ...(typeof part.title === "string" ? { text: part.title } : part.title), limit: width - 20 };
    }
    return spec;
  };

  /**
   * Draws into `mount`; returns a promise of Vega's view, null where there is nothing to draw.
   *   spec, data    a spec without data, and rows by the names that it has
   *   config        Vega-Lite's, light or dark
   *   description   for who does not see it
   *   dark, still   of tooltips; without what only a pointer shows
   */
  const draw = async (mount, { spec, data, config, description, dark = false, still = false, width = mount.clientWidth || 640 }) => {
    const kept = fitted(withoutEmpty(spec, data, still), width);
    if (![...parts(kept)].some((part) => part.data?.name !== undefined)) {
      mount.replaceChildren();
      return null;
    }
    const whole = { ...kept, description, datasets: data, config: { ...config, aria: false, background: "transparent" } };
    const { view } = await vegaEmbed(mount, whole, { mode: "vega-lite", actions: false, renderer: "svg", logLevel: ERRORS, tooltip: { theme: dark ? "dark" : "light" } });
    mount.querySelector("svg")?.setAttribute("aria-hidden", "true"); // the whole is one picture, with its words on `mount`
    mount.setAttribute("role", "img");
    mount.setAttribute("aria-label", description);
    return view;
  };

  window.WattcountFigures = { draw, withoutEmpty };
})();
