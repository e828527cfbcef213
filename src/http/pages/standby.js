"use strict";
(() => {
  // The page's URL without the credentials that it may contain, and without the fragment.
  const here = location.origin + location.pathname + location.search;
  const longest = 5000;
  let pause = 500, strange = 0;
  if (/^de\b/i.test(navigator.language)) {
    document.documentElement.lang = "de";
    document.title = "Einen Moment …";
  }

  // The page stays until the gate is back: an earlier reload could replace it by the
  // proxy's own error page.
  async function isBack() {
    const response = await fetch(here, {
      // The gate answers this immediately and with JSON.
      headers: { "X-Nightporter-Poll": "0" },
      cache: "no-store",
      credentials: "same-origin",
      redirect: "manual",
    });
    if (response.status < 500) return true;
    if (response.headers.get("X-Nightporter-State") === "standby") return false;
    const news = await response.json().catch(() => null);
    if (typeof news?.state === "string") return true;
    strange += 1;
    return strange > 20;
  }

  async function look() {
    // A broken connection is not an answer either.
    if (await isBack().catch(() => false)) return location.reload();
    pause = Math.min(longest, pause * 1.5);
    setTimeout(look, pause);
  }

  addEventListener("load", () => setTimeout(look, pause));
})();
