// What the operator's hands do: keys, on-screen buttons, pads and gamepad become one deflection per axis of the robot,
// sent thirty times a second. The robot's host makes an action of it.

import type { Axis } from "./live";

/** One direction of one axis, by key or button. */
export interface Motion {
  key: string;
  label: string;
  axis: number;
  sign: number;
}

/** What can be dragged: how far is how fast; let go, it springs back to standing still. */
export interface Pad {
  name: string;
  label: string;
  /** Axis and sign of a push to the right and of one upwards; there is one of them at least. */
  right?: [number, number];
  up?: [number, number];
}

/** One axis that has no key of its own: it shares the keys of its bank. */
export interface Row {
  axis: number;
  label: string;
  bank: number;
  minus: string;
  plus: string;
}

/** How one robot is driven from this page. */
export interface Layout {
  size: number;
  /** Of the directions that the picture shows. */
  motions: Motion[];
  pads: Pad[];
  rows: Row[];
  banks: number;
  /** Axes that Shift does not slow. */
  hands: Set<number>;
  hasPositions: boolean;
}

const DIRECTION_KEYS: Record<string, string> = {
  away: "w", "towards you": "s", left: "a", right: "d", up: "r", down: "f",
  "turn left": "q", "turn right": "e", "close hand": "j", "open hand": "k",
};
/** More with the upper row, less with the key below it: left hand, then right. T, P, U and 1 to 3 are verbs. */
const ROW_KEYS: [minus: string, plus: string][] = [
  ["a", "q"], ["s", "w"], ["d", "e"], ["f", "r"], ["h", "y"], ["k", "i"], ["l", "o"], ["x", "z"], ["v", "c"], ["n", "b"],
];
/** An arm has seven joints with its gripper: of two arms, each is a bank. */
const BANK = 7;
export const BANK_KEY = "g";
const SEND_EVERY_MS = 33;
const FINE = 0.3;
const DEAD_ZONE = 0.12;

/** Lay keys and pads out for a robot. */
export function layoutOf(axes: Axis[]): Layout {
  const ways = new Map<string, [number, number]>();
  axes.forEach((each, axis) => {
    if (!each.minus || !each.plus) return;
    ways.set(each.minus, [axis, -1]);
    ways.set(each.plus, [axis, 1]);
  });
  const motions = Object.entries(DIRECTION_KEYS).flatMap(([label, key]) => {
    const way = ways.get(label);
    return way ? [{ key, label, axis: way[0], sign: way[1] }] : [];
  });
  const [right, away, up, turn] = [ways.get("right"), ways.get("away"), ways.get("up"), ways.get("turn right")];
  const pads: Pad[] = [];
  if (right && away) pads.push({ name: "plane", label: "move in the plane", right, up: away });
  if (up) pads.push({ name: "height", label: "move up and down", up });
  if (turn) pads.push({ name: "turn", label: "turn the hand", right: turn });
  const free = ROW_KEYS.filter((pair) => !motions.some((motion) => pair.includes(motion.key))).slice(0, BANK);
  const others = axes.flatMap((each, axis) => (each.minus && each.plus ? [] : [axis]));
  const rows = others.map((axis, number) => {
    const [minus, plus] = free[number % free.length]!;
    return { axis, label: axes[axis]!.label, bank: Math.floor(number / free.length), minus, plus };
  });
  const close = ways.get("close hand");
  return {
    size: axes.length,
    motions,
    pads,
    rows,
    banks: Math.ceil(rows.length / free.length),
    hands: new Set(close ? [close[0]] : []),
    hasPositions: axes.some((each) => each.absolute),
  };
}

export class Hands {
  bank = 0;
  /** Deflections of pads and buttons by their names, of one axis each. */
  #pushed = new Map<string, [axis: number, value: number][]>();
  #held = new Set<string>();
  /** Pressed and let go between two sends: a short tap counts, too. */
  #tapped = new Set<string>();
  #flicked = new Map<string, [axis: number, value: number][]>();
  #fine = false;
  #timer = 0;
  #sequence = 0;
  #layout: Layout = layoutOf([]);

  constructor(private readonly send: (sequence: number, deflection: number[]) => void) {}

