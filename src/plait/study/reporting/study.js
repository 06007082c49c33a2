"use strict";
/* Draws the page's charts, sorts and filters its tables. Nothing is fetched, and nothing is kept. */
(() => {
  const root = document.documentElement;
  const said = document.getElementById("said");
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

  // Colours: a specification names them as the style sheet does, and the page says what they are now.

  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);

  function colour(name) {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  }

  function coloured(tree, key = "") {
    if (Array.isArray(tree)) return tree.map((value) => coloured(value, key));
    if (tree && typeof tree === "object") {
      return Object.fromEntries(Object.entries(tree).map(([name, value]) => [name, coloured(value, name)]));
    }
    return typeof tree === "string" && key.endsWith("color") && tree.startsWith("--") ? colour(tree) : tree;
  }

  // Charts.

  const specs = new Map(all("script[data-chart]").map((script) => [script.dataset.chart, JSON.parse(script.textContent)]));
  const drawn = new Set();
  const hidden = new Map(all(".study").map((study) => [study, new Set()]));

  function axis(own, narrow) {
    return {
      automargin: true, fixedrange: true, gridcolor: colour("--line"), linecolor: colour("--line"),
      zerolinecolor: colour("--line"), tickfont: { size: narrow ? 11 : 12 }, ...coloured(own),
      title: { standoff: 8, font: { size: narrow ? 11.5 : 12.5 }, ...own.title },
    };
  }

  function draw(plot) {
    const spec = specs.get(plot.id);
    const away = hidden.get(plot.closest(".study"));
    const narrow = plot.clientWidth < 480;
    const data = coloured(spec.data).map((trace) => ({ ...trace, visible: !(trace.meta && away.has(trace.meta.arm)) }));
    const layout = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, dragmode: false,
      margin: { l: narrow ? 48 : 58, r: 14, t: 10, b: 44 }, height: spec.height, autosize: true,
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--soft") },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--soft"), align: "left", font: { color: colour("--ink"), size: 12.5 } },
      ...coloured(spec.layout),
      xaxis: axis(spec.layout.xaxis, narrow), yaxis: axis(spec.layout.yaxis, narrow),
    };
    const config = { displayModeBar: false, displaylogo: false, responsive: true, doubleClick: false, showTips: false };
    drawn.add(plot);
    plot.querySelector("noscript")?.remove();
    return Plotly.react(plot, data, layout, config).then(() => label(plot, data));
  }

  // Writes names beside points where there is room for them: right, left, above or below.
  function label(plot, data) {
    const points = data.filter((trace) => trace.visible && trace.meta && trace.meta.label);
    if (!points.length) return null;
    const { xaxis, yaxis } = plot._fullLayout;
    const ink = document.createElement("canvas").getContext("2d");
    ink.font = `12px ${getComputedStyle(document.body).fontFamily}`;
    const placed = points.map((trace) => {
      const x = xaxis.d2p(trace.x[0]), y = yaxis.d2p(trace.y[0]);
      return { trace, x, y, width: ink.measureText(text(trace.meta.label)).width + 2 };
    });
    const taken = [];
    for (const { trace, x, y } of placed) {
      taken.push([x - 8, y - 8, x + 8, y + 8]);
      const bars = trace.error_y;
      if (bars && bars.array) {
        taken.push([x - 3, yaxis.d2p(trace.y[0] + bars.array[0]), x + 3, yaxis.d2p(trace.y[0] - bars.arrayminus[0])]);
      }
    }
    const annotations = [];
    for (const { trace, x, y, width } of placed) {
      const tries = [
        ["left", 11, 0, [x + 9, y - 8, x + 11 + width, y + 8]], ["right", -11, 0, [x - 11 - width, y - 8, x - 9, y + 8]],
        ["left", 7, 17, [x + 5, y - 25, x + 7 + width, y - 9]], ["left", 7, -17, [x + 5, y + 9, x + 7 + width, y + 25]],
        ["right", -7, 17, [x - 7 - width, y - 25, x - 5, y - 9]], ["right", -7, -17, [x - 7 - width, y + 9, x - 5, y + 25]],
      ];
      const fits = ([, , , box]) => box[0] >= 0 && box[2] <= xaxis._length && box[1] >= 0 && box[3] <= yaxis._length
        && taken.every((other) => box[2] < other[0] || box[0] > other[2] || box[3] < other[1] || box[1] > other[3]);
      const found = tries.find(fits);
      if (!found) continue;
      taken.push(found[3]);
      annotations.push({
        x: xaxis.type === "log" ? Math.log10(trace.x[0]) : trace.x[0], y: trace.y[0], text: trace.meta.label, showarrow: false,
        xanchor: found[0], xshift: found[1], yshift: found[2], font: { color: colour("--ink"), size: 12 },
        bgcolor: colour("--card"), borderpad: 1,
      });
    }
    return Plotly.relayout(plot, { annotations });
  }

  function text(escaped) {
    return new DOMParser().parseFromString(escaped, "text/html").body.textContent;
  }

  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting && !drawn.has(entry.target)) draw(entry.target);
    }
  }, { rootMargin: "500px" });
  all(".plot").forEach((plot) => near.observe(plot));

  function redraw(inside = document) {
    for (const plot of drawn) {
      if (inside.contains(plot) && plot.clientWidth) draw(plot);
      else if (inside.contains(plot)) drawn.delete(plot), near.unobserve(plot), near.observe(plot);
    }
  }

  let resized = 0;
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return; // a phone's address bar comes and goes
    width = innerWidth;
    clearTimeout(resized);
    resized = setTimeout(redraw, 150);
  });
  addEventListener("beforeprint", () => all(".plot").filter((plot) => plot.clientWidth && !drawn.has(plot)).forEach(draw));

  // Light and dark.

  const themes = { "": "as the system", light: "light", dark: "dark" };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());
  all("button.theme").forEach((button) => {
    button.hidden = !CSS.supports("color", "light-dark(#000000, #ffffff)");
    button.addEventListener("click", () => {
      const names = Object.keys(themes);
      const next = names[(names.indexOf(root.dataset.theme || "") + 1) % names.length];
      if (next) root.dataset.theme = next;
      else delete root.dataset.theme;
      button.querySelector("span").textContent = themes[next];
      redraw();
    });
  });

  // Which arms are drawn.

  function showArms(study) {
    const away = hidden.get(study);
    all(".key .arm", study).forEach((button) => button.setAttribute("aria-pressed", String(!away.has(button.dataset.arm))));
    all("figure[data-arm]", study).forEach((figure) => { figure.hidden = away.has(figure.dataset.arm); });
    redraw(study);
  }

  all(".study").forEach((study) => {
    const away = hidden.get(study);
    const names = new Set(all(".key .arm", study).map((button) => button.dataset.arm));
    all(".key .arm", study).forEach((button) => button.addEventListener("click", () => {
      if (!away.delete(button.dataset.arm)) away.add(button.dataset.arm);
      showArms(study);
    }));
    all(".key .all", study).forEach((button) => button.addEventListener("click", () => {
      away.clear();
      if (button.dataset.all === "false") names.forEach((name) => away.add(name));
      showArms(study);
    }));
  });

  all(".switched").forEach((group) => {
    const choose = () => {
      const chosen = group.querySelector("input:checked").value;
      all(".choice", group).forEach((part) => { part.hidden = part.dataset.choice !== chosen; });
    };
    group.addEventListener("change", choose);
    choose();
  });

  // Sorting: what has no number stays last.

  function key(row, column) {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
  }

  function compare(one, other, column, sign) {
    const a = key(one, column), b = key(other, column);
    if (a !== null && b !== null) return sign * (a - b);
    if (a !== null || b !== null) return a === null ? 1 : -1;
    const words = one.cells[column].textContent.trim().localeCompare(other.cells[column].textContent.trim(), undefined, { numeric: true });
    return sign * words;
  }

  all("table.numbers").forEach((table) => {
    const heads = all(".heads th", table);
    if (table.tBodies[0].rows.length < 2) return;
    heads.forEach((head, column) => {
      const title = head.textContent;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const order = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order);
        const rows = [...table.tBodies[0].rows];
        rows.sort((one, other) => compare(one, other, column, order === "ascending" ? 1 : -1));
        table.tBodies[0].append(...rows);
        said.textContent = `Sorted by ${title}, ${order}.`;
      });
    });
  });

  // Filtering: a row of several arms stays if any of them is looked for.

  all(".study").forEach((study) => {
    const tools = study.querySelector(".tools");
    const find = tools.querySelector(".find"), role = tools.querySelector(".role"), ends = tools.querySelector(".ends");
    const rows = all("tr[data-arms]", study).map((row) => ({ row, arms: JSON.parse(row.dataset.arms) }));
    const main = study.querySelector("table.numbers");
    const filter = () => {
      const wanted = find.value.trim().toLowerCase();
      for (const { row, arms } of rows) {
        const named = arms.some((arm) => arm.toLowerCase().includes(wanted));
        const kind = !role || !role.value || !row.dataset.role || row.dataset.role === role.value;
        row.hidden = !(named && kind);
      }
      const shown = [...main.tBodies[0].rows];
      tools.querySelector("output").textContent = wanted || (role && role.value)
        ? `${shown.filter((row) => !row.hidden).length} of ${shown.length} arms` : "";
    };
    find.addEventListener("input", filter);
    role?.addEventListener("change", filter);
    ends?.addEventListener("change", () => main.classList.toggle("ends", ends.checked));
    filter();
  });

  // A link to a recipe opens it.

  function open() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) target.open = true;
  }
  addEventListener("hashchange", open);
  open();
})();
