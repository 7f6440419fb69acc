// Comes before the scripts that draw charts over two axes.

function number(value, digits = 2) {
  return value.toFixed(digits).replace("-", "−");
}

function svg(name, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) node.setAttribute(key, attributes[key]);
  if (text !== undefined) node.textContent = text;
  return node;
}

function ticks(low, high) {
  const size = 10 ** Math.floor(Math.log10((high - low) / 4));
  const gap = [1, 2, 5, 10].map((factor) => factor * size).find((value) => (high - low) / value <= 5.5);
  const digits = Math.max(0, -Math.floor(Math.log10(gap) + 1e-9));
  const values = [];
  for (let i = Math.ceil(low / gap - 1e-9); i * gap <= high + 1e-9; i++) values.push([i * gap, number(i * gap, digits)]);
  return values;
}

// The frame of a chart: scales, ticks, names of the axes.
function frameOf(chart, { x: [left, right], y: [low, high], xname, yname, xticks, margins }) {
  const [width, height] = [chart.clientWidth, chart.clientHeight];
  const size = Number(getComputedStyle(chart).getPropertyValue("--size")); // of letters, against the usual
  const margin = { left: 46 * size, right: 18, top: 40, bottom: 46 * size, ...margins };
  const x = (value) => margin.left + ((value - left) / (right - left)) * (width - margin.left - margin.right);
  const y = (value) =>
    margin.top + ((high - Math.max(low, Math.min(high, value))) / (high - low)) * (height - margin.top - margin.bottom);
  const nodes = [];
  for (const [value, words] of ticks(low, high)) {
    nodes.push(svg("line", { class: "axis", x1: x(left), x2: x(right), y1: y(value), y2: y(value) }));
    nodes.push(svg("text", { x: margin.left - 8, y: y(value) + 4, "text-anchor": "end" }, words));
  }
  for (const [value, words] of xticks || ticks(left, right))
    nodes.push(svg("text", { x: x(value), y: height - margin.bottom + 20 * size, "text-anchor": "middle" }, words));
  nodes.push(svg("text", { class: "axisname", x: 4, y: 14 }, yname));
  nodes.push(svg("text", { class: "axisname", x: x(right), y: height - 6, "text-anchor": "end" }, xname));
  return { x, y, nodes, width, height, left, right, low, high, size, bottom: height - margin.bottom };
}

function limit(plot, value, words) {
  plot.nodes.push(svg("line", { class: "limit", x1: plot.x(plot.left), x2: plot.x(plot.right), y1: plot.y(value), y2: plot.y(value) }));
  plot.nodes.push(svg("text", { class: "halo", x: plot.x(plot.left) + 4, y: plot.y(value) - 6 }, `${words} = ${number(value)}`));
}

