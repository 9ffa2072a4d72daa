// Draws the charts, and moves the choice when the reader moves a slider. Text of a result becomes text nodes only.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const words = data.strings;
  const views = {};

  // A text with its fields, such as {speed}, filled.
  const filled = (text, values) => text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? values[name] : whole));

  // A number with `digits` significant digits; the digits of its integer part are always shown.
  const figure = (value, digits = 4) => {
    if (value === null || !Number.isFinite(value)) return "-";
    const after = value ? Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value)))) : 0;
    return value.toLocaleString("en-US", { maximumFractionDigits: Math.min(after, 12) });
  };

  const added = (parent, tag, text = "") => {
    const element = document.createElement(tag);
    if (text) element.textContent = text;
    parent.append(element);
    return element;
  };

  // A slider and a field of the same number. Both are labelled; `changed` runs after each change.
  const slider = (parent, id, text, { least, most, start, step }, changed) => {
    const box = added(parent, "div");
    const label = added(box, "label", text);
    label.htmlFor = id;
    const line = added(box, "div");
    line.className = "line";
    const range = added(line, "input");
    Object.assign(range, { type: "range", id, min: least, max: most, step: "any" });
    range.value = start;
    const field = added(line, "input");
    Object.assign(field, { type: "number", min: 0, step });
    field.setAttribute("aria-label", text);
    const state = { value: start };
    const set = (value, from) => {
      state.value = value;
      if (from !== range) range.value = value;
      if (from !== field) field.value = Number(value.toPrecision(4));
      range.setAttribute("aria-valuetext", figure(value));
      changed();
    };
    state.set = set;
    range.addEventListener("input", () => set(Number(range.value), range));
    field.addEventListener("input", () => { if (field.value !== "" && Number(field.value) >= 0) set(Number(field.value), field); });
    field.value = Number(start.toPrecision(4));
    range.setAttribute("aria-valuetext", figure(start));
    return state;
  };

  // The point with the most tokens per device among those within both bounds; null if there is none.
  const best = (points, speed, ttft) => {
    let winner = null;
    for (const point of points) {
      const late = ttft !== null && point.ttft !== null && point.ttft > ttft;
      if (point.user >= speed && !late && (winner === null || point.rate > winner.rate)) winner = point;
    }
    return winner;
  };

  // Cost of a million output tokens at a price per device and hour; `used` is the share of the time that is used.
  const cost = (price, point, used) => (price / 3600 / (point.device * used)) * 1e6;

  const chooser = (one) => {
    const form = document.getElementById(`chooser-${one.chart}`);
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    const place = form.querySelector(".sliders");
    const out = form.querySelector(".choice");
    const back = added(form.querySelector("fieldset"), "button");
    back.type = "button";
    const rows = one.series.length > 1 ? table(form.querySelector("fieldset"), one) : null;
    const points = one.series.flatMap((series) => series.points);
    const fastest = Math.max(...points.map((point) => point.user));
    const slowest = Math.max(...points.map((point) => point.ttft ?? 0));
    const controls = { moved: false };
    const show = () => {
      const used = Math.max(controls.used.value, 0.1) / 100;
      const speed = controls.speed.value, ttft = controls.ttft ? controls.ttft.value : null;
      const choice = one.series.map((series, index) => {
        const point = controls.moved ? best(series.points, speed, ttft) : series.best;
        const price = controls.prices[index].value;
        return { series, point, price, used, cost: point && price > 0 ? cost(price, point, used) : null };
      });
      const bounds = { speed: figure(speed), ttft: figure(ttft, 3) };
      back.hidden = !controls.moved;
      const text = one.series.length > 1 ? compared : said;
      out.textContent = text(one, choice, bounds, controls.moved);
      if (rows) choice.forEach((item, index) => told(rows[index], item));
      const view = views[one.chart];
      if (!view) return;
      const reached = choice.filter((item) => item.point);
      const most = Math.max(...reached.map((item) => item.point.rate));
      const named = (item) => (one.series.length === 1 ? item.point.label : item.point.rate === most ? item.series.name : "");
      const marks = reached.map((item) => ({ ...item.point, label: named(item) }));
      view.data("least", [{ user: speed }]).data("chosen", marks).run();
    };
    const settled = () => { if (controls.ready) show(); };
    const moved = () => { controls.moved = true; settled(); };
    controls.speed = slider(place, `${one.chart}-speed`, words.least_speed, { least: 0, most: fastest, start: one.speed, step: "any" }, moved);
    controls.ttft = slowest > 0 ? slider(place, `${one.chart}-ttft`, words.most_ttft, { least: 0, most: slowest, start: one.ttft ?? slowest, step: "any" }, moved) : null;
    controls.prices = one.series.map((series, index) => {
      const text = one.series.length > 1 ? filled(words.price_of, { name: series.name, currency: one.currency }) : filled(words.price, one);
      const start = series.price ?? 0;
      return slider(place, `${one.chart}-price-${index}`, text, { least: 0, most: Math.max(10, 2 * start), start, step: "any" }, settled);
    });
    controls.used = slider(place, `${one.chart}-used`, words.used, { least: 1, most: 100, start: 100 * one.utilisation, step: "any" }, settled);
    back.textContent = words.back;
    back.addEventListener("click", () => {
      controls.speed.set(one.speed);
      if (controls.ttft) controls.ttft.set(one.ttft ?? slowest);
      controls.moved = false;
      show();
      place.querySelector("input").focus();
    });
    controls.ready = true;
    show();
    return show;
  };

  // The choice of one machine in words.
  const said = (one, [{ point, price, used, cost }], bounds, moved) => {
    if (!point) return filled(words.nothing, bounds);
    const values = { ...bounds, label: point.label, engine: point.engine, device: figure(point.device) };
    const money = { price: figure(price), used: figure(100 * used), cost: figure(cost), currency: one.currency };
    return `${filled(moved ? words.one : words.answer_one, values)} ${price > 0 ? filled(words.cost, money) : words.no_price}`;
  };

  // The winner among several machines in words, and the cheapest one.
  const compared = (one, choice, bounds, moved) => {
    const reached = choice.filter((item) => item.point).sort((a, b) => b.point.rate - a.point.rate);
    if (!reached.length) return filled(words.nothing, bounds);
    const [first, second] = reached;
    const values = { ...bounds, system: first.series.name, rate: figure(first.point.rate), unit: one.unit };
    const parts = [filled(moved ? words.winner : words.answer_winner, values)];
    if (second) parts.push(filled(words.second, { ratio: figure(first.point.rate / second.point.rate, 3), system: second.series.name }));
    const priced = reached.filter((item) => item.cost !== null).sort((a, b) => a.cost - b.cost);
    if (priced.length) parts.push(filled(words.cheapest, { system: priced[0].series.name, cost: figure(priced[0].cost), currency: one.currency }));
    const unpriced = reached.filter((item) => item.cost === null).map((item) => item.series.name);
    if (unpriced.length) parts.push(filled(words.unpriced, { systems: unpriced.join(", ") }));
    return parts.join(" ");
  };

  // A table with a row for each machine. Returns the cells that change.
  const table = (parent, one) => {
    const place = added(parent, "div");
    place.className = "scroll";
    Object.assign(place, { tabIndex: 0 });
    place.setAttribute("role", "region");
    place.setAttribute("aria-label", words.chosen_table);
    const whole = added(place, "table");
    added(whole, "caption", words.chosen_table);
    const head = added(added(whole, "thead"), "tr");
    for (const text of [words.machine, words.deployment, filled(words.rate, one), filled(words.million, one)]) {
      added(head, "th", text).scope = "col";
    }
    const body = added(whole, "tbody");
    return one.series.map((series) => {
      const row = added(body, "tr");
      added(row, "th", series.name).scope = "row";
      return [added(row, "td"), added(row, "td"), added(row, "td")];
    });
  };

  // The choice of one machine as the cells of its row.
  const told = ([deployment, rate, million], item) => {
    deployment.textContent = item.point ? `${item.point.label}, ${item.point.engine}` : words.unreached;
    rate.textContent = item.point ? figure(item.point.rate) : "-";
    million.textContent = figure(item.cost);
  };

  const shows = data.choosers.map((one) => [one.chart, chooser(one)]);
  for (const [name, spec] of Object.entries(data.charts)) {
    const place = document.getElementById(`chart-${name}`);
    // `ast` interprets expressions, so that the page works without permission to evaluate code.
    vegaEmbed(place, spec, {
      mode: "vega-lite", renderer: "svg", ast: true, actions: false, defaultStyle: false,
      tooltip: { disableDefaultStyle: true },
    }).then((result) => {
      views[name] = result.view;
      shows.filter(([chart]) => chart === name).forEach(([, show]) => show());
    }).catch(() => {
      place.classList.add("failed");
      added(place, "p", words.chart_failed);
    });
  }

  // Print shows every table.
  const folded = [];
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details:not([open])").forEach((one) => { one.open = true; folded.push(one); });
  });
  addEventListener("afterprint", () => folded.splice(0).forEach((one) => { one.open = false; }));
})();
