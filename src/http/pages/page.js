"use strict";
(() => {
  // Without the credentials that an address may hold, and the fragment.
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
    // It is no picture, whatever its name says.
    const letters = document.createElement("div");
    letters.className = "icon";
    letters.setAttribute("aria-hidden", "true");
    letters.textContent = icon.dataset.initials;
    icon.replaceWith(letters);
  });
  const units = JSON.parse(data.units);

  let version = data.version;
  let retryAfter = Number(data.retryAfter);
  // Questions without an answer, one after the other, and what is done about that.
  let lost = 0;
  let giveUp = null;
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

  function say(id, text) {
    const place = document.getElementById(id);
    // What does not change is not read out again.
    if (place.textContent !== text) place.textContent = text;
  }

  function tell(text, detail) {
    say("text", text);
    say("detail", detail);
    document.title = text + " – " + name;
  }

  // A sentence with a time in it, as the page was sent with one.
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

  // What is downloaded leaves this page where it is.
  function load() {
    location.reload();
    setTimeout(() => {
      Object.assign(data, { state: "delivered", tone: "ready", sign: "arrow", step: 0 });
      tell(data.delivered, data.deliveredDetail);
      wind(null);
    }, longest);
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
    load();
  }

  function show(news) {
    version = String(news.version);
    retryAfter = Number(news.retry_after) || 0;
    // Nothing moves when the app opens.
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

  // Something keeps questions or answers away: the page is loaded again, in time.
  function lose(count) {
    lost += count;
    if (lost < enough || giveUp) return;
    wind({ at: seconds, by: -1, said: [[0, data.noNews]] });
    giveUp = setTimeout(() => {
      if (navigator.onLine) return load();
      // The browser's own page would come in place of this one.
      wind({ at: 0, by: 0, said: [[0, data.offline]] });
      lost = 0;
      giveUp = null;
    }, seconds * 1000);
  }

  // The state, where there is news of it.
  async function ask() {
    const asking = limit = new AbortController();
    const headers = { "X-Nightporter-Poll": version };
    if (wanted) headers["X-Nightporter-Retry"] = "1";
    wanted = false;
    // To ask again after a failure is to have the next attempt made.
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
      // Whatever its status: a proxy may have put another answer in its place.
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

  // Whoever has signed in elsewhere meanwhile need not be told so.
  document.addEventListener("visibilitychange", async () => {
    if (document.visibilityState !== "visible" || data.state !== "denied") return;
    const state = await ask();
    if (state && state !== "denied") load();
  });

  addEventListener("load", () => {
    // Takes back the reload that is meant for browsers where this does not run, and which
    // loses the fragment, or, where it names no address, loads nothing.
    for (const meta of document.querySelectorAll("meta[http-equiv=refresh]")) meta.remove();
    if (data.follow !== "stay") stop();
    if (data.follow === "poll") follow();
    if (data.follow === "reload") setTimeout(load, retryAfter * 1000);
  });
})();
