// HTTP requests to the console, with the session's CSRF token.

export interface SessionInfo {
  name: string;
  role: string;
  csrf: string;
  /** How one logs in here: with a link, with a password, or at a proxy. */
  login: "link" | "password" | "proxy";
}

/** Of this origin, so not of other ports: a cookie alone, which browsers send there, too, opens nothing. */
const CSRF = "lwd.csrf";
const csrf = (): string => localStorage.getItem(CSRF) ?? "";

/** What a WebSocket of the console offers as its subprotocols. */
export const liveProtocols = (): string[] => ["lwd.live", `csrf.${csrf()}`];

export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

async function checked(response: Response): Promise<Response> {
  if (response.ok) return response;
  // Nothing of the console's redirects: this is the proxy before it, which wants its own login page to be shown.
  if (response.type === "opaqueredirect") throw new ApiError(401, "you are not logged in at the proxy");
  let message = response.statusText;
  try {
    const body = (await response.json()) as { detail?: unknown };
    if (typeof body.detail === "string") message = body.detail;
  } catch {
    // No JSON, so it is not from the console, whose refusals are in words.
    if (response.status === 401) message = "you are not logged in at the proxy";
  }
  throw new ApiError(response.status, message || `status ${response.status}`);
}

export async function getJson<T>(path: string): Promise<T> {
  return (await (await checked(await fetch(path))).json()) as T;
}

export async function getBytes(path: string): Promise<ArrayBuffer> {
  return (await checked(await fetch(path))).arrayBuffer();
}

export async function post<T>(path: string, body: unknown = {}): Promise<T> {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf() },
    body: JSON.stringify(body),
  });
  return (await (await checked(response)).json()) as T;
}

export async function loadSession(): Promise<SessionInfo> {
  const headers = { "X-CSRF-Token": csrf() };
  const response = await checked(await fetch("/api/session", { headers, redirect: "manual" }));
  return (await response.json()) as SessionInfo;
}

/** Begin a session by the token of a link; behind a proxy, as whom it names. */
export async function beginSession(token = ""): Promise<SessionInfo> {
  return remember(await post<SessionInfo>("/api/session", { token }));
}

export async function login(name: string, password: string): Promise<SessionInfo> {
  return remember(await post<SessionInfo>("/api/login", { name, password }));
}

export async function logout(): Promise<SessionInfo> {
  return remember(await post<SessionInfo>("/api/logout"));
}

function remember(session: SessionInfo): SessionInfo {
  localStorage.setItem(CSRF, session.csrf);
  return session;
}
