// One plotly figure, drawn in place: a redraw keeps the node, the zoom and the legend's choices.
// plotly.js comes from this server (the installed wheel), never from another host.

const HEIGHT = 400;

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
  const text = { color: css("--st-text-color"), family: css("--st-font") };
  const out = {
    uirevision: "kept",
    height: HEIGHT,
    ...layout,
    autosize: true,
    font: { ...text, ...layout.font },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: text.color, activecolor: css("--st-primary-color") },
    hoverlabel: {
      bgcolor: css("--st-secondary-background-color"), font: text, ...layout.hoverlabel,
    },
  };
  for (const name of Object.keys(out)) {
    if (!/^[xy]axis/.test(name)) continue;
    const border = css("--st-border-color");
    out[name] = { gridcolor: border, zerolinecolor: border, linecolor: border, ...out[name] };
  }
  return out;
};

const config = (limits) => ({
  responsive: true,
  displaylogo: false,
  showSendToCloud: false,
  // a box chooses a range only where there is one to choose
  ...(limits
    ? { modeBarButtons: [["zoom2d", "select2d", "resetScale2d", "toImage"]], displayModeBar: true }
    : { modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] }),
});

const wire = (Plotly, node, state) => {
  node.on("plotly_click", (event) => {
    const point = event.points && event.points[0];
    if (state.data.clickable && point && point.customdata !== undefined) {
      state.send("click", point.customdata);
    }
  });
  node.on("plotly_selected", (event) => {
    if (!state.data.limits || !event || !event.range) return;
    const [x0, x1] = event.range.x.map(Number).sort((a, b) => a - b);
    Plotly.relayout(node, { selections: [] });
    state.limits.choose(x0, x1);
  });
  for (const name of ["plotly_afterplot", "plotly_relayouting"]) {
    node.on(name, () => state.limits && state.limits.place());
  }
  // the window is not all that changes the width: the sidebar opens and closes, tabs appear
  state.observer = new ResizeObserver(() => {
    if (node.clientWidth && node.clientWidth !== state.width) {
      state.width = node.clientWidth;
      Plotly.Plots.resize(node);
    }
  });
  state.observer.observe(node);
};

const states = new WeakMap();

export default function ({ parentElement, data, setTriggerValue }) {
  const node = parentElement.querySelector(".qviz-chart");
  const state = states.get(node) ?? {};
  states.set(node, state);
  state.data = data;
  state.send = setTriggerValue;
  const figure = JSON.parse(data.figure);
  node.setAttribute("role", "figure");
  node.setAttribute("aria-label", data.alt);
  // reserved before plotly.js has come, so that the page does not jump
  node.style.minHeight = `${figure.layout?.height ?? HEIGHT}px`;
  load(data.src).then((Plotly) => {
    if (!node.isConnected) return;
    const layout = themed(node, figure.layout ?? {});
    const drawn = data.figure + JSON.stringify(layout);
    if (state.drawn !== drawn) {
      state.drawn = drawn;
      Plotly.react(node, figure.data, layout, config(data.limits));
    }
    if (!state.observer) {
      state.width = node.clientWidth;
      wire(Plotly, node, state);
    }
    if (data.limits) state.limits ??= draggable(node, (range) => state.send("range", range));
    if (state.limits) state.limits.update(data.limits);
  });
  return () => {
    if (state.observer) state.observer.disconnect();
    if (state.limits) state.limits.remove();
    states.delete(node);
    if (window.Plotly) window.Plotly.purge(node);
  };
}