  set layout(layout: Layout) {
    this.release();
    this.#layout = layout;
    this.bank = 0;
  }

  start(): void {
    if (this.#timer) return;
    // The numbers go on from drive to drive: a robot drops what is older than the newest command of the lease.
    this.#timer = window.setInterval(() => this.send(++this.#sequence, this.deflection()), SEND_EVERY_MS);
  }

  stop(): void {
    window.clearInterval(this.#timer);
    this.#timer = 0;
    this.#tapped.clear();
    this.#flicked.clear();
  }

  /** Returns whether the key drives. One that repeats itself was let go of by the page: it has to be pressed anew. */
  press(key: string, repeats: boolean): boolean {
    if (!this.#ways(key).length) return false;
    if (repeats) return true;
    this.#held.add(key);
    this.#tapped.add(key);
    return true;
  }

  lift(key: string): void {
    this.#held.delete(key);
  }

  /** Let the shared keys move the next axes; what was held stands still. */
  nextBank(): boolean {
    if (this.#layout.banks < 2) return false;
    this.release();
    this.bank = (this.bank + 1) % this.#layout.banks;
    return true;
  }

  /** Deflect axes, each in [-1, 1], by a pad or a button, until it is let go. */
  push(name: string, deflections: [axis: number, value: number][]): void {
    if (deflections.some(([, value]) => value)) {
      this.#pushed.set(name, deflections);
      this.#flicked.set(name, deflections);
    } else this.#pushed.delete(name);
  }

  release(): void {
    this.#held.clear();
    this.#pushed.clear();
    this.#tapped.clear();
    this.#flicked.clear();
  }

  set fine(fine: boolean) {
    this.#fine = fine;
  }

  isHeld(key: string): boolean {
    return this.#held.has(key);
  }

  deflection(): number[] {
    const sum = new Array<number>(this.#layout.size).fill(0);
    const add = (axis: number, value: number): void => void (sum[axis]! += value);
    for (const key of new Set([...this.#held, ...this.#tapped])) for (const [axis, sign] of this.#ways(key)) add(axis, sign);
    this.#tapped.clear();
    for (const deflections of new Map([...this.#flicked, ...this.#pushed]).values()) for (const [axis, value] of deflections) add(axis, value);
    this.#flicked.clear();
    for (const [axis, value] of this.#gamepad()) add(axis, value);
    // The hand is not slower in fine mode: it opens and closes in steps of the simulator's own.
    return sum.map((value, axis) => clip(value) * (this.#fine && !this.#layout.hands.has(axis) ? FINE : 1));
  }

  #ways(key: string): [axis: number, sign: number][] {
    const { motions, rows } = this.#layout;
    const shared = rows.filter((row) => row.bank === this.bank && (row.minus === key || row.plus === key));
    return [
      ...motions.filter((motion) => motion.key === key).map((motion): [number, number] => [motion.axis, motion.sign]),
      ...shared.map((row): [number, number] => [row.axis, row.plus === key ? 1 : -1]),
    ];
  }

  /** Left stick: the plane. Right stick: height and turn. A closes, B opens the hand. Else the sticks are the bank's first four. */
  #gamepad(): [axis: number, value: number][] {
    const pad = navigator.getGamepads().find((each) => each !== null);
    if (!pad) return [];
    const stick = (index: number): number => {
      const value = pad.axes[index] ?? 0;
      return Math.abs(value) < DEAD_ZONE ? 0 : value;
    };
    const button = (index: number): number => Number(pad.buttons[index]?.pressed ?? false);
    const { motions, rows } = this.#layout;
    if (!motions.some((motion) => motion.label === "right")) {
      const sticks = [stick(0), -stick(1), stick(2), -stick(3)];
      return rows.filter((row) => row.bank === this.bank).slice(0, 4).map((row, number) => [row.axis, sticks[number]!]);
    }
    const values: Record<string, number> = {
      "towards you": stick(1), right: stick(0), down: stick(3), "turn right": stick(2), "close hand": button(0) - button(1),
    };
    return motions.flatMap(({ label, axis, sign }) => (label in values ? [[axis, sign * values[label]!] as [number, number]] : []));
  }
}

export const clip = (value: number): number => Math.max(-1, Math.min(1, value));
