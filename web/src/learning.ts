// Is the fleet getting better, on which tasks, with which policy, and how fast does data flow?

import { getJson } from "./api";
import { chart, type Line } from "./chart";
import { clock, h, words } from "./dom";

interface Curve {
  window: number;
  hours: (number | null)[];
  mean: (number | null)[];
  low: (number | null)[];
  high: (number | null)[];
}

interface Learning {
  fleet_hours: number;
  episodes: number;
  snapshots: number;
  success: Curve;
  interventions_per_hour: Curve;
  human_share: Curve;
  tasks: { task: string; episodes: number; success: number | null; low: number | null; high: number | null; outcomes: Record<string, number>; curve: Curve }[];
  series: { name: string; title: string; x: number[]; y: (number | null)[] }[];
  versions: { policies: { version: number; time_s: number; snapshot: number }[]; snapshots: { version: number; time_s: number }[] };
  latencies: Record<string, { count: number; p50_s: number; p99_s: number } | null>;
  quarantine: { key: string; reason: string; quarantined_at_s: number }[];
  storage_bytes: Record<string, number>;
  notes: string[];
}

const REFRESH_MS = 10_000;

export class LearningPage {
  readonly element = h("main", { id: "main", class: "page" }, h("h1", {}, "Learning"), h("p", { class: "empty" }, "reading the run …"));
  #timer: number;

  constructor() {
    void this.#load();
    this.#timer = window.setInterval(() => void this.#load(), REFRESH_MS);
  }

  close(): void {
    window.clearInterval(this.#timer);
  }

  async #load(): Promise<void> {
    try {
      this.#show(await getJson<Learning>("/api/learning"));
    } catch (error) {
      this.element.replaceChildren(h("h1", {}, "Learning"), h("p", { class: "message", role: "alert" }, (error as Error).message));
    }
  }

  #show(data: Learning): void {
    const scroll = document.documentElement.scrollTop;
    const perHour = (curve: Curve, tone: number): Line => ({ x: curve.hours, y: curve.mean, low: curve.low, high: curve.high, tone });
    const start = Math.min(...data.versions.policies.map((each) => each.time_s), ...data.versions.snapshots.map((each) => each.time_s));
    const minutes = (time_s: number): number => (time_s - start) / 60;
    this.element.replaceChildren(
      h("h1", {}, "Learning"),
      h(
        "div",
        { class: "stats" },
        stat(data.episodes.toLocaleString(), "fleet episodes"),
        stat(`${data.fleet_hours.toFixed(1)} h`, "robot time"),
        stat(String(data.snapshots), "snapshot"),
        stat(String(data.versions.policies.at(-1)?.version ?? "none"), "policy"),
        ...Object.entries(data.storage_bytes).map(([name, bytes]) => stat(size(bytes), name)),
      ),
      ...data.notes.map((note) => h("p", { class: "note" }, note)),
      h(
        "div",
        { class: "charts" },
        chart([perHour(data.success, 0)], { title: "Success of the fleet", xLabel: "robot hours", yRange: [0, 1], percent: true, note: `rolling over ${data.success.window} episodes, 95 % interval` }),
        chart([perHour(data.interventions_per_hour, 1)], { title: "Interventions per robot hour", xLabel: "robot hours" }),
        chart([perHour(data.human_share, 1)], { title: "Share of human steps", xLabel: "robot hours", percent: true }),
        chart(
          [
            { x: data.versions.snapshots.map((each) => minutes(each.time_s)), y: data.versions.snapshots.map((each) => each.version), tone: 0, steps: true },
            { x: data.versions.policies.map((each) => minutes(each.time_s)), y: data.versions.policies.map((each) => each.version), tone: 2, steps: true },
          ],
          { title: "Versions: snapshots and policies", xLabel: "minutes since the first", note: `snapshots to ${data.snapshots} (upper line), policies to ${data.versions.policies.at(-1)?.version ?? "none"}` },
        ),
      ),
      h("h2", {}, "By task"),
      table(
        ["task", "episodes", "success", "95 % interval", "outcomes"],
        data.tasks.map((task) => [words(task.task), String(task.episodes), percent(task.success), `${percent(task.low)} – ${percent(task.high)}`, Object.entries(task.outcomes).map(([name, count]) => `${words(name)} ${count}`).join(", ")]),
      ),
      h("div", { class: "charts" }, ...data.tasks.map((task) => chart([perHour(task.curve, 0)], { title: words(task.task), xLabel: "robot hours of this task", yRange: [0, 1], percent: true }))),
      h("h2", {}, "Learner"),
      h("div", { class: "charts" }, ...(data.series.length ? data.series.map((series) => chart([{ x: series.x, y: series.y, tone: 0 }], { title: series.title, xLabel: "update" })) : [h("p", { class: "empty" }, "no updates online yet")])),
      h("h2", {}, "Latencies"),
      table(
        ["way", "measured", "median", "99 %"],
        Object.entries(data.latencies).map(([name, found]) => [name, String(found?.count ?? 0), found ? `${found.p50_s.toFixed(2)} s` : "", found ? `${found.p99_s.toFixed(2)} s` : ""]),
      ),
      h("h2", {}, `Quarantine (${data.quarantine.length})`),
      data.quarantine.length
        ? table(["when", "object", "reason"], data.quarantine.map((record) => [clock(record.quarantined_at_s), record.key, record.reason]))
        : h("p", { class: "empty" }, "no upload was refused"),
    );
    document.documentElement.scrollTop = scroll;
  }
}

export function table(head: string[], rows: (string | Node)[][]): HTMLElement {
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": `table of ${head[0]}` },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, ...head.map((cell) => h("th", { scope: "col" }, cell)))),
      h("tbody", {}, ...rows.map((row) => h("tr", {}, ...row.map((cell) => h("td", {}, cell))))),
    ),
  );
}

function stat(value: string, name: string): HTMLElement {
  return h("div", { class: "stat" }, h("strong", {}, value), h("span", {}, name));
}

const percent = (value: number | null): string => (value === null ? "" : `${Math.round(100 * value)} %`);

function size(bytes: number): string {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  let value = bytes;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value.toPrecision(3)} ${units[unit]}`;
}
