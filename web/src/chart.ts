// Line charts as SVG: one or several lines, an optional band, axes with a few ticks.

import { h, svg } from "./dom";

export interface Line {
  x: (number | null)[];
  y: (number | null)[];
  low?: (number | null)[];
  high?: (number | null)[];
  /** Which of the theme's chart colours. */
  tone?: number;
  steps?: boolean;
}

export interface ChartOptions {
  title: string;
  xLabel: string;
  yLabel?: string;
  yRange?: [number, number];
  percent?: boolean;
  note?: string;
}

const WIDTH = 420;
const HEIGHT = 180;
const LEFT = 52;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 34;

export function chart(lines: Line[], options: ChartOptions): HTMLElement {
  const figure = h("figure", { class: "chart" }, h("figcaption", {}, options.title));
  const numbers = (pick: (line: Line) => (number | null)[] | undefined): number[] =>
    lines.flatMap((line) => (pick(line) ?? []).filter((value): value is number => value !== null));
  const xs = numbers((line) => line.x);
  const ys = [...numbers((line) => line.y), ...numbers((line) => line.low), ...numbers((line) => line.high)];
  if (xs.length === 0 || ys.length === 0) {
    figure.append(h("p", { class: "empty" }, options.note ?? "nothing yet"));
    return figure;
  }
  const [x0, x1] = widened(Math.min(...xs), Math.max(...xs));
  const [y0, y1] = options.yRange ?? widened(Math.min(...ys), Math.max(...ys));
  const px = (x: number): number => LEFT + ((x - x0) / (x1 - x0)) * (WIDTH - LEFT - RIGHT);
  const py = (y: number): number => HEIGHT - BOTTOM - ((y - y0) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM);
  const root = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": summary(lines, options) });
  for (const tick of ticks(y0, y1)) {
    root.append(svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: py(tick), y2: py(tick) }));
    root.append(text(LEFT - 6, py(tick) + 4, label(tick, options.percent), "end"));
  }
  for (const tick of ticks(x0, x1)) root.append(text(px(tick), HEIGHT - BOTTOM + 15, label(tick), "middle"));
  root.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, options.xLabel, "middle"));
  for (const line of lines) {
    const tone = `tone${line.tone ?? 0}`;
    if (line.low && line.high) {
      const upper = points(line.x, line.high, px, py);
      const lower = points(line.x, line.low, px, py).reverse();
      root.append(svg("polygon", { class: `band ${tone}`, points: [...upper, ...lower].join(" ") }));
    }
    const path = points(line.x, line.y, px, py);
    if (path.length === 1) {
      const [cx, cy] = path[0]!.split(",") as [string, string];
      root.append(svg("circle", { class: `dot ${tone}`, cx, cy, r: 3 }));
    } else {
      root.append(svg("polyline", { class: `line ${tone}`, points: (line.steps ? stepped(path) : path).join(" ") }));
    }
  }
  figure.append(root);
  if (options.note) figure.append(h("p", { class: "note" }, options.note));
  return figure;
}

function points(
  x: (number | null)[],
  y: (number | null)[],
  px: (x: number) => number,
  py: (y: number) => number,
): string[] {
  const found: string[] = [];
  x.forEach((value, index) => {
    const other = y[index];
    if (value !== null && other !== null && other !== undefined) {
      found.push(`${px(value).toFixed(1)},${py(other).toFixed(1)}`);
    }
  });
  return found;
}

function stepped(path: string[]): string[] {
  return path.flatMap((point, index) => {
    const before = path[index - 1];
    return before ? [`${point.split(",")[0]},${before.split(",")[1]}`, point] : [point];
  });
}

function widened(low: number, high: number): [number, number] {
  if (high > low) return [low, high];
  const room = Math.abs(high) * 0.1 || 1;
  return [low - room, high + room];
}

function ticks(low: number, high: number): number[] {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough) ?? rough;
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-6; tick += step) found.push(tick);
  return found;
}

function label(value: number, percent = false): string {
  if (percent) return `${Math.round(100 * value)} %`;
  const size = Math.abs(value);
  if (size >= 10_000) return `${+(value / 1000).toPrecision(3)}k`;
  return size !== 0 && size < 0.001 ? value.toExponential(0) : String(+value.toPrecision(3));
}

function text(x: number, y: number, content: string, anchor: string): SVGElement {
  const element = svg("text", { x, y, "text-anchor": anchor });
  element.textContent = content;
  return element;
}

function summary(lines: Line[], options: ChartOptions): string {
  const last = lines.map((line) => line.y.at(-1)).filter((value) => value !== null && value !== undefined);
  return `${options.title}; last: ${last.map((value) => label(value, options.percent)).join(", ")}`;
}
