// Stop all robots: the red button, its key, and who has stopped them. On every page, from the moment on at which one is in.

import { post } from "./api";
import { clock, h, setText } from "./dom";
import type { Host, Live, Stop } from "./live";

export const STOP_KEY = "Backspace";
/** Without an answer for so long, one has to be told to use another button. */
const PATIENCE_MS = 1500;
const SILENT_S = 5;
const ELSEWHERE = "use the robots' own emergency stop, or on the fleet's machine: lwd stop";

export class StopControl {
  readonly button = h(
    "button",
    { type: "button", class: "stop", "aria-keyshortcuts": STOP_KEY, onclick: () => this.press() },
    "Stop all robots",
    h("kbd", {}, STOP_KEY),
  );
  readonly banner = h("section", { class: "stopped", "aria-label": "stop of all robots", hidden: true });
  #who = h("strong", { role: "alert" });
  #hosts = h("p", {});
  #trouble = h("p", { class: "trouble", role: "alert" });
  #ask = h("button", { type: "button", onclick: () => this.#open(true) }, "Release…");
  #reason = h("input", { name: "reason", required: true, maxlength: 200, placeholder: "why they may move again" });
  #form = h(
    "form",
    { hidden: true, onsubmit: (event: Event) => this.#release(event) },
    h("label", {}, "Reason ", this.#reason),
    h("button", { type: "submit" }, "Release: robots go to their starts"),
    h("button", { type: "button", onclick: () => this.#open(false) }, "Keep stopped"),
  );
  #pressed_ms = 0;
  #failure = "";
  #timer = 0;
  readonly #onFleet = (): void => this.#show();
  readonly #onKey = (event: KeyboardEvent): void => {
    if (event.key !== STOP_KEY || event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    // Before whatever else listens, and with Shift too, which slows the hands of who drives.
    event.preventDefault();
    event.stopPropagation();
    if (!event.repeat) this.press();
  };

  constructor(
    private readonly live: Live,
    mayRelease: boolean,
  ) {
    this.banner.append(this.#who, this.#hosts, this.#trouble);
    if (mayRelease) this.banner.append(this.#ask, this.#form);
    else this.banner.append(h("p", {}, "An operator or an administrator releases them."));
    live.listeners.add(this.#onFleet);
    document.addEventListener("keydown", this.#onKey, { capture: true });
    this.#show();
  }

  close(): void {
    window.clearTimeout(this.#timer);
    this.live.listeners.delete(this.#onFleet);
    document.removeEventListener("keydown", this.#onKey, { capture: true });
  }

  /** Both ways at once, as each alone may be blocked; twice is once. */
  press(): void {
    this.#pressed_ms = performance.now();
    this.#failure = "";
    const isSent = this.live.stop();
    post<Stop>("/api/stop").then(
      (stop) => this.#take(stop),
      (error: Error) => {
        if (!isSent) this.#failure = error.message;
        this.#show();
      },
    );
    window.clearTimeout(this.#timer);
    this.#timer = window.setTimeout(this.#onFleet, PATIENCE_MS);
    this.#show();
  }

  #take(stop: Stop): void {
    if (this.live.fleet) this.live.fleet.stop = stop;
    this.#show();
  }

  #open(open: boolean): void {
    this.#form.hidden = !open;
    this.#ask.hidden = open;
    if (open) this.#reason.focus();
  }

  #release(event: Event): void {
    event.preventDefault();
    const stop = this.live.fleet?.stop;
    if (!stop) return;
    // Those that are shown, and no others: one that came a moment ago was not thought of.
    const ids = new Set([...stop.active, ...stop.hosts.flatMap((host) => host.stops)].map((each) => each.stop_id));
    post<Stop>("/api/stop/release", { stop_ids: [...ids].slice(0, 64), reason: this.#reason.value }).then(
      (now) => {
        this.#pressed_ms = 0;
        this.#reason.value = "";
        this.#open(false);
        this.#take(now);
      },
      (error: Error) => {
        this.#failure = error.message;
        this.#show();
      },
    );
  }

  #show(): void {
    const { fleet } = this.live;
    const stop = fleet?.stop;
    const active = stop?.active ?? [];
    const held = (stop?.hosts ?? []).filter((host) => host.age_s < SILENT_S);
    if (active.length) this.#pressed_ms = 0;
    const waits_ms = this.#pressed_ms ? performance.now() - this.#pressed_ms : 0;
    const isShown = active.length > 0 || held.length > 0 || this.#pressed_ms > 0 || !!this.#failure;
    this.banner.hidden = !isShown;
    this.button.classList.toggle("pressed", active.length > 0);
    if (!isShown) return;
    const reasons = active.map((each) => `${each.by} since ${clock(each.at_s)}${each.reason ? ` (${each.reason})` : ""}`);
    setText(this.#who, active.length ? `STOPPED by ${reasons.join(", ")}` : held.length ? "Some hosts are stopped" : "Stopping …");
    setText(this.#hosts, active.length || held.length ? hostsInWords(fleet?.hosts ?? [], stop!, active.length > 0) : "");
    const trouble =
      this.#failure || (waits_ms > PATIENCE_MS ? "no answer from the console" : "") || (active.length && !this.live.connected ? "no connection to the console" : "");
    setText(this.#trouble, [trouble && `${trouble}: ${ELSEWHERE}`, stop?.trouble].filter(Boolean).join(" · "));
    this.#ask.disabled = !active.length && !held.length;
  }
}

/** Which hosts hold, and which do not say so. */
function hostsInWords(hosts: Host[], stop: Stop, isWanted: boolean): string {
  const online = hosts.filter((host) => host.age_s < SILENT_S).map((host) => host.host_id);
  const said = new Map(stop.hosts.filter((host) => host.age_s < SILENT_S).map((host) => [host.host_id, host]));
  const holding = [...said.values()].filter((host) => host.holds).map((host) => host.host_id);
  const open: string[] = [];
  for (const host of said.values()) {
    for (const robot of host.robots) if (!robot.holds) open.push(`${robot.robot_id} of ${host.host_id} (${robot.error})`);
  }
  if (isWanted) for (const host of online) if (!said.has(host)) open.push(`${host} (no answer)`);
  const total = new Set([...online, ...said.keys()]).size;
  return `${holding.length} of ${total} hosts hold${open.length ? `. NOT CONFIRMED: ${open.join(", ")}` : "."}`;
}

function isTyping(target: EventTarget | null): boolean {
  if (!(target instanceof HTMLElement)) return false;
  if (target instanceof HTMLInputElement) return !["range", "checkbox", "radio", "button", "submit"].includes(target.type);
  return target instanceof HTMLTextAreaElement || target.isContentEditable;
}
