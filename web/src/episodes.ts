// Episodes of any snapshot: a filtered list, and one episode in detail.

import { getBytes, getJson, post } from "./api";
import { clock, colour, h, setText, words } from "./dom";
import { table } from "./learning";
import { chart } from "./chart";
import { Reel } from "./reel";
import type { Stage } from "./stage";

interface Row {
  episode_id: string;
  robot_id: string;
  task: string;
  instruction: string;
  source: string;
  outcome: string;
  policy_version: number;
  steps: number;
  human_steps: number;
  interventions: number;
  control_hz: number;
  started_at_s: number;
  snapshot: number;
  sub_step_scores: number[];
  world: string;
}

interface Page {
  snapshot: number;
  episodes: number;
  matching: number;
  rows: Row[];
  tasks: string[];
  robots: string[];
  policy_versions: number[];
}

const PAGE = 50;
const OUTCOMES = ["success", "failure", "time_limit", "truncated"];
const SOURCES = ["fleet", "demonstration", "rollout", "play"];

export class EpisodesPage {
  readonly element = h("main", { id: "main", class: "page" });
  #filters = new URLSearchParams(location.hash.split("?")[1] ?? "source=fleet");
  #form = h("form", { class: "filters", "aria-label": "conditions" });
  #count = h("p", { class: "note", role: "status" });
  #list = h("div", {});
  #offset = 0;

