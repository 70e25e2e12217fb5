// What one camera recorded of an episode: a film strip, and the picture of one step.

import { h } from "./dom";

const AHEAD = 12;

export class Reel {
  readonly element: HTMLElement;
  #picture: HTMLImageElement;
  #at = -1;

  /**
   * @param frames pictures that there are: one per state, so one more than steps.
   * @param shown how many the strip shows.
   */
  constructor(
    private readonly identity: string,
    private readonly camera: string,
    private readonly frames: number,
    shown: number,
  ) {
    this.#picture = h("img", { class: "replay", alt: `what camera ${camera} saw` });
    const strip = Array.from({ length: shown }, (_, index) =>
      h("img", { alt: "", loading: "lazy", src: this.#url(Math.round((index * (frames - 1)) / (shown - 1))) }),
    );
    this.element = h("figure", { class: "reel" }, h("figcaption", {}, camera), h("div", { class: "film", "aria-hidden": "true" }, ...strip), this.#picture);
  }

  show(step: number): void {
    const at = Math.min(step, this.frames - 1);
    if (at === this.#at) return;
    this.#at = at;
    this.#picture.src = this.#url(at);
    // The next ones are in the browser's cache by the time they are shown.
    for (let next = at + 1; next <= Math.min(at + AHEAD, this.frames - 1); next++) new Image().src = this.#url(next);
  }

  #url(frame: number): string {
    return `/api/episodes/${this.identity}/frames/${encodeURIComponent(this.camera)}/${frame}`;
  }
}
