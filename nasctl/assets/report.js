(() => {
  const { data, colour, settings, plain, cut, layout } = charts;
  const byId = new Map([...data.points, ...data.references].map((p) => [p.id, p]));
  const rows = new Map([...document.querySelectorAll(".members > tbody")].map((b) => [b.dataset.id, b]));
  let chosen = null;

  const make = (tag, text, cls) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (cls) node.className = cls;
    return node;
  };

  function hover(p) {
    const figures = p.rows.map(([name, value, note]) =>
      `${plain(name)} <b>${plain(value)}</b>${note ? ` (${plain(note)})` : ""}`);
    const most = 9;
    const choices = p.choices.slice(0, most).map(([scope, text]) => plain(cut(`${scope}: ${text}`, 78)));
    if (p.choices.length > most) choices.push(`and ${p.choices.length - most} more; click to see all`);
    return [`<b>${plain(p.id)}</b>`, ...figures, "", ...choices].join("<br>");
  }
  byId.forEach((p) => { p.hover = hover(p); });

  // Corners of the attainment line; networks beaten in these two metrics alone are off it.
  function stairs(points, x, y) {
    const sx = x.direction === "min" ? 1 : -1, sy = y.direction === "max" ? 1 : -1;
    const sorted = [...points].sort((a, b) => sx * (a.v[x.key] - b.v[x.key]) || sy * (b.v[y.key] - a.v[y.key]));
    const xs = [], ys = [];
    for (const p of sorted) {
      const best = ys[ys.length - 1];
      if (ys.length && sy * p.v[y.key] <= sy * best) continue;
      if (ys.length) { xs.push(p.v[x.key]); ys.push(best); }
      xs.push(p.v[x.key]); ys.push(p.v[y.key]);
    }
    return { xs, ys };
  }

  const ends = (p, key) => p.i[key] || [p.v[key], p.v[key]];
  const bars = (points, key, c) => ({ type: "data", symmetric: false, color: c, thickness: 1.1, width: 0,
    array: points.map((p) => Math.max(0, ends(p, key)[1] - p.v[key])),
    arrayminus: points.map((p) => Math.max(0, p.v[key] - ends(p, key)[0])) });

  // A run that diverged would squash everything else: look at the front and most of the rest.
  function window_(points, key, log) {
    const close = points.filter((p) => p.role !== "dominated").flatMap((p) => [...ends(p, key), p.v[key]]);
    const all = points.map((p) => p.v[key]).sort((a, b) => a - b);
    const at = (q) => all[Math.round(q * (all.length - 1))];
    const trimmed = all.length > 12 ? [at(0.06), at(0.97)] : [all[0], all[all.length - 1]];
    let low = Math.min(...close, trimmed[0]), high = Math.max(...close, trimmed[1]);
    if (log) { low = Math.log10(Math.max(low, 1e-12)); high = Math.log10(Math.max(high, 1e-12)); }
    const pad = (high - low) * 0.06 || Math.abs(high) * 0.06 || 0.1;
    return [low - pad, high + pad];
  }

  const panels = [...document.querySelectorAll("[data-panel]")].map((figure, index) => ({
    figure, plot: figure.querySelector(".plot"), x: data.xs[Math.min(index, data.xs.length - 1)] || null }));
  const logBox = document.getElementById("log");

  function drawPanel(panel) {
    const y = data.y;
    const byNumber = { key: "\0trial", label: "trial", title: "trial", direction: "min" };
    const x = panel.x || byNumber;
    if (!panel.x) data.points.forEach((p) => { p.v[x.key] = p.trials[0] ?? 0; });
    const known = (p) => Number.isFinite(p.v[x.key]) && Number.isFinite(p.v[y.key]);
    const drawn = data.points.filter(known), references = data.references.filter(known);
    const all = [...drawn, ...references];
    const log = Boolean(logBox && logBox.checked) && all.every((p) => p.v[x.key] > 0);
    const of = (role) => drawn.filter((p) => p.role === role);
    const trace = (points, marker, more) => ({ type: "scatter", mode: "markers", x: points.map((p) => p.v[x.key]),
      y: points.map((p) => p.v[y.key]), customdata: points.map((p) => p.id), text: points.map((p) => p.hover),
      hovertemplate: "%{text}<extra></extra>", marker, ...more });
    const members = of("member"), near = of("near"), line = stairs(members, x, y);
    const mark = all.filter((p) => p.id === chosen);
    const traces = [
      trace(of("dominated"), { color: colour.dominated, size: 6.5, opacity: 0.6 }),
      { type: "scatter", mode: "lines", x: line.xs, y: line.ys, hoverinfo: "skip", line: { color: colour.front, width: 2 }, opacity: 0.75 },
      trace(near, { color: "#fff", size: 8, line: { color: colour.near, width: 2 } },
        { error_x: bars(near, x.key, "rgba(111,155,234,.55)"), error_y: bars(near, y.key, "rgba(111,155,234,.55)") }),
      trace(members, { color: colour.front, size: 10, line: { color: "#fff", width: 1.5 } },
        { error_x: bars(members, x.key, "rgba(21,88,214,.5)"), error_y: bars(members, y.key, "rgba(21,88,214,.5)") }),
      ...(references.length ? [trace(references, { color: "rgba(255,255,255,.6)", size: 10, line: { color: colour.ink, width: 2 } },
        { mode: "markers+text", text: references.map((p) => plain(p.id)), hovertext: references.map((p) => p.hover),
          hovertemplate: "%{hovertext}<extra></extra>", textposition: "bottom center", cliponaxis: false, textfont: { size: 11, color: colour.ink } })] : []),
      { ...trace(mark, { color: "rgba(0,0,0,0)", size: 19, line: { color: colour.chosen, width: 2.5 } }), hoverinfo: "skip", hovertemplate: null },
    ];
    const picture = layout(x.title, y.title);
    const xr = window_(all, x.key, log), yr = window_(all, y.key, false);
    if (all.length) {
      Object.assign(picture.xaxis, { type: log ? "log" : "linear", range: xr });
      if (x.unit !== "ms") picture.xaxis.exponentformat = "SI";
      picture.yaxis.range = yr;
    }
    const raw = log ? xr.map((v) => 10 ** v) : xr;
    const outside = drawn.filter((p) => p.v[x.key] < raw[0] || p.v[x.key] > raw[1] || p.v[y.key] < yr[0] || p.v[y.key] > yr[1]).length;
    panel.figure.querySelector(".versus").textContent = `${y.label[0].toUpperCase()}${y.label.slice(1)} against${data.xs.length > 1 ? "" : ` ${x.label}`}`;
    panel.figure.querySelector(".outside").textContent = outside ? `${outside} dominated outside this view; double-click for all` : "";
    Plotly.react(panel.plot, traces, picture, settings);
    panel.markTrace = traces.length - 1;
    panel.xKey = x.key;
    if (!panel.wired) {
      panel.wired = true;
      panel.plot.on("plotly_click", (event) => { const id = event.points[0]?.customdata; if (id) choose(id); });
    }
  }

  function buttons(panel) {
    const holder = panel.figure.querySelector(".choose");
    if (data.xs.length < 2) { holder.remove(); return; }
    data.xs.forEach((x) => {
      const button = make("button", x.label);
      button.type = "button";
      button.setAttribute("aria-pressed", String(x === panel.x));
      button.addEventListener("click", () => {
        panel.x = x;
        [...holder.children].forEach((b) => b.setAttribute("aria-pressed", String(b === button)));
        drawPanel(panel);
      });
      holder.append(button);
    });
  }

  function choose(id) {
    chosen = id;
    const p = byId.get(id);
    rows.forEach((body, key) => body.classList.toggle("chosen", key === id));
    panels.forEach((panel) => {
      const at = p && Number.isFinite(p.v[panel.xKey]) && Number.isFinite(p.v[data.y.key]);
      Plotly.restyle(panel.plot, { x: [at ? [p.v[panel.xKey]] : []], y: [at ? [p.v[data.y.key]] : []] }, [panel.markTrace]);
    });
    if (p) describe(p);
  }

  function describe(p) {
    const box = document.getElementById("selected");
    box.replaceChildren();
    const first = make("div");
    const role = { member: "On the front", near: "Near the front", dominated: "Dominated",
      reference: `Reference network ${p.network}` }[p.role];
    const trials = p.trials.length ? `, trial ${p.trials.map((n) => "#" + n).join(", ")}` : "";
    first.append(make("h3", p.id), make("p", role + trials, "role"));
    const body = rows.get(p.id);
    if (body) {
      first.append(body.querySelector("svg").cloneNode(true));
      const link = make("button", "Show every block", "link");
      link.type = "button";
      link.addEventListener("click", () => { toggle(body, true); body.scrollIntoView({ block: "center" }); });
      first.append(link);
    }
    const table = make("table");
    p.rows.forEach(([name, value, note]) => {
      const row = make("tr");
      row.append(make("td", name), make("td", value), make("td", note));
      table.append(row);
    });
    const list = make("dl", undefined, "choices");
    p.choices.forEach(([scope, text]) => {
      const entry = make("div");
      entry.append(make("dt", scope), make("dd", text));
      list.append(entry);
    });
    box.append(first, table, list);
    box.hidden = false;
  }

  function toggle(body, open) {
    const button = body.querySelector(".open");
    const now = open ?? button.getAttribute("aria-expanded") !== "true";
    button.setAttribute("aria-expanded", String(now));
    body.querySelector(".detail").hidden = !now;
  }
  rows.forEach((body, id) => body.querySelector(".row").addEventListener("click", () => { toggle(body); choose(id); }));

  const members = document.querySelector(".members");
  members?.querySelectorAll("button[data-sort]").forEach((button) => {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      members.querySelectorAll("th[aria-sort]").forEach((h) => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const value = (body) => JSON.parse(body.dataset.sort)[button.dataset.sort] ?? Infinity;
      members.append(...[...rows.values()].sort((a, b) => sign * (value(a) - value(b))));
    });
  });

  function drawHypervolume() {
    const plot = document.getElementById("hypervolume");
    if (!plot) return;
    const x = data.hypervolume.map(([n]) => n), y = data.hypervolume.map(([, v]) => v);
    const single = x.length === 1;
    const traces = [{ type: "scatter", mode: single ? "markers" : "lines", x, y, line: { shape: "hv", color: colour.front, width: 2 },
      fill: single ? "none" : "tozeroy", fillcolor: colour.wash, hovertemplate: "after trial %{x}: %{y:.4g}<extra></extra>" }];
    const last = y[y.length - 1];
    const extra = {};
    if (Math.abs(data.final - last) > 1e-9 * Math.abs(last)) {
      extra.shapes = [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: data.final, y1: data.final,
        line: { color: colour.chosen, width: 1.3, dash: "dot" } }];
    }
    const picture = layout("trial", "hypervolume", extra);
    picture.yaxis.rangemode = "tozero";
    if (x[x.length - 1] < 10) picture.xaxis.dtick = 1;
    picture.hovermode = "x";
    Plotly.newPlot(plot, traces, picture, settings);
  }

  function drawMarginal() {
    const plot = document.getElementById("marginal");
    if (!plot) return;
    const x = data.marginal.map(([n]) => n), y = data.marginal.map(([, v]) => v);
    const traces = [{ type: "scatter", mode: "lines", x, y, line: { color: colour.front, width: 2 },
      hovertemplate: `after trial %{x}: %{y:.3g} ${plain(data.marginalTitle)}<extra></extra>` }];
    const picture = layout("trial", `hypervolume ${data.marginalTitle}`);
    picture.yaxis.rangemode = "tozero";
    if (x[x.length - 1] < 10) picture.xaxis.dtick = 1;
    picture.hovermode = "x";
    Plotly.newPlot(plot, traces, picture, settings);
  }

  function drawCalibration() {
    const plot = document.getElementById("calibration");
    if (!plot) return;
    const found = data.calibration;
    const values = found.flatMap((p) => [p.x, p.y]);
    const low = Math.min(...values) * 0.9, high = Math.max(...values) * 1.08;
    const spread = (value, interval) => ({ type: "data", symmetric: false, thickness: 1.1, width: 0, color: "rgba(21,88,214,.45)",
      array: found.map((p) => (p[interval] ? Math.max(0, p[interval][1] - p[value]) : 0)),
      arrayminus: found.map((p) => (p[interval] ? Math.max(0, p[value] - p[interval][0]) : 0)) });
    const traces = [
      { type: "scatter", mode: "lines", x: [low, high], y: [low, high], hoverinfo: "skip", line: { color: "#9aa7b8", width: 1.3, dash: "dot" } },
      { type: "scatter", mode: "markers", x: found.map((p) => p.x), y: found.map((p) => p.y), customdata: found.map((p) => p.id),
        text: found.map((p) => byId.get(p.id).hover), hovertemplate: "%{text}<extra></extra>", error_x: spread("x", "xi"), error_y: spread("y", "yi"),
        marker: { size: 9, color: found.map((p) => (p.role === "member" ? colour.front : "#fff")),
          line: { width: 1.7, color: found.map((p) => (p.role === "member" ? "#fff" : colour.near)) } } },
    ];
    const picture = layout("predicted in the search (ms)", "measured whole (ms)");
    picture.xaxis.range = [low, high];
    picture.yaxis.range = [low, high];
    Plotly.newPlot(plot, traces, picture, settings);
    plot.on("plotly_click", (event) => { const id = event.points[0]?.customdata; if (id) choose(id); });
  }

  // Published networks are often far larger than the candidates: on a line these would be one dot.
  const largest = (points, key) => Math.max(...points.map((p) => p.v[key]).filter(Number.isFinite));
  const apart = ({ key }) => largest(data.references, key) > 4 * largest(data.points, key);
  if (logBox) logBox.checked = data.references.length > 0 && data.xs.some(apart);
  panels.forEach((panel) => { buttons(panel); drawPanel(panel); });
  logBox?.addEventListener("change", () => panels.forEach(drawPanel));
  drawHypervolume();
  drawMarginal();
  drawCalibration();
  const sign = data.y.direction === "max" ? 1 : -1;
  const start = data.points.filter((p) => p.role === "member" && Number.isFinite(p.v[data.y.key]))
    .sort((a, b) => sign * (b.v[data.y.key] - a.v[data.y.key]))[0];
  if (start) choose(start.id);
  document.documentElement.dataset.ready = "true";
})();
