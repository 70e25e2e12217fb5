// The on-screen keys, pads and rows with which one robot is driven, made of what its host says of its actions.

import { BANK_KEY, clip, layoutOf, type Hands, type Motion, type Pad, type Row } from "./control";
import { h, setText } from "./dom";
import type { Axis } from "./live";

const STANDS_STILL = "Hands off the keys and pads, the robot stands still. Hold Shift for fine moves. Drag the picture to look around.";
const STAYS = "Hands off, the robot stays where it is. Drag a name to go slowly. Hold Shift for fine moves.";

export class DrivePanel {
  readonly element = h("div", { class: "drive" });
  #hands: Hands;
  #shown = "";
  #keys = new Map<string, HTMLButtonElement[]>();
  #buttons: HTMLButtonElement[] = [];
  #pads: HTMLElement[] = [];
  #rows: [Row, HTMLElement][] = [];
  #note = h("p", { class: "note" });

  constructor(hands: Hands) {
    this.#hands = hands;
  }

  /** Lay out anew if this is another robot's description; between two episodes there is none, and the last one stays. */
  show(axes: Axis[]): void {
    const described = JSON.stringify(axes);
    if (!axes.length || described === this.#shown) return;
    this.#shown = described;
    const layout = layoutOf(axes);
    this.#hands.layout = layout;
    this.#keys.clear();
    this.#buttons = [];
    this.#pads = [];
    this.#rows = layout.rows.map((row) => [row, this.#row(row)]);
    setText(this.#note, layout.rows.length && layout.hasPositions ? STAYS : STANDS_STILL);
    const group = { role: "group", "aria-label": "drive" };
    this.element.replaceChildren(
      ...(layout.motions.length ? [h("div", { class: "keys", ...group }, ...layout.motions.map((each) => this.#key(each)))] : []),
      ...(layout.pads.length ? [h("div", { class: "pads" }, ...layout.pads.map((pad) => this.#pad(pad)))] : []),
      ...(layout.banks > 1 ? [this.#bankButton()] : []),
      ...(this.#rows.length ? [h("div", { class: "rows", ...group }, ...this.#rows.map(([, element]) => element))] : []),
      this.#note,
    );
    this.showKeys();
  }

  /**
   * @param keys whether buttons move the robot now.
   * @param pads the same of pads: as with keys, one that is held already counts from the moment on at which one drives.
   */
  enable(keys: boolean, pads: boolean): void {
    for (const button of this.#buttons) button.disabled = !keys;
    for (const pad of this.#pads) pad.classList.toggle("off", !pads);
  }

  /** Show which keys are held, and whose they are. */
  showKeys(): void {
    for (const [key, buttons] of this.#keys) {
      for (const button of buttons) button.classList.toggle("held", this.#hands.isHeld(key) && !button.closest(".row-axis.other"));
    }
    for (const [row, element] of this.#rows) element.classList.toggle("other", row.bank !== this.#hands.bank);
  }

  nextBank(): boolean {
    const changed = this.#hands.nextBank();
    if (changed) this.showKeys();
    return changed;
  }

  #key({ key, label, axis, sign }: Motion): HTMLButtonElement {
    return this.#button(key, "key", [axis, sign], h("kbd", {}, key.toUpperCase()), label);
  }

  #button(key: string, kind: string, push: [axis: number, sign: number], ...content: (Node | string)[]): HTMLButtonElement {
    const name = `button ${push.join(" ")}`;
    const up = (): void => this.#hands.push(name, []);
    const button = h(
      "button",
      {
        type: "button",
        class: kind,
        "data-key": key,
        onpointerdown: (event: PointerEvent) => {
          (event.currentTarget as HTMLElement).setPointerCapture(event.pointerId);
          this.#hands.push(name, [push]);
        },
        onpointerup: up,
        onpointercancel: up,
        onlostpointercapture: up,
      },
      ...content,
    );
    this.#keys.set(key, [...(this.#keys.get(key) ?? []), button]);
    this.#buttons.push(button);
    return button;
  }

  /** One axis: less, its name, which can be dragged, more. */
  #row(row: Row): HTMLElement {
    const side = (key: string, sign: number, text: string): HTMLButtonElement =>
      this.#button(key, "key side", [row.axis, sign], h("span", { class: "sr-only" }, row.label), h("span", {}, text), h("kbd", {}, key.toUpperCase()));
    const pad = this.#pad({ name: `axis-${row.axis}`, label: row.label, right: [row.axis, 1] });
    pad.classList.add("slider");
    pad.append(h("span", { class: "name" }, row.label));
    return h("div", { class: "row-axis", "data-axis": row.axis }, side(row.minus, -1, "−"), pad, side(row.plus, 1, "+"));
  }

  /** Seven pairs of keys for fourteen joints: lets them move the next ones. */
  #bankButton(): HTMLElement {
    return h(
      "button",
      { type: "button", class: "bank", onclick: () => void this.nextBank() },
      "Keys move the other joints",
      h("kbd", {}, BANK_KEY.toUpperCase()),
    );
  }

  /** A pad for mouse, pen or finger: how far it is dragged is how fast the robot moves. Keys do the same, so it takes no focus. */
  #pad(pad: Pad): HTMLElement {
    const knob = h("span", { class: "knob" });
    const element = h("div", { class: `pad ${pad.name}`, "data-pad": pad.name, title: pad.label, "aria-hidden": "true" }, knob);
    const push = (right: number, up: number): void => {
      if (pad.right) knob.style.left = `${50 + 40 * right}%`;
      if (pad.up) knob.style.top = `${50 - 40 * up}%`;
      this.#hands.push(pad.name, [
        ...(pad.right ? [[pad.right[0], pad.right[1] * right] as [number, number]] : []),
        ...(pad.up ? [[pad.up[0], pad.up[1] * up] as [number, number]] : []),
      ]);
    };
    const drag = (event: PointerEvent): void => {
      if (!element.hasPointerCapture(event.pointerId)) return;
      const box = element.getBoundingClientRect();
      const right = (2 * (event.clientX - box.left)) / box.width - 1;
      const up = 1 - (2 * (event.clientY - box.top)) / box.height;
      push(pad.right ? clip(right) : 0, pad.up ? clip(up) : 0);
    };
    element.addEventListener("pointerdown", (event) => {
      if (element.classList.contains("off")) return;
      element.setPointerCapture(event.pointerId);
      drag(event);
    });
    element.addEventListener("pointermove", drag);
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) element.addEventListener(end, () => push(0, 0));
    this.#pads.push(element);
    return element;
  }
}
