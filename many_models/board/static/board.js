// Draws the charts that the page carries as data, and lets people look closer. Every number is on the page without it.
"use strict";

const OPTIONS = { displayModeBar: false, responsive: true, doubleClick: "reset" };

// on a phone the legend goes below the chart, two to a row, and there is room for fewer dates
function fitted(place, figure) {
  const layout = { ...figure.layout };
  if (place.clientWidth >= 480) return layout;
  const named = figure.data.filter((trace) => trace.showlegend !== false).length;
  layout.legend = { ...layout.legend, orientation: "h", x: 0, xanchor: "left", y: -0.15, yanchor: "top", entrywidthmode: "fraction", entrywidth: 0.48, traceorder: "normal" };
  layout.height = (layout.height || 320) + 20 * Math.ceil(named / 2);
  layout.xaxis = { ...layout.xaxis, nticks: 4, tickangle: 0 };
  return layout;
}

function draw(place) {
  const name = place.dataset.chart;
  const data = document.querySelector(`script[data-figure="${CSS.escape(name)}"]`);
  const figure = JSON.parse(data.textContent);
  return Plotly.newPlot(place, figure.data, fitted(place, figure), OPTIONS).then(() => place.classList.add("drawn"));
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

// another release may have gone live since the forecast of this page was made: an answer is wholly of the live one
function sayOther(place, told) {
  const own = place.dataset.model;
  const other = Boolean(told && own && told.model !== own);
  const note = place.querySelector("[data-other]");
  note.hidden = !other;
  note.textContent = other ? `This is what the model of release ${told.release} says, which is live now. The forecast that the page shows was made by an earlier one.` : "";
  place.dataset.release = told ? told.release : "";
  return other;
}

// the same question under another future: one request at a time, and always the newest one last
function whatIf(form) {
  const place = document.querySelector(`[data-chart="${CSS.escape(form.dataset.chartName)}"]`);
  const said = form.querySelector("[data-said]");
  const end = (id) => form.querySelector(id).value;
  let asking = false;
  let again = false;
  form.hidden = false;

  function asked() {
    const values = {};
    form.querySelectorAll("[data-known]").forEach((control) => {
      const share = "share" in control.dataset;
      if (share) control.nextElementSibling.textContent = `${control.value.replace("-", "−")} %`;
      if (control.value !== "" && !(share && control.value === "0")) values[control.dataset.known] = Number(control.value) / (share ? 100 : 1);
    });
    return { from: end("#w-from"), to: `${end("#w-to")}T23:59:59`, values };
  }

  function byDriver(drivers) {
    const parts = drivers.slice(0, 3).map((one) => `${one.driver} ${one.total >= 0 ? "+" : "−"}${Math.abs(one.total).toPrecision(3)}`);
    return parts.length ? `: ${parts.join(", ")}` : "";
  }

  function show(told) {
    const old = place.data.flatMap((trace, at) => (trace.meta === "what-if" ? [at] : []));
    const other = sayOther(form, told);
    if (!told) {
      if (old.length) Plotly.deleteTraces(place, old);
      said.textContent = "";
      return;
    }
    const line = { color: "#b45309", width: 2, dash: "dot" };
    const own = { type: "scatter", mode: "lines", meta: "what-if", x: told.ds.map((ds) => ds.replace("T00:00", "")) };
    const bound = (name, more) => ({ ...own, y: told[name].map((by, at) => told.planned[at] + by), line: { width: 0 }, hoverinfo: "skip", ...more });
    // how far the difference may be off: what is planned, with the bounds of the change
    const band = told.lo80 ? [bound("lo80", { name: "80 % of the change, low", showlegend: false }), bound("hi80", { name: "80 % of the change", fill: "tonexty", fillcolor: "rgba(180, 83, 9, 0.18)" })] : [];
    const planned = other ? [{ ...own, name: "as planned, live model", y: told.planned, line: { color: "#b45309", width: 1 }, hovertemplate: "%{y:.4~g}" }] : [];
    const traces = [...band, ...planned, { ...own, name: "what if", y: told.changed, line, hovertemplate: "%{y:.4~g}" }];
    if (old.length === traces.length) { // drawn once instead of twice: a long history takes its time
      Plotly.restyle(place, { x: traces.map((trace) => trace.x), y: traces.map((trace) => trace.y) }, old);
    } else {
      if (old.length) Plotly.deleteTraces(place, old);
      Plotly.addTraces(place, traces);
    }
    const share = told.of ? ` (${told.total >= 0 ? "+" : "−"}${Math.abs(100 * told.total / told.of).toFixed(1)} %)` : "";
    said.textContent = `${told.total >= 0 ? "+" : "−"}${Math.abs(told.total).toPrecision(3)} in all${share}${byDriver(told.drivers)}.`;
    form.dataset.shown = String(Number(form.dataset.shown || 0) + 1);
  }

  async function ask() {
    const question = asked();
    if (asking) { again = true; return; }
    if (!Object.keys(question.values).length || !question.from || question.to.startsWith("T")) { show(null); return; }
    asking = true;
    try {
      const answer = await fetch(form.dataset.whatIf, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(question) });
      if (answer.ok) show(await answer.json());
      else { show(null); said.textContent = await answer.text(); }
    } catch { said.textContent = "The board does not answer."; }
    asking = false;
    if (again) { again = false; ask(); }
  }

  form.addEventListener("input", ask);
  form.addEventListener("reset", () => setTimeout(ask));
  form.addEventListener("submit", (event) => event.preventDefault());
}

// what the forecast is made of: the live model is asked once the page is there
async function explain(section) {
  const answer = await fetch(section.dataset.explanation);
  if (answer.status === 409) return;
  section.hidden = false;
  const words = section.querySelector("[data-words]");
  const place = section.querySelector("[data-parts]");
  if (!answer.ok) {
    words.textContent = `It cannot be told: ${await answer.text()}`;
    place.remove();
    return;
  }
  const told = await answer.json();
  sayOther(section, told);
  words.replaceChildren(...told.words.map((text) => Object.assign(document.createElement("p"), { textContent: text })));
  await Plotly.newPlot(place, told.chart.data, fitted(place, told.chart), OPTIONS);
  place.classList.add("drawn");
  section.dataset.told = "";
}

document.querySelectorAll("[data-explanation]").forEach(explain);
document.querySelectorAll("[data-ranges]").forEach(ranges);
document.querySelectorAll("[data-what-if]").forEach(whatIf);
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
