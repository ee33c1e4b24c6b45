"use strict";
(() => {
  const root = document.documentElement;

  function reveal(id) {
    const target = id && document.getElementById(decodeURIComponent(id));
    if (!target) return;
    for (let box = target; box; box = box.parentElement) if (box.tagName === "DETAILS") box.open = true;
    if (target.parentElement.tagName === "DETAILS") target.parentElement.open = true;
    target.scrollIntoView();
  }

  // Links to files of the repository lead nowhere once the site is hosted by itself.
  if (location.protocol !== "file:") {
    for (const link of document.querySelectorAll("a.local")) link.removeAttribute("href");
  }

  for (const button of document.querySelectorAll("button.copy")) {
    const label = button.textContent;
    button.addEventListener("click", async () => {
      const source = button.parentElement.querySelector("pre");
      try {
        await navigator.clipboard.writeText(source.textContent);
        button.textContent = "Copied";
      } catch {
        // A page opened from disk may not have the clipboard: select the text instead.
        getSelection().selectAllChildren(source);
        button.textContent = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
      }
      setTimeout(() => (button.textContent = label), 2000);
    });
  }

  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const box of closed) box.open = true;
  });
  window.addEventListener("afterprint", () => closed.forEach((box) => (box.open = false)));

  const form = document.getElementById("filters");
  if (!form) {
    window.addEventListener("hashchange", () => reveal(location.hash.slice(1)));
    reveal(location.hash.slice(1));
    return;
  }

  const rows = [...document.querySelectorAll("tr.claim-row")];
  const groups = [...document.querySelectorAll("tbody[data-group]")];
  const shown = document.getElementById("shown");
  const nothing = document.getElementById("nothing");
  const exact = ["paper", "kind", "tier", "verdict"];
  const names = [...exact, "q"];
  for (const row of rows) row.dataset.text = row.textContent.toLowerCase();

  function apply() {
    const want = Object.fromEntries(names.map((name) => [name, form.elements[name].value.trim()]));
    const words = want.q.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const fits =
        exact.every((name) => !want[name] || row.dataset[name].split(" ").includes(want[name])) &&
        words.every((word) => row.dataset.text.includes(word));
      row.hidden = !fits;
      if (fits) count += 1;
    }
    for (const group of groups) group.hidden = !group.querySelector("tr.claim-row:not([hidden])");
    shown.textContent = count === rows.length ? `${count} claims` : `${count} of ${rows.length} claims`;
    nothing.hidden = count > 0;
    root.dataset.shown = String(count);
    return want;
  }

  // The filters live in the address, so that a filtered ledger can be linked to.
  function remember() {
    const want = apply();
    const pairs = names.filter((name) => want[name]).map((name) => `${name}=${encodeURIComponent(want[name])}`);
    history.replaceState(null, "", pairs.length ? `#${pairs.join("&")}` : location.pathname + location.search);
  }

  function restore() {
    const hash = location.hash.slice(1);
    if (!hash.includes("=")) return hash;
    const given = new URLSearchParams(hash);
    for (const name of names) form.elements[name].value = given.get(name) || "";
    apply();
    return null;
  }

  function follow() {
    const anchor = restore();
    if (anchor === null) document.getElementById("ledger").scrollIntoView();
    else reveal(anchor);
  }

  form.addEventListener("input", remember);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(remember));
  window.addEventListener("hashchange", follow);
  apply();
  follow();
})();
