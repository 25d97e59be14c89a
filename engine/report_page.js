"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const views = new Map();
  const place = (key, part) => document.querySelector(`[data-figure="${key}"] ${part}`);

  function shown(value) {
    if (value === null || value === undefined) return "–";
    if (typeof value !== "number") return String(value);
    // Four digits, but never fewer than stand before the point.
    return String(Math.abs(value) < 1000 ? Number(value.toPrecision(4)) : Math.round(value));
  }

  // Texts go in as text, never as markup.
  function fillTable(figure) {
    const table = place(figure.key, "table");
    const head = table.createTHead().insertRow();
    for (const heading of Object.values(figure.columns)) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = heading;
      head.append(cell);
    }
    const body = table.createTBody();
    const limit = Number(table.dataset.limit);
    for (const row of figure.spec.data.values.slice(0, limit)) {
      const line = body.insertRow();
      for (const field of Object.keys(figure.columns)) {
        line.insertCell().textContent = shown(row[field]);
      }
    }
    const rest = figure.spec.data.values.length - limit;
    if (rest > 0) table.createCaption().textContent = `The first ${limit} rows; ${rest} more are in the chart.`;
  }

  async function embed(figure) {
    const target = place(figure.key, ".chart");
    // ast: Vega's own interpreter, so that the page's policy needs no eval.
    const { view } = await vegaEmbed(target, figure.spec, {
      ast: true,
      renderer: "svg",
      downloadFileName: figure.key,
      actions: { export: true, source: false, compiled: false, editor: false },
    });
    views.set(figure.key, view);
    target.querySelector("svg")?.setAttribute("aria-hidden", "true");
    const details = place(figure.key, "details.rows");
    details.addEventListener("toggle", () => {
      if (details.open && !details.dataset.filled) {
        details.dataset.filled = "yes";
        fillTable(figure);
      }
    });
  }

  function useSlider() {
    const slider = document.getElementById("round");
    if (!slider) return;
    const rounds = JSON.parse(slider.dataset.rounds);
    const label = document.getElementById("round-shown");
    const show = () => {
      const chosen = rounds[Number(slider.value)];
      label.textContent = chosen.text;
      slider.setAttribute("aria-valuetext", chosen.text);
      views.get("parity").signal("shown_round", chosen.round).runAsync();
    };
    slider.addEventListener("input", show);
    show();
  }

  function useFilters() {
    const kind = document.getElementById("kind");
    const words = document.getElementById("words");
    if (!kind) return;
    const examples = [...document.querySelectorAll("[data-kind]")];
    const counted = document.getElementById("num-shown");
    const filter = () => {
      const wanted = words.value.trim().toLowerCase();
      let count = 0;
      for (const example of examples) {
        const fits = (kind.value === "all" || example.dataset.kind === kind.value) &&
          example.textContent.toLowerCase().includes(wanted);
        example.hidden = !fits;
        count += fits;
      }
      counted.textContent = `${count} of ${examples.length} shown`;
    };
    kind.addEventListener("input", filter);
    words.addEventListener("input", filter);
    filter();
  }

  useFilters();
  Promise.all(figures.map(embed)).then(() => {
    useSlider();
    document.documentElement.dataset.ready = "yes";
  });
})();
