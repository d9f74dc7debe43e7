// Everything that the pages ask the service for.

let tag = null;

async function get(url, options = {}) {
  const answer = await fetch(url, { cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(15000), ...options });
  if (!answer.ok && answer.status !== 304) throw new Error(`answered ${answer.status}`);
  return answer;
}

/** The summary, or null when it is still the one that was returned last. */
export async function summary() {
  const answer = await get("/status/summary", { headers: tag ? { "If-None-Match": tag } : {} });
  if (answer.status === 304) return null;
  const found = await answer.json();
  tag = answer.headers.get("ETag");
  return found;
}

/** The page itself as a document, for the parts that the summary does not hold. */
export async function page() {
  const answer = await get(location.href, { headers: { Accept: "text/html" } });
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

export async function coverage(interval) {
  return (await get(`/status/coverage.json?interval=${interval}`)).json();
}

export async function bars(url, count) {
  return (await get(`${url}?count=${count}`)).json();
}
