// One robot: large picture, take-over, driving, labels.

import { h, seconds, setText, words } from "./dom";
import { BANK_KEY, Hands } from "./control";
import { DrivePanel } from "./drive";
import { STATE_WORDS, episodeClock } from "./fleet";
import type { Live, PoseFrame, Robot } from "./live";
import { inWords } from "./sparkline";
import { FRONT, drawPicture, type Stage, type View } from "./stage";

const ROBOT_HZ = 20;
const KEEP_EVERY_MS = 2000;

interface Verb {
  verb: string;
  key: string;
  label: string;
  /** Whether it makes sense now. */
  when: (robot: Robot, mine: boolean) => boolean;
}

const VERBS: Verb[] = [
  { verb: "take", key: "t", label: "Take over", when: (robot, mine) => !mine && robot.lease === 0 },
  { verb: "resume", key: "Enter", label: "Drive", when: (robot, mine) => mine && robot.phase === "paused" && !robot.label && robot.state !== "stopped" },
  { verb: "pause", key: "p", label: "Hold", when: (robot, mine) => mine && robot.phase === "human" },
  { verb: "release", key: "Escape", label: "Hand back", when: (robot, mine) => mine && !robot.label },
  { verb: "success", key: "1", label: "Success", when: (robot, mine) => mine && !robot.label },
  { verb: "failure", key: "2", label: "Failure", when: (robot, mine) => mine && !robot.label },
  { verb: "discard", key: "3", label: "Discard", when: (robot, mine) => mine && !robot.label },
  { verb: "undo", key: "u", label: "Undo label", when: (robot, mine) => mine && !!robot.label },
];

