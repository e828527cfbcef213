// The code of a link is behind its "#", which is not sent to anybody. It is moved into the form
// and out of the address, so that it is not in the history either.
"use strict";
(() => {
  const [code, name] = location.hash.slice(1).split("/").map((part) => {
    try { return decodeURIComponent(part); } catch { return ""; }
  });
  if (!code) return;
  history.replaceState(null, "", location.pathname + location.search);
  document.getElementById("code").value = code;
  if (name) document.getElementById("name").value = name;
  document.querySelector("button").focus();
})();
