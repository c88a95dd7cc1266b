// The attainment chart of a verification: finalists as searched and as they are, and what the true front attains.
(() => {
  const { data, colour, settings, plain, layout } = charts;
  const plot = document.getElementById("attainment");
  const found = data.verified;
  if (!plot || !found) return;
  const of = (front) => found.points.filter((p) => p.front === front);
  const spread = (points, at, ends, c) => ({ type: "data", symmetric: false, thickness: 1.1, width: 0, color: c,
    array: points.map((p) => Math.max(0, p[ends][1] - p[at])), arrayminus: points.map((p) => Math.max(0, p[at] - p[ends][0])) });
  const hover = (p) => [`<b>${plain(p.id)}</b>`, ...p.lines.map(plain)].join("<br>");

  const shown = found.points.flatMap((p) => [...p.xi, p.from[0]]).filter(Number.isFinite);
  const heights = found.points.flatMap((p) => [...p.yi, p.from[1]]).filter(Number.isFinite);
  const logBox = document.getElementById("attainment-log");
  const canLog = shown.every((v) => v > 0);
  logBox.disabled = !canLog;
  const range = (values) => {
    const low = Math.min(...values), high = Math.max(...values);
    const pad = (high - low) * 0.08 || Math.abs(high) * 0.08 || 0.1;
    return [low - pad, high + pad];
  };
  const ys = range(heights);

  function draw() {
    const log = canLog && logBox.checked;
    const xs = range(log ? shown.map(Math.log10) : shown);
    const end = found.x.direction === "min" ? xs[1] : xs[0];  // what is attained goes on to there
    const far = log ? 10 ** end : end;
    const line = (name) => {
      const points = found.surfaces[name];
      const last = points[points.length - 1];
      return points.length ? { x: [...points.map((p) => p[0]), far], y: [...points.map((p) => p[1]), last[1]] } : { x: [], y: [] };
    };
    const surface = (name, style) => ({ type: "scatter", mode: "lines", ...line(name), hoverinfo: "skip", ...style,
      line: { shape: "hv", width: 0, color: colour.front, ...style.line } });
    const trace = (points, marker, c) => ({ type: "scatter", mode: "markers+text", x: points.map((p) => p.x), y: points.map((p) => p.y),
      text: points.map((p) => plain(p.chance)), textposition: "top center", textfont: { size: 11.5, color: colour.ink }, cliponaxis: false,
      hovertext: points.map(hover), hovertemplate: "%{hovertext}<extra></extra>", marker,
      error_x: spread(points, "x", "xi", c), error_y: spread(points, "y", "yi", c) });
    const moved = found.points.filter((p) => p.from.every(Number.isFinite));
    const gaps = (at, to) => moved.flatMap((p) => [p.from[at], p[to], null]);
    const traces = [
      surface("worst", {}),
      surface("best", { fill: "tonexty", fillcolor: colour.wash }),
      surface("median", { line: { width: 2 }, opacity: 0.75 }),
      { type: "scatter", mode: "lines", x: gaps(0, "x"), y: gaps(1, "y"), hoverinfo: "skip", line: { color: colour.dominated, width: 1, dash: "dot" } },
      { type: "scatter", mode: "markers", x: moved.map((p) => p.from[0]), y: moved.map((p) => p.from[1]), hoverinfo: "skip",
        marker: { color: colour.dominated, size: 6, symbol: "x-thin", line: { color: colour.muted, width: 1.4 } } },
      trace(of(false), { color: "#fff", size: 9, line: { color: colour.near, width: 2 } }, "rgba(111,155,234,.5)"),
      trace(of(true), { color: colour.front, size: 10, line: { color: "#fff", width: 1.5 } }, "rgba(21,88,214,.45)"),
    ];
    const picture = layout(found.x.title, found.y.title);
    Object.assign(picture.xaxis, { type: log ? "log" : "linear", range: xs });
    picture.yaxis.range = ys;
    if (!found.x.key.endsWith("_ms")) picture.xaxis.exponentformat = "SI";
    Plotly.react(plot, traces, picture, settings);
  }
  logBox.addEventListener("change", draw);
  draw();
})();
