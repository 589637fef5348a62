// One plotly figure, drawn in place: a redraw keeps the node, the zoom and the legend's choices.
// plotly.js comes from this server (the installed wheel), never from another host.

const load = (url) => (window.__qvizPlotly ??= new Promise((done, failed) => {
  if (window.Plotly) return done(window.Plotly);
  const script = document.createElement("script");
  script.src = url;
  script.onload = () => done(window.Plotly);
  script.onerror = failed;
  document.head.appendChild(script);
}));

// Colours of the page, so that light and dark both fit.
const themed = (node, layout) => {
  const style = getComputedStyle(node);
  const css = (name) => style.getPropertyValue(name).trim();
  const out = {
    ...layout,
    autosize: true,
    font: { color: css("--st-text-color"), family: css("--st-font"), ...layout.font },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
  };
  for (const name of Object.keys(out)) {
    if (/^[xy]axis/.test(name)) out[name] = { gridcolor: css("--st-border-color"), ...out[name] };
  }
  return out;
};

export default function ({ parentElement, data, setTriggerValue }) {
  const node = parentElement.querySelector(".qviz-chart");
  node.setAttribute("role", "figure");
  node.setAttribute("aria-label", data.alt);
  const figure = JSON.parse(data.figure);
  load(data.src).then((Plotly) => {
    Plotly.react(node, figure.data, themed(node, figure.layout || {}), {
      responsive: true, displaylogo: false, showSendToCloud: false,
    });
    if (!node.__wired) {
      node.__wired = true;
      node.on("plotly_click", (event) => {
        const point = event.points && event.points[0];
        if (node.__clickable && point && point.customdata !== undefined) {
          setTriggerValue("click", point.customdata);
        }
      });
    }
    node.__clickable = data.clickable;
  });
  return () => { if (window.Plotly) window.Plotly.purge(node); };
}
