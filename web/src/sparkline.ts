// How a robot's value went lately: a line per episode, oldest at the left.

import { setText, svg } from "./dom";
import type { ValueAt } from "./live";

const WIDTH = 120;
const HEIGHT = 24;
const SHOWN = 60;

export class Sparkline {
  readonly element = svg("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  #shown: ValueAt | undefined;

  /** Values lie in [0, 1]: the discounted chance of success. */
  show(values: ValueAt[]): void {
    const recent = values.slice(-SHOWN);
    if (recent.at(-1) === this.#shown) return;
    this.#shown = recent.at(-1);
    const lines: string[] = [];
    let episode = "";
    recent.forEach((each, index) => {
      const x = WIDTH - (recent.length - 1 - index) * (WIDTH / (SHOWN - 1));
      const y = 1 + (HEIGHT - 2) * (1 - Math.max(0, Math.min(1, each.value)));
      lines.push(`${each.episode_id === episode ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`);
      // A line of one point is drawn, too.
      if (each.episode_id !== episode) lines.push(`L${x.toFixed(1)} ${y.toFixed(1)}`);
      episode = each.episode_id;
    });
    this.element.replaceChildren(svg("path", { class: "line tone0", d: lines.join("") }));
  }
}

/** The value of a robot's present episode; empty where none is known. */
export function showValue(element: HTMLElement, values: ValueAt[], episodeId: string): void {
  const last = values.at(-1);
  setText(element, last && last.episode_id === episodeId ? `value ${inWords(last.value)}` : "");
}

/** Two digits, and no minus before a zero. */
export const inWords = (value: number): string => (Math.round(100 * value) / 100 || 0).toFixed(2);
