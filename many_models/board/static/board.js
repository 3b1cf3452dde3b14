// Draws the charts that the page carries as data, and lets people look closer. Every number is on the page without it.
"use strict";

const OPTIONS = { displayModeBar: false, responsive: true, doubleClick: "reset" };

function draw(place) {
  const name = place.dataset.chart;
  const data = document.querySelector(`script[data-figure="${CSS.escape(name)}"]`);
  const figure = JSON.parse(data.textContent);
  return Plotly.newPlot(place, figure.data, figure.layout, OPTIONS).then(() => place.classList.add("drawn"));
}

function ranges(group) {
  const place = document.querySelector(`[data-chart="${CSS.escape(group.dataset.ranges)}"]`);
  if (!place) return;
  group.hidden = false;
  const traces = () => place.data.filter((trace) => trace.mode === "lines" && trace.x.length);
  group.addEventListener("click", (event) => {
    const steps = event.target.dataset.steps;
    if (!steps) return;
    const dates = traces().flatMap((trace) => [trace.x[0], trace.x[trace.x.length - 1]]).sort();
    const last = dates[dates.length - 1];
    const first = new Date(last.slice(0, 10));
    first.setDate(first.getDate() - Number(steps) - 28);
    const from = steps === "all" ? dates[0] : first.toISOString().slice(0, 10);
    Plotly.relayout(place, { "xaxis.range": [from < dates[0] ? dates[0] : from, last], "yaxis.autorange": true });
  });
}

document.querySelectorAll("[data-ranges]").forEach(ranges);
Promise.all([...document.querySelectorAll("[data-chart]")].map(draw)).then(() => {
  document.documentElement.dataset.drawn = String(Math.round(performance.now()));
});

// print what is on the screen at the paper's width
window.addEventListener("beforeprint", () => {
  document.querySelectorAll(".plot.drawn").forEach((place) => Plotly.relayout(place, { width: 680 }));
});
window.addEventListener("afterprint", () => {
  document.querySelectorAll(".plot.drawn").forEach((place) => Plotly.relayout(place, { width: null, autosize: true }));
});
