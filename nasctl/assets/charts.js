"use strict";
// What the charts of all reports share; each report's own script follows.
const charts = (() => {
  const colour = { ink: "#16202e", muted: "#5c6b7f", line: "#e8ecf2", front: "#1558d6", near: "#6f9bea",
    dominated: "#aab4c2", chosen: "#d9480f", wash: "rgba(21,88,214,.09)" };
  const font = { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: colour.muted };
  const settings = { displaylogo: false, responsive: true, doubleClick: "reset+autosize",
    modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]], displayModeBar: "hover",
    toImageButtonOptions: { scale: 3, filename: document.title } };

  // Plotly reads a little HTML, and TeX between dollars, in its texts; names come from users and plugins.
  const plain = (s) => String(s).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\$/g, "&#36;");
  const cut = (s, n) => (s.length > n ? s.slice(0, n - 1) + "…" : s);

  function layout(x, y, extra) {
    // Of the upright axis the room at its left alone: with that above its top label, too, Plotly can go to and fro for ever.
    const axis = (title, room) => ({ title: { text: plain(title), font: { size: 13, color: colour.ink } }, gridcolor: colour.line,
      linecolor: "#c3ccd8", zeroline: false, ticks: "outside", ticklen: 4, tickcolor: "#c3ccd8", automargin: room });
    return { font, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest",
      margin: { l: 56, r: 14, t: 10, b: 46 }, dragmode: "zoom",
      hoverlabel: { bgcolor: "#fff", bordercolor: "#c3ccd8", font: { ...font, color: colour.ink }, align: "left", namelength: 0 },
      xaxis: axis(x, true), yaxis: axis(y, "left"), ...extra };
  }

  // Paper is narrower than the screen, and the charts are drawn in pixels.
  const plots = () => [...document.querySelectorAll(".plot")].filter((plot) => plot.layout);
  const onPaper = ({ printWidth = 340, printHeight = 270 }) => ({ width: Number(printWidth), height: Number(printHeight) });
  window.addEventListener("beforeprint", () => plots().forEach((plot) => Plotly.relayout(plot, onPaper(plot.dataset))));
  window.addEventListener("afterprint", () => plots().forEach((plot) => Plotly.relayout(plot, { width: null, height: null, autosize: true })));

  return { data: JSON.parse(document.getElementById("data").textContent), colour, font, settings, plain, cut, layout };
})();
