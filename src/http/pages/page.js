"use strict";
(() => {
  // The page's URL without the credentials that it may contain, and without the fragment.
  const here = location.origin + location.pathname + location.search;
  const longest = 5000, patience = 60000, enough = 4, seconds = 15;
  const find = (selector) => document.querySelector(selector);
  const main = find("main"), data = main.dataset;
  const name = find("h1").textContent;
  const details = find("details"), facts = find("dl");
  const icon = find("img.icon");
  icon?.decode().then(() => {
    find("link[rel=icon]").href = icon.src;
  }, () => {
    // The file is not an image, despite its name.
    const letters = document.createElement("div");
    letters.className = "icon";
    letters.setAttribute("aria-hidden", "true");
    letters.textContent = icon.dataset.initials;
    icon.replaceWith(letters);
  });
  const units = JSON.parse(data.units);

  let version = data.version;
  let retryAfter = Number(data.retryAfter);
  // The number of consecutive polls without an answer, and the timer of the reload.
  let lost = 0;
  let giveUp = null;
  // Whether the next poll requests another attempt, and the controller of the current poll.
  let wanted = false;
  let limit = null;

  const pause = (time) => new Promise((done) => setTimeout(done, time));

  // When a page of this tab last opened the app; read early, since reading takes time.
  const key = "nightporter-opened";
  let opened = null;
  try {
    opened = Number(sessionStorage.getItem(key));
  } catch {
    // The browser is configured to store nothing.
  }

  function say(id, text) {
    const place = document.getElementById(id);
    // Screen readers repeat a text if it is set again, even to the same value.
    if (place.textContent !== text) place.textContent = text;
  }

  function tell(text, detail) {
    say("text", text);
    say("detail", detail);
    document.title = text + " – " + name;
  }

  // A sentence with a time that counts; the page contains the first one.
  let clock = JSON.parse(find("#clock").dataset.clock || "null");
  let since = performance.now();
  function tick() {
    const passed = Math.floor((performance.now() - since) / 1000);
    const time = clock ? Math.max(0, clock.at + clock.by * passed) : 0;
    const said = (clock ? clock.said : []).filter(([from]) => from <= time).pop();
    const unit = time < 120 ? units[0] : units[1];
    const count = time < 120 ? time : Math.floor(time / 60);
    say("clock", said ? said[1].replace("{{time}}", unit.replace("{{count}}", count)) : "");
  }
  function wind(next) {
    clock = next;
    since = performance.now();
    tick();
  }
  setInterval(tick, 1000);

  // If the response is a download, the browser stays on this page.
  function load() {
    location.reload();
    setTimeout(() => {
      Object.assign(data, { state: "delivered", tone: "ready", sign: "arrow", step: 0 });
      tell(data.delivered, data.deliveredDetail);
      wind(null);
    }, longest);
  }

  // Opens the app immediately, or after a pause if that has brought this page again.
  async function open() {
    const early = opened === null
      ? 1000 - performance.now()
      : Math.min(longest, opened + longest - Date.now());
    if (early > 0) await pause(early);
    try {
      if (opened !== null) sessionStorage.setItem(key, Date.now());
    } catch {
      // The app shares this storage and may have filled it.
    }
    load();
  }

  function show(news) {
    version = String(news.version);
    retryAfter = Number(news.retry_after) || 0;
    // Keeps the layout stable when the app opens.
    const said = find("[role=status]");
    if (news.state === "awake") said.style.minHeight = said.offsetHeight + "px";
    data.tone = news.tone;
    data.state = news.state;
    data.sign = news.sign;
    data.final = news.final;
    data.step = news.step;
    tell(news.text, news.detail);
    wind(news.clock);
    while (facts.children.length > 1) facts.lastElementChild.remove();
    for (const row of news.rows) {
      const line = facts.appendChild(document.createElement("div"));
      line.appendChild(document.createElement("dt")).textContent = row.name;
      line.appendChild(document.createElement("dd")).textContent = row.text;
    }
    details.hidden = !news.rows.length;
  }

  // Counts lost polls: after too many of them in a row the page is reloaded.
  function lose(count) {
    lost += count;
    if (lost < enough || giveUp) return;
    wind({ at: seconds, by: -1, said: [[0, data.noNews]] });
    giveUp = setTimeout(() => {
      if (navigator.onLine) return load();
      // A reload would replace this page by the browser's own error page.
      wind({ at: 0, by: 0, said: [[0, data.offline]] });
      lost = 0;
      giveUp = null;
    }, seconds * 1000);
  }

  // Polls once. Returns the app's state if it has changed, otherwise null.
  async function ask() {
    const asking = limit = new AbortController();
    const headers = { "X-Nightporter-Poll": version };
    if (wanted) headers["X-Nightporter-Retry"] = "1";
    wanted = false;
    // After a failure, the next poll triggers the next attempt.
    const failed = data.state === "failed";
    const time = failed ? Math.min(patience, retryAfter * 1000 + 250) : patience;
    const timer = setTimeout(() => asking.abort("late"), time);
    try {
      const response = await fetch(here, {
        headers,
        cache: "no-store",
        credentials: "same-origin",
        redirect: "manual",
        signal: asking.signal,
      });
      if (response.status === 401) return "denied";
      // The status does not matter: a proxy may have replaced the response.
      const news = await response.json().catch(() => null);
      if (typeof news?.state === "string") {
        const same = String(news.version) === version;
        lost = 0;
        clearTimeout(giveUp);
        giveUp = null;
        show(news);
        return same && news.state !== "awake" ? null : news.state;
      }
      lose(1);
    } catch {
      if (!asking.signal.aborted) lose(1);
      else if (asking.signal.reason === "late" && !failed) lose(enough);
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
      if (took >= 1000) quick = 25;
      if (state) {
        // Short enough to notice readiness immediately; longer if the state changes often.
        await pause(quick);
        quick = Math.min(longest, quick * 1.2);
        idle = 250;
      } else if (took >= longest) {
        // The gate has held the poll for its full time.
        idle = 250;
      } else {
        await pause(idle);
        idle = Math.min(longest, idle * 2);
      }
    }
  }

  // Reloads without another history entry, and keeps the fragment.
  find(".again a").addEventListener("click", (event) => {
    event.preventDefault();
    if (data.state !== "failed") return load();
    wanted = true;
    limit?.abort();
  });

  find(".back a").addEventListener("click", (event) => {
    if (!document.referrer) return;
    event.preventDefault();
    history.back();
  });

  // A visitor who has signed in elsewhere meanwhile sees the app without another click.
  // So does one who comes back to this page with the browser's back button.
  async function look() {
    if (document.visibilityState !== "visible" || data.state !== "denied") return;
    const state = await ask();
    if (state && state !== "denied") load();
  }
  document.addEventListener("visibilitychange", look);
  addEventListener("pageshow", (event) => {
    if (event.persisted) look();
  });

  addEventListener("load", () => {
    // Cancels the reload for browsers that do not run this script. That reload loses the
    // fragment, or, if it has no URL, does nothing.
    for (const meta of document.querySelectorAll("meta[http-equiv=refresh]")) meta.remove();
    if (data.follow !== "stay") stop();
    if (data.follow === "poll") follow();
    if (data.follow === "reload") setTimeout(load, retryAfter * 1000);
  });
})();
