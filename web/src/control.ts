// What the operator's hands do: keys, on-screen buttons and gamepad become one action, sent thirty times a second.

/** One direction of one action dimension, for the simulated arm: x, y, z, yaw, gripper. */
export interface Motion {
  key: string;
  label: string;
  dimension: number;
  sign: number;
}

export const MOTIONS: Motion[] = [
  { key: "w", label: "away", dimension: 0, sign: -1 },
  { key: "s", label: "towards you", dimension: 0, sign: 1 },
  { key: "a", label: "left", dimension: 1, sign: -1 },
  { key: "d", label: "right", dimension: 1, sign: 1 },
  { key: "r", label: "up", dimension: 2, sign: 1 },
  { key: "f", label: "down", dimension: 2, sign: -1 },
  { key: "q", label: "turn left", dimension: 3, sign: 1 },
  { key: "e", label: "turn right", dimension: 3, sign: -1 },
  { key: "j", label: "close hand", dimension: 4, sign: 1 },
  { key: "k", label: "open hand", dimension: 4, sign: -1 },
];
const ACTION_SIZE = 5;
const SEND_EVERY_MS = 33;
const FINE = 0.3;
/** Full deflection moves 5 cm per control step, one metre a second: too fast for a hand on a keyboard. */
const SPEED = [0.5, 0.5, 0.5, 0.5, 1];
const DEAD_ZONE = 0.12;

/** What can be dragged: a plane and two axes of the hand. Deflection is speed; let go, it springs back to standing still. */
export interface Pad {
  name: string;
  label: string;
  /** Dimension and sign of a push to the right and of one upwards; an axis has one of them. */
  right?: [number, number];
  up?: [number, number];
}

export const PADS: Pad[] = [
  { name: "plane", label: "move in the plane", right: [1, 1], up: [0, -1] },
  { name: "height", label: "move up and down", up: [2, 1] },
  { name: "turn", label: "turn the hand", right: [3, -1] },
];

export class Hands {
  #pushed = new Map<string, [number, number]>();
  #held = new Set<string>();
  /** Pressed and let go between two sends: a short tap counts, too. */
  #tapped = new Set<string>();
  #fine = false;
  #timer = 0;
  #sequence = 0;

  constructor(private readonly send: (sequence: number, action: number[]) => void) {}

  start(): void {
    if (this.#timer) return;
    // The numbers go on from drive to drive: a robot drops what is older than the newest command of the lease.
    this.#timer = window.setInterval(() => this.send(++this.#sequence, this.action()), SEND_EVERY_MS);
  }

  stop(): void {
    window.clearInterval(this.#timer);
    this.#timer = 0;
    this.#tapped.clear();
  }

  press(key: string): boolean {
    if (!MOTIONS.some((motion) => motion.key === key)) return false;
    this.#held.add(key);
    this.#tapped.add(key);
    return true;
  }

  lift(key: string): void {
    this.#held.delete(key);
  }

  /** Deflection of a pad, right and up, each in [-1, 1]; zeros when it was let go. */
  push(pad: string, right: number, up: number): void {
    if (right || up) this.#pushed.set(pad, [right, up]);
    else this.#pushed.delete(pad);
  }

  release(): void {
    this.#held.clear();
    this.#pushed.clear();
    this.#tapped.clear();
  }

  set fine(fine: boolean) {
    this.#fine = fine;
  }

  isHeld(key: string): boolean {
    return this.#held.has(key);
  }

  action(): number[] {
    const action = new Array<number>(ACTION_SIZE).fill(0);
    for (const motion of MOTIONS) {
      if (this.#held.has(motion.key) || this.#tapped.has(motion.key)) {
        action[motion.dimension]! += motion.sign * SPEED[motion.dimension]!;
      }
    }
    this.#tapped.clear();
    for (const pad of PADS) {
      const [right, up] = this.#pushed.get(pad.name) ?? [0, 0];
      for (const [way, value] of [[pad.right, right], [pad.up, up]] as const) {
        if (way) action[way[0]]! += way[1] * value * SPEED[way[0]]!;
      }
    }
    for (const [dimension, value] of gamepad().entries()) action[dimension]! += value * SPEED[dimension]!;
    const scale = this.#fine ? FINE : 1;
    // The hand is not slower in fine mode: it opens and closes in steps of the simulator's own.
    return action.map((value, dimension) => clip(dimension === 4 ? value : value * scale));
  }
}

/** Left stick: x and y. Right stick: z and yaw. A closes, B opens the hand. */
function gamepad(): number[] {
  const pad = navigator.getGamepads().find((each) => each !== null);
  if (!pad) return new Array<number>(ACTION_SIZE).fill(0);
  const axis = (index: number): number => {
    const value = pad.axes[index] ?? 0;
    return Math.abs(value) < DEAD_ZONE ? 0 : value;
  };
  const button = (index: number): number => Number(pad.buttons[index]?.pressed ?? false);
  return [axis(1), axis(0), -axis(3), -axis(2), button(0) - button(1)];
}

export const clip = (value: number): number => Math.max(-1, Math.min(1, value));
