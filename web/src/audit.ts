// The audit log, for administrators.

import { getJson } from "./api";
import { h, words } from "./dom";
import { table } from "./learning";

interface Line {
  time_s: number;
  who: string;
  what: string;
  robot_id?: string;
  lease?: number;
  refused?: string;
}

export class AuditPage {
  readonly element = h("main", { id: "main", class: "page" }, h("h1", {}, "Audit log"));

  constructor() {
    void getJson<Line[]>("/api/audit").then(
      (lines) =>
        this.element.append(
          lines.length
            ? table(
                ["when", "who", "what", "robot", "lease", "refused"],
                lines.map((line) => [new Date(line.time_s * 1000).toLocaleString(), line.who, words(line.what), line.robot_id ?? "", String(line.lease ?? ""), line.refused ?? ""]),
              )
            : h("p", { class: "empty" }, "nothing yet"),
        ),
      (error: Error) => this.element.append(h("p", { class: "message", role: "alert" }, error.message)),
    );
  }

  close(): void {}
}
