(() => {
  const { data, colour, font, settings, plain, cut, layout } = charts;
  const verdicts = { supported: "#2b8a5f", refuted: "#c0392b", equivalent: colour.front };
  const arms = ["#1558d6", "#d9480f", "#2b8a5f", "#8a63c9", "#b7791f", "#c9627c", "#3f93b5", "#7d8f2e"];
  const dashes = ["solid", "dash", "dashdot", "dot"];
  const still = { ...settings, displayModeBar: false };
  const bandColour = "#e9edf3", minus = "−";
  const size = (v) => (data.unit ? v.toFixed(2) : Number(v.toPrecision(4)).toString());
  const shown = (v) => `${v > 0 ? "+" : v < 0 ? minus : ""}${size(Math.abs(v))}${data.unit && ` ${data.unit}`}`;
  const clear = (hex) => `${hex}1f`;
  const at = (id) => document.getElementById(id);

  // An arm has the same line in every chart.
  const lines = new Map();
  data.curves.filter((c) => !c.base).forEach((c, i) =>
    lines.set(c.name, { color: arms[i % arms.length], dash: dashes[Math.floor(i / arms.length) % dashes.length], width: 2 }));
  const line = (name) => lines.get(name) || { color: colour.ink, dash: "solid", width: 2 };

  const rowHeight = 50;
  function drawForest() {
    const plot = at("forest");
    if (!plot) return;
    const [low, high] = data.window;
    const inside = (v) => Math.min(high, Math.max(low, v));
    let y = 0;
    const heights = data.rows.map((row, i) => {
      y -= i && row.control && !data.rows[i - 1].control ? 1.6 : 1;
      return y;
    });
    const bottom = y - 0.35, top = -0.1;
    const height = (top - bottom) * rowHeight + 60;
    plot.style.height = `${height}px`;
    Object.assign(plot.dataset, { printWidth: 660, printHeight: Math.round(height) });
    const traces = [], annotations = [], shapes = [
      { type: "rect", x0: -data.smallest, x1: data.smallest, y0: bottom, y1: top, fillcolor: bandColour, line: { width: 0 }, layer: "below" },
      { type: "line", x0: 0, x1: 0, y0: bottom, y1: top, line: { color: colour.muted, width: 1 }, layer: "below" },
    ];
    let beyond = false;
    data.rows.forEach((row, i) => {
      const c = verdicts[row.verdict] || colour.ink, h = heights[i];
      if (row.control && (!i || !data.rows[i - 1].control)) {
        shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: h + 0.95, y1: h + 0.95, line: { color: "#c3ccd8", width: 1, dash: "dot" } });
      }
      if (row.interval) {
        traces.push({ type: "scatter", mode: "lines", x: row.interval.map(inside), y: [h, h], hoverinfo: "skip", line: { color: c, width: 2.5 } });
      }
      const said = `<b>${plain(row.name)}</b><br>${plain(row.hover)}<br>${plain(row.verdict)}`;
      const point = (x, marker, what) => traces.push({ type: "scatter", mode: "markers", x: [inside(x)], y: [h], cliponaxis: false,
        text: [`${said}${what}`], hovertemplate: "%{text}<extra></extra>", marker });
      if (row.adjusted !== null && row.adjusted >= low && row.adjusted <= high) {
        point(row.adjusted, { symbol: "diamond", size: 10, color: "#fff", line: { color: c, width: 1.5 } }, `<br>bias-adjusted ${shown(row.adjusted)}`);
      }
      if (row.effect !== null) {
        const symbol = row.effect < low ? "triangle-left" : row.effect > high ? "triangle-right" : "circle";
        beyond ||= symbol !== "circle";
        point(row.effect, { symbol, size: symbol === "circle" ? 10 : 13, color: c, line: { color: "#fff", width: 1 } }, "");
      }
    });
    const names = (width) => {
      const room = Math.max(14, Math.floor((width - 24) / 6.9));
      return data.rows.flatMap((row, i) => {
        const left = cut(row.name, Math.max(8, room - row.said.length - 3));
        const base = { xref: "paper", y: heights[i], yshift: 18, showarrow: false, yanchor: "middle" };
        return [
          { ...base, x: 0, xanchor: "left", text: plain(left), font: { ...font, color: colour.ink }, hovertext: plain(row.name) },
          { ...base, x: 1, xanchor: "right", text: `<b>${plain(row.said)}</b>`, font: { ...font, color: verdicts[row.verdict] || colour.ink } },
        ];
      });
    };
    annotations.push(...names(plot.clientWidth));
    const picture = layout(`effect (${data.axis})`, "", { shapes, annotations, margin: { l: 10, r: 12, t: 4, b: 52 } });
    Object.assign(picture.xaxis, { range: [low, high], fixedrange: false });
    Object.assign(picture.yaxis, { range: [bottom, top], visible: false, fixedrange: true });
    Plotly.newPlot(plot, traces, picture, settings);
    let width = plot.clientWidth;
    window.addEventListener("resize", () => {
      if (plot.clientWidth === width) return;
      width = plot.clientWidth;
      Plotly.relayout(plot, { annotations: names(width) });
    });
    plot.closest("figure").querySelector(".outside").textContent = beyond ? "An arrow: the effect is beyond this axis." : "";
  }

  function drawPairs() {
    const ends = (rows) => {
      const values = rows.flatMap((row) => [...row.differences, ...(row.interval || [])]);
      const low = Math.min(0, -data.smallest, ...values), high = Math.max(0, data.smallest, ...values);
      const pad = (high - low) * 0.08 || 0.1;
      return [low - pad, high + pad];
    };
    const together = ends(data.rows.filter((row) => !row.control));
    data.rows.forEach((row, i) => {
      const plot = at(`pairs${i}`);
      if (!plot) return;
      Object.assign(plot.dataset, { printWidth: 220, printHeight: 150 });
      const n = row.differences.length, c = verdicts[row.verdict] || colour.ink;
      const xs = row.differences.map((_, k) => k + 1);
      const rect = (y0, y1, fillcolor) => ({ type: "rect", xref: "paper", x0: 0, x1: 1, y0, y1, fillcolor, line: { width: 0 }, layer: "below" });
      const level = (v, stroke) => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: v, y1: v, line: stroke, layer: "below" });
      const shapes = [rect(-data.smallest, data.smallest, bandColour), level(0, { color: colour.muted, width: 1 })];
      if (row.interval) shapes.push(rect(...row.interval, clear(c)));
      if (row.effect !== null) shapes.push(level(row.effect, { color: c, width: 2 }));
      const traces = [{ type: "scatter", mode: "markers", x: xs, y: row.differences, text: row.differences.map(shown),
        hovertemplate: "unit %{x}: %{text}<extra></extra>", marker: { color: c, size: 8, line: { color: "#fff", width: 1 } } }];
      const picture = layout("unit (seed)", data.unit || "difference", { shapes, margin: { l: 46, r: 8, t: 6, b: 38 } });
      Object.assign(picture.xaxis, { range: [0.4, n + 0.6], fixedrange: true, showgrid: false });
      if (n <= 12) picture.xaxis.dtick = 1;
      Object.assign(picture.yaxis, { range: row.control ? ends([row]) : together, fixedrange: true, nticks: 5 });
      Plotly.newPlot(plot, traces, picture, still);
    });
  }

  const named = (c) => ({ name: plain(cut(c.name, 40)), legendgroup: c.name, visible: c.control ? "legendonly" : true });
  // Below the chart, one line for each arm: names are long, and screens may be narrow.
  function withLegend(plot, picture, count) {
    const inner = 270, below = 58 + 20 * count, height = inner + below + 10;
    plot.style.height = `${height}px`;
    Object.assign(plot.dataset, { printHeight: height });
    picture.margin.b = below;
    picture.xaxis.automargin = false;
    Object.assign(picture, { showlegend: true, legend: { orientation: "v", x: 0, xanchor: "left", y: -48 / inner, yanchor: "top",
      tracegroupgap: 0, font, bgcolor: "rgba(0,0,0,0)" } });
    return picture;
  }
  const epochs = (picture, curves) => {
    const last = Math.max(...curves.flatMap((c) => c.line.map(([epoch]) => epoch)));
    if (last <= 12) picture.xaxis.dtick = 1;
    const heights = curves.flatMap((c) => c.line.map(([, value]) => value));
    const low = Math.min(...heights), high = Math.max(...heights);
    if (low === high) picture.yaxis.range = [low - 0.05, high + 0.05];
  };

  function drawCurves() {
    const plot = at("curves");
    if (!plot) return;
    const traces = data.curves.flatMap((c) => {
      const style = line(c.name), x = c.band.map(([epoch]) => epoch);
      const edge = { type: "scatter", mode: "lines", x, hoverinfo: "skip", showlegend: false, line: { width: 0, color: style.color } };
      const band = x.length ? [
        { ...edge, ...named(c), y: c.band.map(([, low]) => low) },
        { ...edge, ...named(c), y: c.band.map(([, , high]) => high), fill: "tonexty", fillcolor: clear(style.color) }] : [];
      return [...band, { type: "scatter", mode: c.line.length > 1 ? "lines" : "markers", ...named(c), x: c.line.map(([e]) => e), y: c.line.map(([, m]) => m),
        line: style, marker: { color: style.color, size: 8 }, hovertemplate: `${named(c).name}<br>epoch %{x}: %{y:.4f}<extra></extra>` }];
    });
    const picture = withLegend(plot, layout("epoch", data.metric), data.curves.length);
    epochs(picture, data.curves);
    Plotly.newPlot(plot, traces, picture, settings);
  }

  function drawGaps() {
    const plot = at("gaps");
    if (!plot) return;
    const traces = data.gaps.map((c) => ({ type: "scatter", mode: c.line.length > 1 ? "lines" : "markers", ...named(c), x: c.line.map(([e]) => e),
      y: c.line.map(([, gap]) => gap), line: line(c.name), marker: { color: line(c.name).color, size: 8 },
      text: c.line.map(([, gap]) => shown(gap)), hovertemplate: `${named(c).name}<br>epoch %{x}: %{text}<extra></extra>` }));
    const band = { type: "rect", xref: "paper", x0: 0, x1: 1, y0: -data.smallest, y1: data.smallest, fillcolor: bandColour, line: { width: 0 }, layer: "below" };
    const zero = { type: "line", xref: "paper", x0: 0, x1: 1, y0: 0, y1: 0, line: { color: colour.ink, width: 1.2 }, layer: "below" };
    const picture = withLegend(plot, layout("epoch", data.axis, { shapes: [band, zero] }), data.curves.length);
    epochs(picture, data.gaps);
    Plotly.newPlot(plot, traces, picture, settings);
  }

  function drawInteractions() {
    data.interactions.forEach((found, i) => {
      const traces = found.lines.map((l, k) => {
        const off = (one) => l.cells.map((cell) => (cell[one] === null ? 0 : Math.abs(cell[one] - cell[1])));
        const c = arms[k % arms.length];
        return { type: "scatter", mode: "lines+markers", name: plain(cut(`${found.by}: ${l.name}`, 44)), x: l.cells.map(([x]) => plain(x)), y: l.cells.map(([, m]) => m),
          line: { color: c, width: 2, dash: dashes[k % dashes.length] }, marker: { size: 9, symbol: k, color: c },
          error_y: { type: "data", symmetric: false, array: off(3), arrayminus: off(2), color: c, thickness: 1.2, width: 4 },
          hovertemplate: `${plain(found.by)}: ${plain(l.name)}<br>%{x}: %{y:.4f}<extra></extra>` };
      });
      const plot = at(`interaction${i}`);
      const picture = withLegend(plot, layout(found.x, data.metric), traces.length);
      Object.assign(picture.xaxis, { type: "category", categoryorder: "array", categoryarray: found.order.map(plain) });
      Plotly.newPlot(plot, traces, picture, settings);
    });
  }

  drawForest();
  drawPairs();
  drawCurves();
  drawGaps();
  drawInteractions();
  document.documentElement.dataset.ready = "true";
})();
