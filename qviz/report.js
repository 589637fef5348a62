// Draws the charts of a report in the reader's colours, and again when these change or for paper.
(() => {
  const config = JSON.parse(document.getElementById("config").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const nodes = [...document.querySelectorAll(".figure")];
  const colours = (night) => (night
    ? { text: "#e7eaee", line: "#313840", box: "#191e24" }
    : { text: "#1a1d21", line: "#d9dde2", box: "#ffffff" });

  const layoutOf = (node, night, width) => {
    const layout = structuredClone(node.__figure.layout || {});
    const { text, line, box } = colours(night);
    layout.font = { color: text, family: getComputedStyle(document.body).fontFamily, ...layout.font };
    layout.paper_bgcolor = layout.plot_bgcolor = "rgba(0,0,0,0)";
    layout.hoverlabel = { bgcolor: box, font: { color: text }, bordercolor: line, ...layout.hoverlabel };
    for (const axis of Object.keys(layout).filter((name) => /^[xy]axis/.test(name))) {
      layout[axis] = { gridcolor: line, zerolinecolor: line, linecolor: line, ...layout[axis] };
    }
    if (width) layout.width = width; else layout.autosize = true;
    const title = layout.xaxis && layout.xaxis.title; // too long for a narrow screen
    if (title && title.text && (width || node.clientWidth) < 500) {
      title.text = title.text.replace(/, /g, ",<br>");
    }
    return layout;
  };
  const hidden = new Set();
  const draw = (night, width) => {
    for (const node of nodes) {
      for (const trace of node.__figure.data) {
        if (node.closest(".ranges")) trace.visible = !hidden.has(trace.name);
      }
      Plotly.react(node, node.__figure.data, layoutOf(node, night, width), config);
    }
  };

  // One legend for all histograms: a name hides its lines in every one of them.
  const dashes = {
    dash: "6 4", dot: "2 3", dashdot: "6 3 2 3", longdash: "9 4", longdashdot: "9 3 2 3",
  };
  const legend = () => {
    const box = document.querySelector(".legend");
    const seen = new Set();
    for (const node of nodes.filter((one) => box && one.closest(".ranges"))) {
      for (const { name, line, hovertemplate } of node.__figure.data) {
        if (seen.has(name) || !hovertemplate.includes("range ")) continue;
        seen.add(name);
        const button = document.createElement("button");
        button.type = "button";
        button.setAttribute("aria-pressed", "true");
        button.innerHTML = "<svg width='26' height='8' aria-hidden='true'><line x1='0' y1='4' x2='26' y2='4' stroke-width='3'/></svg>";
        const mark = button.querySelector("line");
        mark.setAttribute("stroke", line.color);
        mark.setAttribute("stroke-dasharray", dashes[line.dash] || "none");
        button.append(name);
        button.addEventListener("click", () => {
          const shown = hidden.has(name);
          if (shown) hidden.delete(name); else hidden.add(name);
          button.setAttribute("aria-pressed", String(shown));
          draw(dark.matches);
        });
        box.append(button);
      }
    }
  };

  for (const node of nodes) {
    const source = node.querySelector("script");
    node.__figure = JSON.parse(source.textContent);
    source.remove();
  }
  legend();
  draw(dark.matches);
  dark.addEventListener("change", () => draw(dark.matches));

  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details.printed:not([open])")];
    for (const each of closed) each.open = true;
    draw(false, 660); // about the width of a printed page
  });
  addEventListener("afterprint", () => {
    for (const each of closed) each.open = false;
    draw(dark.matches);
  });
})();
