// Limits that are dragged along the x axis of a chart, by mouse, finger or arrow keys, and what the
// range costs, said below the chart while it moves. On release the range goes to the server.

const SETTLE = 500; // ms without a key until a range moved by keys is taken

const short = (x, digits = 4) => {
  if (x === 0) return "0";
  const size = Math.abs(x);
  return size >= 1e5 || size < 1e-3 ? x.toExponential(digits - 1) : String(Number(x.toPrecision(digits)));
};
const percent = (x) => (x === 0 ? "0 %" : x < 1e-6 ? "< 0.0001 %" : `${short(100 * x, 3)} %`);
const rounded = (x) => Number(x.toPrecision(4));

const make = (tag, className, text) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

// The panel of numbers; returns the function that fills it.
const costPanel = (node) => {
  const list = make("dl", "qviz-cost");
  list.title = "Expected values, computed from the histogram";
  const fields = {};
  for (const [key, title] of [
    ["range", "Range"], ["clipped", "Clipped values"], ["step", "Step"],
    ["sqnr", "SQNR (estimated)"], ["split", "Error: clipping / rounding"],
  ]) {
    const box = make("div");
    fields[key] = make("dd");
    box.append(make("dt", "", title), fields[key]);
    list.append(box);
  }
  const bar = make("div", "qviz-split");
  bar.append(make("i"), make("i"));
  fields.split.parentElement.append(bar);
  node.parentElement.append(list);
  const show = ({ lo, hi, mirrored, best }, cost) => {
    fields.range.textContent = mirrored ? `±${short(hi)}` : `${short(lo)} to ${short(hi)}`;
    fields.clipped.textContent = percent(cost.clipped_fraction);
    fields.step.textContent = short(cost.step);
    const db = cost.sqnr_db;
    fields.sqnr.textContent = db === null ? "no error" : `${db.toFixed(2)} dB`;
    if (best && db !== null && best.sqnr_db !== null) {
      const behind = best.sqnr_db - db;
      const how = behind < 0.005 ? "as good as" : `${behind.toFixed(2)} dB below`;
      fields.sqnr.append(make("small", "", behind < -0.005
        ? ` ${(-behind).toFixed(2)} dB above ${best.name}` : ` ${how} ${best.name}`));
    }
    const part = cost.mse > 0 ? cost.clipping_mse / cost.mse : 0;
    fields.split.textContent = cost.mse > 0 ? `${short(100 * part, 3)} % / ${short(100 * (1 - part), 3)} %` : "none";
    bar.firstChild.style.width = `${100 * part}%`;
  };
  return { list, show };
};

const draggable = (node, send) => {
  const panel = costPanel(node);
  const shades = [make("div", "qviz-clipped"), make("div", "qviz-clipped")];
  const names = ["lo", "hi"];
  const handles = names.map((name) => {
    const handle = make("div", "qviz-limit");
    handle.dataset.limit = name;
    handle.tabIndex = 0;
    handle.setAttribute("role", "slider");
    handle.setAttribute("aria-label", name === "lo" ? "Lower limit" : "Upper limit");
    return handle;
  });
  node.append(...shades, ...handles);
  let given = null; // what the server said
  let now = null; // the range shown: the server's, or the one being dragged
  let density = null;
  let moving = false;
  let timer = 0;

  const axis = () => node._fullLayout && node._fullLayout.xaxis;

  const place = () => {
    const [x, size] = [axis(), node._fullLayout && node._fullLayout._size];
    for (const part of [...shades, ...handles]) part.hidden = !now || !x;
    if (!now || !x) return;
    const pixel = (value) => x._offset + Math.min(Math.max(x.d2p(value), 0), x._length);
    const [from, to] = [x._offset, x._offset + x._length];
    const upright = { top: `${size.t}px`, height: `${size.h}px` };
    names.forEach((name, i) => {
      const at = pixel(now[name]);
      const beyond = x.d2p(now[name]) < -1 || x.d2p(now[name]) > x._length + 1;
      Object.assign(handles[i].style, upright, { left: `${at}px` });
      handles[i].classList.toggle("outside", beyond);
      const [start, end] = name === "lo" ? [from, at] : [at, to];
      Object.assign(shades[i].style, upright, { left: `${start}px`, width: `${end - start}px` });
    });
    handles[0].hidden = shades[0].hidden = !now.left;
  };

  const tell = (cost) => {
    panel.show(now, cost);
    names.forEach((name, i) => {
      handles[i].setAttribute("aria-valuenow", now[name]);
      handles[i].setAttribute("aria-valuetext",
        `${short(now[name])}, clipped ${percent(cost.clipped_fraction)}`);
    });
  };

  const move = (name, value) => {
    const x = axis();
    const pixel = Math.abs(x.p2d(1) - x.p2d(0));
    if (now.mirrored) {
      now.hi = rounded(Math.max(Math.abs(value), pixel));
      now.lo = -now.hi;
    } else {
      now[name] = rounded(name === "lo" ? Math.min(value, 0) : Math.max(value, 0));
      if (now.hi - now.lo < pixel) now.hi = now.lo + pixel;
    }
    density ??= readDensity(given.density);
    tell(costOf(density, now.lo, now.hi, given.density));
    place();
  };

  const take = () => {
    moving = false;
    clearTimeout(timer);
    if (now.lo !== given.lo || now.hi !== given.hi) send([now.lo, now.hi]);
  };

  handles.forEach((handle, i) => {
    handle.onpointerdown = (event) => {
      if (event.button) return;
      event.preventDefault();
      event.stopPropagation();
      handle.focus({ preventScroll: true, focusVisible: false });
      handle.setPointerCapture(event.pointerId);
      handle.classList.add("moving");
      moving = true;
    };
    handle.onpointermove = (event) => {
      if (!handle.hasPointerCapture(event.pointerId)) return;
      const x = axis();
      // past the edge of the picture the limit stays at the edge
      const at = Math.min(Math.max(event.clientX - node.getBoundingClientRect().left - x._offset, 0), x._length);
      move(names[i], x.p2d(at));
    };
    handle.onpointerup = handle.onpointercancel = (event) => {
      if (!handle.hasPointerCapture(event.pointerId)) return;
      handle.releasePointerCapture(event.pointerId);
      handle.classList.remove("moving");
      take();
    };
    handle.onkeydown = (event) => {
      const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key];
      if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      event.stopPropagation();
      moving = true;
      const unit = 0.01 * Math.max(Math.abs(now[names[i]]), 0.01 * (now.hi - now.lo));
      move(names[i], now[names[i]] + by * unit);
      clearTimeout(timer);
      timer = setTimeout(take, SETTLE);
    };
  });

  return {
    place,
    choose: (lo, hi) => send([rounded(lo), rounded(hi)]),
    update: (limits) => {
      given = limits;
      density = null;
      panel.list.hidden = !limits;
      if (limits && moving && now) return; // the hand that moves it wins
      now = limits && { ...limits };
      if (limits) tell(limits.cost);
      place();
    },
    remove: () => {
      clearTimeout(timer);
      for (const part of [...shades, ...handles, panel.list]) part.remove();
    },
  };
};