export class RobotView {
  readonly element = h("main", { id: "main", class: "robot" });
  #canvas = h("canvas", { class: "big", "aria-label": "the robot, drawn from its poses", role: "img" });
  #title = h("h1", {});
  #state = h("p", { class: "big-state", role: "status" });
  #message = h("p", { class: "message", role: "alert" });
  #facts = h("dl", { class: "facts" });
  #buttons = new Map<string, HTMLButtonElement>();
  #hands: Hands;
  #drive: DrivePanel;
  #view: View = { ...FRONT };
  #keep: number;
  #drawing = false;
  #sharpness = 1;
  #drawn_ms = 0;
  readonly #onFleet = (): void => this.#update();
  readonly #onFrame = (frame: PoseFrame): void => {
    if (frame.robotId === this.robotId) this.#mark();
  };
  readonly #onKeyDown = (event: KeyboardEvent): void => this.#down(event);
  readonly #onKeyUp = (event: KeyboardEvent): void => this.#up(event);
  readonly #onBlur = (): void => {
    this.#hands.release();
    this.#drive.showKeys();
  };

  constructor(
    private readonly live: Live,
    private readonly stage: () => Stage | null,
    private readonly robotId: string,
    private readonly mayDrive: boolean,
  ) {
    this.#hands = new Hands((sequence, action) => {
      const robot = this.#robot();
      if (robot && this.#mine(robot)) live.tell(robotId, "jog", robot.lease, { sequence, action });
    });
    this.#drive = new DrivePanel(this.#hands);
    this.#keep = window.setInterval(() => {
      const robot = this.#robot();
      if (robot && this.#mine(robot)) live.tell(robotId, "keep", robot.lease);
    }, KEEP_EVERY_MS);
    this.element.append(
      h("div", { class: "picture" }, this.#canvas),
      h(
        "aside",
        { class: "panel" },
        this.#title,
        this.#state,
        this.#message,
        h("div", { class: "verbs" }, ...VERBS.map((verb) => this.#verbButton(verb))),
        this.#drive.element,
        this.#facts,
      ),
    );
    this.#lookAround();
    live.listeners.add(this.#onFleet);
    live.frameListeners.add(this.#onFrame);
    document.addEventListener("keydown", this.#onKeyDown);
    document.addEventListener("keyup", this.#onKeyUp);
    window.addEventListener("blur", this.#onBlur);
    live.watch([robotId], ROBOT_HZ);
    this.#update();
    this.#mark();
  }

  close(): void {
    const robot = this.#robot();
    // Leaving the page leaves the robot holding: nobody drives what they do not see.
    if (robot && this.#mine(robot) && robot.phase === "human") void this.live.ask(this.robotId, "pause", robot.lease);
    this.#hands.stop();
    this.#hands.release();
    window.clearInterval(this.#keep);
    this.live.listeners.delete(this.#onFleet);
    this.live.frameListeners.delete(this.#onFrame);
    document.removeEventListener("keydown", this.#onKeyDown);
    document.removeEventListener("keyup", this.#onKeyUp);
    window.removeEventListener("blur", this.#onBlur);
  }

  #robot(): Robot | undefined {
    return this.live.fleet?.robots.find((robot) => robot.robot_id === this.robotId);
  }

  #mine(robot: Robot): boolean {
    return robot.lease > 0 && robot.client_id === this.live.clientId;
  }

  #verbButton(verb: Verb): HTMLButtonElement {
    const shown = verb.key === "Escape" ? "Esc" : verb.key.length === 1 ? verb.key.toUpperCase() : verb.key;
    const button = h(
      "button",
      { type: "button", "data-verb": verb.verb, onclick: () => void this.#do(verb.verb) },
      verb.label,
      h("kbd", {}, shown),
    );
    this.#buttons.set(verb.verb, button);
    return button;
  }

  async #do(verb: string): Promise<void> {
    const robot = this.#robot();
    if (!robot) return;
    const answer = await this.live.ask(this.robotId, verb, verb === "take" ? 0 : robot.lease);
    setText(this.#message, answer.refused);
    // At once, not only with the fleet's next state: the robot waits for commands.
    if (answer.phase === "human") this.#hands.start();
  }

  #down(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    this.#hands.fine = event.shiftKey;
    const robot = this.#robot();
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    // Also while it holds: a key that is down already counts from the moment on at which one drives.
    if (robot && this.#mine(robot) && this.#hands.press(key, event.repeat)) {
      event.preventDefault();
      this.#drive.showKeys();
      return;
    }
    if (key === BANK_KEY && !event.repeat && this.#drive.nextBank()) return;
    const verb = VERBS.find((each) => each.key === key);
    if (!verb || event.repeat || !robot || !this.mayDrive) return;
    if (key === "Enter" && document.activeElement instanceof HTMLButtonElement) return;
    if (verb.when(robot, this.#mine(robot))) {
      event.preventDefault();
      void this.#do(verb.verb);
    } else if (verb.verb === "take" && robot.lease > 0 && !this.#mine(robot)) {
      void this.#do("take");
    } else if (key === "Escape" && !this.#mine(robot)) {
      location.hash = "#/";
    }
  }

  #up(event: KeyboardEvent): void {
    this.#hands.fine = event.shiftKey;
    this.#hands.lift(event.key.length === 1 ? event.key.toLowerCase() : event.key);
    this.#drive.showKeys();
  }

  #update(): void {
    const robot = this.#robot();
    if (!robot) {
      setText(this.#title, this.robotId);
      setText(this.#state, this.live.connected ? "this robot has not been heard" : "no connection to the console");
      return;
    }
    const mine = this.#mine(robot);
    this.element.dataset.state = robot.state;
    this.element.dataset.mine = String(mine);
    setText(this.#title, `${robot.robot_id}: ${robot.task ? words(robot.task) : "no episode"}`);
    setText(this.#state, stateInWords(robot, mine));
    if (mine && robot.phase === "human" && this.live.connected) this.#hands.start();
    else this.#hands.stop();
    for (const verb of VERBS) {
      const button = this.#buttons.get(verb.verb)!;
      button.disabled = !this.mayDrive || !verb.when(robot, mine);
    }
    this.#drive.show(robot.axes);
    this.#drive.enable(mine && robot.phase === "human", mine);
    this.#showFacts(robot);
  }

  #showFacts(robot: Robot): void {
    const done = robot.sub_step_scores.filter((score) => score > 0).length;
    const facts: [string, string][] = [
      ["Instruction", robot.instruction || "none"],
      ["Episode", `${episodeClock(robot)}, sub-steps ${done} of ${robot.sub_step_scores.length}`],
      ["Policy", robot.policy_version >= 0 ? `version ${robot.policy_version}` : "none"],
      ["Control", robot.operator_id ? `${robot.operator_id}, lease ${robot.lease}` : "its policy"],
      ["Host", robot.host_id],
      ["Value", this.#value(robot)],
    ];
    if (robot.help_reason) facts.push(["Asks for help", `${robot.help_reason}, ${seconds(robot.help_for_s)} ago`]);
    if (robot.fault) facts.push(["Fault", robot.fault]);
    facts.forEach(([name, value], index) => {
      const dt = this.#facts.children[2 * index] as HTMLElement | undefined;
      if (dt) {
        setText(dt, name);
        setText(this.#facts.children[2 * index + 1] as HTMLElement, value);
      } else this.#facts.append(h("dt", {}, name), h("dd", {}, value));
    });
    while (this.#facts.children.length > 2 * facts.length) this.#facts.lastElementChild!.remove();
  }

  #value(robot: Robot): string {
    const last = this.live.values.get(robot.robot_id)?.at(-1);
    const { of, note } = this.live.fleet!.values;
    if (last?.episode_id === robot.episode_id) return `${inWords(last.value)} (${of})`;
    return note || "not known yet";
  }

  /** Draw fewer pixels where drawing is slow (no GPU): commands must not wait for pictures. */
  #pace(drawn_ms: number): void {
    this.#drawn_ms += 0.2 * (drawn_ms - this.#drawn_ms);
    if (this.#drawn_ms > 30 && this.#sharpness > 0.35) {
      this.#sharpness *= 0.85;
      this.#drawn_ms = 15;
    }
  }

  #lookAround(): void {
    this.#canvas.addEventListener("pointermove", (event) => {
      if (!event.buttons) return;
      this.#view.azimuth -= event.movementX * 0.008;
      this.#view.elevation = Math.max(0.1, Math.min(1.5, this.#view.elevation + event.movementY * 0.008));
      this.#mark();
    });
    this.#canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.#view.distance = Math.max(0.4, Math.min(3, this.#view.distance * (1 + event.deltaY * 0.001)));
      this.#mark();
    });
  }

  #mark(): void {
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      const frame = this.live.frames.get(this.robotId);
      const stage = this.stage();
      if (!frame || !(stage || frame.picture)) return;
      const width = Math.round(this.#canvas.clientWidth * this.#sharpness);
      const height = Math.round(this.#canvas.clientHeight * this.#sharpness);
      if (this.#canvas.width !== width) this.#canvas.width = width;
      if (this.#canvas.height !== height) this.#canvas.height = height;
      const begun = performance.now();
      if (frame.picture) drawPicture(this.#canvas, frame.picture);
      else stage?.draw(this.#canvas, frame.poses, frame.lamps, this.#view);
      this.#pace(performance.now() - begun);
      this.#canvas.dataset.step = String(frame.step);
    });
  }
}

function stateInWords(robot: Robot, mine: boolean): string {
  if (robot.state === "stopped") return robot.fault || "stopped";
  if (robot.label) return `labelled ${words(robot.label)}: U takes it back`;
  if (mine && robot.phase === "human") return "you drive";
  if (mine && robot.waits) return `holds for you (${robot.reason}): Enter begins the next episode, the robot moves to its start`;
  if (mine) return `holds for you (${robot.reason}): Enter to drive`;
  if (robot.operator_id) return `${robot.operator_id} controls it${robot.phase === "paused" ? `, holding (${robot.reason})` : ""}`;
  if (robot.state === "paused") return `holds (${robot.reason})`;
  return STATE_WORDS[robot.state] + (robot.help_reason ? `: ${robot.help_reason}` : "");
}
