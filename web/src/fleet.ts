// The wall: one live tile per robot, those that need somebody first.

import { h, seconds, setText, words } from "./dom";
import type { Live, PoseFrame, Robot } from "./live";
import { Sparkline, showValue } from "./sparkline";
import { drawPicture, type Stage } from "./stage";

export const STATE_WORDS: Record<Robot["state"], string> = {
  help: "asks for help",
  fault: "fault",
  human: "human",
  paused: "paused",
  stopped: "stopped",
  autonomous: "autonomous",
  idle: "between episodes",
  offline: "offline",
};
const WALL_HZ = 12;

interface Tile {
  element: HTMLElement;
  canvas: HTMLCanvasElement;
  name: HTMLElement;
  state: HTMLElement;
  task: HTMLElement;
  instruction: HTMLElement;
  facts: HTMLElement;
  bar: HTMLProgressElement;
  steps: HTMLElement;
  spark: Sparkline;
  value: HTMLElement;
}

export class FleetWall {
  readonly element = h("main", { id: "main", class: "wall" });
  #grid = h("div", { class: "grid", role: "list", "aria-label": "robots" });
  #queue = h("section", { class: "queue", "aria-label": "robots that ask for help", "aria-live": "polite" });
  #empty = h("p", { class: "empty" });
  #tiles = new Map<string, Tile>();
  #dirty = new Set<string>();
  #drawing = false;
  readonly #onFleet = (): void => this.#update();
  readonly #onFrame = (frame: PoseFrame): void => this.#mark(frame);
  readonly #onKey = (event: KeyboardEvent): void => this.#key(event);

