// The WebSocket: the fleet's state and pose frames in, commands out. Reconnects for ever.

import { liveProtocols } from "./api";

/** One number of a robot's action. */
export interface Axis {
  label: string;
  absolute: boolean;
  /** Where less and more of it go, as the picture shows it. */
  minus: string | null;
  plus: string | null;
}

export interface Robot {
  robot_id: string;
  host_id: string;
  state: "help" | "fault" | "human" | "paused" | "stopped" | "autonomous" | "idle" | "offline";
  task: string;
  instruction: string;
  episode_id: string;
  step: number;
  time_limit: number;
  control_hz: number;
  embodiment: string;
  /** Empty between two episodes. */
  axes: Axis[];
  policy_version: number;
  sub_step_scores: number[];
  acted_by_human: boolean;
  phase: "autonomous" | "paused" | "human";
  lease: number;
  operator_id: string;
  client_id: string;
  reason: string;
  help_reason: string;
  help_for_s: number;
  label: string;
  /** No episode runs, and the next one waits for whoever controls the robot. */
  waits: boolean;
  fault: string;
  /** By the newest value network, of a state that may be a second old; null where there is none. */
  value: { episode_id: string; step: number; value: number } | null;
}

export interface Host {
  host_id: string;
  age_s: number;
  state: string;
  error: string;
  env_steps: number;
  spooled: number;
}

export interface StopOrder {
  stop_id: string;
  by: string;
  reason: string;
  at_s: number;
}

/** Who stopped all robots, and what their hosts say of it. */
export interface Stop {
  active: StopOrder[];
  hosts: {
    host_id: string;
    age_s: number;
    holds: boolean;
    stops: StopOrder[];
    robots: { robot_id: string; holds: boolean; error: string }[];
  }[];
  trouble: string;
}

export interface Fleet {
  bus: boolean;
  robots: Robot[];
  hosts: Host[];
  stop: Stop;
  learner: { age_s: number; stage: string; update: number; snapshot: number; policy_version: number } | null;
  coordinator: { age_s: number; version: number; episodes: number; quarantined: number } | null;
  values: { of: string; note: string };
}

export interface PoseFrame {
  robotId: string;
  step: number;
  lamps: number;
  time_s: number;
  /** Per body x, y, z, then the quaternion w, x, y, z. */
  poses: Float32Array;
  /** What the cameras see, of a robot that is not drawn from poses. */
  picture?: ImageBitmap;
}

const PICTURES = 2;
const VALUES_KEPT = 120;

/** One value of a robot's recent past. */
export type ValueAt = NonNullable<Robot["value"]>;

export interface Answer {
  request_id: string;
  refused: string;
  lease?: number;
  phase?: string;
  robot_time_s?: number;
}

export class Live {
  fleet: Fleet | null = null;
  clientId = "";
  connected = false;
  readonly frames = new Map<string, PoseFrame>();
  /** Each robot's last values, oldest first. */
  readonly values = new Map<string, ValueAt[]>();
  readonly listeners = new Set<() => void>();
  readonly frameListeners = new Set<(frame: PoseFrame) => void>();
  onExpired: () => void = () => {};
  /** Asked before each new attempt to connect: browsers are not told why a handshake was refused. */
  mayReconnect: () => Promise<boolean> = () => Promise.resolve(true);
  #socket: WebSocket | null = null;
  #watched: string[] = [];
  #hz = 10;
  #requests = new Map<string, [robotId: string, resolve: (answer: Answer) => void]>();
  /** The newest clock of each robot that this page has seen: it moves a robot only for who sees it as it is now. */
  #clocks = new Map<string, number>();
  #number = 0;