  constructor(private readonly mayExport: boolean) {
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    this.element.append(h("h1", {}, "Episodes"), this.#form, this.#count, this.#list);
    void this.#load();
  }

  close(): void {}

  async #load(): Promise<void> {
    const query = new URLSearchParams(this.#filters);
    query.set("offset", String(this.#offset));
    query.set("limit", String(PAGE));
    let page: Page;
    try {
      page = await getJson<Page>(`/api/episodes?${query}`);
    } catch (error) {
      setText(this.#count, (error as Error).message);
      return;
    }
    if (!this.#form.childElementCount) this.#showForm(page);
    const last = Math.min(this.#offset + PAGE, page.matching);
    setText(this.#count, `${page.matching ? this.#offset + 1 : 0} to ${last} of ${page.matching} matching episodes; snapshot ${page.snapshot} has ${page.episodes}`);
    this.#list.replaceChildren(
      ...(this.mayExport && page.matching > 0 ? [h("p", { class: "note" }, this.#export(page))] : []),
      table(
        ["began", "robot", "task", "outcome", "policy", "steps", "human", "take-overs", "snapshot", ""],
        page.rows.map((row) => [
          clock(row.started_at_s),
          row.robot_id,
          words(row.task),
          h("span", { class: `outcome ${row.outcome}` }, words(row.outcome)),
          row.policy_version >= 0 ? String(row.policy_version) : "none",
          String(row.steps),
          String(row.human_steps),
          String(row.interventions),
          String(row.snapshot),
          h("a", { href: `#/episode/${row.robot_id}/${row.episode_id}`, "aria-label": `open episode ${row.episode_id} of ${row.robot_id}` }, "open"),
        ]),
      ),
      h(
        "div",
        { class: "row" },
        h("button", { type: "button", disabled: this.#offset === 0, onclick: () => this.#turn(-PAGE) }, "Newer"),
        h("button", { type: "button", disabled: last >= page.matching, onclick: () => this.#turn(PAGE) }, "Older"),
      ),
    );
  }

  /** All matching episodes of the snapshot that is shown, not only this page's. */
  #export(page: Page): HTMLElement {
    const query = new URLSearchParams(this.#filters);
    query.set("snapshot", String(page.snapshot));
    return h("a", { href: `/api/export?${query}`, download: true, "data-export": true }, `Download ${page.matching} ${page.matching === 1 ? "episode" : "episodes"} (tar)`);
  }

  #turn(by: number): void {
    this.#offset = Math.max(0, this.#offset + by);
    void this.#load();
  }

  #showForm(page: Page): void {
    this.#form.append(
      this.#select("task", "Task", page.tasks),
      this.#select("robot", "Robot", page.robots),
      this.#select("outcome", "Outcome", OUTCOMES),
      this.#select("policy_version", "Policy", page.policy_versions.map(String)),
      this.#select("source", "Source", SOURCES),
      this.#select("helped", "Human steps", ["true", "false"], { true: "with", false: "without" }),
      h(
        "label",
        {},
        "Snapshot",
        h("input", { type: "number", min: 0, name: "snapshot", placeholder: "newest", value: this.#filters.get("snapshot") ?? "", onchange: (event: Event) => this.#set("snapshot", (event.target as HTMLInputElement).value) }),
      ),
    );
  }

  #select(name: string, label: string, values: string[], shown: Record<string, string> = {}): HTMLElement {
    const options = ["", ...values].map((value) =>
      h("option", { value, selected: (this.#filters.get(name) ?? "") === value }, value === "" ? "any" : (shown[value] ?? words(value))),
    );
    return h("label", {}, label, h("select", { name, onchange: (event: Event) => this.#set(name, (event.target as HTMLSelectElement).value) }, ...options));
  }

  #set(name: string, value: string): void {
    if (value) this.#filters.set(name, value);
    else this.#filters.delete(name);
    this.#offset = 0;
    history.replaceState(null, "", `#/episodes?${this.#filters}`);
    void this.#load();
  }
}

interface Detail extends Row {
  controllers: number[];
  actions: number[][];
  operator_ids: string[];
  operator_steps: number[];
  seed: number;
  sha256: string;
  software_version: string;
  cameras: Record<string, number>;
}

interface Track {
  steps: number;
  bodies: number;
  atoms: number[];
  value?: number[];
  value_name?: string;
  value_of?: string;
  notes: string[];
  poses: Float32Array;
  lamps: Uint32Array;
  probs: Float32Array;
}

const FILM_FRAMES = 8;
/** What is known before simulator and networks have answered. */
const NO_TRACK: Track = { steps: 0, bodies: 0, atoms: [], notes: [], poses: new Float32Array(), lamps: new Uint32Array(), probs: new Float32Array() };

export class EpisodePage {
  readonly element = h("main", { id: "main", class: "page" }, h("p", { class: "empty" }, "reading the episode …"));
  #timer = 0;
  /** What is looked at, also when values and replay come later than the recorded pictures. */
  #step = 0;

  constructor(
    /** ROBOT/ID; neither holds what a path would have to encode. */
    private readonly identity: string,
    private readonly stage: () => Stage | null,
    private readonly mayLabel: boolean,
  ) {
    void this.#load();
  }

  close(): void {
    this.#stop();
  }

  #stop(): void {
    window.clearInterval(this.#timer);
    this.#timer = 0;
  }

  async #load(): Promise<void> {
    try {
      const detail = await getJson<Detail>(`/api/episodes/${this.identity}`);
      const note = h("p", { class: "empty" }, Object.keys(detail.cameras).length ? "computing its values …" : "replaying it in the simulator …");
      const tracked = h("div", {}, ...this.#player(detail, NO_TRACK), note);
      this.element.replaceChildren(...this.#head(detail), tracked, ...this.#charts(detail));
      try {
        const track = parseTrack(await getBytes(`/api/episodes/${this.identity}/track`));
        this.#stop();
        tracked.replaceChildren(...this.#player(detail, track));
      } catch (error) {
        note.replaceWith(h("p", { class: "message", role: "alert" }, (error as Error).message));
      }
    } catch (error) {
      this.element.replaceChildren(h("h1", {}, "Episode"), h("p", { class: "message", role: "alert" }, (error as Error).message));
    }
  }

  #head(detail: Detail): HTMLElement[] {
    const facts: [string, string][] = [
      ["Instruction", detail.instruction],
      ["Robot", `${detail.robot_id}, world ${detail.world}`],
      ["Began", new Date(detail.started_at_s * 1000).toLocaleString()],
      ["Length", `${detail.steps} steps, ${(detail.steps / detail.control_hz).toFixed(1)} s`],
      ["Policy", detail.policy_version >= 0 ? `version ${detail.policy_version}` : "none"],
      ["Human steps", detail.human_steps ? `${detail.human_steps} in ${detail.interventions} take-overs` : "none"],
      ["Operators", detail.operator_ids.map((id, index) => `${id} from step ${detail.operator_steps[index]}`).join(", ") || "none named"],
      ["Snapshot", `${detail.snapshot}`],
    ];
    return [
      h("p", {}, h("a", { href: "#/episodes" }, "all episodes")),
      h("h1", {}, `${words(detail.task)}: `, h("span", { class: `outcome ${detail.outcome}` }, words(detail.outcome))),
      h("p", { class: "note id" }, detail.episode_id),
      h("dl", { class: "facts wide" }, ...facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
      ...(this.mayLabel ? [this.#labels(detail)] : []),
    ];
  }

  /** Another outcome: a new snapshot holds a corrected copy, the log's history the old label. */
  #labels(detail: Detail): HTMLElement {
    const message = h("span", { class: "message", role: "alert" });
    const change = async (outcome: string): Promise<void> => {
      try {
        const path = `/api/episodes/${this.identity}/label`;
        const changed = await post<{ episode_id: string }>(path, { outcome });
        location.hash = `#/episode/${detail.robot_id}/${changed.episode_id}`;
      } catch (error) {
        setText(message, (error as Error).message);
      }
    };
    const others = ["success", "failure"].filter((outcome) => outcome !== detail.outcome);
    return h(
      "div",
      { class: "row" },
      ...others.map((outcome) => h("button", { type: "button", onclick: () => void change(outcome) }, `It was a ${outcome}`)),
      message,
    );
  }

  #charts(detail: Detail): HTMLElement[] {
    const steps = detail.controllers.map((_, step) => step);
    const names = ["x", "y", "z", "yaw", "hand"];
    const size = detail.actions[0]?.length ?? 0;
    return [
      h("h2", {}, "Actions"),
      h(
        "div",
        { class: "charts" },
        ...Array.from({ length: size }, (_, dimension) =>
          chart([{ x: steps, y: detail.actions.map((action) => action[dimension] ?? null), tone: dimension % 3 }], { title: size === names.length ? names[dimension]! : `action ${dimension}`, xLabel: "step" }),
        ),
      ),
    ];
  }

  #player(detail: Detail, track: Track): HTMLElement[] {
    const parts: HTMLElement[] = [];
    const marks: ((step: number) => void)[] = [];
    const reels = Object.entries(detail.cameras).map(([camera, frames]) => new Reel(this.identity, camera, frames, FILM_FRAMES));
    if (reels.length) {
      marks.push((step) => reels.forEach((reel) => reel.show(step)));
      parts.push(h("div", { class: "reels" }, ...reels.map((reel) => reel.element)));
    }
    if (track.bodies) {
      const canvas = h("canvas", { class: "replay", width: 640, height: 400, role: "img", "aria-label": "the episode, replayed" });
      marks.push((step) => this.#draw(canvas, track, step));
      parts.push(h("div", { class: "film", "aria-hidden": "true" }, ...this.#film(track)), canvas);
    }
    const pictures = parts.length;
    parts.push(controlBand(detail));
    if (track.value) {
      const heat = h("canvas", { class: "heat", width: 960, height: 160, role: "img", "aria-label": `value distribution over the steps, ${track.value_name}` });
      marks.push((step) => drawHeat(heat, track, step));
      parts.push(h("h2", {}, `Value and its distribution (${track.value_of ?? ""})`), heat, h("p", { class: "note" }, `line: ${track.value_name}; from ${+track.atoms[0]!.toPrecision(3)} to ${+track.atoms.at(-1)!.toPrecision(3)}`));
    }
    parts.push(...track.notes.map((note) => h("p", { class: "note" }, note)));
    if (!marks.length) return parts;
    const slider = h("input", { type: "range", min: 0, max: detail.controllers.length, value: 0, "aria-label": "step" });
    const label = h("output", {}, "step 0");
    const go = (step: number): void => {
      this.#step = step;
      slider.value = String(step);
      setText(label, `step ${step} of ${detail.controllers.length}: ${step < detail.controllers.length ? who(detail, step) : words(detail.outcome)}`);
      for (const mark of marks) mark(step);
    };
    slider.addEventListener("input", () => go(Number(slider.value)));
    const play = h("button", { type: "button", onclick: () => this.#play(play, slider, go, detail.controllers.length, detail.control_hz) }, "Play");
    parts.splice(pictures, 0, h("div", { class: "row player" }, play, slider, label));
    // Once the canvases are in the page, and have a size.
    requestAnimationFrame(() => go(this.#step));
    return parts;
  }

  #play(button: HTMLButtonElement, slider: HTMLInputElement, go: (step: number) => void, steps: number, hz: number): void {
    if (this.#timer) {
      this.#stop();
      setText(button, "Play");
      return;
    }
    setText(button, "Pause");
    let step = Number(slider.value) >= steps ? 0 : Number(slider.value);
    this.#timer = window.setInterval(() => {
      go(step);
      if (step++ >= steps) {
        this.#stop();
        setText(button, "Play");
      }
    }, 1000 / hz);
  }

  #film(track: Track): HTMLElement[] {
    return Array.from({ length: FILM_FRAMES }, (_, index) => {
      const canvas = h("canvas", { width: 160, height: 110 });
      this.#draw(canvas, track, Math.round((index * track.steps) / (FILM_FRAMES - 1)));
      return canvas;
    });
  }

  #draw(canvas: HTMLCanvasElement, track: Track, step: number): void {
    const size = 7 * track.bodies;
    this.stage()?.draw(canvas, track.poses.subarray(step * size, (step + 1) * size), track.lamps[step] ?? 0);
  }
}

/** Values of lwd.types.Controller; at a gap the robot was held, and no step was made. */
const HUMAN = 1;
const GAP = 2;

function who(detail: Detail, step: number): string {
  if (detail.controllers[step] === GAP) return "nobody";
  if (detail.controllers[step] !== HUMAN) return "policy";
  const at = detail.operator_steps.findLastIndex((first) => first <= step);
  return at < 0 ? "human" : detail.operator_ids[at]!;
}

/** Who was in control when: one band, a part per run of steps. */
function controlBand(detail: Detail): HTMLElement {
  const band = h("div", { class: "band", role: "img", "aria-label": "who was in control" });
  let first = 0;
  for (let step = 1; step <= detail.controllers.length; step++) {
    if (step < detail.controllers.length && who(detail, step) === who(detail, first)) continue;
    const name = who(detail, first);
    const part = h("span", { class: name === "policy" || name === "nobody" ? name : "person", title: `${name}, steps ${first} to ${step - 1}` }, name);
    part.style.flexGrow = String(step - first);
    band.append(part);
    first = step;
  }
  return band;
}

function drawHeat(canvas: HTMLCanvasElement, track: Track, at: number): void {
  const context = canvas.getContext("2d");
  if (!context) return;
  const atoms = track.atoms.length;
  const states = track.steps + 1;
  const [width, height] = [canvas.width, canvas.height];
  context.clearRect(0, 0, width, height);
  context.fillStyle = colour("tone0");
  for (let step = 0; step < states; step++) {
    let most = 0;
    for (let atom = 0; atom < atoms; atom++) most = Math.max(most, track.probs[step * atoms + atom]!);
    for (let atom = 0; atom < atoms; atom++) {
      const share = track.probs[step * atoms + atom]! / most;
      if (share < 0.02) continue;
      context.globalAlpha = 0.75 * share;
      context.fillRect((step * width) / states, height - ((atom + 1) * height) / atoms, width / states + 0.5, height / atoms + 0.5);
    }
  }
  context.globalAlpha = 1;
  const low = track.atoms[0]!;
  const range = track.atoms.at(-1)! - low;
  context.strokeStyle = colour("tone1");
  context.lineWidth = 2;
  context.beginPath();
  track.value!.forEach((value, step) => context.lineTo(((step + 0.5) * width) / states, height - ((value - low) / range) * height));
  context.stroke();
  context.fillStyle = colour("text");
  context.fillRect(((at + 0.5) * width) / states - 1, 0, 2, height);
}

function parseTrack(data: ArrayBuffer): Track {
  const headLength = new DataView(data).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, headLength))) as Omit<Track, "poses" | "lamps" | "probs">;
  const states = head.steps + 1;
  let at = 4 + headLength;
  const poses = new Float32Array(data, at, states * head.bodies * 7);
  at += poses.byteLength;
  const lamps = new Uint32Array(data, at, head.bodies ? states : 0);
  at += lamps.byteLength;
  const probs = new Float32Array(data, at, states * head.atoms.length);
  return { ...head, poses, lamps, probs };
}
