/** What can go wrong between the page and the server, in words for the person before it. */

/** A question that was not answered, or not to its end. */
export class Fault extends Error {
  /** kind: gone, key, busy, cut, refused or stopped; retryS: seconds after which to try again, if that helps. */
  constructor(kind, message, retryS = 0) {
    super(message);
    this.kind = kind;
    this.retryS = retryS;
  }
}

export const GONE = ["gone", "The server does not answer. Is “edge-llava serve” still running?"];
export const UNSENT = ["cut", "The connection broke on the way there. If there are many or large pictures, remove some."];
export const CUT_OFF = ["cut", "The connection broke before the answer was complete."];

/** What a response says that is no success. */
export async function refusal(response) {
  const { error = {} } = await response.json().catch(() => ({})); // no JSON: a proxy's page
  const { status } = response;
  if (status === 401) return new Fault("key", "This server asks for an API key.");
  if (status === 429 || status === 503) {
    const said = Number(response.headers.get("Retry-After"));
    return new Fault("busy", status === 429 ? "The server is busy." : error.message || "The server is not ready.", said || 5);
  }
  if (status === 413) {
    return new Fault("refused", "Too much for one question: remove pictures, or begin a new chat.");
  }
  if (error.code === "context_length_exceeded") {
    return new Fault("refused", "The conversation no longer fits into the context. Begin a new chat.");
  }
  return new Fault("refused", error.message || `The server answered with status ${status}.`);
}
