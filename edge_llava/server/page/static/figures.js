/** How long an answer took, where the time went, and how many tokens it was. */

const LEAST_TOKENS = 16; // a rate of fewer says little

/**
 * Combines the server's report, which may lack parts, with the times that this page measured: seconds until the
 * first text and until the end. served: the model, as `Client.served`. Returns {summary: one line, times: in order, adding up to the whole, counts}.
 */
export function figuresOf({ usage, timings }, seen, served) {
  const decodeS = timings?.decode_s ?? seen.wholeS - seen.firstS;
  const nTokens = usage?.completion_tokens;
  const rate = nTokens >= LEAST_TOKENS && decodeS > 0 ? (nTokens - 1) / decodeS : 0;
  const summary = [
    nTokens === undefined ? seconds(seen.wholeS) : `${nTokens} token${nTokens === 1 ? "" : "s"}`,
    rate > 0 ? `${rate.toFixed(rate < 10 ? 1 : 0)} tokens/s` : "",
    seen.firstS > 0 ? `first after ${seconds(seen.firstS)}` : "",
  ];
  return { summary: summary.filter(Boolean).join(" · "), times: timesOf(timings, seen), counts: countsOf(usage, served) };
}

/** Formats a duration with three digits. */
export function seconds(value) {
  return `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} s`;
}

function timesOf(timings, { firstS, wholeS }) {
  const parts = [];
  const add = (name, kind, value) => parts.push({ name, kind, seconds: Math.max(0, value) });
  if (!timings) {
    add("First text", "reading", firstS);
  } else {
    const visionS = Math.min(timings.vision_s, timings.prefill_s);
    add("Sending", "sending", firstS - timings.ttft_s);
    add("Waiting", "waiting", timings.queued_s);
    add("Seeing", "seeing", visionS);
    add("Reading", "reading", timings.ttft_s - timings.queued_s - visionS);
  }
  add("Writing", "writing", wholeS - firstS);
  return parts;
}

function countsOf(usage, served) {
  const model = ["Model", served.id];
  if (!usage) return [model];
  const { prompt_tokens: nPrompt, completion_tokens: nAnswer, prompt_tokens_details: within } = usage;
  return [
    ["Prompt", nPrompt],
    ["of images", within.image_tokens],
    ["from cache", within.cached_tokens],
    ["Answer", nAnswer],
    ["Context used", `${nPrompt + nAnswer} of ${served.n_ctx}`],
    model,
  ];
}