  open(): void {
    const url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/live`;
    const socket = new WebSocket(url, liveProtocols());
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    socket.onmessage = (event) => {
      if (event.data instanceof ArrayBuffer) this.#onPoses(event.data);
      else this.#onText(JSON.parse(event.data as string));
    };
    socket.onclose = (event) => {
      if (socket !== this.#socket) return;
      this.#lost();
      if (event.code === 4401) this.onExpired();
      else setTimeout(() => void this.#reconnect(socket), 1000);
    };
  }

  close(): void {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    this.#lost();
  }

  async #reconnect(lost: WebSocket): Promise<void> {
    if (lost === this.#socket && (await this.mayReconnect()) && lost === this.#socket) this.open();
  }

  #lost(): void {
    this.connected = false;
    for (const [, answer] of this.#requests.values()) answer({ request_id: "", refused: "the connection was lost" });
    this.#requests.clear();
    this.#notify();
  }

  /** Say whose poses the page draws now. */
  watch(robots: string[], hz: number): void {
    if (robots.join() === this.#watched.join() && hz === this.#hz) return;
    this.#watched = robots;
    this.#hz = hz;
    this.#send({ kind: "watch", robots, hz });
  }

  /** Send a command that nobody answers. */
  tell(robot_id: string, verb: "jog" | "keep", lease: number, rest: { sequence?: number; action?: number[] } = {}): void {
    this.#send({ kind: "command", robot_id, verb, lease, seen_s: this.#clocks.get(robot_id) ?? 0, ...rest });
  }

  /** Stop all robots. Returns whether it was sent. */
  stop(): boolean {
    return this.#send({ kind: "stop" });
  }

  /** Send a command and wait for the robot's answer. */
  ask(robot_id: string, verb: string, lease = 0): Promise<Answer> {
    const request_id = `r${++this.#number}`;
    if (!this.#send({ kind: "command", robot_id, verb, lease, seen_s: this.#clocks.get(robot_id) ?? 0, request_id })) {
      return Promise.resolve({ request_id, refused: "there is no connection to the console" });
    }
    return new Promise((resolve) => this.#requests.set(request_id, [robot_id, resolve]));
  }

  #send(message: unknown): boolean {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  #onText(message: { kind: string } & Record<string, unknown>): void {
    if (message.kind === "hello") {
      this.clientId = message.client_id as string;
      this.connected = true;
      this.#send({ kind: "watch", robots: this.#watched, hz: this.#hz });
    } else if (message.kind === "fleet") {
      this.fleet = message as unknown as Fleet;
      for (const robot of this.fleet.robots) if (robot.value) this.#keep(robot.robot_id, robot.value);
    } else if (message.kind === "answer") {
      const answer = message as unknown as Answer;
      const [robotId, resolve] = this.#requests.get(answer.request_id) ?? [];
      if (robotId && answer.robot_time_s) this.#clocks.set(robotId, answer.robot_time_s);
      resolve?.(answer);
      this.#requests.delete(answer.request_id);
    } else if (message.kind === "clocks") {
      for (const [robotId, time_s] of Object.entries(message.robots as Record<string, number>)) this.#clocks.set(robotId, time_s);
      // Thirty times a second nothing else changes.
      return;
    } else {
      console.warn(message);
    }
    this.#notify();
  }

  #onPoses(data: ArrayBuffer): void {
    const view = new DataView(data);
    for (let at = 0; at < data.byteLength; ) {
      const length = view.getUint32(at, true);
      if (view.getUint8(at + 4) === PICTURES) void parsePicture(data, at + 4, length).then((frame) => this.#take(frame));
      else this.#take(parseFrame(data, at + 4));
      at += 4 + length;
    }
    // Only now may the console send the next ones: a slow page skips frames instead of falling behind.
    requestAnimationFrame(() => this.#send({ kind: "ack" }));
  }

  #keep(robotId: string, value: ValueAt): void {
    const kept = this.values.get(robotId) ?? [];
    const last = kept.at(-1);
    if (last && last.episode_id === value.episode_id && last.step === value.step) return;
    kept.push(value);
    this.values.set(robotId, kept.slice(-VALUES_KEPT));
  }

  #take(frame: PoseFrame): void {
    const before = this.frames.get(frame.robotId);
    // Pictures are decoded side by side, and may be ready in another order.
    if (frame.picture && before && before.time_s > frame.time_s) {
      frame.picture.close();
      return;
    }
    before?.picture?.close();
    this.frames.set(frame.robotId, frame);
    for (const listener of this.frameListeners) listener(frame);
  }

  #notify(): void {
    for (const listener of this.listeners) listener();
  }
}

async function parsePicture(data: ArrayBuffer, at: number, length: number): Promise<PoseFrame> {
  const view = new DataView(data);
  const nameLength = view.getUint8(at + 1);
  const rest = at + 2 + nameLength;
  const jpeg = new Blob([data.slice(rest + 12, at + length)], { type: "image/jpeg" });
  return {
    robotId: new TextDecoder().decode(new Uint8Array(data, at + 2, nameLength)),
    step: view.getUint32(rest, true),
    lamps: 0,
    time_s: view.getFloat64(rest + 4, true),
    poses: new Float32Array(),
    picture: await createImageBitmap(jpeg),
  };
}

function parseFrame(data: ArrayBuffer, at: number): PoseFrame {
  const view = new DataView(data);
  const nameLength = view.getUint8(at + 1);
  const robotId = new TextDecoder().decode(new Uint8Array(data, at + 2, nameLength));
  const rest = at + 2 + nameLength;
  const bodies = view.getUint16(rest + 16, true);
  return {
    robotId,
    step: view.getUint32(rest, true),
    lamps: view.getUint32(rest + 4, true),
    time_s: view.getFloat64(rest + 8, true),
    // A copy, because the numbers may begin anywhere.
    poses: new Float32Array(data.slice(rest + 18, rest + 18 + bodies * 28)),
  };
}
