// HTTP requests to the console, with the session's CSRF token.

export interface SessionInfo {
  name: string;
  role: string;
  csrf: string;
  accounts: boolean;
}

let csrf = "";

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
  let message = response.statusText;
  try {
    const body = (await response.json()) as { detail?: unknown };
    if (typeof body.detail === "string") message = body.detail;
  } catch {
    // No JSON: the status says it all.
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
    headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf },
    body: JSON.stringify(body),
  });
  return (await (await checked(response)).json()) as T;
}

export async function loadSession(): Promise<SessionInfo> {
  return remember(await getJson<SessionInfo>("/api/session"));
}

export async function login(name: string, password: string): Promise<SessionInfo> {
  return remember(await post<SessionInfo>("/api/login", { name, password }));
}

export async function logout(): Promise<SessionInfo> {
  return remember(await post<SessionInfo>("/api/logout"));
}

function remember(session: SessionInfo): SessionInfo {
  csrf = session.csrf;
  return session;
}
