"use strict";
(() => {
  // Without the credentials that an address may hold, and the fragment.
  const here = location.origin + location.pathname + location.search;
  const longest = 5000, patience = 60000;
  const main = document.querySelector("main");
  const name = document.querySelector("h1").textContent;
  const facts = document.querySelector("dl");
  const again = document.querySelector(".again a");
  const icon = document.querySelector("img.icon");
  if (icon) document.querySelector("link[rel=icon]").href = icon.src;

  let version = main.dataset.version;
  let retryAfter = Number(main.dataset.retryAfter);
  let strange = 0;
  // Whether another attempt is to be asked for, and what takes back the question under way.
  let wanted = false;
  let limit = null;

  const pause = (time) => new Promise((done) => setTimeout(done, time));

  // When a page of this tab opened the app last; read early, since that takes time.
  const key = "nightporter-opened";
  let opened = null;
  try {
    opened = Number(sessionStorage.getItem(key));
  } catch {
    // The browser is told to keep nothing.
  }

  // At once; but should that bring this page again, then in no hurry.
  async function open() {
    const early = opened === null
      ? 1000 - performance.now()
      : Math.min(longest, opened + longest - Date.now());
    if (early > 0) await pause(early);
    try {
      if (opened !== null) sessionStorage.setItem(key, Date.now());
    } catch {
      // The app shares this store, and may have filled it.
    }
    location.reload();
  }

  function say(id, text) {
    const place = document.getElementById(id);
    // What does not change is not read out again.
    if (place.textContent !== text) place.textContent = text;
  }

  function show(news) {
    version = String(news.version);
    retryAfter = Number(news.retry_after) || 0;
    main.dataset.tone = news.tone;
    main.dataset.state = news.state;
    main.dataset.final = news.final;
    main.dataset.step = news.step;
    say("text", news.text);
    say("detail", news.detail);
    document.title = news.text + " – " + name;
    while (facts.children.length > 1) facts.lastElementChild.remove();
    for (const row of news.rows) {
      const line = facts.appendChild(document.createElement("div"));
      line.appendChild(document.createElement("dt")).textContent = row.name;
      line.appendChild(document.createElement("dd")).textContent = row.text;
    }
  }

  // The state, where there is news of it.
  async function ask() {
    limit = new AbortController();
    const headers = { "X-Nightporter-Poll": version };
    if (wanted) headers["X-Nightporter-Retry"] = "1";
    wanted = false;
    // To ask again after a failure is to have the next attempt made.
    const failed = main.dataset.state === "failed";
    const time = failed ? Math.min(patience, retryAfter * 1000 + 250) : patience;
    const asking = limit;
    const timer = setTimeout(() => asking.abort(), time);
    try {
      const response = await fetch(here, {
        headers,
        cache: "no-store",
        credentials: "same-origin",
        redirect: "manual",
        signal: limit.signal,
      });
      if (response.status === 401) return "denied";
      // Whatever its status: a proxy may have put another answer in its place.
      const news = await response.json().catch(() => null);
      if (typeof news?.state === "string") {
        const same = String(news.version) === version;
        show(news);
        strange = 0;
        return same && news.state !== "awake" ? null : news.state;
      }
      // While the proxy or the gate starts anew, a reload would lose this page.
      if (response.status < 500) strange += 1;
    } catch {
      // Cut off, or out of patience.
    } finally {
      clearTimeout(timer);
    }
    return null;
  }

  async function follow() {
    let quick = 25, idle = 250;
    for (;;) {
      const began = performance.now();
      const state = await ask();
      const took = performance.now() - began;
      if (state === "awake" || state === "denied") return open();
      if (strange > 3) return void setTimeout(() => location.reload(), longest);
      if (took >= 1000) quick = 25;
      if (state) {
        // So short that readiness is seen at once, and longer the faster news comes.
        await pause(quick);
        quick = Math.min(longest, quick * 1.2);
        idle = 250;
      } else if (took >= longest) {
        // The gate has let the question wait for as long as it does.
        idle = 250;
      } else {
        await pause(idle);
        idle = Math.min(longest, idle * 2);
      }
    }
  }

  // Without another entry in the history, and with the fragment.
  again.addEventListener("click", (event) => {
    event.preventDefault();
    if (main.dataset.state !== "failed") return location.reload();
    wanted = true;
    limit?.abort();
  });

  // Whoever has signed in elsewhere meanwhile need not be told so.
  document.addEventListener("visibilitychange", async () => {
    if (document.visibilityState !== "visible" || main.dataset.state !== "denied") return;
    const state = await ask();
    if (state && state !== "denied") location.reload();
  });

  addEventListener("load", () => {
    const follows = main.dataset.follow;
    if (follows === "poll") {
      // Takes back the reload that is meant for browsers where this does not run.
      stop();
      follow();
    } else if (follows === "reload" && location.hash) {
      // A refresh loses the fragment, or, where it names no address, loads nothing.
      stop();
      setTimeout(() => location.reload(), retryAfter * 1000);
    }
  });
})();