  constructor(
    private readonly live: Live,
    private readonly stage: () => Stage | null,
  ) {
    this.element.append(h("h1", { class: "sr-only" }, "Fleet"), this.#queue, this.#grid, this.#empty);
    live.listeners.add(this.#onFleet);
    live.frameListeners.add(this.#onFrame);
    document.addEventListener("keydown", this.#onKey);
    this.#update();
    for (const frame of live.frames.values()) this.#mark(frame);
  }

  close(): void {
    this.live.listeners.delete(this.#onFleet);
    this.live.frameListeners.delete(this.#onFrame);
    document.removeEventListener("keydown", this.#onKey);
  }

  #update(): void {
    const robots = this.live.fleet?.robots ?? [];
    setText(
      this.#empty,
      robots.length ? "" : this.live.fleet?.bus ? "No robot has been heard yet." : "The fleet's message bus is not there: start it with lwd up.",
    );
    for (const [id, tile] of this.#tiles) {
      if (!robots.some((robot) => robot.robot_id === id)) {
        tile.element.remove();
        this.#tiles.delete(id);
      }
    }
    robots.forEach((robot, index) => {
      const tile = this.#tiles.get(robot.robot_id) ?? this.#add(robot);
      // Moved only where the order differs, so that focus stays where it is.
      if (this.#grid.children[index] !== tile.element) {
        const focused = document.activeElement === tile.element;
        this.#grid.insertBefore(tile.element, this.#grid.children[index] ?? null);
        if (focused) tile.element.focus();
      }
      fill(tile, robot);
      const values = this.live.values.get(robot.robot_id) ?? [];
      tile.spark.show(values);
      showValue(tile.value, values, robot.episode_id);
    });
    this.#showQueue(robots);
    this.live.watch(robots.map((robot) => robot.robot_id).sort(), WALL_HZ);
  }

  #showQueue(robots: Robot[]): void {
    const waiting = robots.filter((robot) => robot.state === "help" || robot.state === "fault");
    const rows = waiting.map((robot) =>
      h(
        "a",
        { class: `ask ${robot.state}`, href: `#/robot/${robot.robot_id}` },
        h("strong", {}, robot.robot_id),
        h("span", {}, robot.fault || robot.help_reason),
        robot.state === "help" ? h("time", {}, `waits ${seconds(robot.help_for_s)}`) : null,
      ),
    );
    this.#queue.replaceChildren(
      h("h2", {}, waiting.length ? `${waiting.length} waiting for somebody` : "Nobody needs help"),
      ...rows,
    );
  }

  #add(robot: Robot): Tile {
    const canvas = h("canvas", { width: 320, height: 220, "aria-hidden": "true" });
    const part = (name: string): HTMLElement => h("span", { class: name });
    const tile: Tile = {
      element: h("a", { class: "tile", href: `#/robot/${robot.robot_id}`, "data-robot": robot.robot_id }),
      canvas,
      name: h("strong", {}, robot.robot_id),
      state: part("state"),
      task: part("task"),
      instruction: part("instruction"),
      facts: part("facts"),
      bar: h("progress", { max: 1, value: 0, "aria-label": "sub-steps done" }),
      steps: part("clock"),
      spark: new Sparkline(),
      value: part("clock"),
    };
    const head = h("div", { class: "tile-head" }, tile.name, tile.state);
    const foot = h(
      "div",
      { class: "tile-foot" },
      tile.task,
      tile.instruction,
      h("div", { class: "row" }, tile.bar, tile.steps),
      h("div", { class: "row" }, tile.spark.element, tile.value),
      tile.facts,
    );
    tile.element.append(head, canvas, foot);
    this.#grid.append(h("div", { role: "listitem", class: "cell" }, tile.element));
    tile.element = tile.element.parentElement as HTMLElement;
    this.#tiles.set(robot.robot_id, tile);
    return tile;
  }

  #mark(frame: PoseFrame): void {
    this.#dirty.add(frame.robotId);
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => this.#draw());
  }

  #draw(): void {
    this.#drawing = false;
    const stage = this.stage();
    for (const id of this.#dirty) {
      const tile = this.#tiles.get(id);
      const frame = this.live.frames.get(id);
      if (!tile || !frame || !isVisible(tile.canvas)) continue;
      const width = Math.round(tile.canvas.clientWidth);
      const height = Math.round(tile.canvas.clientHeight);
      if (tile.canvas.width !== width) tile.canvas.width = width;
      if (tile.canvas.height !== height) tile.canvas.height = height;
      if (frame.picture) drawPicture(tile.canvas, frame.picture);
      else stage?.draw(tile.canvas, frame.poses, frame.lamps);
    }
    this.#dirty.clear();
  }

  #key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const links = [...this.#grid.querySelectorAll<HTMLAnchorElement>("a.tile")];
    const at = links.indexOf(document.activeElement as HTMLAnchorElement);
    const columns = Math.max(1, Math.round(this.#grid.clientWidth / (links[0]?.offsetWidth || 1)));
    const move = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
    if (move !== undefined && links.length) {
      links[at < 0 ? 0 : Math.max(0, Math.min(links.length - 1, at + move))]?.focus();
      event.preventDefault();
    } else if (event.key === "n") {
      const first = this.live.fleet?.robots.find((robot) => robot.state === "help");
      if (first) location.hash = `#/robot/${first.robot_id}`;
    }
  }
}

function fill(tile: Tile, robot: Robot): void {
  tile.element.dataset.state = robot.state;
  setText(tile.state, STATE_WORDS[robot.state] + (robot.operator_id ? ` (${robot.operator_id})` : ""));
  setText(tile.task, robot.task ? words(robot.task) : "no episode");
  setText(tile.instruction, robot.instruction ? `“${robot.instruction}”` : " ");
  const done = robot.sub_step_scores.filter((score) => score > 0).length;
  tile.bar.max = Math.max(1, robot.sub_step_scores.length);
  tile.bar.value = done;
  setText(tile.steps, robot.time_limit ? `${episodeClock(robot)} · ${done}/${robot.sub_step_scores.length}` : "");
  setText(tile.facts, facts(robot));
}

export function episodeClock(robot: Robot): string {
  if (!robot.control_hz) return `step ${robot.step}`;
  const total = robot.time_limit / robot.control_hz;
  return `${(robot.step / robot.control_hz).toFixed(1)} of ${total.toFixed(0)} s`;
}

function facts(robot: Robot): string {
  const version = robot.policy_version >= 0 ? `policy ${robot.policy_version}` : "no policy";
  const scripted = robot.acted_by_human && robot.phase === "autonomous" ? " · scripted help" : "";
  return robot.fault || robot.help_reason || `${version} · ${robot.host_id}${scripted}`;
}

function isVisible(element: HTMLElement): boolean {
  const box = element.getBoundingClientRect();
  return box.bottom > 0 && box.top < window.innerHeight && box.width > 0;
}

