/** What can go wrong between the page and the server, in words for the user. */

/** A question that was not answered, or not completely. */
export class Fault extends Error {
  /** kind: gone, key, busy, cut, refused or stopped; retryS: seconds after which to try again, if that helps. */
  constructor(kind, message, retryS = 0) {
    super(message);
    this.kind = kind;
    this.retryS = retryS;
  }
}

export const GONE = ["gone", "The server does not answer. Is “edge-llava serve” still running?"];
export const UNSENT = ["cut", "The connection broke before all was sent. If there are many or large images, remove some."];
export const CUT_OFF = ["cut", "The connection broke before the answer was complete."];

/** The Fault that an error response reports. */
export async function refusal(response) {
  const { error = {} } = await response.json().catch(() => ({})); // not JSON: a proxy's page
  const { status } = response;
  if (status === 401) return new Fault("key", "This server asks for an API key.");
  if (status === 429 || status === 503) {
    const retryS = Number(response.headers.get("Retry-After"));
    const message = status === 429 ? "The server is busy." : error.message || "The server is not ready.";
    return new Fault("busy", message, retryS || 5);
  }
  if (status === 413) {
    return new Fault("refused", "Too much for one question: remove images, or begin a new chat.");
  }
  if (error.code === "context_length_exceeded") {
    return new Fault("refused", "The conversation no longer fits into the context. Begin a new chat.");
  }
  return new Fault("refused", error.message || `The server answered with status ${status}.`);
}
